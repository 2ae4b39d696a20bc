//! A translating router between the gateways.
//!
//! A NAT in front of us shows in the peer's NAT_DETECTION payloads. A NAT in front of the peer cannot be distinguished from a peer that forces
//! encapsulation, as both sides here do: then it counts as forced.

use super::lab::carries;

fn nat(words: &str, seen: &str) {
    let report = carries(words);
    assert_eq!(report["tunnels"][0]["ike"]["nat"], seen, "{words}");
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn we_are_behind_it_and_start() {
    nat("--peer strongswan --nat us", "us");
    nat("--nat us", "us");
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn we_are_behind_it_and_the_peer_starts() {
    nat("--peer strongswan --nat us --role responder", "us");
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn the_peer_is_behind_it_and_starts() {
    nat("--peer strongswan --nat peer --role responder", "forced");
    nat("--nat peer --role responder", "forced");
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn the_peer_is_behind_it_and_we_start() {
    nat("--peer strongswan --nat peer", "forced");
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn both_start_across_it() {
    carries("--nat us --role both");
    carries("--peer strongswan --nat peer --role both");
}
