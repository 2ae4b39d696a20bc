//! Packets that wait for their tunnel to come up (`start = "trap"`): the first few, for a few seconds, then they are given up.

use std::collections::VecDeque;
use std::time::Duration;

use crate::net::{DropReason, Time};

/// How many packets wait.
pub(super) const MOST: usize = 64;

/// How many octets wait: what [`MOST`] packets of an ordinary link have, and a little more. Without this, packets of 64 KiB would make a
/// tunnel that does not come up hold 4 MiB.
const MOST_OCTETS: usize = 128 << 10;

/// How long a packet waits. Whoever sent it has sent it again by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The packets that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct TrapQueue {
    packets: VecDeque<(Time, Vec<u8>)>,
    /// Of all of them.
    octets: usize,
}

impl TrapQueue {
    /// Keeps a copy of `packet`. Copying is fine here: this happens at most [`MOST`] times per coming up.
    #[allow(clippy::arithmetic_side_effects, reason = "time saturates")]
    pub(super) fn keep(&mut self, packet: &[u8], now: Time) -> Result<(), DropReason> {
        let octets = self.octets.saturating_add(packet.len());
        if self.packets.len() >= MOST || octets > MOST_OCTETS {
            return Err(DropReason::QueueFull);
        }
        self.octets = octets;
        self.packets.push_back((now + PATIENCE, packet.to_vec()));
        Ok(())
    }

    /// Gives up what has waited too long; how many packets that was.
    pub(super) fn give_up(&mut self, now: Time) -> u64 {
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

    /// The oldest packet.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let (_, packet) = self.packets.pop_front()?;
        self.octets = self.octets.saturating_sub(packet.len());
        Some(packet)
    }

    /// When the next packet will be given up.
    pub(super) fn until(&self) -> Option<Time> {
        self.packets.front().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_wait_five_seconds_in_order() {
        let mut hold = TrapQueue::default();
        let start = Time::from_secs(100);
        for n in 0..64u8 {
            assert_eq!(
                hold.keep(&[n], start + Duration::from_millis(n.into())),
                Ok(())
            );
        }
        assert_eq!(hold.keep(&[64], start), Err(DropReason::QueueFull));
        assert_eq!(hold.until(), Some(start + PATIENCE));
        assert_eq!(hold.give_up(start + PATIENCE - Duration::from_nanos(1)), 0);
        assert_eq!(hold.give_up(start + PATIENCE + Duration::from_millis(2)), 3);
        assert_eq!(hold.take(), Some(vec![3]));
    }

    #[test]
    fn long_packets_fill_the_room_sooner_and_leave_it_again() {
        let mut hold = TrapQueue::default();
        let start = Time::from_secs(100);
        let long = [0; 60_000];
        assert_eq!(hold.keep(&long, start), Ok(()));
        let later = start + Duration::from_secs(1);
        assert_eq!(hold.keep(&long, later), Ok(()));
        assert_eq!(hold.keep(&long, later), Err(DropReason::QueueFull));
        assert_eq!(hold.keep(&[0; 1000], later), Ok(()));
        assert_eq!(hold.give_up(start + PATIENCE), 1);
        assert_eq!(hold.keep(&long, later), Ok(()));
        assert_eq!(hold.keep(&long, later), Err(DropReason::QueueFull));
        while hold.take().is_some() {}
        assert_eq!(hold.octets, 0);
    }
}
