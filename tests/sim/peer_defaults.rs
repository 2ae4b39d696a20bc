//! The proposals of the `generic` preset meet the defaults of other implementations, the first rekeys included.

use std::time::Duration;

use groundlink::crypto::{EspProposal, IkeProposal};
use groundlink::ike::{Rekey, Settings, Start};

use crate::pair::{Pair, Side, settings};

/// Default proposals of an implementation.
struct Defaults {
    name: &'static str,
    ike: &'static [&'static str],
    esp: &'static [&'static str],
    /// PFS group of a rekey with `generic`.
    group: Option<&'static str>,
}

const DEFAULTS: [Defaults; 4] = [
    // `proposals = default` and `esp_proposals = default`: no group for ESP.
    Defaults {
        name: "strongSwan 5.9 and 6.0",
        ike: &[
            "aes128-aes192-aes256-sha256-sha384-sha512-sha1-curve25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp6144-modp8192-modp2048",
            "aes128gcm16-aes256gcm16-chacha20poly1305-prfsha256-prfsha384-prfsha512-prfsha1-curve25519-ecp256-ecp384-ecp521-modp3072-modp4096-modp6144-modp8192-modp2048",
        ],
        esp: &[
            "aes128gcm16-aes256gcm16",
            "aes128-aes192-aes256-sha256-sha384-sha512-sha1",
        ],
        group: None,
    },
    // `ike=` and `esp=` absent, `pfs=yes`.
    Defaults {
        name: "libreswan 5",
        ike: &[
            "aes256gcm16-aes128gcm16-prfsha512-prfsha256-modp2048-modp3072-modp4096-modp8192-ecp256-ecp384-ecp521-curve25519",
            "aes256-aes128-sha512-sha256-modp2048-modp3072-modp4096-modp8192-ecp256-ecp384-ecp521-curve25519",
        ],
        esp: &[
            "aes256gcm16-aes128gcm16-curve25519-modp2048",
            "aes256-aes128-sha512-sha256-curve25519-modp2048",
        ],
        group: Some("curve25519"),
    },
    Defaults {
        name: "OpenIKED 7.4",
        ike: &[
            "aes256-aes192-aes128-sha256-sha384-sha512-sha1-curve25519-ecp521-ecp384-ecp256-modp4096-modp3072-modp2048-modp1536-modp1024",
            "aes128gcm16-aes256gcm16-prfsha256-prfsha384-prfsha512-prfsha1-curve25519-ecp521-ecp384-ecp256-modp4096-modp3072-modp2048-modp1536-modp1024",
        ],
        // On Linux without sha256.
        esp: &[
            "aes256-aes192-aes128-sha384-sha512-sha1",
            "aes128gcm16-aes256gcm16",
        ],
        group: None,
    },
    Defaults {
        name: "groundlink",
        ike: &[],
        esp: &[],
        group: Some("curve25519"),
    },
];

/// The `ike` and `esp` of the preset.
fn generic() -> (Vec<IkeProposal>, Vec<EspProposal>) {
    let preset = include_str!("../../config/presets/generic.toml");
    let preset: toml::Table = toml::from_str(preset).expect("the preset is TOML");
    let list = |key: &str| {
        let value = preset["tunnel"][key].clone();
        value
            .try_into::<Vec<String>>()
            .expect("a list of proposals")
    };
    (ike(&list("ike")), esp(&list("esp")))
}

fn ike(words: &[impl AsRef<str>]) -> Vec<IkeProposal> {
    let parse = |words: &str| IkeProposal::parse(words).expect(words).0;
    words.iter().map(|words| parse(words.as_ref())).collect()
}

fn esp(words: &[impl AsRef<str>]) -> Vec<EspProposal> {
    let parse = |words: &str| EspProposal::parse(words).expect(words).0;
    words.iter().map(|words| parse(words.as_ref())).collect()
}

/// The generic preset as A, and an implementation with its defaults as B.
fn sides(defaults: &Defaults) -> (Settings, Settings) {
    let (mut a, mut b) = (settings(Side::A), settings(Side::B));
    (a.ike, a.esp) = generic();
    (b.ike, b.esp) = match defaults.ike.is_empty() {
        true => generic(),
        false => (ike(defaults.ike), esp(defaults.esp)),
    };
    (a, b)
}

#[test]
fn generic_connects_and_rekeys_with_the_defaults_of_every_implementation() {
    for defaults in &DEFAULTS {
        for initiator in [Side::A, Side::B] {
            for rekeyed_by in [Side::A, Side::B] {
                let case = format!(
                    "{}, {initiator:?} initiates, {rekeyed_by:?} rekeys",
                    defaults.name
                );
                let (mut a, mut b) = sides(defaults);
                let (first, second) = match initiator {
                    Side::A => (&mut a, &mut b),
                    Side::B => (&mut b, &mut a),
                };
                (first.start, second.start) = (Start::Auto, Start::Add);
                let mut pair = Pair::new(a, b);
                pair.run_for(Duration::from_secs(1));
                pair.assert_agreed();
                for what in [Rekey::Child, Rekey::Ike] {
                    pair.rekey(rekeyed_by, what);
                    pair.run_for(Duration::from_secs(5));
                }
                pair.assert_agreed();
                let view = pair.a.view();
                assert_eq!((view.rekeys.child, view.rekeys.ike), (1, 1), "{case}");
                assert!(pair.a.codes().is_empty(), "{case}: {:?}", pair.a.codes());
                let group = view.child.and_then(|child| child.suite.group);
                assert_eq!(group.map(|group| group.word), defaults.group, "{case}");
            }
        }
    }
}
