//! Pre-shared keys: their locations, and that no output contains them.

use super::*;
use crate::ike::PpkDemand;

#[test]
fn h01_an_error_of_a_key_file_points_at_the_line_that_names_it() {
    let folder = folder();
    fs::set_permissions(folder.path().join("psk"), fs::Permissions::from_mode(0o644)).unwrap();
    let loaded = load_in(folder.path(), GOOD);
    let path = folder.path().join("psk");
    let shown = loaded.report.to_string();
    assert!(
        shown.contains("has mode 0644") && shown.contains("t.toml:8:16"),
        "{shown}"
    );
    assert!(
        shown.contains(&format!("help: chmod 0640 {}", path.display())),
        "{shown}"
    );
    assert!(loaded.settings.is_none());
}

#[test]
fn h04_no_output_contains_a_key() {
    let folder = folder();
    let key = "Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi";
    for text in [
        GOOD.to_owned(),
        with(&format!("psk = \"{key}\"")),
        with(&format!("psk = {{ secret = \"{key}\" }}")),
        with(&format!("psk = {{ file = \"psk\", key = \"{key}\" }}")),
        with(&format!("psk = \"{key}")),
        with(&format!("psk = \"\"\"\n{key}\n\"\"\"")),
        with(&format!("psk = [\"{key}\"]")),
        with(&format!("pre-shared-key = \"{key}\"")),
        with(&format!("shared_secret = \"{key}\"")),
        with(&format!("PSK = \"{key}\"")),
        format!("psk = \"{key}\"\n{GOOD}"),
    ] {
        let loaded = load_in(folder.path(), &text);
        let all = format!(
            "{}{:?}{:?}{:?}",
            loaded.report,
            loaded.report.to_json(),
            loaded.values,
            loaded.settings
        );
        assert!(!all.contains(key), "{text}\n{all}");
    }
}

#[test]
fn a_key_in_the_configuration_itself_is_one_error() {
    assert!(
        error("psk = \"hunter2\"")
            .starts_with("a pre-shared key must not be written into the configuration")
    );
    assert!(
        error("psk = { file = \"psk\", credential = \"x\" }")
            .contains("both a file and a credential")
    );
    assert!(error("psk = { credential = \"../x\" }").contains("a name, not a path"));
    assert!(error("psk = {}").contains("has no `psk`"));
}

#[test]
fn credentials_are_read_from_the_directory_of_systemd() {
    let folder = folder();
    let text = with("psk = { credential = \"psk\" }");
    let load = |credentials: Option<&Path>, secrets| {
        let options = LoadOptions {
            credentials: credentials.map(Path::to_owned),
            secrets,
        };
        load_text(
            ConfigText::new("t.toml", text.as_str()),
            Path::new("/nowhere"),
            &options,
        )
    };
    assert!(
        load(Some(folder.path()), SecretPolicy::Required)
            .report
            .is_valid()
    );
    let outside = load(None, SecretPolicy::Required);
    assert!(
        outside
            .report
            .to_string()
            .contains("is only available inside the systemd service"),
        "{}",
        outside.report
    );
    assert!(outside.settings.is_none());
    let checked = load(None, SecretPolicy::IfReadable);
    assert!(
        checked.report.is_valid() && checked.report.count(Severity::Note) == 1,
        "{}",
        checked.report
    );
    let empty = tempfile::tempdir().unwrap();
    let missing = load(Some(empty.path()), SecretPolicy::IfReadable);
    assert!(
        missing
            .report
            .to_string()
            .contains("systemd provides no credential `psk`"),
        "{}",
        missing.report
    );
}

#[test]
fn a_ppk_is_read_like_a_psk_and_required_by_default() {
    let folder = folder();
    let key = "aQ7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAiaQ7vYd0x3LmZk9";
    fs::write(folder.path().join("ppk"), key).unwrap();
    fs::set_permissions(folder.path().join("ppk"), fs::Permissions::from_mode(0o600)).unwrap();
    let read = |line: &str| {
        let loaded = load_in(folder.path(), &with(line));
        let shown = format!("{}{:?}", loaded.report, loaded.values);
        assert!(!shown.contains(key), "{shown}");
        (
            loaded
                .settings
                .map(|settings| settings.tunnels[0].ike.ppk.clone()),
            loaded.report.to_string(),
        )
    };
    assert!(read("metric = 100").0.unwrap().is_none());
    let (ppk, report) = read("ppk = { id = \"q-1\", file = \"ppk\" }");
    let ppk = ppk.unwrap().unwrap_or_else(|| panic!("{report}"));
    assert_eq!((ppk.id.as_str(), ppk.demand), ("q-1", PpkDemand::Required));
    assert_eq!(ppk.key.as_bytes(), key.as_bytes());
    let optional = "ppk = { id = \"q-1\", file = \"ppk\", required = false }";
    let ppk = read(optional).0.unwrap().unwrap();
    assert_eq!(ppk.demand, PpkDemand::Optional);
}

#[test]
fn an_invalid_ppk_is_an_error() {
    let folder = folder();
    let key = "aQ7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAiaQ7vYd0x3LmZk9";
    fs::write(folder.path().join("ppk"), key).unwrap();
    let read = |line: &str, mode: u32| {
        fs::set_permissions(folder.path().join("ppk"), fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load_in(folder.path(), &with(line));
        let shown = loaded.report.to_string();
        assert!(
            loaded.settings.is_none() && !shown.contains(key),
            "{line}: {shown}"
        );
        shown
    };
    for (line, complaint) in [
        ("ppk = { file = \"ppk\" }", "has no `ppk.id`"),
        (
            "ppk = { id = \"q-1\" }",
            "has neither `file` nor `credential`",
        ),
        ("ppk = { id = \"\", file = \"ppk\" }", "empty"),
        (
            "ppk = { id = \"a\\nb\", file = \"ppk\" }",
            "no control characters",
        ),
        (
            "ppk = { id = \"q-1\", file = \"none\" }",
            "there is no PPK file",
        ),
        (
            "ppk = { id = \"q-1\", file = \"ppk\", credential = \"x\" }",
            "`ppk` names both a file and a credential",
        ),
        (
            &format!("ppk = \"{key}\""),
            "a post-quantum pre-shared key must not be written into the configuration",
        ),
        (
            &format!("ppk = {{ id = \"q-1\", key = \"{key}\" }}"),
            "unknown key",
        ),
    ] {
        let report = read(line, 0o600);
        assert!(report.contains(complaint), "{line}: {report}");
    }
    let report = read("ppk = { id = \"q-1\", file = \"ppk\" }", 0o644);
    assert!(report.contains("has mode 0644"), "{report}");
}

#[test]
fn h01_an_untrusted_text_opens_no_file() {
    let folder = folder();
    let options = LoadOptions {
        credentials: Some(folder.path().to_owned()),
        secrets: SecretPolicy::Unread,
    };
    fs::remove_file(folder.path().join("psk")).unwrap();
    let loaded = load_text(ConfigText::new("t.toml", GOOD), folder.path(), &options);
    assert!(loaded.report.is_valid(), "{}", loaded.report);
    let settings = loaded.settings.unwrap();
    assert!(settings.tunnels[0].ike.psk.0.is_empty());
}
