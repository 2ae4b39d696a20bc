//! The walls between the layers, checked.
//!
//! `src/lib.rs` draws the layers; this test reads every path under `src/` that starts at `crate::`, `super::` or a crate's name and
//! compares it with the tables below. It reads tokens, not types: comments, strings and `#[cfg(test)]` items do not count, groups
//! (`use crate::{net, os::udp}`) are spelled out, and a `super::` that climbs to the crate's root is followed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What a top-level module may import of ours.
static IMPORTS: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("crypto", &[]),
    ("wire", &["net"]),
    ("ike", &["net", "crypto", "wire"]),
    ("esp", &["net", "crypto"]),
    ("paths", &["net"]),
    ("os", &["net"]),
    ("datapath", &["net", "esp", "os"]),
    (
        "config",
        &["net", "crypto", "ike", "esp", "paths", "os", "datapath"],
    ),
    ("status", &["net"]),
    ("control", &["status"]),
    (
        "lab",
        &[
            "net", "crypto", "wire", "ike", "esp", "paths", "os", "datapath", "config", "status",
            "control",
        ],
    ),
    (
        "daemon",
        &[
            "net", "crypto", "wire", "ike", "esp", "paths", "os", "datapath", "config", "status",
            "control",
        ],
    ),
    (
        "cli",
        &[
            "net", "crypto", "wire", "ike", "esp", "paths", "os", "datapath", "config", "status",
            "control", "lab", "daemon",
        ],
    ),
];

/// L0 to L2: bytes and a `now` argument, nothing of the world.
static PURE: &[&str] = &["net", "crypto", "wire", "ike", "esp", "paths"];

/// Paths that reach for the world; a pure module names none of them.
static WORLDLY: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "getrandom",
    "libc",
    "nix",
    "rand_core::OsRng",
    "ring::rand::SystemRandom",
    "rtnetlink",
    "socket2",
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "thread::spawn",
    "tokio",
    "tun",
];

/// Crates that only `crypto` names.
static CIPHERS: &[&str] = &[
    "aes",
    "cbc",
    "crypto_bigint",
    "des",
    "hmac",
    "md5",
    "p256",
    "p384",
    "p521",
    "rand_chacha",
    "ring",
    "sha1",
    "sha2",
    "x25519_dalek",
];

/// Folders that may hold `unsafe`.
static UNSAFE: &[&str] = &["src/os/", "src/crypto/lanes/"];

#[test]
fn every_import_goes_down() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    assert!(
        files.len() >= IMPORTS.len(),
        "only {} files found under src/",
        files.len()
    );
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|path| {
            let relative = path
                .strip_prefix(root())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            (relative, fs::read_to_string(path).unwrap())
        })
        .collect();
    let tests_only: Vec<String> = texts
        .iter()
        .flat_map(|(file, text)| test_modules(file, text))
        .collect();
    let found: Vec<String> = texts
        .iter()
        .filter(|(file, _)| {
            !tests_only.iter().any(|module| {
                file == &format!("{module}.rs") || file.starts_with(&format!("{module}/"))
            })
        })
        .flat_map(|(file, text)| breaches(file, text))
        .map(|breach| breach.to_string())
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_top_level_module_is_in_the_table() {
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap_or(&name);
        let known =
            matches!(module, "lib" | "main") || IMPORTS.iter().any(|(row, _)| *row == module);
        assert!(known, "src/{name} has no row in the import table");
    }
}

