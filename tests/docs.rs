//! Checks statements of the documents against the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use groundlink::net::DropReason;

/// A file of the repository.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn docs_list_every_dependency_and_no_other() {
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

/// The texts between backquotes.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn docs_explain_every_packet_drop_reason() {
    let page = file("docs/interface.md");
    for reason in DropReason::ALL.iter().filter(|&r| *r != DropReason::Noise) {
        let row = format!("\n| `{}` | {}", reason.metric(), reason.sentence());
        assert!(page.contains(&row), "docs/interface.md lacks{row}");
    }
}

#[test]
fn readme_and_example_name_every_preset() {
    for page in ["README.md", "config/example.toml"] {
        let text = file(page);
        for preset in groundlink::config::preset_names() {
            assert!(text.contains(preset), "{page} lacks {preset}");
        }
    }
}

#[test]
fn docs_explain_every_ike_message_drop_class() {
    let page = file("docs/interface.md");
    let explained = quoted(&page);
    for refused in groundlink::ike::DropClass::ALL {
        assert!(explained.contains(refused.word()), "{refused:?}");
    }
}

#[test]
fn docs_explain_every_failure_code() {
    let page = file("docs/interface.md");
    let explained = quoted(&page);
    let mut codes = 0;
    for source in ["src/ike/error.rs", "src/ike/limits.rs"] {
        let source = file(source);
        // A code is alone on its line, as a field or as the first item of a tuple.
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            let (before, line) = (pair[0], pair[1]);
            let opens_a_tuple = before == "(" || before.ends_with("=> (");
            let code = line
                .strip_prefix("code: ")
                .or(opens_a_tuple.then_some(line));
            let Some(code) = code
                .and_then(|code| code.strip_prefix('"'))
                .and_then(|code| code.strip_suffix("\","))
            else {
                continue;
            };
            if code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
                assert!(explained.contains(code), "{code}");
                codes += 1;
            }
        }
    }
    assert!(codes >= 20, "only {codes} codes found");
}

#[test]
fn docs_explain_every_lab_option() {
    let page = file("docs/interface.md");
    let help = Command::new(env!("CARGO_BIN_EXE_groundlink"))
        .args(["lab", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let options: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--"))
        .filter_map(|option| option.split(' ').next())
        .collect();
    assert!(options.len() >= 10, "{help}");
    for option in options {
        // These two options belong to every subcommand.
        if !matches!(option, "config" | "socket") {
            assert!(page.contains(&format!("`--{option}")), "--{option}");
        }
    }
}

#[test]
fn readme_configuration_is_valid() {
    let readme = file("README.md");
    let config = readme
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("groundlink.toml"), config).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_groundlink"))
        .args(["check", "--config", "groundlink.toml"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
}

#[test]
fn links_between_documents_resolve() {
    for page in [
        "README.md",
        "docs/decode.md",
        "docs/interface.md",
        "docs/dependencies.md",
        "docs/performance.md",
    ] {
        let text = file(page);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if !target.starts_with("http") {
                let place = folder.parent().unwrap().join(target);
                assert!(place.exists(), "{page}: {target}");
            }
        }
    }
}

/// Words with a standard term in their place: the first is what may not come back, the second what to write.
static RETIRED: &[(&str, &str)] = &[
    ("barrage", "load"),
    ("bury", "emit_down"),
    ("census", "half-open table"),
    ("crew", "worker pool"),
    ("desk", "ingress"),
    ("deliveries", "TUN writer"),
    ("departures", "transmit batch"),
    ("goodbye", "DELETE"),
    ("insider", "authenticated peer"),
    ("mould", "header template"),
    ("mourn", "on_no_child_left"),
    ("news", "log line, change, or report"),
    ("parcel", "datagram"),
    ("rival", "duplicate SA"),
    ("rivals", "duplicate SAs"),
    ("road", "path"),
    ("rogue", "scripted peer"),
    ("stranger", "unauthenticated peer"),
    ("strangers", "unauthenticated peers"),
    ("told", "reported, or a verb of the field"),
    ("train", "GSO packet"),
    ("trains", "GSO packets"),
    ("twins", "in-memory pair"),
    ("untold", "suppressed"),
    ("usurp", "replace"),
    ("usurps", "replaces"),
    ("whoever", "the peer, or the operator"),
];

/// Each retired word in a text, with its line: identifiers are read word by word.
fn retired(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = Vec::new();
        for part in line.split(|c: char| !c.is_ascii_alphabetic()) {
            // CamelCase: a capital after a small letter begins a word.
            let mut start = 0;
            let bytes = part.as_bytes();
            for at in 1..bytes.len() {
                if bytes[at].is_ascii_uppercase() && bytes[at - 1].is_ascii_lowercase() {
                    words.push(part[start..at].to_ascii_lowercase());
                    start = at;
                }
            }
            words.push(part[start..].to_ascii_lowercase());
        }
        for (word, instead) in RETIRED {
            if words.iter().any(|seen| seen == word) {
                found.push((number + 1, *word, *instead));
            }
        }
    }
    found
}

#[test]
fn retired_words_do_not_come_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![
        root.join("README.md"),
        root.join("Cargo.toml"),
        root.join("tests/run"),
    ];
    let mut folders: Vec<_> = [
        "src",
        "tests",
        "benches",
        "config",
        "docs",
        "systemd",
        "fuzz/fuzz_targets",
        "fuzz/src",
    ]
    .map(|folder| root.join(folder))
    .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_text = path.extension().is_some_and(|end| {
                ["rs", "md", "toml", "conf", "service"]
                    .iter()
                    .any(|known| end == *known)
            });
            if path.is_dir() {
                folders.push(path);
            } else if is_text && path != root.join("tests/docs.rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 300, "only {} files", files.len());
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        for (line, word, instead) in retired(&text) {
            found.push(format!("{name}:{line}: \"{word}\" ({instead})"));
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn a_retired_word_is_found_in_prose_and_in_identifiers() {
    let words = |text| {
        retired(text)
            .into_iter()
            .map(|(_, word, _)| word)
            .collect::<Vec<_>>()
    };
    assert_eq!(words("Whoever is told"), ["told", "whoever"]);
    assert_eq!(
        words("struct StrangerTable; fn is_news() {}"),
        ["news", "stranger"]
    );
    assert_eq!(words("newsletter, constrain, broadcast"), [""; 0]);
}
