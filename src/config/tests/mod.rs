//! Whole files in, findings and settings out: each kind of bad input gives its message.

mod lints;
mod presets;
mod secrets;
mod syntax;
mod values;
mod whole_files;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::ike::{Identity, Peer, PeerId, Start};

const GOOD: &str = r#"[gateway]
address = "203.0.113.7"

[[tunnel]]
name = "ali-1"
peer = "47.88.10.20"
preset = "generic"
psk = { file = "psk" }
local = ["192.168.1.0/24"]
remote = ["172.16.1.0/24"]
"#;

/// A folder with a good key in the file `psk`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("psk");
    fs::write(&key, "Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    folder
}

fn options() -> LoadOptions {
    LoadOptions {
        credentials: None,
        secrets: SecretPolicy::Required,
    }
}

fn load_in(folder: &Path, text: &str) -> LoadedConfig {
    load_text(ConfigText::new("t.toml", text), folder, &options())
}

fn load_good(text: &str) -> LoadedConfig {
    load_in(folder().path(), text)
}

/// The good file with one line replaced or, where the key is not in it, added to the tunnel.
fn with(line: &str) -> String {
    let key = line.split('=').next().unwrap();
    match GOOD.lines().find(|old| old.starts_with(key)) {
        Some(old) => GOOD.replace(old, line),
        None => format!("{GOOD}{line}\n"),
    }
}

/// What is said about the good file with this line: severity and sentence, in order.
fn said(line: &str) -> Vec<(Severity, String)> {
    let loaded = load_good(&with(line));
    loaded
        .report
        .findings()
        .iter()
        .map(|finding| {
            (
                finding.severity,
                format!("{} | {}", finding.what, finding.advice),
            )
        })
        .collect()
}

/// The one error that this line gives.
fn error(line: &str) -> String {
    let said = said(line);
    let errors: Vec<_> = said
        .iter()
        .filter(|(severity, _)| *severity == Severity::Error)
        .collect();
    assert_eq!(errors.len(), 1, "{line}: {said:?}");
    errors[0].1.clone()
}

/// The tunnel that this line gives.
fn tunnel(line: &str) -> TunnelSettings {
    let loaded = load_good(&with(line));
    loaded
        .settings
        .unwrap_or_else(|| panic!("{}", loaded.report))
        .tunnels
        .remove(0)
}
