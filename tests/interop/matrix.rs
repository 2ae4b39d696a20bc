//! Suites against strongSwan, each with either side starting.

use serde_json::Value;

use super::lab::carries;

/// Runs one suite in one role, and checks that it is the one in use.
fn suite(role: &str, ike: &str, esp: &str, more: &str) {
    let report = carries(&format!(
        "--peer strongswan --role {role} --ike {ike} --esp {esp} {more}"
    ));
    let tunnel = &report["tunnels"][0];
    assert_eq!(tunnel["ike"]["suite"], ike);
    assert_eq!(tunnel["ike"]["role"], role);
    assert_eq!(tunnel["ike"]["nat"], "forced");
    // The group of the first Child SA is the IKE SA's: PFS shows at a rekey.
    let without_group: Vec<&str> = esp
        .split('-')
        .filter(|word| {
            !word.starts_with("modp") && !word.starts_with("ecp") && *word != "curve25519"
        })
        .collect();
    assert_eq!(
        tunnel["child"]["suite"],
        Value::from(without_group.join("-"))
    );
}

macro_rules! suites {
    ($($name:ident: $ike:literal, $esp:literal $(, $more:literal)?;)*) => {$(
        mod $name {
            #[test]
            #[ignore = "needs root and strongSwan: tests/run runs it"]
            fn initiator() {
                super::suite("initiator", $ike, $esp, concat!($($more)?));
            }

            #[test]
            #[ignore = "needs root and strongSwan: tests/run runs it"]
            fn responder() {
                super::suite("responder", $ike, $esp, concat!($($more)?));
            }
        }
    )*};
}

suites! {
    guide: "aes128-sha1-modp1024", "aes128-sha1";
    guide_with_pfs: "aes128-sha1-modp1024", "aes128-sha1-modp1024";
    common: "aes256-sha256-modp2048", "aes256-sha256";
    common_with_pfs: "aes256-sha256-modp2048", "aes256-sha256-modp2048";
    gcm_128: "aes128gcm16-prfsha256-curve25519", "aes128gcm16";
    gcm_128_with_pfs: "aes128gcm16-prfsha256-curve25519", "aes128gcm16-curve25519";
    gcm_256: "aes256gcm16-prfsha384-ecp384", "aes256gcm16";
    gcm_256_with_pfs: "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384";
    aes_192: "aes192-sha512-modp4096", "aes192-sha512";
    chacha: "chacha20poly1305-prfsha256-curve25519", "chacha20poly1305";
    triple_des: "3des-sha1-modp1536", "3des-sha1";
    group_24: "aes256-sha1-modp2048s256", "aes256-sha1";
    sha384_ecp521: "aes256-sha384-ecp521", "aes256-sha384";
    // Debian's charon has DES, MD5 and group 1 from OpenSSL's legacy provider.
    forbidden: "des-md5-modp768", "des-md5", "--allow-weak";
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn ipv6_between_the_gateways_and_inside() {
    carries("--peer strongswan --family 6");
    carries("--peer strongswan --inner 6");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn groundlink_with_itself() {
    for words in [
        "",
        "--role responder",
        "--family 6",
        "--inner 6",
        "--family 6 --inner 6",
    ] {
        let report = carries(words);
        assert_eq!(report["ike"], "aes128-sha1-modp1024");
        assert_eq!(report["peer"], "self");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn every_preset_with_itself() {
    for preset in groundlink::config::preset_names() {
        carries(&format!("--preset {preset}"));
    }
}
