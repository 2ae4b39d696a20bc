//! Tests of an outbound SA.

use super::*;
use crate::crypto::Esn;
use crate::esp::testing::{SUITES, pair, udp4, udp6};
use std::collections::HashSet;

fn seal(sa: &Outbound, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let packet = Packet::parse(packet).unwrap();
    let mut room = vec![0; sa.sealed_len(packet.len())];
    sa.seal(&packet, &mut room).map(|len| {
        assert_eq!(len, room.len());
        room
    })
}

#[test]
fn the_header_is_the_spi_and_a_sequence_number_from_one() {
    for words in SUITES {
        let (sa, _) = pair(words);
        for expected in 1..=5u32 {
            let sealed = seal(&sa, &udp4(100)).unwrap();
            assert_eq!(sealed[..4], sa.spi().to_be_bytes());
            assert_eq!(sealed[4..8], expected.to_be_bytes(), "{words}");
        }
        assert_eq!((sa.sent().packets(), sa.sent().bytes()), (5, 500));
    }
}

#[test]
fn every_length_is_padded_to_whole_blocks_and_opens() {
    for words in SUITES {
        let (sa, inbound) = pair(words);
        let mut guard = inbound.lock();
        for len in 28..28 + 64 {
            let packet = udp4(len);
            let mut sealed = seal(&sa, &packet).unwrap();
            let protection = sa.suite().protection;
            let encrypted = sealed.len() - HEADER - protection.iv_len() - protection.icv_len();
            assert_eq!(encrypted % protection.block().max(4), 0, "{words} {len}");
            assert!(
                encrypted - len - trailer::LEAST < protection.block().max(4),
                "{words} {len}: no more padding than needed"
            );
            assert_eq!(
                guard.open(&mut sealed).unwrap().packet.bytes(),
                packet,
                "{words} {len}"
            );
        }
    }
}

#[test]
fn the_next_header_of_ipv6_is_41() {
    let (sa, inbound) = pair("aes128-sha1");
    let mut sealed = seal(&sa, &udp6(100)).unwrap();
    assert_eq!(
        inbound.lock().open(&mut sealed).unwrap().packet.version(),
        6
    );
}

#[test]
fn e17_concurrent_seals_never_share_a_sequence_number() {
    let (sa, _) = pair("aes128gcm16");
    let packet = udp4(60);
    let numbers: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..500)
                        .map(|_| seal(&sa, &packet).unwrap()[4..16].to_vec())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let different: HashSet<_> = numbers.iter().collect();
    assert_eq!(
        different.len(),
        2000,
        "sequence number and nonce of every packet are its own"
    );
    assert_eq!(sa.sequence(), 2000);
}

#[test]
fn e17_the_nonce_of_an_aead_is_the_sequence_number() {
    let (sa, _) = pair("aes256gcm16");
    for expected in 1..=3u64 {
        assert_eq!(seal(&sa, &udp4(60)).unwrap()[8..16], expected.to_be_bytes());
    }
}

#[test]
fn p19_sending_stops_before_a_sequence_number_repeats() {
    let (sa, _) = pair("aes128-sha1");
    let last = Lifetime::new(Esn::No).last();
    sa.pretend_used(last - 1);
    assert_eq!(sa.stage(), LifetimeState::NearEnd);
    assert_eq!(
        seal(&sa, &udp4(60)).unwrap()[4..8],
        (last as u32).to_be_bytes()
    );
    for _ in 0..3 {
        assert_eq!(seal(&sa, &udp4(60)), Err(DropReason::SequenceExhausted));
    }
    assert_eq!(sa.sequence(), last);
}

#[test]
fn p19_extended_numbers_end_before_they_repeat_too() {
    let (sa, _) = pair("aes128gcm16-esn");
    let last = Lifetime::new(Esn::Yes).last();
    sa.pretend_used(last - 1);
    assert_eq!(sa.stage(), LifetimeState::NearEnd);
    assert!(seal(&sa, &udp4(60)).is_ok());
    assert_eq!(sa.stage(), LifetimeState::Ended);
    assert_eq!(seal(&sa, &udp4(60)), Err(DropReason::SequenceExhausted));
    assert_eq!(sa.sequence(), last);
}

