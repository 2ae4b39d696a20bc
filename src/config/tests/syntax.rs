//! Invalid files: unknown keys, reserved keys, syntax errors.

use super::*;

#[test]
fn an_unknown_key_is_an_error_with_a_suggestion() {
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
            .contains("= help: move it under `[[tunnel]]`"),
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
fn reserved_keys_are_rejected_by_name() {
    let of_gateway = [("metrics", "\"127.0.0.1:9566\""), ("hook", "\"/etc/hook\"")];
    let of_tunnel = [
        ("table", "100"),
        ("mark", "7"),
        ("bypass", "[\"198.51.100.0/24\"]"),
        ("outer-mtu", "1460"),
        ("bgp", "{ asn = 65010, md5 = { file = \"md5\" } }"),
    ];
    let files = of_gateway
        .map(|(key, value)| {
            let line = format!("[gateway]\n{key} = {value}");
            (key, GOOD.replace("[gateway]", &line))
        })
        .into_iter()
        .chain(of_tunnel.map(|(key, value)| (key, format!("{GOOD}{key} = {value}\n"))));
    for (key, text) in files {
        let report = load_good(&text).report.to_string();
        let expected = format!("error: `{key}` is not in this version\n");
        assert!(report.starts_with(&expected), "{report}");
    }
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
fn defaults_can_be_written_explicitly() {
    let all = "child-bytes = \"none\"\nchild-packets = \"none\"\nrekey-check = false\nencapsulation = \"udp\"\nesp = \"aes128gcm16-noesn\"";
    assert_eq!(findings(all), []);
    let more = "child-bytes = \"10GB\"\nchild-packets = 1000000\nrekey-check = true\nesp = \"aes128gcm16-esn-noesn\"";
    assert_eq!(findings(more), []);
    for encapsulation in ["udp", "auto", "esp"] {
        let line = format!("encapsulation = \"{encapsulation}\"");
        assert_eq!(findings(&line), [], "{line}");
    }
    for offload in ["auto", "off"] {
        let text = GOOD.replace("[gateway]", &format!("[gateway]\noffload = \"{offload}\""));
        assert!(load_good(&text).report.is_valid());
    }
}

#[test]
fn every_error_is_reported_in_the_order_of_the_file() {
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
        "the public address",
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
fn a_syntax_error_shows_its_position_and_reading_continues() {
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
fn no_text_causes_a_panic() {
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
fn a_broken_header_is_reported_instead_of_a_missing_tunnel() {
    let shown = load_good(&GOOD.replacen("[[tunnel]]", "[[tunnel]", 1))
        .report
        .to_string();
    assert!(shown.contains("not TOML"), "{shown}");
    assert!(!shown.contains("has no tunnel"), "{shown}");
}

#[test]
fn an_empty_file_is_an_error_with_advice() {
    let shown = load_good("").report.to_string();
    assert!(
        shown.contains("has no tunnel") && shown.contains("add a `[[tunnel]]`"),
        "{shown}"
    );
}