#[test]
fn an_upward_import_is_caught_however_it_is_written() {
    let seen = |path: &str, text: &str| {
        breaches(path, text)
            .iter()
            .map(|b| b.what.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        seen("src/net/a.rs", "use crate::ike::Endpoint;"),
        ["net may not import ike (crate::ike::Endpoint)"]
    );
    assert_eq!(
        seen("src/wire/a.rs", "use crate::{net::Prefix, os::{udp, tun}};"),
        [
            "wire may not import os (crate::os::udp)",
            "wire may not import os (crate::os::tun)"
        ]
    );
    assert_eq!(
        seen("src/esp/a.rs", "fn f() { crate::wire::x() }"),
        ["esp may not import wire (crate::wire::x)"]
    );
    // src/esp/a.rs is crate::esp::a: two steps up is the root.
    assert_eq!(
        seen("src/esp/a.rs", "use super::super::wire::X;"),
        ["esp may not import wire (super::super::wire::X)"]
    );
    assert_eq!(
        seen("src/esp/mod.rs", "use super::wire::X;"),
        ["esp may not import wire (super::wire::X)"]
    );
    assert_eq!(
        seen(
            "src/control/mod.rs",
            "pub(in crate::control) fn f(d: crate::daemon::D) {}"
        )
        .len(),
        1
    );
    assert_eq!(
        seen("src/main.rs", "fn main() { groundlink::os::x() }"),
        ["main.rs may only call cli (groundlink::os::x)"]
    );
}

#[test]
fn the_world_is_kept_out_of_the_pure_layers() {
    for text in [
        "fn f() { let t = Instant::now(); }",
        "use std::time::{Duration, Instant};",
        "use std::{fmt, fs};",
        "let s = std::net::UdpSocket::bind(a);",
        "tokio::spawn(f);",
        "use std::thread;",
    ] {
        assert_eq!(breaches("src/ike/a.rs", text).len(), 1, "{text}");
        assert!(breaches("src/daemon/a.rs", text).is_empty(), "{text}");
    }
    assert_eq!(breaches("src/esp/a.rs", "use aes::Aes128;").len(), 1);
    assert!(breaches("src/crypto/a.rs", "use aes::Aes128;").is_empty());
    assert_eq!(
        breaches("src/daemon/a.rs", "fn f() { unsafe { g() } }").len(),
        1
    );
    assert!(breaches("src/crypto/lanes/a.rs", "fn f() { unsafe { g() } }").is_empty());
}

#[test]
fn what_is_no_code_and_what_is_a_test_does_not_count() {
    for text in [
        "// use crate::daemon::X;",
        "/// [`crate::daemon`] and std::fs\nfn f() {}",
        "/* outer /* crate::daemon::X */ std::fs::read */",
        r##"const S: &str = "crate::daemon::X"; const R: &str = r#"std::fs "quoted""#;"##,
        "fn f<'a>(c: &'a str) -> char { '\"' } // the quote above opens nothing: crate::daemon::X",
        "#[cfg(test)]\nmod tests {\n use std::fs; fn f() { { crate::daemon::x() } }\n}",
        "#[cfg(test)]\nuse std::fs;",
        "use crate::net::Prefix; use super::b; use self::c::D; use std::net::IpAddr;",
    ] {
        assert!(breaches("src/ike/a.rs", text).is_empty(), "{text}");
    }
    assert_eq!(
        test_modules("src/ike/mod.rs", "#[cfg(test)]\nmod pair;\nmod sa;"),
        ["src/ike/pair"]
    );
    // What follows a test module counts again.
    assert_eq!(
        breaches(
            "src/ike/a.rs",
            "#[cfg(test)] mod tests { fn f() {} }\nuse crate::os::X;"
        )
        .len(),
        1
    );
}

/// One path on the wrong side of a wall.
struct Breach {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// The modules that `file` declares for tests only (`#[cfg(test)] mod name;`), as paths without `.rs`.
fn test_modules(file: &str, text: &str) -> Vec<String> {
    let folder = module_path(file)
        .iter()
        .fold("src".to_owned(), |path, part| format!("{path}/{part}"));
    let tokens = tokens(text);
    (0..tokens.len())
        .filter(|at| {
            TEST_MARK
                .iter()
                .enumerate()
                .all(|(i, want)| self::text(&tokens, at + i) == *want)
        })
        .map(|at| at + TEST_MARK.len())
        .map(|at| at + usize::from(self::text(&tokens, at) == "pub"))
        .filter(|at| self::text(&tokens, *at) == "mod" && self::text(&tokens, at + 2) == ";")
        .map(|at| format!("{folder}/{}", self::text(&tokens, at + 1)))
        .collect()
}

/// Everything in one file's text that breaks a rule.
fn breaches(file: &str, text: &str) -> Vec<Breach> {
    let module = module_path(file);
    let tokens = without_tests(tokens(text));
    let mut found = Vec::new();
    let mut report = |line: usize, what: String| {
        found.push(Breach {
            file: file.to_owned(),
            line,
            what,
        })
    };
    for path in paths(&tokens) {
        let written = path.segments.join("::");
        let top = module.first().map(String::as_str);
        match (top, imported(&path.segments, &module)) {
            (None, Some(target)) if file == "src/main.rs" && target != "cli" => {
                report(path.line, format!("main.rs may only call cli ({written})"));
            }
            (Some(top), Some(target)) if target != top => {
                let row = IMPORTS.iter().find(|(row, _)| *row == top);
                let is_ours = IMPORTS.iter().any(|(row, _)| *row == target);
                if is_ours && !row.is_some_and(|(_, allowed)| allowed.contains(&target.as_str())) {
                    report(
                        path.line,
                        format!("{top} may not import {target} ({written})"),
                    );
                }
            }
            (_, Some(_)) => {}
            (_, None) => {
                let names =
                    |list: &[&str]| list.iter().any(|rule| starts_with(&path.segments, rule));
                if top.is_some_and(|top| PURE.contains(&top)) && names(WORLDLY) {
                    report(path.line, format!("a pure layer names {written}"));
                } else if top != Some("crypto") && names(CIPHERS) {
                    report(path.line, format!("only crypto names {written}"));
                }
            }
        }
    }
    if !UNSAFE.iter().any(|folder| file.starts_with(folder)) {
        for token in tokens.iter().filter(|token| token.text == "unsafe") {
            report(token.line, "unsafe outside os and crypto::lanes".to_owned());
        }
    }
    found
}

/// The top-level module of ours that a path leads to, if it starts at `crate`, `super`, `self` or our own name.
fn imported(segments: &[String], module: &[String]) -> Option<String> {
    let first = segments.first()?.as_str();
    let mut rest = segments.iter().skip(1);
    match first {
        "crate" | "groundlink" => Some(rest.next().cloned().unwrap_or_default()),
        "self" => Some(module.first().cloned().unwrap_or_default()),
        "super" => {
            let climbs = segments
                .iter()
                .take_while(|segment| *segment == "super")
                .count();
            match module.len().checked_sub(climbs) {
                None | Some(0) => Some(segments.get(climbs).cloned().unwrap_or_default()),
                Some(_) => Some(module.first().cloned().unwrap_or_default()),
            }
        }
        _ => None,
    }
}

/// `src/ike/exchange/auth.rs` is `ike::exchange::auth`; `src/ike/mod.rs` is `ike`; `src/lib.rs` is the root.
fn module_path(file: &str) -> Vec<String> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts
}

fn starts_with(segments: &[String], rule: &str) -> bool {
    let rule: Vec<&str> = rule.split("::").collect();
    segments.len() >= rule.len() && rule.iter().zip(segments).all(|(want, have)| want == have)
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    line: usize,
}

struct PathSeen {
    segments: Vec<String>,
    line: usize,
}

/// Every path in the tokens, groups spelled out.
fn paths(tokens: &[Token]) -> Vec<PathSeen> {
    let mut seen = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = is_name(&tokens[at].text)
            && text(tokens, at + 1) == "::"
            && (at == 0 || tokens[at - 1].text != "::");
        // `use std;` and `use tokio;` have no `::` and are paths too.
        let alone = at > 0 && tokens[at - 1].text == "use" && is_name(&tokens[at].text) && !starts;
        // In `use {std::fs, tokio}` the group itself is handled name by name, since each of them starts here.
        if starts || alone {
            at = tree(tokens, at, &mut Vec::new(), &mut seen);
        } else {
            at += 1;
        }
    }
    seen
}

