//! What no single value shows: selectors, algorithms, tunnels that contradict each other.

use super::*;

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
        second("peer = 7").contains("two tunnels named `ali-1`"),
        "told of a tunnel that is unusable, too"
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
fn esp_across_a_nat_that_the_addresses_show_is_warned_of() {
    let esp = |more: &str| said(&format!("encapsulation = \"esp\"\n{more}"));
    // One-to-one NAT: the peer knows another address.
    for local in ["10.0.0.5", "198.51.100.1"] {
        let told = esp(&format!("local-address = \"{local}\""));
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Severity::Warning);
        for word in [local, "203.0.113.7", "NAT", "encapsulation = \"auto\""] {
            assert!(told[0].1.contains(word), "no {word} in {told:?}");
        }
    }
    // The address is not named, and the identity is something else: the private address alone tells.
    let nameless =
        with("id = \"gw.example.org\"\nencapsulation = \"esp\"\nlocal-address = \"192.168.1.1\"")
            .replace("address = \"203.0.113.7\"\n", "");
    let told = load_good(&nameless).report.to_string();
    assert!(
        told.contains("192.168.1.1 is a private address and 47.88.10.20 a public one"),
        "{told}"
    );

    // Nothing shows a NAT, or one is no matter.
    assert_eq!(esp(""), []);
    assert_eq!(esp("local-address = \"203.0.113.7\""), []);
    for carriage in ["auto", "udp"] {
        let line = format!("encapsulation = \"{carriage}\"\nlocal-address = \"10.0.0.5\"");
        assert_eq!(said(&line), []);
    }
    // Both on one private network.
    let private = with("peer = \"10.9.9.9\"").replace("203.0.113.7", "10.0.0.5");
    let private = format!("{private}encapsulation = \"esp\"\nlocal-address = \"10.0.0.5\"\n");
    assert_eq!(load_good(&private).report.findings(), []);
}
