//! Whole files in, findings and settings out: each kind of bad input gives its message.

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

fn environment() -> Environment {
    Environment {
        credentials: None,
        secrets: Secrets::Required,
    }
}

fn load_in(folder: &Path, text: &str) -> Loaded {
    load_text(Source::new("t.toml", text), folder, &environment())
}

fn load_good(text: &str) -> Loaded {
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
fn tunnel(line: &str) -> Tunnel {
    let loaded = load_good(&with(line));
    loaded
        .settings
        .unwrap_or_else(|| panic!("{}", loaded.report))
        .tunnels
        .remove(0)
}

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
fn unknown_keys_are_errors_with_suggestions() {
    assert_eq!(
        error("remot = []"),
        "unknown key `remot` in `[[tunnel]]` | did you mean `remote`?"
    );
    assert_eq!(
        error("listen = \"0.0.0.0\""),
        "unknown key `listen` in `[[tunnel]]` | `listen` belongs under `[gateway]`"
    );
    assert!(
        error("dpd = { dely = \"3s\" }")
            .starts_with("unknown key `dely` in `dpd` | did you mean `delay`?")
    );
    assert_eq!(
        error("dpd = \"10s\""),
        "`dpd` is a table, not a string | write `dpd = { delay = \"10s\", timeout = \"30s\" }`"
    );
    let outside = load_good(&format!("preset = \"generic\"\n{GOOD}"));
    assert!(
        outside
            .report
            .to_string()
            .contains("= help: it belongs under `[[tunnel]]`"),
        "{}",
        outside.report
    );
    let section = load_good(&GOOD.replace("[gateway]", "[gatway]"));
    assert!(
        section
            .report
            .to_string()
            .contains("did you mean `[gateway]`?"),
        "{}",
        section.report
    );
    let single = load_good(&GOOD.replace("[[tunnel]]", "[tunnel]"));
    assert!(
        single
            .report
            .to_string()
            .contains("help: write `[[tunnel]]`"),
        "{}",
        single.report
    );
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for line in [
        "child-bytes = \"1G\"",
        "child-packets = 1000",
        "rekey-check = true",
        "encapsulation = \"auto\"",
        "encapsulation = \"esp\"",
        "ppk = { id = \"x\", file = \"y\" }",
        "esp = \"aes128-sha256-esn\"",
        "esp = \"aes128-sha256-esn-noesn\"",
        "ike = \"aes256-sha256-modp2048-ke1_mlkem768\"",
        "esp = [\"aes256gcm16-ke1_mlkem768\"]",
    ] {
        assert!(
            error(line).contains("not in this version"),
            "{line}: {}",
            error(line)
        );
    }
    let metrics = load_good(&GOOD.replace("[gateway]", "[gateway]\nmetrics = \"127.0.0.1:9566\""));
    assert!(
        metrics
            .report
            .to_string()
            .starts_with("error: `metrics` is not in this version\n"),
        "{}",
        metrics.report
    );
    let group = load_good(&format!("{GOOD}[[group]]\nname = \"g\"\n"));
    assert!(
        group
            .report
            .to_string()
            .starts_with("error: `[[group]]` is not in this version\n"),
        "{}",
        group.report
    );
}

#[test]
fn what_is_built_may_be_spelled_out() {
    let all = "child-bytes = \"none\"\nchild-packets = \"none\"\nrekey-check = false\nencapsulation = \"udp\"\nesp = \"aes128gcm16-noesn\"";
    assert_eq!(said(all), []);
    for offload in ["auto", "off"] {
        let text = GOOD.replace("[gateway]", &format!("[gateway]\noffload = \"{offload}\""));
        assert!(load_good(&text).report.is_sound());
    }
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = "[gateway]\nadress = 1\n[[tunnel]]\nname = \"a b\"\npeer = \"1.2.3\"\nike = \"aes129\"\nmetric = 0\n";
    let loaded = load_good(text);
    let lines: Vec<usize> = loaded
        .report
        .to_json()
        .iter()
        .map(|finding| finding["line"].as_u64().unwrap() as usize)
        .collect();
    assert!(lines.is_sorted(), "{lines:?}");
    for wanted in [
        "`adress`",
        "letters, digits",
        "`1.2.3`",
        "\"aes129\"",
        "0 is out of range",
        "no `psk`",
        "no `local`",
        "no `remote`",
        "which address",
    ] {
        assert!(
            loaded.report.to_string().contains(wanted),
            "{wanted}:\n{}",
            loaded.report
        );
    }
    assert!(loaded.settings.is_none());
}

#[test]
fn text_that_is_no_toml_shows_the_place_and_reads_on() {
    let loaded = load_good(&format!("{GOOD}metric = = 5\nremot = 1\n"));
    let shown = loaded.report.to_string();
    assert!(
        shown.contains("error: not TOML: ") && shown.contains("--> t.toml:11:"),
        "{shown}"
    );
    assert!(shown.contains("did you mean `remote`?"), "{shown}");
    let twice = load_good(&with("metric = 5\nmetric = 6"))
        .report
        .to_string();
    assert!(twice.contains("not TOML: duplicate key"), "{twice}");
}

#[test]
fn hostile_text_never_panics() {
    for text in [
        "",
        "\u{feff}",
        "[",
        "[[",
        "[[tunnel]]",
        "[[tunnel]",
        "tunnel = 1",
        "tunnel = [1, [2]]",
        "gateway = []",
        "\0",
        "=",
        "a.b.c.d = 1",
        "[[tunnel]]\nname=",
        "psk",
        "[gateway",
        "[tunnel.psk]\nfile=1",
        "group = 1",
    ] {
        load_good(text);
        load_good(&format!("{GOOD}{text}"));
    }
    for cut in 0..GOOD.len() {
        load_good(&GOOD[..cut]);
    }
}

#[test]
fn peers_are_addresses_or_names() {
    assert_eq!(
        tunnel("peer = \"vpn.example.org\"").ike.peer,
        Peer::Name("vpn.example.org".to_owned())
    );
    assert!(error("peer = \"47.88.10.20:500\"").contains("leave out the port: \"47.88.10.20\""));
    assert!(error("peer = \"47.88.10\"").contains("neither an IP address nor a host name"));
    assert!(error("peer = \"0.0.0.0\"").contains("not the address of one machine"));
    assert!(error("peer = \"\"").contains("empty"));
    assert!(error("peer = \"any\"").contains("a tunnel has one peer"));
    assert!(error("peer = \"::ffff:1.2.3.4\"").contains("write \"1.2.3.4\""));
    assert!(error("peer = 5").contains("this takes a string, not a number"));
    assert!(error("peer = \"203.0.113.7\"").contains("is this gateway itself"));
}

#[test]
fn local_addresses_follow_the_contract() {
    assert_eq!(
        tunnel("local-address = \"10.0.0.5\"").ike.local.to_string(),
        "10.0.0.5"
    );
    let listening = load_good(&GOOD.replace("[gateway]", "[gateway]\nlisten = \"10.0.0.9\""));
    assert_eq!(
        listening.settings.unwrap().tunnels[0].ike.local.to_string(),
        "10.0.0.9"
    );
    assert_eq!(tunnel("peer = \"2001:db8::1\"").ike.local.to_string(), "::");
    assert!(
        error("local-address = \"::1\"")
            .contains("::1 cannot reach 47.88.10.20: one is IPv6, the other IPv4")
    );
}

#[test]
fn identities_follow_the_address_unless_set() {
    assert_eq!(
        tunnel("address = \"203.0.113.8\"").ike.id,
        Identity::Ipv4([203, 0, 113, 8].into())
    );
    assert_eq!(
        tunnel("id = \"key-id:0a0b\"").ike.id,
        Identity::KeyId(vec![10, 11])
    );
    assert_eq!(
        tunnel("peer-id = \"gw.example.org\"").ike.peer_id,
        PeerId::Exactly(Identity::Fqdn("gw.example.org".to_owned()))
    );
    assert!(error("id = \"key-id:abc\"").contains("even number of hex digits"));
    assert!(error("peer-id = \"203.0.113\"").contains("is not an IP address"));
    let without = GOOD.replace("address = \"203.0.113.7\"\n", "");
    let shown = load_good(&without).report.to_string();
    assert!(
        shown.contains("nothing says which address") && shown.contains("t.toml:1:"),
        "{shown}"
    );
    assert!(
        load_good(&format!("{without}id = \"gw.example.org\"\n"))
            .report
            .is_sound()
    );
}

#[test]
fn selectors_and_routes_have_to_make_sense() {
    assert!(error("local = [\"192.168.1.5/24\"]").contains("write 192.168.1.0/24 for the network"));
    assert!(error("local = []").contains("`local` is empty"));
    assert!(
        error("remote = [\"10.0.0.0/8\", \"10.0.0.0/8\"]").contains("10.0.0.0/8 is there twice")
    );
    assert!(
        error("remote = [\"2001:db8::/32\", \"10.0.0.0/8\"]")
            .contains("`remote` has IPv6 prefixes and `local` has none")
    );
    assert!(
        error("remote = [\"192.168.1.0/24\"]")
            .contains("192.168.1.0/24 is both `local` and `remote`")
    );
    assert_eq!(
        said("remote = [\"192.168.1.128/25\"]")[0].0,
        Severity::Warning
    );
    assert_eq!(
        said("remote = \"10.0.0.0/8\""),
        [],
        "one string stands for a list of one"
    );
    assert_eq!(said("local = [\"0.0.0.0/0\"]"), []);
    let everything = tunnel("remote = [\"0.0.0.0/0\"]");
    assert_eq!(everything.routes, []);
    assert_eq!(said("remote = [\"0.0.0.0/0\"]")[0].0, Severity::Note);
    assert_eq!(said("remote = [\"0.0.0.0/0\"]\nroutes = []"), []);
    assert_eq!(
        tunnel("routes = [\"172.16.1.7\"]").routes[0].to_string(),
        "172.16.1.7/32"
    );
    assert!(
        said("routes = [\"172.16.0.0/16\"]")[0]
            .1
            .contains("`remote` does not let through")
    );
}

#[test]
fn proposals_point_at_the_word() {
    let shown = load_good(&with(
        "ike = [\"aes128-sha256-modp2048\", \"aes256-sha129-modp2048\"]",
    ))
    .report
    .to_string();
    let line = shown
        .lines()
        .position(|line| line.contains("sha129-"))
        .unwrap();
    let (text, carets) = (
        shown.lines().nth(line).unwrap(),
        shown.lines().nth(line + 1).unwrap(),
    );
    assert_eq!(text.find("sha129"), carets.find("^^^^^^"), "{shown}");
    assert!(error("ike = \"aes128gcm16-aes128-sha256-modp2048\"").contains("write two proposals"));
    assert!(error("ike = \"aes256gcm16-modp2048\"").contains("needs a PRF"));
    assert!(error("ike = []").contains("proposes nothing"));
    let (severity, note) = said("ike = \"aes256gcm16-sha256-modp2048\"").remove(0);
    assert!(
        severity == Severity::Note && note.contains("write \"prfsha256\""),
        "{note}"
    );
}

#[test]
fn weak_algorithms_warn_and_broken_ones_need_leave() {
    let weak = said("ike = \"aes128-sha1-modp1024\"");
    assert_eq!(weak.len(), 1);
    assert_eq!(weak[0].0, Severity::Warning);
    assert!(
        weak[0].1.contains("names weak algorithms: sha1, modp1024"),
        "{weak:?}"
    );

    let broken = load_good(&with("esp = \"des-md5-modp768\""));
    assert_eq!(
        (
            broken.report.count(Severity::Lint),
            broken.report.count(Severity::Error)
        ),
        (1, 0)
    );
    assert!(!broken.report.is_sound() && broken.settings.is_some());
    assert!(
        broken.report.to_string().contains("des, md5, modp768"),
        "{}",
        broken.report
    );

    let allowed = load_good(&with("esp = \"des-md5-modp768\"\nallow-weak = true"));
    assert!(allowed.report.is_sound());
    assert_eq!(allowed.report.count(Severity::Warning), 1);
    assert_eq!(
        load_good(&with("ike = \"aes256-sha256-modp1024s160\""))
            .report
            .count(Severity::Lint),
        1,
        "group 22 needs leave"
    );
}

#[test]
fn a_cloud_is_said_to_support_what_its_preset_knows() {
    let shown = load_good(&with("preset = \"alibaba-2018\""))
        .report
        .to_string();
    assert!(
        shown.contains("help: this cloud supports \"aes256-sha256-modp2048\"; change both sides"),
        "{shown}"
    );
}

#[test]
fn every_preset_resolves_and_only_that_of_2018_is_weak() {
    for preset in preset::all() {
        let loaded = load_good(&with(&format!("preset = \"{}\"", preset.name)));
        assert!(
            loaded.report.is_sound(),
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
fn presets_have_the_values_of_the_clouds() {
    let of = |preset: &str| tunnel(&format!("preset = \"{preset}\""));
    let suites = |tunnel: &Tunnel| (tunnel.ike.ike[0].to_string(), tunnel.ike.esp[0].to_string());
    let lifetimes = |tunnel: &Tunnel| {
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
fn any_to_any_presets_need_no_selectors() {
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
fn numbers_words_and_addresses_have_bounds() {
    assert!(error("metric = 0").contains("from 1 to 1000000000"));
    assert!(error("metric = \"5\"").contains("this takes a number, not a string"));
    assert!(error("metric = 99999999999999999999").contains("number this large"));
    assert!(error("mtu = 100").contains("from 576 to 65000"));
    assert!(error("mtu = \"big\"").contains("\"auto\" or a number"));
    assert_eq!(tunnel("mtu = 1400").mtu, Mtu::Fixed(1400));
    let small = load_good(
        &GOOD
            .replace("192.168.1.0/24", "2001:db8:1::/48")
            .replace("172.16.1.0/24", "2001:db8:2::/48")
            .replace("name", "mtu = 1200\nname"),
    );
    assert!(
        small.report.to_string().contains("too small for IPv6"),
        "{}",
        small.report
    );
    assert!(error("replay-window = 0").contains("out of range"));
    assert!(error("ike-lifetime = \"1s\"").contains("\"2s\" is the least"));
    assert_eq!(
        tunnel("ike-lifetime = \"2s\"").ike.ike_lifetime.as_secs(),
        2
    );
    assert!(error("ike-lifetime = 3600").contains("write \"3600s\""));
    assert!(error("start = \"atuo\"").contains("did you mean \"auto\"?"));
    assert!(error("fail-closed = \"yes\"").contains("true or false"));
    assert!(error("preset = \"googel-ha\"").contains("did you mean \"google-ha\"?"));
    assert!(error("preset = \"aws\"").contains("alibaba-2018 ("));
    assert!(error("inside = \"169.254.10.2\"").contains("write it like \"169.254.10.2/30\""));
    assert!(error("inside = \"169.254.10.3/30\"").contains("is no host of 169.254.10.0/30"));
    assert_eq!(
        tunnel("inside = \"169.254.10.2/30\"").inside,
        Some(Inside {
            address: [169, 254, 10, 2].into(),
            length: 30
        })
    );
    assert_eq!(
        tunnel("inside = \"10.0.0.1/31\"").inside.unwrap().length,
        31
    );
}

#[test]
fn replay_windows_become_powers_of_two() {
    assert_eq!(tunnel("replay-window = 32").replay_window, 64);
    assert_eq!(tunnel("replay-window = 1000").replay_window, 1024);
    assert_eq!(tunnel("replay-window = 65536").replay_window, 65_536);
    assert_eq!(said("replay-window = 1000")[0].0, Severity::Note);
    assert_eq!(said("replay-window = 1024"), []);
}

#[test]
fn partial_dpd_keeps_the_rest_of_the_preset() {
    let dpd = tunnel("dpd = { timeout = \"5s\" }").ike.dpd;
    assert_eq!((dpd.delay.as_secs(), dpd.timeout.as_secs()), (10, 5));
}

#[test]
fn names_and_devices_are_checked() {
    assert!(error("name = \"a/b\"").contains("letters, digits"));
    assert!(
        error("name = \"thirteen-long\"").contains("16 characters; a device name has at most 15")
    );
    assert_eq!(
        tunnel("name = \"thirteen-long\"\ndevice = \"gl0\"").device,
        "gl0"
    );
    assert!(error("device = \"sixteen-letters-\"").contains("has 16 characters"));
    assert!(error("device = \"a b\"").contains("cannot name a network device"));
}

#[test]
fn tunnels_must_differ() {
    let second = |lines: &str| {
        let table = GOOD.split("\n\n").nth(1).unwrap();
        let mut changed = table.to_owned();
        for line in lines.lines() {
            let key = line.split('=').next().unwrap();
            changed = match table.lines().find(|old| old.starts_with(key)) {
                Some(old) => changed.replace(old, line),
                None => format!("{changed}{line}\n"),
            };
        }
        load_good(&format!("{GOOD}\n{changed}")).report.to_string()
    };
    let same = second("");
    assert!(
        same.contains("two tunnels named `ali-1`") && same.contains("cannot be told apart"),
        "{same}"
    );
    assert!(
        second("name = \"b\"\npeer = \"1.1.1.1\"\ndevice = \"gl-ali-1\"")
            .contains("would share the device `gl-ali-1`")
    );
    assert!(
        second("name = \"b\"\nlocal-address = \"10.0.0.5\"").contains("cannot be told apart"),
        "any address includes 10.0.0.5"
    );
    assert_eq!(second("name = \"b\"\npeer = \"47.88.10.21\""), "");
    let apart = GOOD.replace("name =", "local-address = \"10.0.0.4\"\nname =");
    let other = apart
        .split("\n\n")
        .nth(1)
        .unwrap()
        .replace("ali-1", "b")
        .replace("10.0.0.4", "10.0.0.5");
    assert_eq!(
        load_good(&format!("{apart}\n{other}")).report.to_string(),
        "",
        "two local addresses to one peer are two tunnels"
    );
}

#[test]
fn nothing_at_all_says_how_to_begin() {
    let shown = load_good("").report.to_string();
    assert!(
        shown.contains("there is no tunnel") && shown.contains("add a `[[tunnel]]`"),
        "{shown}"
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
        "inside = \"169.254.10.2/30\"\naddress = \"203.0.113.8\"",
    ));
    for key in keys::TUNNEL
        .iter()
        .filter(|key| key.built == keys::Built::Yes && key.name != "psk.credential")
    {
        assert!(
            loaded.values.iter().any(|row| row.key == key.name),
            "{} is not explained",
            key.name
        );
    }
    for key in keys::GATEWAY
        .iter()
        .filter(|key| key.built == keys::Built::Yes)
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
fn h01_the_key_file_is_judged_where_the_file_names_it() {
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
fn h04_no_key_is_ever_shown() {
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
fn a_key_in_the_file_itself_is_refused_once() {
    assert!(
        error("psk = \"hunter2\"").starts_with("the pre-shared key does not belong in this file")
    );
    assert!(
        error("psk = { file = \"psk\", credential = \"x\" }")
            .contains("both a file and a credential")
    );
    assert!(error("psk = { credential = \"../x\" }").contains("a name, not a path"));
    assert!(error("psk = {}").contains("has no `psk`"));
}

#[test]
fn credentials_come_from_systemds_folder() {
    let folder = folder();
    let text = with("psk = { credential = \"psk\" }");
    let load = |credentials: Option<&Path>, secrets| {
        let environment = Environment {
            credentials: credentials.map(Path::to_owned),
            secrets,
        };
        load_text(
            Source::new("t.toml", text.as_str()),
            Path::new("/nowhere"),
            &environment,
        )
    };
    assert!(
        load(Some(folder.path()), Secrets::Required)
            .report
            .is_sound()
    );
    let outside = load(None, Secrets::Required);
    assert!(
        outside
            .report
            .to_string()
            .contains("exists only inside the service"),
        "{}",
        outside.report
    );
    assert!(outside.settings.is_none());
    let checked = load(None, Secrets::IfReadable);
    assert!(
        checked.report.is_sound() && checked.report.count(Severity::Note) == 1,
        "{}",
        checked.report
    );
    let empty = tempfile::tempdir().unwrap();
    let missing = load(Some(empty.path()), Secrets::IfReadable);
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
fn files_that_cannot_be_read_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let shown = |path: &Path| load(path, &environment()).report.to_string();
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
    let example = include_str!("../../config/example.toml");
    let folder = folder();
    let key = folder.path().join("psk");
    let text = ["ali-1", "ali-2"]
        .iter()
        .fold(example.to_owned(), |text, name| {
            text.replace(
                &format!("\"/etc/groundlink/psk/{name}\""),
                &format!("{key:?}"),
            )
        });
    let loaded = load_in(folder.path(), &text);
    assert!(loaded.report.is_sound(), "{}", loaded.report);
    let built = keys::GATEWAY
        .iter()
        .chain(keys::TUNNEL)
        .filter(|key| key.built == keys::Built::Yes);
    for key in
        built.filter(|key| !["child-bytes", "child-packets", "rekey-check"].contains(&key.name))
    {
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
