//! Opened packets on their way into one device, written together. The mirror image is [`departures`](super::departures).

use std::io;
use std::sync::Arc;

use super::tables::Lane;
use crate::net::Refusal;
use crate::os::OutPacket;

/// Packets for one tunnel's device, where they lie in the batch they came in.
pub(super) struct Deliveries<'t, 'p> {
    lane: Option<&'t Arc<Lane>>,
    packets: [OutPacket<'p>; Deliveries::MOST],
    len: usize,
}

impl Deliveries<'_, '_> {
    const MOST: usize = 64;
}

impl Default for Deliveries<'_, '_> {
    fn default() -> Self {
        Deliveries {
            lane: None,
            packets: [OutPacket::whole(&[]); Deliveries::MOST],
            len: 0,
        }
    }
}

impl<'t, 'p> Deliveries<'t, 'p> {
    /// One more; those for another tunnel are written first.
    pub(super) fn push(&mut self, lane: &'t Arc<Lane>, inner: &'p [u8]) {
        if self.len == Deliveries::MOST
            || self.lane.is_some_and(|before| !Arc::ptr_eq(before, lane))
        {
            self.flush();
        }
        self.lane = Some(lane);
        if let Some(place) = self.packets.get_mut(self.len) {
            *place = OutPacket::whole(inner);
            self.len = self.len.saturating_add(1);
        }
    }

    /// Writes all of them. What the device does not take is lost, as in any router.
    pub(super) fn flush(&mut self) {
        let mut rest = self.packets.get(..self.len).unwrap_or_default();
        self.len = 0;
        let Some(lane) = self.lane.take() else { return };
        while !rest.is_empty() {
            rest = match lane.device.write(rest) {
                Ok(written @ 1..) => {
                    let (done, rest) = rest.split_at(written.min(rest.len()));
                    lane.counters.rx.add(
                        done.len() as u64,
                        done.iter().map(|packet| packet.len() as u64).sum(),
                    );
                    rest
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    lane.counters.refused.add(Refusal::SendFailed, 1);
                    rest.split_first().map_or(&[], |(_, rest)| rest)
                }
                Ok(0) | Err(_) => {
                    lane.counters
                        .refused
                        .add(Refusal::DeviceFull, rest.len() as u64);
                    &[]
                }
            };
        }
    }
}
