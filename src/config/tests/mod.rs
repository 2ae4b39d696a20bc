//! Whole files in, findings and settings out: each kind of invalid input has its message.

mod lints;
mod load;
mod secrets;
mod syntax;
mod values;

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

/// A folder with a valid key in the file `psk`.
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

/// The valid file with one line replaced, or added to the tunnel if the file does not have its key.
fn with(line: &str) -> String {
    let key = line.split('=').next().unwrap();
    match GOOD.lines().find(|old| old.starts_with(key)) {
        Some(old) => GOOD.replace(old, line),
        None => format!("{GOOD}{line}\n"),
    }
}

/// The findings about the valid file with this line: severity and text, in order.
fn findings(line: &str) -> Vec<(Severity, String)> {
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

/// The only error about this line.
fn error(line: &str) -> String {
    let findings = findings(line);
    let errors: Vec<_> = findings
        .iter()
        .filter(|(severity, _)| *severity == Severity::Error)
        .collect();
    assert_eq!(errors.len(), 1, "{line}: {findings:?}");
    errors[0].1.clone()
}

/// The tunnel with this line.
fn tunnel(line: &str) -> TunnelSettings {
    let loaded = load_good(&with(line));
    loaded
        .settings
        .unwrap_or_else(|| panic!("{}", loaded.report))
        .tunnels
        .remove(0)
}
