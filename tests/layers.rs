//! Checks the import rules between layers.
//!
//! `src/lib.rs` draws the layers; this test reads every path under `src/` that starts at `crate::`, `super::` or a crate's name and
//! compares it with the tables below. It reads tokens, not types: comments, strings and `#[cfg(test)]` items do not count, groups
//! (`use crate::{net, os::udp}`) are spelled out, and a `super::` that climbs to the crate's root is followed.

#[path = "layers/cycles.rs"]
mod cycles;
#[path = "layers/source.rs"]
mod source;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use cycles::Graph;
use source::{TEST_MARK, paths, tokens, without_tests};

/// The modules that a top-level module may import.
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
        "inspect",
        &[
            "net", "crypto", "wire", "ike", "esp", "paths", "os", "datapath", "config", "status",
            "control",
        ],
    ),
    (
        "bench",
        &[
            "net", "crypto", "wire", "ike", "esp", "paths", "os", "datapath", "config", "status",
            "control", "lab", "inspect",
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
            "control", "lab", "inspect", "bench", "daemon",
        ],
    ),
];

/// Pure layers (L0 to L2): bytes and a `now` argument, no I/O.
static PURE: &[&str] = &["net", "crypto", "wire", "ike", "esp", "paths"];

/// Paths of I/O, clocks and threads, which a pure module must not name.
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

/// Crates that only `crypto` may use.
static CIPHERS: &[&str] = &[
    "aes",
    "cbc",
    "crypto_bigint",
    "des",
    "hmac",
    "md5",
    "ml_kem",
    "num_bigint",
    "p256",
    "p384",
    "p521",
    "rand_chacha",
    "ring",
    "sha1",
    "sha2",
    "x25519_dalek",
];

/// Modules that run on tokio; the datapath has threads of its own, and the lab calls the control socket's client.
static ASYNCHRONOUS: &[&str] = &["os", "control", "daemon"];

/// Folders that may contain `unsafe`.
static UNSAFE: &[&str] = &["src/os/", "src/crypto/lanes/"];

#[test]
fn every_import_points_to_a_lower_layer() {
    let texts = product_files();
    assert!(texts.len() >= IMPORTS.len(), "only {} files", texts.len());
    let found: Vec<String> = texts
        .iter()
        .flat_map(|(file, text)| breaches(file, text))
        .map(|breach| breach.to_string())
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let found = graph(&product_files()).cycles();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn a_cycle_between_files_is_found_through_reexports() {
    let graph = |files: &[(&str, &str)]| {
        let owned = files
            .iter()
            .map(|(f, t)| ((*f).to_owned(), (*t).to_owned()));
        graph(&owned.collect::<Vec<_>>())
    };
    let a = ("src/esp/a.rs", "use super::B; struct A;");
    let facade = (
        "src/esp/mod.rs",
        "mod a; mod b; pub use a::A; pub use b::B;",
    );
    let cycles = graph(&[a, facade, ("src/esp/b.rs", "use super::a::A; struct B;")]).cycles();
    assert_eq!(
        cycles,
        [
            "src/esp/a.rs:1: imports src/esp/b.rs → src/esp/a.rs",
            "src/esp/b.rs:1: imports src/esp/a.rs → src/esp/b.rs"
        ]
    );
    // A parent that only re-exports imports nothing.
    assert_eq!(
        graph(&[a, facade, ("src/esp/b.rs", "struct B;")]).cycles(),
        [""; 0]
    );
    // A parent that uses its child, which uses its parent.
    let parent = ("src/esp/mod.rs", "mod c; struct P; fn f() { c::g() }");
    let cycles = graph(&[parent, ("src/esp/c.rs", "use super::P; fn g() {}")]).cycles();
    assert_eq!(cycles.len(), 2, "{cycles:?}");
}

/// Files of the product and their texts, without modules that are only for tests.
fn product_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|path| {
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
            (relative.to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    let tests_only: Vec<String> = texts
        .iter()
        .flat_map(|(file, text)| test_modules(file, text))
        .collect();
    let is_test = |file: &str| {
        tests_only
            .iter()
            .any(|module| file == format!("{module}.rs") || file.starts_with(&format!("{module}/")))
    };
    texts
        .into_iter()
        .filter(|(file, _)| !is_test(file))
        .collect()
}

fn graph(files: &[(String, String)]) -> Graph {
    let sources = files
        .iter()
        .filter(|(file, _)| file.matches('/').count() > 1);
    Graph::new(
        sources
            .map(|(file, text)| (file.clone(), module_path(file), without_tests(tokens(text))))
            .collect(),
    )
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
fn an_upward_import_is_detected_in_every_syntax() {
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
fn pure_layers_use_no_io_clock_or_threads() {
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
    assert_eq!(
        breaches("src/datapath/a.rs", "tokio::spawn(f);").len(),
        1,
        "the datapath has threads"
    );
    assert_eq!(breaches("src/esp/a.rs", "use aes::Aes128;").len(), 1);
    assert!(breaches("src/crypto/a.rs", "use aes::Aes128;").is_empty());
    assert_eq!(
        breaches("src/daemon/a.rs", "fn f() { unsafe { g() } }").len(),
        1
    );
    assert!(breaches("src/crypto/lanes/a.rs", "fn f() { unsafe { g() } }").is_empty());
}

#[test]
fn comments_strings_and_test_items_are_ignored() {
    for text in [
        "// use crate::daemon::X;",
        "/// [`crate::daemon`] and std::fs\nfn f() {}",
        "/* outer /* crate::daemon::X */ std::fs::read */",
        r##"const S: &str = "crate::daemon::X"; const R: &str = r#"std::fs "quoted""#;"##,
        "fn f<'a>(c: &'a str) -> char { '\"' } // the quote above opens nothing: crate::daemon::X",
        "#[cfg(test)]\nmod tests {\n use std::fs; fn f() { { crate::daemon::x() } }\n}",
        "#[cfg(test)]\nuse std::fs;",
        "struct S {\n a: u8,\n #[cfg(test)]\n b: std::fs::File,\n}\nstruct T { #[cfg(test)] c: std::fs::File }",
        "use crate::net::Prefix; use super::b; use self::c::D; use std::net::IpAddr;",
    ] {
        assert!(breaches("src/ike/a.rs", text).is_empty(), "{text}");
    }
    assert_eq!(
        test_modules("src/ike/mod.rs", "#[cfg(test)]\nmod pair;\nmod sa;"),
        ["src/ike/pair"]
    );
    // Items after a test module count again.
    assert_eq!(
        breaches(
            "src/ike/a.rs",
            "#[cfg(test)] mod tests { fn f() {} }\nuse crate::os::X;"
        )
        .len(),
        1
    );
}

/// One import that breaks a rule.
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
                .all(|(i, want)| source::text(&tokens, at + i) == *want)
        })
        .map(|at| at + TEST_MARK.len())
        .map(|at| at + usize::from(source::text(&tokens, at) == "pub"))
        .filter(|at| source::text(&tokens, *at) == "mod" && source::text(&tokens, at + 2) == ";")
        .map(|at| format!("{folder}/{}", source::text(&tokens, at + 1)))
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
                } else if top.is_some_and(|top| !ASYNCHRONOUS.contains(&top)) && names(&["tokio"]) {
                    report(path.line, format!("{written} belongs to the event loop"));
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
