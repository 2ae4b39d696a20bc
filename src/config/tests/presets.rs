//! The presets, resolved.

use super::*;

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
fn partial_dpd_keeps_the_rest_of_the_preset() {
    let dpd = tunnel("dpd = { timeout = \"5s\" }").ike.dpd;
    assert_eq!((dpd.delay.as_secs(), dpd.timeout.as_secs()), (10, 5));
}
