//! What each key accepts, and the error for anything else.

use super::*;
use crate::crypto::Esn;
use crate::ike::RekeyCheck;
use crate::net::Dscp;

#[test]
fn a_peer_is_an_address_or_a_name() {
    assert_eq!(
        tunnel("peer = \"vpn.example.org\"").ike.peer,
        Peer::Name("vpn.example.org".to_owned())
    );
    assert!(error("peer = \"47.88.10.20:500\"").contains("remove the port: \"47.88.10.20\""));
    assert!(error("peer = \"47.88.10\"").contains("neither an IP address nor a host name"));
    assert!(error("peer = \"0.0.0.0\"").contains("is not a unicast address"));
    assert!(error("peer = \"\"").contains("empty"));
    assert!(error("peer = \"any\"").contains("a tunnel has one peer"));
    assert!(error("peer = \"::ffff:1.2.3.4\"").contains("write \"1.2.3.4\""));
    assert!(error("peer = 5").contains("expected a string, found a number"));
    assert!(error("peer = \"203.0.113.7\"").contains("is this gateway itself"));
}

#[test]
fn the_local_address_defaults_to_listen_or_any_address() {
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
            .contains("the local address ::1 is IPv6, but the peer 47.88.10.20 is IPv4")
    );
}

#[test]
fn the_identity_defaults_to_the_address() {
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
    assert_eq!(
        tunnel("id = \"fqdn:gw.example.org\"").ike.id,
        Identity::Fqdn("gw.example.org".to_owned())
    );
    for any in ["any", "%any"] {
        assert_eq!(
            tunnel(&format!("id = \"{any}\"")).ike.id,
            Identity::Ipv4([203, 0, 113, 7].into())
        );
        let tunnel = tunnel(&format!("peer-id = \"{any}\""));
        assert_eq!(tunnel.ike.peer_id, PeerId::Any);
    }
    assert!(error("id = \"site:7\"").contains("starts with its type"));
    assert!(error("id = \"key-id:abc\"").contains("even number of hex digits"));
    assert!(error("peer-id = \"203.0.113\"").contains("is not an IP address"));
    let without = GOOD.replace("address = \"203.0.113.7\"\n", "");
    let shown = load_good(&without).report.to_string();
    assert!(
        shown.contains("the public address of this machine is not configured")
            && shown.contains("t.toml:1:"),
        "{shown}"
    );
    assert!(
        load_good(&format!("{without}id = \"gw.example.org\"\n"))
            .report
            .is_valid()
    );
}

#[test]
fn an_error_in_a_proposal_points_at_the_word() {
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
    assert!(error("ike = []").contains("the list of proposals is empty"));
    let (severity, note) = findings("ike = \"aes256gcm16-sha256-modp2048\"").remove(0);
    assert!(
        severity == Severity::Note && note.contains("write \"prfsha256\""),
        "{note}"
    );
}

#[test]
fn values_out_of_range_are_rejected() {
    assert!(error("metric = 0").contains("from 1 to 1000000000"));
    assert!(error("metric = \"5\"").contains("expected a number, found a string"));
    assert!(error("metric = 99999999999999999999").contains("number of more than 64 bits"));
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
    assert!(error("fragment-size = 575").contains("out of range"));
    assert!(error("fragment-size = 65536").contains("out of range"));
    assert_eq!(tunnel("fragment-size = 576").ike.fragment_size, 576);
    assert_eq!(tunnel("fragment-size = 65535").ike.fragment_size, 65_535);
    assert_eq!(tunnel("metric = 5").ike.fragment_size, 1280);
    assert!(error("replay-window = 0").contains("out of range"));
    assert!(error("ike-lifetime = \"1s\"").contains("the minimum is \"2s\""));
    assert_eq!(
        tunnel("ike-lifetime = \"2s\"").ike.ike_lifetime.as_secs(),
        2
    );
    assert!(error("ike-lifetime = 3600").contains("write \"3600s\" for seconds"));
    assert!(error("start = \"atuo\"").contains("did you mean \"auto\"?"));
    assert!(error("fail-closed = \"yes\"").contains("true or false"));
    assert!(error("preset = \"googel-ha\"").contains("did you mean \"google-ha\"?"));
    assert!(error("preset = \"aws\"").contains("alibaba-2018 ("));
    assert!(error("inside = \"169.254.10.2\"").contains("write it like \"169.254.10.2/30\""));
    assert!(
        error("inside = \"169.254.10.3/30\"").contains("is not a host address of 169.254.10.0/30")
    );
    assert_eq!(
        tunnel("inside = \"169.254.10.2/30\"").inside,
        [InsideAddress {
            address: [169, 254, 10, 2].into(),
            length: 30
        }]
    );
    assert_eq!(tunnel("inside = \"10.0.0.1/31\"").inside[0].length, 31);
    let several = tunnel("inside = [\"169.254.10.2/30\", \"fd00::2/126\"]").inside;
    assert_eq!(several.len(), 2);
    assert!(
        error("inside = [\"169.254.10.2/30\", \"169.254.10.2/31\"]").contains("is listed twice")
    );
}

