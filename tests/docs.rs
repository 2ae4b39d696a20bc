//! What the documents say of the program is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A file of the repository.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_dependency_has_its_reason_and_every_reason_its_dependency() {
    let manifest: toml::Table = file("Cargo.toml").parse().unwrap();
    let used: BTreeSet<String> = ["dependencies", "dev-dependencies"]
        .iter()
        .flat_map(|section| manifest[*section].as_table().unwrap().keys().cloned())
        .collect();
    // The names in the first column of the tables; the fuzz package has a manifest of its own.
    let explained: BTreeSet<String> = file("docs/dependencies.md")
        .lines()
        .filter(|line| line.starts_with("| `") && !line.contains("in `fuzz/`"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|names| names.split(", "))
        .map(|name| name.trim().trim_matches('`').to_owned())
        .collect();
    assert_eq!(used, explained);
}
