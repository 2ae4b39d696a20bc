//! Packets that wait for the first Child SA of their tunnel (`start = "trap"`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::net::{DropReason, Time};

/// Maximum number of packets.
pub(super) const MAX_PACKETS: usize = 64;

/// Maximum number of octets: [`MAX_PACKETS`] packets of an ordinary link and a little more. GSO packets of 64 KiB would otherwise hold
/// 4 MiB for each tunnel that does not come up.
const MAX_OCTETS: usize = 128 << 10;

/// How long a packet waits. Its sender has retransmitted it by then.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);

/// The waiting packets of one tunnel, oldest first.
#[derive(Debug, Default)]
pub(super) struct TrapQueue {
    packets: VecDeque<(Time, Vec<u8>)>,
    octets: usize,
}

impl TrapQueue {
    /// Adds a packet of `len` octets and returns its buffer, for the caller to fill. The allocation is bounded by [`MAX_PACKETS`] for
    /// each time that the tunnel comes up.
    #[allow(clippy::arithmetic_side_effects, reason = "time saturates")]
    pub(super) fn push(&mut self, len: usize, now: Time) -> Result<&mut [u8], DropReason> {
        let octets = self.octets.saturating_add(len);
        if self.packets.len() >= MAX_PACKETS || octets > MAX_OCTETS {
            return Err(DropReason::QueueFull);
        }
        self.octets = octets;
        self.packets.push_back((now + MAX_WAIT, vec![0; len]));
        let newest = self.packets.back_mut();
        newest
            .map(|(_, packet)| packet.as_mut_slice())
            .ok_or(DropReason::QueueFull)
    }

    /// Drops the packets that have waited too long, and returns their number.
    pub(super) fn expire(&mut self, now: Time) -> u64 {
        let before = self.packets.len();
        self.packets.retain(|(until, packet)| {
            let stays = *until > now;
            if !stays {
                self.octets = self.octets.saturating_sub(packet.len());
            }
            stays
        });
        before.saturating_sub(self.packets.len()) as u64
    }

    /// Takes the oldest packet.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, packet) = self.packets.pop_front()?;
        self.octets = self.octets.saturating_sub(packet.len());
        Some(packet)
    }

    /// When the oldest packet expires.
    pub(super) fn expires_at(&self) -> Option<Time> {
        self.packets.front().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut TrapQueue, packet: &[u8], now: Time) -> Result<(), DropReason> {
        queue
            .push(packet.len(), now)
            .map(|buffer| buffer.copy_from_slice(packet))
    }

    #[test]
    fn sixty_four_packets_wait_five_seconds_in_order() {
        let mut queue = TrapQueue::default();
        let start = Time::from_secs(100);
        for n in 0..64u8 {
            let now = start + Duration::from_millis(n.into());
            assert_eq!(push(&mut queue, &[n], now), Ok(()));
        }
        assert_eq!(push(&mut queue, &[64], start), Err(DropReason::QueueFull));
        assert_eq!(queue.expires_at(), Some(start + MAX_WAIT));
        assert_eq!(queue.expire(start + MAX_WAIT - Duration::from_nanos(1)), 0);
        assert_eq!(queue.expire(start + MAX_WAIT + Duration::from_millis(2)), 3);
        assert_eq!(queue.pop(), Some(vec![3]));
    }

    #[test]
    fn long_packets_fill_the_queue_sooner_and_release_their_octets() {
        let mut queue = TrapQueue::default();
        let start = Time::from_secs(100);
        let long = [0; 60_000];
        assert_eq!(push(&mut queue, &long, start), Ok(()));
        let later = start + Duration::from_secs(1);
        assert_eq!(push(&mut queue, &long, later), Ok(()));
        assert_eq!(push(&mut queue, &long, later), Err(DropReason::QueueFull));
        assert_eq!(push(&mut queue, &[0; 1000], later), Ok(()));
        assert_eq!(queue.expire(start + MAX_WAIT), 1);
        assert_eq!(push(&mut queue, &long, later), Ok(()));
        assert_eq!(push(&mut queue, &long, later), Err(DropReason::QueueFull));
        while queue.pop().is_some() {}
        assert_eq!(queue.octets, 0);
    }
}
