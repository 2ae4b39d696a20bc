//! Lints: selectors, routes, algorithms, and tunnels that contradict each other.

use super::*;

#[test]
fn selectors_and_routes_must_fit_together() {
    assert!(error("local = [\"192.168.1.5/24\"]").contains("write 192.168.1.0/24 for the network"));
    assert!(error("local = []").contains("`local` is empty"));
    assert!(
        error("remote = [\"10.0.0.0/8\", \"10.0.0.0/8\"]").contains("10.0.0.0/8 is listed twice")
    );
    assert!(
        error("remote = [\"2001:db8::/32\", \"10.0.0.0/8\"]")
            .contains("`remote` has IPv6 prefixes and `local` has none")
    );
    assert!(
        error("remote = [\"192.168.1.0/24\"]")
            .contains("192.168.1.0/24 is in both `local` and `remote`")
    );
    assert_eq!(
        findings("remote = [\"192.168.1.128/25\"]")[0].0,
        Severity::Warning
    );
    assert_eq!(
        findings("remote = \"10.0.0.0/8\""),
        [],
        "one string stands for a list of one"
    );
    assert_eq!(findings("local = [\"0.0.0.0/0\"]"), []);
    let everything = tunnel("remote = [\"0.0.0.0/0\"]");
    assert_eq!(everything.routes, []);
    assert_eq!(findings("remote = [\"0.0.0.0/0\"]")[0].0, Severity::Note);
    assert_eq!(findings("remote = [\"0.0.0.0/0\"]\nroutes = []"), []);
    assert_eq!(
        tunnel("routes = [\"172.16.1.7\"]").routes[0].to_string(),
        "172.16.1.7/32"
    );
    assert!(
        findings("routes = [\"172.16.0.0/16\"]")[0]
            .1
            .contains("is not within `remote`")
    );
}

#[test]
fn a_weak_algorithm_is_a_warning_and_a_broken_one_needs_allow_weak() {
    let weak = findings("ike = \"aes128-sha1-modp1024\"");
    assert_eq!(weak.len(), 1);
    assert_eq!(weak[0].0, Severity::Warning);
    assert!(
        weak[0].1.contains("has weak algorithms: sha1, modp1024"),
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
    assert!(!broken.report.is_valid() && broken.settings.is_some());
    assert!(
        broken.report.to_string().contains("des, md5, modp768"),
        "{}",
        broken.report
    );

    let allowed = load_good(&with("esp = \"des-md5-modp768\"\nallow-weak = true"));
    assert!(allowed.report.is_valid());
    assert_eq!(allowed.report.count(Severity::Warning), 1);
    assert_eq!(
        load_good(&with("ike = \"aes256-sha256-modp1024s160\""))
            .report
            .count(Severity::Lint),
        1,
        "group 22 needs allow-weak"
    );
}

#[test]
fn the_alternative_to_a_weak_algorithm_comes_from_the_preset() {
    let shown = load_good(&with("preset = \"alibaba-2018\""))
        .report
        .to_string();
    assert!(
        shown.contains("help: this cloud supports \"aes256-sha256-modp2048\"; change both sides"),
        "{shown}"
    );
}

#[test]
fn tunnels_must_differ_in_name_device_and_peer() {
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
        same.contains("two tunnels have the name `ali-1`")
            && same.contains("the same peer and the same local address"),
        "{same}"
    );
    assert!(
        second("peer = 7").contains("two tunnels have the name `ali-1`"),
        "an invalid tunnel counts too"
    );
    assert!(
        second("name = \"b\"\npeer = \"1.1.1.1\"\ndevice = \"gl-ali-1\"")
            .contains("have the same device `gl-ali-1`")
    );
    assert!(
        second("name = \"b\"\nlocal-address = \"10.0.0.5\"")
            .contains("the same peer and the same local address"),
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
fn default_routes_need_one_local_network() {
    let report = |other_local: &str, route: &str| {
        let table = |text: &str| text.split("\n\n").nth(1).unwrap().to_owned();
        let both = with(&format!("remote = [\"{route}\"]\nroutes = [\"{route}\"]"));
        let other = table(&both)
            .replace("ali-1", "b")
            .replace("47.88.10.20", "47.88.10.21")
            .replace("192.168.1.0/24", other_local);
        load_good(&format!("{both}\n{other}")).report
    };
    let different = report("192.168.2.0/24", "0.0.0.0/0");
    assert_eq!(different.count(Severity::Warning), 1, "{different}");
    let text = different.to_string();
    assert!(
        text.contains("default routes are not steered by source"),
        "{text}"
    );
    assert_eq!(report("192.168.1.0/24", "0.0.0.0/0").to_string(), "");
    assert_eq!(report("192.168.2.0/24", "10.0.0.0/8").to_string(), "");
}

#[test]
fn native_esp_across_a_nat_that_the_addresses_show_is_a_warning() {
    let esp = |more: &str| findings(&format!("encapsulation = \"esp\"\n{more}"));
    // One-to-one NAT: the peer knows this machine by another address.
    for local in ["10.0.0.5", "198.51.100.1"] {
        let findings = esp(&format!("local-address = \"{local}\""));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].0, Severity::Warning);
        for word in [local, "203.0.113.7", "NAT", "encapsulation = \"auto\""] {
            assert!(findings[0].1.contains(word), "no {word} in {findings:?}");
        }
    }
    // Without `address`, the private address alone shows the NAT.
    let nameless =
        with("id = \"gw.example.org\"\nencapsulation = \"esp\"\nlocal-address = \"192.168.1.1\"")
            .replace("address = \"203.0.113.7\"\n", "");
    let report = load_good(&nameless).report.to_string();
    assert!(
        report.contains("192.168.1.1 is a private address and 47.88.10.20 a public one"),
        "{report}"
    );

    // No sign of a NAT, or UDP encapsulation crosses it.
    assert_eq!(esp(""), []);
    assert_eq!(esp("local-address = \"203.0.113.7\""), []);
    for encapsulation in ["auto", "udp"] {
        let line = format!("encapsulation = \"{encapsulation}\"\nlocal-address = \"10.0.0.5\"");
        assert_eq!(findings(&line), []);
    }
    // Both gateways are on one private network.
    let private = with("peer = \"10.9.9.9\"").replace("203.0.113.7", "10.0.0.5");
    let private = format!("{private}encapsulation = \"esp\"\nlocal-address = \"10.0.0.5\"\n");
    assert_eq!(load_good(&private).report.findings(), []);
}
