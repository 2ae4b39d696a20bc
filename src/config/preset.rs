//! Presets: the values that a cloud's VPN gateway needs, as partial configurations embedded from `config/presets/`. Each file gives
//! the reason for every value.

use std::sync::LazyLock;

use super::diagnostic::{ConfigText, Diagnostic, nearest};
use super::file::{ConfigTable, FileKind, parse};
use super::value;

/// A preset.
#[derive(Debug)]
pub struct Preset {
    /// Name of the preset, the value of a tunnel's `preset` key.
    pub name: &'static str,
    /// One sentence about the cloud.
    pub summary: String,
    /// Maximum outer packet of the cloud.
    pub outer_mtu: Option<u16>,
    /// Maximum inner packet of the cloud.
    pub inner_mtu: Option<u16>,
    /// The cloud's alternative to weak algorithms in `ike`.
    pub instead_ike: String,
    /// The cloud's alternative to weak algorithms in `esp`.
    pub instead_esp: String,
    /// Values of tunnel keys.
    pub tunnel: ConfigTable,
}

/// Embeds preset files: each name with the text of its file.
macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../config/presets/", $name, ".toml")))),*]
    };
}

/// The preset files. A new preset is a file and its name here; `CONTRIBUTING.md` lists the documents that name it, which tests check.
static FILES: &[(&str, &str)] = embed![
    "generic",
    "google-classic",
    "google-ha",
    "alibaba",
    "alibaba-2018",
];

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let files = FILES.iter();
    let presets = files.map(|(name, text)| read(name, text, &mut Vec::new()));
    presets.collect()
});

/// Every preset.
pub fn all() -> &'static [Preset] {
    &PRESETS
}

/// The name of every preset.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    all().iter().find(|preset| preset.name == name)
}

fn read(name: &'static str, text: &'static str, findings: &mut Vec<Diagnostic>) -> Preset {
    let mut text = ConfigText::new(name, text);
    let file = parse(&mut text, FileKind::Preset, findings);
    let mut text_of = |key: &str| {
        let entry = file.preset.entry(key)?;
        value::text(&entry.value, findings)
    };
    let (summary, instead_ike, instead_esp) = (
        text_of("summary"),
        text_of("instead.ike"),
        text_of("instead.esp"),
    );
    let mut mtu_of = |key: &str| {
        let entry = file.preset.entry(key)?;
        value::fixed_mtu(&entry.value, findings)
    };
    Preset {
        name,
        summary: summary.unwrap_or_default(),
        outer_mtu: mtu_of("outer-mtu"),
        inner_mtu: mtu_of("inner-mtu"),
        instead_ike: instead_ike.unwrap_or_else(|| "aes256gcm16-prfsha256-curve25519".to_owned()),
        instead_esp: instead_esp.unwrap_or_else(|| "aes256gcm16-curve25519".to_owned()),
        tunnel: file.tunnels.into_iter().next().unwrap_or_default(),
    }
}

/// What is wrong with a name that is no preset's, and advice.
pub fn unknown(name: &str) -> (String, String) {
    let advice = match nearest(name, all().iter().map(|preset| preset.name)) {
        Some(candidate) => format!("did you mean \"{candidate}\"?"),
        None => {
            let describe = |preset: &Preset| format!("{} ({})", preset.name, preset.summary);
            let all: Vec<String> = all().iter().map(describe).collect();
            format!("the presets are {}", all.join("; "))
        }
    };
    (format!("unknown preset `{name}`"), advice)
}

/// Checks the name of a preset.
///
/// # Errors
/// What is wrong, and advice.
pub fn check_name(name: &str) -> Result<(), (String, String)> {
    find(name).map(drop).ok_or_else(|| unknown(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_file_is_valid_and_complete() {
        for (name, text) in FILES {
            let mut findings = Vec::new();
            let preset = read(name, text, &mut findings);
            assert_eq!(findings, [], "{name}");
            assert!(!preset.summary.is_empty(), "{name}");
            for key in [
                "ike",
                "esp",
                "ike-lifetime",
                "child-lifetime",
                "start",
                "dpd.delay",
                "dpd.timeout",
                "encapsulation",
                "peer-id",
            ] {
                assert!(preset.tunnel.entry(key).is_some(), "{name} lacks {key}");
            }
            // A cloud checks the PFS group at the first rekey: its preset rekeys once after the first connect to find out.
            let is_cloud = *name != "generic";
            let checks = preset.tunnel.entry("rekey-check");
            assert_eq!(checks.is_some(), is_cloud, "{name}");
        }
    }

    #[test]
    fn every_value_of_a_preset_has_a_comment_above_it() {
        for (name, text) in FILES {
            let mut comment = false;
            let mut covered = 0;
            for line in text.lines() {
                match line {
                    line if line.starts_with('#') => (comment, covered) = (true, 0),
                    line if line.contains('=') && !line.starts_with("summary") => {
                        covered += 1;
                        assert!(comment && covered <= 2, "{name}: no comment above `{line}`");
                    }
                    _ => (comment, covered) = (false, 0),
                }
            }
        }
    }

    #[test]
    fn every_preset_file_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/presets");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                find(name.strip_suffix(".toml").unwrap()).is_some(),
                "{name} has no row in FILES"
            );
        }
    }
}
