//! Whole files: results, origins of values, the example, and every preset.

use super::*;

#[test]
fn a_valid_file_has_no_findings_and_its_defaults_are_filled_in() {
    let loaded = load_good(GOOD);
    assert_eq!(loaded.report.to_string(), "");
    assert!(loaded.report.is_valid());
    let settings = loaded.settings.unwrap();
    let tunnel = &settings.tunnels[0];
    assert_eq!(tunnel.device, "gl-ali-1");
    assert_eq!(tunnel.ike.peer, Peer::Address([47, 88, 10, 20].into()));
    assert!(tunnel.ike.local.is_unspecified() && tunnel.ike.local.is_ipv4());
    assert_eq!(tunnel.ike.id, Identity::Ipv4([203, 0, 113, 7].into()));
    assert_eq!(tunnel.ike.peer_id, PeerId::Any);
    assert_eq!(
        tunnel.ike.psk.0.as_bytes(),
        b"Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi"
    );
    assert_eq!(tunnel.routes, ["172.16.1.0/24".parse().unwrap()]);
    assert_eq!(tunnel.ike.policy.remote.len(), 1);
    assert_eq!(
        (tunnel.metric, tunnel.replay_window, tunnel.fail_closed),
        (100, 4096, FailClosed::Hold)
    );
    assert_eq!(tunnel.ike.start, Start::Auto);
    assert_eq!(
        settings.gateway.control,
        Path::new("/run/groundlink/control.sock")
    );
}

#[test]
fn every_value_keeps_its_origin() {
    let loaded = load_good(GOOD);
    let origin = |key: &str| {
        loaded
            .values
            .iter()
            .find(|row| row.key == key && row.tunnel.is_some())
            .unwrap()
            .origin
            .describe("t.toml")
    };
    assert_eq!(origin("peer"), "t.toml:6");
    assert_eq!(origin("ike-lifetime"), "preset generic");
    assert_eq!(origin("metric"), "default");
    assert_eq!(origin("device"), "default, from `name`");
    assert_eq!(origin("routes"), "default, from `remote`");
    assert!(
        loaded
            .values
            .iter()
            .all(|row| row.tunnel.as_deref().unwrap_or("ali-1") == "ali-1")
    );
}

#[test]
fn every_supported_key_has_an_effective_value() {
    let loaded = load_good(&with(
        "inside = \"169.254.10.2/30\"\naddress = \"203.0.113.8\"\nppk = { id = \"q-1\", file = \"psk\" }",
    ));
    for key in keys::TUNNEL
        .iter()
        .filter(|key| key.support == keys::Support::Supported && !key.name.ends_with(".credential"))
    {
        assert!(
            loaded.values.iter().any(|row| row.key == key.name),
            "{} has no effective value",
            key.name
        );
    }
    for key in keys::GATEWAY
        .iter()
        .filter(|key| key.support == keys::Support::Supported)
    {
        assert!(
            loaded
                .values
                .iter()
                .any(|row| row.key == key.name && row.tunnel.is_none()),
            "{} has no effective value",
            key.name
        );
    }
}

#[test]
fn an_unreadable_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let shown = |path: &Path| load(path, &options()).report.to_string();
    let missing = shown(&folder.path().join("none.toml"));
    assert!(
        missing.contains("no such file") && missing.contains("none.toml"),
        "{missing}"
    );
    assert!(shown(folder.path()).contains("not a regular file"));
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, [b'a', 0xff]).unwrap();
    assert!(shown(&binary).contains("not UTF-8 text: invalid byte at offset 1"));
    fs::write(&binary, [b"ab\0".as_slice(), &[1; 20_000]].concat()).unwrap();
    assert!(shown(&binary).contains("not text: it has a NUL byte at offset 2"));
    assert!(shown(&binary).len() < 500);
    fs::write(&binary, [1; 20_000]).unwrap();
    assert!(shown(&binary).len() < 40_000, "{}", shown(&binary).len());
}

#[test]
fn the_control_socket_is_found_in_an_invalid_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, "[gateway]\ncontrol = \"/run/x.sock\"\nwrong = 1\n").unwrap();
    assert_eq!(control_socket(&path).unwrap(), Path::new("/run/x.sock"));
    assert_eq!(control_socket(&folder.path().join("none")), None);
}

