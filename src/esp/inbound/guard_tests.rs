//! Tests of an inbound SA locked for a batch.

use super::super::lifetime::Limits;
use super::*;
use crate::esp::testing::*;

const LANED: [&str; 5] = [
    "aes128-sha1",
    "aes256-sha256",
    "aes128-sha1-esn",
    "aes128gcm16",
    "aes192-sha384",
];

/// Results of these packets, opened `together` at a time.
fn outcomes(inbound: &Inbound, packets: &[Vec<u8>], together: usize) -> Vec<Outcome> {
    let mut copies = packets.to_vec();
    let mut guard = inbound.lock();
    let mut all = Vec::new();
    for group in copies.chunks_mut(together) {
        let mut packets: Vec<_> = group.iter_mut().map(|esp| RxPacket::new(esp)).collect();
        guard.open_all(&mut packets);
        all.extend(packets.into_iter().map(|packet| {
            let inner = packet.inner.map(|range| packet.esp[range].to_vec());
            (inner, packet.is_newest)
        }));
    }
    all
}

type Outcome = (Result<Vec<u8>, DropReason>, bool);

/// Valid packets of many lengths, partly reordered, mixed with invalid ones of every kind.
fn mixture(words: &str) -> Vec<Vec<u8>> {
    let (outbound, _) = pair(words);
    let mut packets: Vec<_> = (0..90)
        .map(|n| seal(&outbound, &udp4(28 + n * 14)))
        .collect();
    packets.swap(3, 9);
    packets.swap(40, 41);
    for at in [5, 20, 50, 77] {
        packets.insert(at, packets[at - 2].clone());
    }
    for at in [7, 30, 31, 60] {
        let mut forged = packets[at].clone();
        *forged.last_mut().unwrap() ^= 1;
        packets.insert(at, forged);
    }
    packets.insert(33, packets[33][..40].to_vec());
    let outside = ipv4([10, 9, 0, 5], [10, 1, 0, 7], 60);
    packets.push(craft(words, 91, &padded(words, &udp4(60), 17)));
    packets.push(craft(words, 92, &padded(words, &outside, 4)));
    packets
}

#[test]
fn parallel_and_single_opening_have_equal_results() {
    for words in LANED {
        let packets = mixture(words);
        let alone = outcomes(&pair(words).1, &packets, 1);
        let refusals = alone.iter().filter(|(inner, _)| inner.is_err()).count();
        assert!(refusals >= 10 && alone.len() - refusals >= 60, "{words}");
        for together in [2, 3, 15, 16, 17, 46, 1000] {
            let inbound = pair(words).1;
            assert_eq!(
                outcomes(&inbound, &packets, together),
                alone,
                "{words} {together}"
            );
            assert_eq!(
                inbound.received().packets() as usize,
                alone.len() - refusals
            );
        }
    }
}

#[test]
fn e05_the_same_packet_twice_in_one_batch_is_opened_once() {
    for words in LANED {
        let (outbound, inbound) = pair(words);
        let packet = seal(&outbound, &udp4(60));
        let all = outcomes(&inbound, &vec![packet; 16], 16);
        assert_eq!(all[0], (Ok(udp4(60)), true), "{words}");
        assert!(
            all[1..]
                .iter()
                .all(|one| *one == (Err(DropReason::Replay), false))
        );
    }
}

#[test]
fn e06_a_batch_across_the_wrap_of_the_low_half_opens() {
    for words in ["aes128-sha1-esn", "aes256-sha256-esn", "aes128gcm16-esn"] {
        let (_, inbound) = pair(words);
        let first = (1 << 32) - 8;
        inbound.pretend_seen(first - 1);
        let packets: Vec<_> = (first..first + 16)
            .map(|n| craft(words, n, &padded(words, &udp4(60), 4)))
            .collect();
        let all = outcomes(&inbound, &packets, 16);
        assert!(
            all.iter().all(|one| *one == (Ok(udp4(60)), true)),
            "{words}"
        );
    }
}

#[test]
fn e06_the_first_packet_of_a_batch_updates_the_high_half_for_the_rest() {
    // The window stands at 10. The first packet, authentic, takes it up by nearly 2^32; the second number's low half then means
    // the next round, where before the first it meant this one.
    let words = "aes128-sha1-esn";
    let (_, inbound) = pair(words);
    inbound.pretend_seen(10);
    let far = (1 << 32) - 256;
    let packets = [far, (1 << 32) + 11].map(|n| craft(words, n, &padded(words, &udp4(60), 4)));
    let all = outcomes(&inbound, &packets, 2);
    assert!(
        all.iter().all(|one| *one == (Ok(udp4(60)), true)),
        "{all:?}"
    );
}

#[test]
fn p19_a_limit_inside_a_batch_is_exact() {
    for words in LANED {
        let (outbound, inbound) = pair(words);
        let inbound = inbound.limited(Limits {
            bytes: None,
            packets: Some(10),
            jitter: 0,
        });
        let packets: Vec<_> = (0..16).map(|_| seal(&outbound, &udp4(60))).collect();
        let all = outcomes(&inbound, &packets, 16);
        assert!(all[..10].iter().all(|(inner, _)| inner.is_ok()), "{words}");
        assert!(
            all[10..]
                .iter()
                .all(|(inner, _)| *inner == Err(DropReason::Expired))
        );
    }
}
