//! Whole files: what comes out, where each value came from, the example.

use super::*;

#[test]
fn a_good_file_says_nothing_and_fills_in_the_rest() {
    let loaded = load_good(GOOD);
    assert_eq!(loaded.report.to_string(), "");
    assert!(loaded.report.is_sound());
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
fn values_remember_where_they_came_from() {
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
fn every_key_that_is_built_is_explained_or_left_out() {
    let loaded = load_good(&with(
        "inside = \"169.254.10.2/30\"\naddress = \"203.0.113.8\"\nppk = { id = \"q-1\", file = \"psk\" }",
    ));
    for key in keys::TUNNEL
        .iter()
        .filter(|key| key.support == keys::Support::Supported && !key.name.ends_with(".credential"))
    {
        assert!(
            loaded.values.iter().any(|row| row.key == key.name),
            "{} is not explained",
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
            "{} is not explained",
            key.name
        );
    }
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let shown = |path: &Path| load(path, &options()).report.to_string();
    let missing = shown(&folder.path().join("none.toml"));
    assert!(
        missing.contains("there is no such file") && missing.contains("none.toml"),
        "{missing}"
    );
    assert!(shown(folder.path()).contains("not a regular file"));
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, [b'a', 0xff]).unwrap();
    assert!(shown(&binary).contains("byte 1 of this file is not UTF-8"));
}

#[test]
fn the_control_socket_is_found_in_a_file_that_is_otherwise_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, "[gateway]\ncontrol = \"/run/x.sock\"\nwrong = 1\n").unwrap();
    assert_eq!(control_socket(&path).unwrap(), Path::new("/run/x.sock"));
    assert_eq!(control_socket(&folder.path().join("none")), None);
}

#[test]
fn the_example_is_valid_and_names_every_key() {
    let example = include_str!("../../../config/example.toml");
    let folder = folder();
    let key = folder.path().join("psk");
    let text = ["psk/ali-1", "psk/ali-2", "ppk/ali-2"]
        .iter()
        .fold(example.to_owned(), |text, name| {
            text.replace(&format!("\"/etc/groundlink/{name}\""), &format!("{key:?}"))
        });
    let loaded = load_in(folder.path(), &text);
    assert!(loaded.report.is_sound(), "{}", loaded.report);
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
    // What is commented out as a default is valid as well.
    let spelled: String = text
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
    let loaded = load_in(folder.path(), &spelled);
    assert!(loaded.report.is_sound(), "{}", loaded.report);
    assert!(loaded.values.iter().any(|row| row.key == "inside"));
}
