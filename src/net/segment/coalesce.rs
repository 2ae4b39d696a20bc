//! Coalescing of opened packets before they are written to the device.
//!
//! ```text
//!   packet ─▶ can it be coalesced? ──no──▶ its flow's slot is written first ─▶ the packet itself
//!               │ yes
//!               ├─ it continues its flow's slot ─▶ appended; written at once if it is the last
//!               └─ otherwise that slot is written ─▶ the packet starts a new one
//! ```
//!
//! Coalesced are TCP data segments of one connection in sequence with equal acknowledgment, window, options, flags, TTL, TOS or
//! traffic class and flow label, and consecutive identifications or DF; and UDP datagrams likewise, if enabled. All have one
//! length, except for a shorter last packet. PSH and FIN end a GSO packet. Packets of one flow keep their order; packets of
//! different flows may be reordered.

use std::array;

use super::super::packet::Packet;
use super::gro_slot::{Appended, Candidate, GroSlot};
use super::{Coalesced, UdpCoalescing};

/// Coalescer with a fixed number of slots, whose buffers are reused.
#[derive(Debug)]
pub struct Coalescer {
    runs: [GroSlot; Coalescer::RUNS],
    /// Slot to evict if none is free.
    victim: usize,
}

impl Default for Coalescer {
    fn default() -> Coalescer {
        Coalescer::new()
    }
}

impl Coalescer {
    /// Number of slots, each for one flow.
    pub const RUNS: usize = 16;

    /// Coalescer with free slots.
    #[must_use]
    pub fn new() -> Coalescer {
        Coalescer {
            runs: array::from_fn(|_| GroSlot::new()),
            victim: 0,
        }
    }

