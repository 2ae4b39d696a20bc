//! Tests of an outbound SA locked for a batch.

use super::*;
use crate::esp::testing::{SUITES, pair, seal, udp4};

#[test]
fn parallel_and_single_sealing_have_equal_results() {
    for words in SUITES
        .iter()
        .chain(&["aes128-sha1-esn", "aes256-sha256-esn"])
    {
        let (together, _) = pair(words);
        let (alone, _) = pair(words);
        for count in [1, 2, 15, 16, 17, 46] {
            let packets: Vec<_> = (0..count).map(|n| udp4(28 + n * 29)).collect();
            let lens = packets.iter().map(|inner| together.sealed_len(inner.len()));
            let mut room = vec![0; lens.sum()];
            let mut rest = &mut room[..];
            let mut guard = together.lock();
            let framed: Vec<_> = packets
                .iter()
                .map(|inner| {
                    let packet = Packet::parse(inner).unwrap();
                    let room = cut(&mut rest, together.sealed_len(inner.len())).unwrap();
                    room[together.payload(inner.len())].copy_from_slice(inner);
                    guard.frame(&packet, inner.len(), room).unwrap()
                })
                .collect();
            guard.seal_all(&framed, &mut room).unwrap();
            drop(guard);
            let expected: Vec<_> = packets.iter().map(|inner| seal(&alone, inner)).collect();
            assert!(room == expected.concat(), "{words} {count}");
        }
        assert_eq!(together.sent().packets(), alone.sent().packets());
        assert_eq!(together.sent().bytes(), alone.sent().bytes());
    }
}

#[test]
fn packets_that_do_not_match_the_buffer_are_not_sealed() {
    let (outbound, _) = pair("aes128-sha1");
    let inner = udp4(60);
    let packet = Packet::parse(&inner).unwrap();
    let mut room = vec![0; outbound.sealed_len(60)];
    let mut guard = outbound.lock();
    let framed = guard.frame(&packet, 60, &mut room).unwrap();
    assert_eq!(
        guard.seal_all(&[framed, framed], &mut room),
        Err(DropReason::Overflow)
    );
    for len in [0, 61] {
        let framed = guard.frame(&packet, 60, &mut room[..len]);
        assert_eq!(framed.unwrap_err(), DropReason::Overflow);
    }
    drop(guard);
    assert_eq!(outbound.sequence(), 1, "a failure uses no number");
}

#[test]
fn the_shared_counters_are_updated_at_the_end_of_the_batch() {
    let (outbound, _) = pair("aes128gcm16");
    let inner = udp4(60);
    let packet = Packet::parse(&inner).unwrap();
    let mut room = vec![0; outbound.sealed_len(60)];
    let mut guard = outbound.lock();
    for _ in 0..3 {
        guard.frame(&packet, 60, &mut room).unwrap();
    }
    assert_eq!(outbound.sequence(), 0);
    drop(guard);
    assert_eq!(outbound.sequence(), 3);
    assert_eq!(
        (outbound.sent().packets(), outbound.sent().bytes()),
        (3, 180)
    );
}