#[test]
fn the_example_is_valid_and_has_every_key() {
    let example = include_str!("../../../config/example.toml");
    let folder = folder();
    for name in ["psk_ali-1", "psk_ali-2", "psk_ali-2-ppk"] {
        fs::copy(folder.path().join("psk"), folder.path().join(name)).unwrap();
    }
    let options = LoadOptions {
        credentials: Some(folder.path().to_owned()),
        secrets: SecretPolicy::Required,
    };
    let load = |text: &str| load_text(ConfigText::new("t.toml", text), folder.path(), &options);
    let loaded = load(example);
    assert!(loaded.report.is_valid(), "{}", loaded.report);
    let built = keys::GATEWAY
        .iter()
        .chain(keys::TUNNEL)
        .filter(|key| key.support == keys::Support::Supported);
    for key in built {
        let word = key.name.split('.').next_back().unwrap();
        assert!(
            example.contains(&format!("{word} = ")),
            "{} is not in the example",
            key.name
        );
    }
    // Keys that are commented out are valid too.
    let uncommented: String = example
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| {
                    rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ")
                })
                .unwrap_or(line)
                .to_owned()
                + "\n"
        })
        .collect();
    let loaded = load(&uncommented);
    assert!(loaded.report.is_valid(), "{}", loaded.report);
    assert!(loaded.values.iter().any(|row| row.key == "inside"));
}

#[test]
fn every_preset_is_valid_and_only_alibaba_2018_is_weak() {
    for preset in preset::all() {
        let loaded = load_good(&with(&format!("preset = \"{}\"", preset.name)));
        assert!(
            loaded.report.is_valid(),
            "{}: {}",
            preset.name,
            loaded.report
        );
        let weak = loaded.report.count(Severity::Warning);
        assert_eq!(
            weak,
            if preset.name == "alibaba-2018" { 2 } else { 0 },
            "{}: {}",
            preset.name,
            loaded.report
        );
    }
}

#[test]
fn presets_have_the_documented_values() {
    let of = |preset: &str| tunnel(&format!("preset = \"{preset}\""));
    let suites =
        |tunnel: &TunnelSettings| (tunnel.ike.ike[0].to_string(), tunnel.ike.esp[0].to_string());
    let lifetimes = |tunnel: &TunnelSettings| {
        (
            tunnel.ike.ike_lifetime.as_secs(),
            tunnel.ike.child_lifetime.as_secs(),
        )
    };
    for google in [of("google-classic"), of("google-ha")] {
        assert_eq!(
            suites(&google),
            (
                "aes256gcm16-prfsha256-modp2048".to_owned(),
                "aes256gcm16-modp2048".to_owned()
            )
        );
        assert_eq!(lifetimes(&google), (36_000, 10_800));
        assert_eq!(
            google.mtu,
            Mtu::Auto {
                outer: Some(1460),
                inner: None
            }
        );
    }
    let alibaba = of("alibaba");
    assert_eq!(
        suites(&alibaba),
        (
            "aes256-sha256-modp2048".to_owned(),
            "aes256-sha256-modp2048".to_owned()
        )
    );
    let guide = of("alibaba-2018");
    assert_eq!(
        suites(&guide),
        (
            "aes128-sha1-modp1024".to_owned(),
            "aes128-sha1-modp1024".to_owned()
        )
    );
    assert_eq!(lifetimes(&guide), (86_400, 86_400));
    assert_eq!(
        guide.mtu,
        Mtu::Auto {
            outer: None,
            inner: Some(1399)
        }
    );
}

#[test]
fn presets_with_any_to_any_selectors_need_none_in_the_file() {
    let text = GOOD.replace(
        "local = [\"192.168.1.0/24\"]\nremote = [\"172.16.1.0/24\"]\n",
        "routes = [\"10.0.0.0/8\"]\n",
    );
    for preset in ["google-ha", "alibaba"] {
        let loaded = load_good(&text.replace("generic", preset));
        assert_eq!(loaded.report.to_string(), "");
        assert_eq!(
            loaded.settings.unwrap().tunnels[0].ike.policy.remote[0].to_string(),
            "0.0.0.0/0"
        );
    }
}

#[test]
fn a_partial_dpd_table_keeps_the_rest_of_the_preset() {
    let dpd = tunnel("dpd = { timeout = \"5s\" }").ike.dpd;
    assert_eq!((dpd.delay.as_secs(), dpd.timeout.as_secs()), (10, 5));
}