    /// Takes a packet, which is coalesced if it is TCP, or UDP and `udp` allows it, and passes to `out` what cannot wait: the
    /// packet itself, or earlier packets of its flow.
    pub fn push(
        &mut self,
        packet: &Packet<'_>,
        udp: UdpCoalescing,
        out: &mut impl FnMut(Coalesced<'_>),
    ) {
        let Some(candidate) = Candidate::of(packet, udp) else {
            self.let_pass(packet, out);
            return out(Coalesced::alone(packet));
        };
        let theirs = |run: &&mut GroSlot| run.flow() == Some(&candidate.flow);
        if let Some(run) = self.runs.iter_mut().find(theirs) {
            match run.append(&candidate) {
                Appended::Open => return,
                Appended::Last => return run.leave(out),
                Appended::Refused => run.leave(out),
            }
        }
        if candidate.ends_a_run() || !self.vacant(out).is_some_and(|run| run.begin(&candidate)) {
            out(Coalesced::alone(packet));
        }
    }

    /// Passes all remaining packets to `out`, at the end of a batch.
    pub fn flush(&mut self, out: &mut impl FnMut(Coalesced<'_>)) {
        for run in &mut self.runs {
            run.leave(out);
        }
    }

    /// Passes the earlier packets of the flow of a packet that is not coalesced.
    fn let_pass(&mut self, packet: &Packet<'_>, out: &mut impl FnMut(Coalesced<'_>)) {
        for run in &mut self.runs {
            if run.flow().is_some_and(|flow| flow.may_have(packet)) {
                run.leave(out);
            }
        }
    }

    /// A free slot, evicting another flow if necessary.
    fn vacant(&mut self, out: &mut impl FnMut(Coalesced<'_>)) -> Option<&mut GroSlot> {
        let free = self.runs.iter().position(|run| run.flow().is_none());
        let place = free.unwrap_or_else(|| {
            let victim = self.victim;
            self.victim = victim
                .wrapping_add(1)
                .checked_rem(Coalescer::RUNS)
                .unwrap_or(0);
            victim
        });
        let run = self.runs.get_mut(place)?;
        run.leave(out);
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::super::PacketOffload;
    use super::super::tests::{Tcp, cut, datagram, edit, handed_over, join, repair};
    use super::super::{GsoKind, tcp};
    use super::*;

    /// Number of packets joined in each output.
    fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
        let joined = join(UdpCoalescing::Coalesced, packets);
        joined.iter().map(|(count, _, _)| *count).collect()
    }

    fn changed(tcp: &Tcp, edits: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = tcp.bytes();
        for (at, octets) in edits {
            edit(&mut bytes, *at, octets);
        }
        repair(&mut bytes);
        bytes
    }

    #[test]
    fn segments_in_a_row_become_one_with_everything_linux_wants_to_know() {
        for (version, kind) in [(4, GsoKind::TcpV4), (6, GsoKind::TcpV6)] {
            let row = Tcp {
                version,
                payload: 1350,
                ..Tcp::default()
            };
            let whole = Tcp {
                payload: 1350 * 46,
                ..row.clone()
            };
            let (bytes, gso) = handed_over(whole.bytes(), 1350);
            assert_eq!(gso.kind, kind);
            let joined = join(UdpCoalescing::Apart, &row.in_a_row(46));
            assert_eq!(joined, [(46, PacketOffload::Gso(gso), bytes)]);
        }
    }

    #[test]
    fn datagrams_join_only_where_asked() {
        for version in [4, 6] {
            let row: Vec<_> = (0..5).map(|id| datagram(version, id, 1300)).collect();
            let joined = join(UdpCoalescing::Coalesced, &row);
            let [(5, PacketOffload::Gso(gso), bytes)] = &joined[..] else {
                panic!("{joined:?}");
            };
            assert_eq!((gso.kind, gso.size.get()), (GsoKind::Udp, 1300));
            assert_eq!(cut(bytes, gso), row);
            let alone: Vec<_> = row
                .iter()
                .map(|p| (1, PacketOffload::None, p.clone()))
                .collect();
            assert_eq!(join(UdpCoalescing::Apart, &row), alone);
        }
    }

    #[test]
    fn a_shorter_one_is_the_last_and_a_longer_one_begins_anew() {
        let sizes = |sizes: &[usize]| -> Vec<Vec<u8>> {
            let ids = 0..;
            let pairs = ids.zip(sizes);
            pairs.map(|(id, size)| datagram(4, id, *size)).collect()
        };
        assert_eq!(counts(&sizes(&[500, 500, 20, 20, 20])), [3, 2]);
        assert_eq!(counts(&sizes(&[500, 600, 600])), [1, 2]);
        assert_eq!(counts(&sizes(&[500, 0, 500])), [1, 1, 1], "an empty one");
    }

    #[test]
    fn an_end_ends_the_run_with_it() {
        for end in [tcp::PSH, tcp::FIN] {
            let mut row = Tcp::default().in_a_row(5);
            let at = 20 + tcp::FLAGS + 1;
            row[2][at] |= end as u8;
            repair(&mut row[2]);
            let joined = join(UdpCoalescing::Apart, &row);
            let [(3, PacketOffload::Gso(gso), bytes), (2, _, _)] = &joined[..] else {
                panic!("{joined:?}");
            };
            assert_eq!(bytes[at], tcp::ACK as u8 | end as u8);
            assert_eq!(cut(bytes, gso), row[..3]);
        }
    }

    #[test]
    fn a_reduced_window_begins_a_run_and_continues_none() {
        let mut row = Tcp::default().in_a_row(4);
        row[1][20 + tcp::FLAGS + 1] |= tcp::CWR as u8;
        repair(&mut row[1]);
        let joined = join(UdpCoalescing::Apart, &row);
        let [
            (1, PacketOffload::None, _),
            (3, PacketOffload::Gso(gso), bytes),
        ] = &joined[..]
        else {
            panic!("{joined:?}");
        };
        assert!(gso.ecn);
        assert_eq!(cut(bytes, gso), row[1..]);
    }

    #[test]
    fn a_header_that_differs_keeps_packets_apart() {
        let first = Tcp::default();
        let second = Tcp {
            sequence: first.sequence.wrapping_add(1000),
            id: first.id + 1,
            ..first.clone()
        };
        let six = |tcp: &Tcp| Tcp {
            version: 6,
            ..tcp.clone()
        };
        assert_eq!(counts(&[first.bytes(), second.bytes()]), [2]);
        assert_eq!(counts(&[six(&first).bytes(), six(&second).bytes()]), [2]);
        let v4: [(usize, &[u8], &str); 11] = [
            (1, &[0xb8], "DSCP"),
            (1, &[0x03], "e12: congestion experienced"),
            (4, &[0xff, 0xf2], "the identification leaps"),
            (6, &[0x40, 0], "DF"),
            (8, &[63], "TTL"),
            (24, &[0, 0, 0, 0], "out of sequence"),
            (28, &[0, 0, 0, 78], "acknowledgment"),
            (33, &[0x50], "ECE"),
            (34, &[1, 245], "window"),
            (38, &[0, 1], "urgent pointer"),
            (47, &[3], "timestamp"),
        ];
        for (at, octets, case) in v4 {
            let other = changed(&second, &[(at, octets)]);
            assert_eq!(counts(&[first.bytes(), other]), [1, 1], "{case}");
        }
        let v6: [(usize, &[u8], &str); 4] = [
            (0, &[0x6b], "DSCP"),
            (1, &[0x30], "e12: congestion experienced"),
            (3, &[1], "flow label"),
            (7, &[63], "hop limit"),
        ];
        for (at, octets, case) in v6 {
            let other = changed(&six(&second), &[(at, octets)]);
            assert_eq!(counts(&[six(&first).bytes(), other]), [1, 1], "{case}");
        }
        let bare = Tcp {
            options: Vec::new(),
            ..second
        };
        assert_eq!(counts(&[first.bytes(), bare.bytes()]), [1, 1], "options");
    }

    #[test]
    fn where_nobody_may_cut_any_identification_will_do() {
        let row = Tcp::default().in_a_row(3);
        let atomic: Vec<_> = row
            .iter()
            .zip([7_u16, 7, 0xbeef])
            .map(|(bytes, id)| {
                let mut bytes = bytes.clone();
                edit(&mut bytes, 4, &id.to_be_bytes());
                bytes[6] = 0x40;
                repair(&mut bytes);
                bytes
            })
            .collect();
        assert_eq!(counts(&atomic), [3]);
    }

    #[test]
    fn what_says_more_than_data_leaves_alone_and_in_its_turn() {
        let row = Tcp::default().in_a_row(5);
        let special = |flags: u16, payload: usize| {
            let tcp = Tcp {
                sequence: Tcp::default().sequence.wrapping_add(2000),
                id: Tcp::default().id + 2,
                flags,
                payload,
                ..Tcp::default()
            };
            tcp.bytes()
        };
        for (packet, case) in [
            (special(tcp::ACK, 0), "a pure acknowledgment"),
            (special(tcp::ACK | tcp::SYN, 1000), "a SYN"),
            (special(tcp::ACK | tcp::RST, 1000), "a reset"),
            (special(tcp::ACK | tcp::URG, 1000), "urgent data"),
            (special(0, 1000), "no acknowledgment"),
        ] {
            let packets = [&row[..2], &[packet], &row[3..]].concat();
            assert_eq!(counts(&packets), [2, 1, 2], "{case}");
        }
    }

    #[test]
    fn e02_a_damaged_packet_stays_damaged_and_alone() {
        let row = Tcp::default().in_a_row(5);
        // The IP header's checksum, the sequence number's neighbour, options, payload.
        for at in [10, 36, 47, 60, 1051] {
            for nth in 0..5 {
                let mut damaged = row.clone();
                damaged[nth][at] ^= 0x10;
                let joined = join(UdpCoalescing::Apart, &damaged);
                let alone = (1, PacketOffload::None, damaged[nth].clone());
                assert!(joined.contains(&alone), "{at} in {nth}");
                let others: usize = joined.iter().map(|(count, _, _)| count).sum();
                assert_eq!(others, 5);
            }
        }
        let mut without = datagram(4, 0, 100);
        edit(&mut without, 26, &[0, 0]);
        let mut second = datagram(4, 1, 100);
        edit(&mut second, 26, &[0, 0]);
        assert_eq!(counts(&[without, second]), [1, 1], "no checksum at all");
    }

    #[test]
    fn e10_fragments_are_not_joined_and_overtake_nothing() {
        let row: Vec<_> = (0..2).map(|id| datagram(4, id, 500)).collect();
        for field in [[0x20, 0], [0x20, 4], [0, 9]] {
            let mut fragment = datagram(4, 2, 500);
            edit(&mut fragment, 6, &field);
            let packets = [&row[..], &[fragment.clone(), fragment]].concat();
            let joined = join(UdpCoalescing::Coalesced, &packets);
            assert_eq!(
                joined.iter().map(|(n, _, _)| *n).collect::<Vec<_>>(),
                [2, 1, 1]
            );
        }
    }

    #[test]
    fn ip_options_and_extension_headers_are_not_joined() {
        let with_options = |nth: usize| {
            let mut bytes = Tcp::default().in_a_row(2).remove(nth);
            bytes.splice(20..20, [1, 1, 1, 0]);
            bytes[0] = 0x46;
            let total = bytes.len() as u16;
            edit(&mut bytes, 2, &total.to_be_bytes());
            repair(&mut bytes);
            bytes
        };
        assert_eq!(counts(&[with_options(0), with_options(1)]), [1, 1]);
        let extended = |nth: usize| {
            let row = Tcp {
                version: 6,
                ..Tcp::default()
            };
            let mut bytes = row.in_a_row(2).remove(nth);
            bytes.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
            bytes[6] = 60;
            let length = bytes.len() as u16 - 40;
            edit(&mut bytes, 4, &length.to_be_bytes());
            repair(&mut bytes);
            bytes
        };
        assert_eq!(counts(&[extended(0), extended(1)]), [1, 1]);
    }

    #[test]
    fn flows_between_each_other_join_each_for_itself() {
        let rows: Vec<_> = (0..Coalescer::RUNS as u16)
            .map(|port| {
                Tcp {
                    source_port: port,
                    ..Tcp::default()
                }
                .in_a_row(3)
            })
            .collect();
        let mixed: Vec<_> = (0..3)
            .flat_map(|nth| rows.iter().map(move |row| row[nth].clone()))
            .collect();
        assert_eq!(counts(&mixed), [3; Coalescer::RUNS]);
    }

    #[test]
    fn one_flow_too_many_makes_another_leave_early() {
        let mut coalescer = Coalescer::new();
        let mut left = Vec::new();
        for port in 0..Coalescer::RUNS as u16 + 2 {
            let tcp = Tcp {
                source_port: port,
                ..Tcp::default()
            };
            let bytes = tcp.bytes();
            coalescer.push(
                &Packet::parse(&bytes).unwrap(),
                UdpCoalescing::Apart,
                &mut |joined| {
                    left.push(joined.bytes[21]);
                },
            );
        }
        assert_eq!(left, [0, 1], "another one each time");
    }

    #[test]
    fn a_run_is_bounded_in_packets_and_octets() {
        let small = Tcp {
            payload: 100,
            ..Tcp::default()
        };
        assert_eq!(counts(&small.in_a_row(130)), [130]);
        let datagrams: Vec<_> = (0..130).map(|id| datagram(4, id, 100)).collect();
        assert_eq!(counts(&datagrams), [64, 64, 2]);
        let large = Tcp {
            payload: 8948,
            ..Tcp::default()
        };
        let joined = join(UdpCoalescing::Apart, &large.in_a_row(15));
        assert_eq!(
            joined.iter().map(|(n, _, _)| *n).collect::<Vec<_>>(),
            [7, 7, 1]
        );
        // Exactly as much as IP can carry, and an octet more.
        for (last, expected) in [
            (65_535 - 52 - 7 * 8948, vec![8]),
            (65_535 - 51 - 7 * 8948, vec![7, 1]),
        ] {
            let mut row = large.in_a_row(7);
            let end = Tcp {
                sequence: large.sequence.wrapping_add(7 * 8948),
                id: large.id.wrapping_add(7),
                payload: last,
                ..Tcp::default()
            };
            row.push(end.bytes());
            assert_eq!(counts(&row), expected, "{last}");
        }
    }

    #[test]
    fn what_is_alone_waits_for_nobody_once_flushed() {
        let only = Tcp::default().bytes();
        let mut coalescer = Coalescer::new();
        let packet = Packet::parse(&only).unwrap();
        coalescer.push(&packet, UdpCoalescing::Apart, &mut |_| {
            panic!("another may follow")
        });
        let mut left = Vec::new();
        coalescer.flush(&mut |joined| left.push((joined.offload, joined.bytes.to_vec())));
        assert_eq!(left, [(PacketOffload::None, only)]);
    }
}
