//! Checks `docs/rfc-compliance.md`: every file and every test it names exists, and every id of a known attack has a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/rfc-compliance.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join(PAGE)).unwrap()
}

/// The cells of a table row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inside.split('|').map(str::trim).collect())
}

/// The cells of all columns with this head.
fn column<'a>(page: &'a str, head: &str) -> Vec<&'a str> {
    let mut named = Vec::new();
    let mut place = None;
    for line in page.lines() {
        match cells(line) {
            // Outside of tables.
            None => place = None,
            Some(row) => match place {
                None => place = Some(row.iter().position(|cell| *cell == head)),
                Some(place) => named.extend(place.and_then(|place| row.get(place).copied())),
            },
        }
    }
    named.retain(|cell| !cell.chars().all(|c| c == '-'));
    named
}

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tests that a source file defines.
fn tests_in(source: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        marked |= line.starts_with("#[test]");
        let name = line
            .strip_prefix("#[test]")
            .unwrap_or(line)
            .trim_start()
            .strip_prefix("fn ")
            .and_then(|rest| rest.split('(').next());
        if let (true, Some(name)) = (marked, name) {
            tests.push(name.to_owned());
            marked = false;
        }
    }
    tests
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// All tests of the package.
fn all_tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    let read = |path: &PathBuf| tests_in(&fs::read_to_string(path).unwrap());
    files.iter().flat_map(read).collect()
}

/// The named files and tests that do not exist.
fn missing(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let paths = column(page, "where").into_iter();
    let gone = paths.filter(|path| path.is_empty() || !root().join(path).is_file());
    let named = column(page, "shown by").into_iter().flat_map(quoted);
    let unknown = named.filter(|test| !tests.contains(*test));
    gone.chain(unknown).map(str::to_owned).collect()
}

/// Rows that name no test and are not marked with a dash.
fn unproved(page: &str) -> Vec<&str> {
    let empty = |cell: &&str| quoted(cell).next().is_none() && *cell != "—";
    column(page, "shown by").into_iter().filter(empty).collect()
}

#[test]
fn every_named_file_and_test_exists() {
    let (page, tests) = (page(), all_tests());
    assert_eq!(missing(&page, &tests), Vec::<String>::new());
    assert_eq!(unproved(&page), Vec::<&str>::new());
    let named = column(&page, "shown by").into_iter().flat_map(quoted);
    let rows = column(&page, "where").len();
    assert!(named.count() >= 200 && rows >= 100, "the tables are read");
}

/// Ids of the known attacks: before authentication (n), IKE fragments (f), after authentication (p), ESP (e), host (h).
fn ids() -> impl Iterator<Item = String> {
    [('n', 30), ('f', 9), ('p', 20), ('e', 20), ('h', 6)]
        .into_iter()
        .flat_map(|(kind, last)| (1..=last).map(move |number| format!("{kind}{number:02}")))
}

#[test]
fn every_id_has_a_row_with_a_test_that_has_its_prefix() {
    let page = page();
    let rows: Vec<Vec<&str>> = page.lines().filter_map(cells).collect();
    for id in ids() {
        let row = rows.iter().find(|row| row[0].eq_ignore_ascii_case(&id));
        let row = row.unwrap_or_else(|| panic!("{id} has no row"));
        let mut named = quoted(row.last().unwrap());
        assert!(named.any(|test| test.starts_with(&id)), "{id}");
    }
}

#[test]
fn every_test_named_after_an_id_is_in_the_page() {
    let page = page();
    let named: BTreeSet<&str> = quoted(&page).collect();
    let ids: Vec<String> = ids().collect();
    for test in all_tests() {
        let has_id = ids.iter().any(|id| test.starts_with(&format!("{id}_")));
        assert!(
            !has_id || named.contains(test.as_str()),
            "{test} is in no row"
        );
    }
}

#[test]
fn missing_files_and_tests_are_detected() {
    let tests =
        tests_in("#[test]\nfn good() {}\n#[test] // why\n#[ignore]\nfn slow() {}\nfn helper() {}");
    assert_eq!(tests, ["good", "slow"]);
    let tests = tests.into_iter().collect();
    let page = "\
        | § | demands | where | shown by |\n\
        |---|---|---|---|\n\
        | 1 | this | src/lib.rs | `good` |\n\
        | 2 | that | src/nowhere.rs | `good` `made_up` |\n\
        | 3 | both | src | nothing |\n\
        \n\
        | § | demands | instead | shown by |\n\
        |---|---|---|---|\n\
        | 4 | more | less | `helper` |\n";
    let found = missing(page, &tests);
    assert_eq!(found, ["src/nowhere.rs", "src", "made_up", "helper"]);
    assert_eq!(unproved(page), ["nothing"]);
}