#[test]
fn p19_limits_in_packets_and_bytes_are_exact() {
    let limits = |bytes, packets| Limits {
        bytes,
        packets,
        jitter: 0,
    };
    let (sa, _) = pair("aes128gcm16");
    let sa = sa.limited(limits(None, Some(1000)));
    let sealed = (0..1200).filter(|_| seal(&sa, &udp4(60)).is_ok()).count();
    assert_eq!((sealed, sa.sent().packets()), (1000, 1000));
    assert_eq!(seal(&sa, &udp4(60)), Err(DropReason::Expired));

    let (sa, _) = pair("aes128gcm16");
    let sa = sa.limited(limits(Some(1_000_000), None));
    let mut stages = vec![sa.stage()];
    while seal(&sa, &udp4(1400)).is_ok() {
        stages.push(sa.stage());
    }
    stages.dedup();
    assert_eq!(
        stages,
        [
            LifetimeState::Fresh,
            LifetimeState::NearEnd,
            LifetimeState::Ended
        ]
    );
    let carried = sa.sent().bytes();
    assert!((930_000..=1_000_000).contains(&carried), "{carried}");
    assert_eq!(seal(&sa, &udp4(28)), Err(DropReason::Expired));
}

#[test]
fn e06_extended_numbers_cross_the_wrap_of_the_low_half() {
    for words in ["aes128-sha1-esn", "aes128gcm16-esn", "chacha20poly1305-esn"] {
        let (sa, inbound) = pair(words);
        let wrap = 1u64 << 32;
        sa.pretend_used(wrap - 3);
        inbound.pretend_seen(wrap - 3);
        let mut packets: Vec<_> = (0..6).map(|_| seal(&sa, &udp4(80)).unwrap()).collect();
        let again = packets.clone();
        let mut guard = inbound.lock();
        for packet in &mut packets {
            assert!(guard.open(packet).is_ok(), "{words}");
        }
        for mut packet in again {
            assert_eq!(
                guard.open(&mut packet).err(),
                Some(DropReason::Replay),
                "{words}: across the wrap"
            );
        }
    }
}

#[test]
fn a_buffer_that_is_too_small_uses_no_sequence_number() {
    let (sa, _) = pair("aes128-sha1");
    let bytes = udp4(100);
    let packet = Packet::parse(&bytes).unwrap();
    let mut room = vec![0; sa.sealed_len(100) - 1];
    assert_eq!(sa.seal(&packet, &mut room), Err(DropReason::Overflow));
    assert_eq!(sa.sequence(), 0);
}

#[test]
fn only_aes_gcm_is_padded_beyond_what_the_cipher_needs() {
    for words in SUITES.iter().filter(|words| !words.contains("gcm")) {
        let (sa, _) = pair(words);
        for len in 28..60 {
            let padded = sa.padded_len(len, usize::MAX);
            assert_eq!(padded, sa.sealed_len(len), "{words} {len}");
        }
    }
}

#[test]
fn aes_gcm_is_padded_to_whole_blocks_where_there_is_room() {
    let (sa, inbound) = pair("aes128gcm16");
    let inner = udp4(1001);
    let packet = Packet::parse(&inner).unwrap();
    let envelope = HEADER + 8 + 16;
    assert_eq!(sa.sealed_len(1001), envelope + 1004);
    assert_eq!(sa.padded_len(1001, envelope + 1008), envelope + 1008);
    assert_eq!(sa.padded_len(1001, envelope + 1007), envelope + 1004);
    let mut room = vec![0; sa.padded_len(1001, usize::MAX)];
    room[sa.payload(1001)].copy_from_slice(&inner);
    let mut guard = sa.lock();
    let laid = guard.frame(&packet, 1001, &mut room).unwrap();
    guard.seal_all(&[laid], &mut room).unwrap();
    let mut guard = inbound.lock();
    assert_eq!(guard.open(&mut room).unwrap().packet.bytes(), inner);
}
