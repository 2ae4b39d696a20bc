//! `groundlink decode` on captures of real traffic: groundlink and charon (strongSwan 5.9.8) in two namespaces, written by tshark, with the
//! keys that charon logged. `tests/captures/README.md` says how they were made.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

/// Runs the program in the captures folder.
fn decode(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_groundlink"))
        .current_dir(captures())
        .arg("decode")
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn text(arguments: &[&str]) -> String {
    let output = decode(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Vec<Value> {
    let text = text(&[arguments, &["--json"]].concat());
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no \"{part}\" in:\n{text}");
    }
}

const CONNECT: [&str; 5] = [
    "connect.pcapng",
    "--ike-keys",
    "connect.ikev2_decryption_table",
    "--esp-keys",
    "connect.esp_sa",
];

const REKEY: [&str; 5] = [
    "fragments-rekey.pcapng",
    "--ike-keys",
    "fragments-rekey.ikev2_decryption_table",
    "--esp-keys",
    "fragments-rekey.esp_sa",
];

#[test]
fn a_connection_is_summarized_from_offer_to_delete() {
    assert_contains(
        &text(&CONNECT),
        &[
            "#3  0.000032 s  192.0.2.1:500 → 192.0.2.2:500\n    IKE_SA_INIT request 0",
            "KE       modp1024 (2), 128 octets",
            "NAT_DETECTION_SOURCE_IP (16388): does not match 192.0.2.1:500",
            "NAT_DETECTION_DESTINATION_IP (16389): matches 192.0.2.2:500",
            "VENDOR   groundlink IKEv2 1",
            "VENDOR   strongSwan",
            "AUTH     SHARED_KEY, 20 octets",
            "IKE_SA_INIT 0: 192.0.2.1 offered aes128-sha1-modp1024; 192.0.2.2 chose aes128-sha1-modp1024",
            "192.0.2.1 is 192.0.2.1 (IPV4_ADDR), authenticated by SHARED_KEY; 192.0.2.2 is 192.0.2.2",
            "Child SA: 192.0.2.1 offered aes128-sha1; 192.0.2.2 chose aes128-sha1; SPI of ESP to 192.0.2.1 is 69367951, \
             to 192.0.2.2 4f89575c; traffic 10.1.0.0/24 === 10.2.0.0/24",
            "INFORMATIONAL 0: 192.0.2.2 deleted the IKE SA",
            "ESP 4f89575c, 192.0.2.1 → 192.0.2.2: 3 packets, 396 octets, sequence numbers 1 to 3; all authentic; inner: 10.1.0.1 → 10.2.0.1",
            "2 frames of neither IKE nor ESP",
        ],
    );
}

#[test]
fn json_has_an_object_for_each_ike_and_esp_packet() {
    let lines = json(&CONNECT);
    let numbers: Vec<u64> = lines
        .iter()
        .map(|line| line["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (3..=14).collect::<Vec<_>>());
    for line in &lines {
        assert!(line["time_s"].is_f64() && line["error"].is_null(), "{line}");
        assert!(line["ike"].is_object() != line["esp"].is_object(), "{line}");
    }
    let request = &lines[2]["ike"];
    assert_eq!(request["spi_i"], "602596a3177570ed");
    assert_eq!(request["exchange"], "IKE_AUTH");
    assert_eq!(
        (&request["message_id"], &request["flags"][0]),
        (&1.into(), &"initiator".into())
    );
    assert_eq!(request["decrypted"], true);
    let types: Vec<&str> = request["payloads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|payload| payload["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["IDI", "AUTH", "NOTIFY", "SA", "TSI", "TSR"]);
    let expected = serde_json::json!({"spi":"4f89575c","seq":1,"icv":"ok",
        "inner":{"src":"10.1.0.1","dst":"10.2.0.1","protocol":1,"length":84}});
    assert_eq!(lines[4]["esp"], expected);
}

#[test]
fn without_keys_encrypted_payloads_show_only_their_length() {
    let lines = json(&["connect.pcapng"]);
    assert_eq!(lines[2]["ike"]["decrypted"], false);
    let sealed = serde_json::json!([{"type":"SK","length":172}]);
    assert_eq!(lines[2]["ike"]["payloads"], sealed);
    assert_eq!(
        lines[4]["esp"],
        serde_json::json!({"spi":"4f89575c","seq":1,"icv":"unknown"})
    );
    assert_contains(
        &text(&["connect.pcapng"]),
        &[
            "IKE_AUTH 1: 192.0.2.1 sent a request, 192.0.2.2 responded; both are encrypted\n",
            "sequence numbers 1 to 3; no keys",
        ],
    );
}

/// A changed copy of a table.
fn changed(table: &str, from: &str, to: &str) -> tempfile::NamedTempFile {
    let text = std::fs::read_to_string(captures().join(table)).unwrap();
    assert!(text.contains(from), "{text}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.replacen(from, to, 1).as_bytes())
        .unwrap();
    file
}

#[test]
fn wrong_keys_are_reported_for_each_packet() {
    let ike = changed("connect.ikev2_decryption_table", ",5ad8677b", ",5ad8677c");
    let esp = changed("connect.esp_sa", "0x8da83127", "0x8da83128");
    let (ike, esp) = (ike.path().to_str().unwrap(), esp.path().to_str().unwrap());
    let lines = json(&["connect.pcapng", "--ike-keys", ike, "--esp-keys", esp]);
    let error = lines[2]["error"].as_str().unwrap();
    assert!(
        error.contains("do not decrypt it: the integrity check failed, at octet 32"),
        "{error}"
    );
    assert_eq!(
        lines[3]["ike"]["decrypted"], true,
        "the other direction has the right key"
    );
    assert_eq!(lines[4]["esp"]["icv"], "bad");
    assert_eq!(lines[5]["esp"]["icv"], "ok");
}

#[test]
fn different_psks_are_detected_without_keys() {
    assert_contains(
        &text(&["wrong-psk.pcap"]),
        &[
            "a response of 44 octets holds no identity: 192.0.2.2 rejected the request (most likely AUTHENTICATION_FAILED",
        ],
    );
    let keys = [
        "wrong-psk.pcap",
        "--ike-keys",
        "wrong-psk.ikev2_decryption_table",
    ];
    assert_contains(
        &text(&keys),
        &[
            "NOTIFY   AUTHENTICATION_FAILED (24), an error",
            "IKE_AUTH 1: 192.0.2.2 rejected with AUTHENTICATION_FAILED: its pre-shared key differs from that of 192.0.2.1, or",
        ],
    );
}

#[test]
fn rejected_proposals_are_compared_with_those_of_the_rejecting_side() {
    assert_contains(
        &text(&["no-proposal.pcap"]),
        &[
            "IKE_SA_INIT 0: 192.0.2.2 rejected with NO_PROPOSAL_CHOSEN: for IKE, 192.0.2.1 offers aes128-sha1-modp1024; 192.0.2.2 itself \
             offers aes256-sha256-modp2048; the closest pair differs in encryption and integrity and PRF and group",
            "IKE_SA_INIT 0: 192.0.2.1 rejected with NO_PROPOSAL_CHOSEN: for IKE, 192.0.2.2 offers aes256-sha256-modp2048",
        ],
    );
    let refusal = &json(&["no-proposal.pcap"])[1]["ike"]["payloads"][0];
    assert_eq!(
        (&refusal["name"], &refusal["number"]),
        (&"NO_PROPOSAL_CHOSEN".into(), &14.into())
    );
}

#[test]
fn fragments_rekeys_and_ipv6_are_followed() {
    let text = text(&REKEY);
    assert_contains(
        &text,
        &[
            "[2001:db8::1]:4500 → [2001:db8::2]:4500",
            "SKF      fragment 3 of 3",
            "IKE_AUTH 1: Child SA: 2001:db8::1 offered aes256gcm16;",
            "CREATE_CHILD_SA 2: 2001:db8::1 requested to rekey ESP 7c5a975c",
            "2001:db8::2 chose aes256gcm16-curve25519; SPI of ESP to 2001:db8::1 is 5a9e62f1, to 2001:db8::2 6fa575f3",
            "INFORMATIONAL 3: 2001:db8::1 deleted ESP 7c5a975c",
            "CREATE_CHILD_SA 4: 2001:db8::1 rekeyed the IKE SA",
            "the new SPIs are 3f73d6bae91a6790 e61910e2e67aa033",
            "IKE SA 3f73d6bae91a6790 e61910e2e67aa033, initiator 2001:db8::1",
        ],
    );
    assert_eq!(
        text.matches("2 packets, 240 octets, sequence numbers 1 to 2; all authentic")
            .count(),
        4
    );
    assert!(!text.contains("error"), "{text}");
}

#[test]
fn a_capture_is_read_from_a_pipe_as_from_a_file() {
    let bytes = std::fs::read(captures().join("no-proposal.pcap")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_groundlink"))
        .args(["decode", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        text(&["no-proposal.pcap"])
    );
}

#[test]
fn a_damaged_capture_is_read_to_its_end() {
    for name in ["connect.pcapng", "wrong-psk.pcap"] {
        let whole = std::fs::read(captures().join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("damaged");
        for at in (24..whole.len()).step_by(whole.len() / 40) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            for bytes in [&whole[..at], &flipped] {
                std::fs::write(&file, bytes).unwrap();
                let output = decode(&[
                    file.to_str().unwrap(),
                    CONNECT[1],
                    CONNECT[2],
                    CONNECT[3],
                    CONNECT[4],
                ]);
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(0), "{name} {at}: {stderr}");
                assert!(String::from_utf8_lossy(&output.stdout).contains("Summary\n"));
            }
        }
    }
}

#[test]
fn exit_status_is_1_for_an_unreadable_file_and_2_for_a_wrong_table() {
    for (arguments, status, expected) in [
        (
            &["nowhere.pcap"][..],
            1,
            "cannot read nowhere.pcap: No such file",
        ),
        (&["connect.esp_sa"], 1, "not a pcap or pcapng file"),
        (&["/dev/null"], 1, "the file is empty"),
        (&["."], 1, "cannot read ."),
        (
            &["connect.pcapng", "--ike-keys", "nowhere"],
            2,
            "cannot read nowhere",
        ),
        (
            &["connect.pcapng", "--ike-keys", "connect.esp_sa"],
            2,
            "connect.esp_sa, line 1: ",
        ),
        (
            &[
                "connect.pcapng",
                "--esp-keys",
                "connect.ikev2_decryption_table",
            ],
            2,
            "line 1: ",
        ),
        (
            &["connect.pcapng", "--esp-keys", "connect.pcapng"],
            2,
            "connect.pcapng",
        ),
        (&[], 2, "FILE"),
    ] {
        let output = decode(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {stderr}"
        );
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_closed_stdout_is_not_an_error() {
    for form in [&[][..], &["--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_groundlink"))
            .current_dir(captures())
            .args(["decode", "fragments-rekey.pcapng"])
            .args(form)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), stderr.as_str()),
            (Some(0), ""),
            "{form:?}"
        );
    }
}

#[test]
fn a_capture_compressed_with_gzip_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let compressed = folder.path().join("connect.pcapng.gz");
    let file = std::fs::File::create(&compressed).unwrap();
    let status = Command::new("gzip")
        .args(["-c", "connect.pcapng"])
        .current_dir(captures())
        .stdout(file)
        .status()
        .unwrap();
    assert!(status.success());
    let path = compressed.to_str().unwrap();
    assert_eq!(text(&[path]), text(&["connect.pcapng"]));

    let whole = std::fs::read(&compressed).unwrap();
    std::fs::write(&compressed, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(decode(&[path]).status.code(), Some(1));
}

#[test]
fn every_message_says_whether_it_is_encrypted_and_authentic() {
    let shown = text(&CONNECT);
    assert_contains(
        &shown,
        &[
            "IKE_SA_INIT request 0 from the original initiator, SPIs 602596a3177570ed 0000000000000000, not encrypted",
            "encrypted and authentic\n",
            "it holds no payload",
        ],
    );
    let request = &json(&CONNECT)[2]["ike"];
    assert_eq!(
        (&request["encrypted"], &request["authentic"]),
        (&true.into(), &true.into())
    );
}