/// Reads one use tree (or plain path) from `at`, under `prefix`; returns where it ends.
fn tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    seen: &mut Vec<PathSeen>,
) -> usize {
    let depth = prefix.len();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match text(tokens, at) {
            "{" if depth > 0 || !prefix.is_empty() => {
                at += 1;
                while !matches!(text(tokens, at), "}" | "") {
                    at = tree(tokens, at, prefix, seen);
                    if text(tokens, at) == "," {
                        at += 1;
                    }
                }
                prefix.truncate(depth);
                return at + 1;
            }
            name if is_name(name) => {
                prefix.push(name.to_owned());
                at += 1;
            }
            "*" => at += 1,
            "" => return at + 1,
            _ => {
                // A turbofish, a macro's odd token: the path ends here.
                seen.push(PathSeen {
                    segments: prefix.clone(),
                    line,
                });
                prefix.truncate(depth);
                return at + 1;
            }
        }
        if text(tokens, at) == "::" {
            at += 1;
            continue;
        }
        if text(tokens, at) == "as" {
            at += 2;
        }
        seen.push(PathSeen {
            segments: prefix.clone(),
            line,
        });
        prefix.truncate(depth);
        return at;
    }
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// `#[cfg(test)]`.
static TEST_MARK: &[&str] = &["#", "[", "cfg", "(", "test", ")", "]"];

/// Drops each item that `#[cfg(test)]` stands before.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let marked = TEST_MARK
            .iter()
            .enumerate()
            .all(|(i, want)| text(&tokens, at + i) == *want);
        if !marked {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += TEST_MARK.len();
        let mut depth = 0usize;
        while at < tokens.len() {
            let done = match text(&tokens, at) {
                "{" => {
                    depth += 1;
                    false
                }
                "}" => {
                    depth -= 1;
                    depth == 0
                }
                ";" => depth == 0,
                _ => false,
            };
            at += 1;
            if done {
                break;
            }
        }
    }
    kept
}

/// Rust's tokens, as far as this test needs them: names, `::`, and single marks; no comments, no literals.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        match chars[i] {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = quoted(&chars, i),
            'r' | 'b' | 'c' if raw_string(&chars, i).is_some() => {
                i = raw_string(&chars, i).unwrap()
            }
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => i += 1,
            ':' if at(i + 1) == ':' => {
                out.push(Token {
                    text: "::".to_owned(),
                    line,
                });
                i += 2;
            }
            c if c.is_alphabetic() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                out.push(Token {
                    text: chars[start..i].iter().collect(),
                    line,
                });
            }
            c => {
                if !c.is_whitespace() {
                    out.push(Token {
                        text: c.to_string(),
                        line,
                    });
                }
                i += 1;
            }
        }
        line += chars[start..i.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    out
}

/// The end of the string literal that opens at `i`.
fn quoted(chars: &[char], mut i: usize) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of `r"…"`, `br#"…"#` and their kin, if one opens at `i`.
fn raw_string(chars: &[char], mut i: usize) -> Option<usize> {
    while matches!(chars.get(i), Some('b' | 'c')) {
        i += 1;
    }
    if chars.get(i) != Some(&'r') {
        return None;
    }
    i += 1;
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    i += hashes;
    if chars.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while i < chars.len() {
        if chars[i] == '"'
            && chars[i + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
        {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(i)
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
