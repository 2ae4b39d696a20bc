//! Presets: what a cloud's VPN gateway wants, as data. Each is a partial configuration embedded from `config/presets/`, with the
//! reason for every value beside it.

use std::sync::LazyLock;

use super::diagnostic::{ConfigText, Diagnostic};
use super::file::{FileKind, Table, parse};
use super::value;

/// A preset, read.
#[derive(Debug)]
pub struct Preset {
    /// What a tunnel's `preset` key calls it.
    pub name: &'static str,
    /// Its cloud in a sentence.
    pub summary: String,
    /// The largest outer packet the cloud takes.
    pub outer_mtu: Option<u16>,
    /// The largest inner packet the cloud takes.
    pub inner_mtu: Option<u16>,
    /// What the cloud supports instead of weak algorithms in `ike`.
    pub instead_ike: String,
    /// What the cloud supports instead of weak algorithms in `esp`.
    pub instead_esp: String,
    /// Values of tunnel keys.
    pub tunnel: Table,
}

/// The preset files. To add a preset, add a file and a row.
static FILES: &[(&str, &str)] = &[
    ("generic", include_str!("../../config/presets/generic.toml")),
    (
        "google-classic",
        include_str!("../../config/presets/google-classic.toml"),
    ),
    (
        "google-ha",
        include_str!("../../config/presets/google-ha.toml"),
    ),
    ("alibaba", include_str!("../../config/presets/alibaba.toml")),
    (
        "alibaba-2018",
        include_str!("../../config/presets/alibaba-2018.toml"),
    ),
];

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    FILES
        .iter()
        .map(|(name, text)| read(name, text, &mut Vec::new()))
        .collect()
});

/// Every preset.
pub fn all() -> &'static [Preset] {
    &PRESETS
}

/// The preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    all().iter().find(|preset| preset.name == name)
}

fn read(name: &'static str, text: &'static str, findings: &mut Vec<Diagnostic>) -> Preset {
    let mut source = ConfigText::new(name, text);
    let file = parse(&mut source, FileKind::Preset, findings);
    let mut about = |key: &str| {
        file.preset
            .entry(key)
            .and_then(|entry| value::text(&entry.value, findings))
    };
    let tunnel = file.tunnels.into_iter().next().unwrap_or_default();
    let (summary, instead_ike, instead_esp) =
        (about("summary"), about("instead.ike"), about("instead.esp"));
    let mut mtu = |key: &str| {
        file.preset
            .entry(key)
            .and_then(|entry| value::fixed_mtu(&entry.value, findings))
    };
    Preset {
        name,
        summary: summary.unwrap_or_default(),
        outer_mtu: mtu("outer-mtu"),
        inner_mtu: mtu("inner-mtu"),
        instead_ike: instead_ike.unwrap_or_else(|| "aes256gcm16-prfsha256-curve25519".to_owned()),
        instead_esp: instead_esp.unwrap_or_else(|| "aes256gcm16-curve25519".to_owned()),
        tunnel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_file_reads_without_findings_and_is_complete() {
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
            // A cloud may want another group than we do, and says so only when it is asked: soon, and not in hours.
            let is_cloud = *name != "generic";
            let checks = preset.tunnel.entry("rekey-check");
            assert_eq!(checks.is_some(), is_cloud, "{name}");
        }
    }

    #[test]
    fn every_value_of_a_preset_has_its_reason_above_it() {
        for (name, text) in FILES {
            let mut reason = false;
            let mut covered = 0;
            for line in text.lines() {
                match line {
                    line if line.starts_with('#') => (reason, covered) = (true, 0),
                    line if line.contains('=') && !line.starts_with("summary") => {
                        covered += 1;
                        assert!(reason && covered <= 2, "{name}: no reason above `{line}`");
                    }
                    _ => (reason, covered) = (false, 0),
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