#[test]
fn a_child_sa_can_be_limited_in_bytes_and_packets() {
    assert_eq!(tunnel("metric = 5").child_bytes, None);
    assert_eq!(tunnel("child-bytes = \"4GiB\"").child_bytes, Some(4 << 30));
    assert_eq!(tunnel("child-packets = 1000").child_packets, Some(1000));
    assert!(error("child-bytes = 5").contains("write \"5B\" for bytes"));
    assert!(error("child-bytes = \"10kB\"").contains("the minimum is \"1MB\""));
    assert!(error("child-bytes = \"10 GB\"").contains("write it like \"10GB\""));
    assert!(error("child-packets = 999").contains("the minimum is 1000"));
    assert!(error("child-packets = \"many\"").contains("a number of packets or \"none\""));
}

#[test]
fn extended_sequence_numbers_are_proposed_only_if_named() {
    let esn = |line: &str| tunnel(line).ike.esp.remove(0).esn;
    assert_eq!(esn("metric = 5"), [Esn::No]);
    assert_eq!(esn("esp = \"aes128gcm16-esn\""), [Esn::Yes]);
    assert_eq!(esn("esp = \"aes128gcm16-esn-noesn\""), [Esn::Yes, Esn::No]);
    for preset in crate::config::preset_names() {
        assert_eq!(
            esn(&format!("preset = \"{preset}\"")),
            [Esn::No],
            "{preset}"
        );
    }
}

#[test]
fn the_presets_of_clouds_set_rekey_check() {
    let rekey_check = |line: &str| tunnel(line).ike.rekey_check;
    assert_eq!(rekey_check("metric = 5"), RekeyCheck::Never);
    assert_eq!(rekey_check("preset = \"google-ha\""), RekeyCheck::Once);
    assert_eq!(rekey_check("preset = \"alibaba-2018\""), RekeyCheck::Once);
    assert_eq!(
        rekey_check("preset = \"alibaba\"\nrekey-check = false"),
        RekeyCheck::Never
    );
}

#[test]
fn dscp_is_copied_by_default() {
    assert_eq!(tunnel("replay-window = 1024").dscp, Dscp::Copied);
    assert_eq!(tunnel("dscp = \"copy\"").dscp, Dscp::Copied);
    assert_eq!(tunnel("dscp = \"clear\"").dscp, Dscp::Cleared);
    assert!(error("dscp = \"maybe\"").contains("copy"));
}

#[test]
fn the_replay_window_is_rounded_up_to_a_power_of_two() {
    assert_eq!(tunnel("replay-window = 32").replay_window, 64);
    assert_eq!(tunnel("replay-window = 1000").replay_window, 1024);
    assert_eq!(tunnel("replay-window = 65536").replay_window, 65_536);
    assert_eq!(findings("replay-window = 1000")[0].0, Severity::Note);
    assert_eq!(findings("replay-window = 1024"), []);
}

#[test]
fn names_and_devices_are_validated() {
    assert!(error("name = \"a/b\"").contains("letters, digits"));
    assert!(
        error("name = \"thirteen-long\"").contains("16 characters; a device name has at most 15")
    );
    assert_eq!(
        tunnel("name = \"thirteen-long\"\ndevice = \"gl0\"").device,
        "gl0"
    );
    assert!(error("device = \"sixteen-letters-\"").contains("has 16 characters"));
    assert!(error("device = \"a b\"").contains("does not accept this device name"));
}

#[test]
fn an_additional_key_exchange_can_be_named_in_ike_and_esp() {
    let loaded = load_good(&with(
        "ike = [\"aes256gcm16-prfsha384-ecp384-ke1_mlkem768\", \"aes256gcm16-prfsha384-ecp384\"]\nesp = \"aes256gcm16-ecp384-ke1_mlkem768\"",
    ));
    let ike = &loaded.settings.as_ref().unwrap().tunnels[0].ike;
    assert_eq!(ike.ike[0].additional[0].word, "ke1_mlkem768");
    assert!(ike.ike[1].additional.is_empty());
    assert_eq!(ike.esp[0].additional[0].word, "ke1_mlkem768");
    assert!(error("ike = \"aes256-sha256-mlkem768\"").contains("did you mean \"ke1_mlkem768\"?"));
}
