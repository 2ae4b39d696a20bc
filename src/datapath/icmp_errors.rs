//! ICMP errors about packets that do not go on, written back into the device they came from.
//!
//! An error comes from where the packet was going: an address that is routed through this device, so that no reverse-path filter
//! drops it, and that is not this machine's own, which its kernel would take for a forgery.

use std::time::Duration;

use super::tables::TunnelShared;
use crate::net::TokenBucket;
use crate::net::{DropReason, Packet, Time, icmp};
use crate::os::OutPacket;

/// The errors of one tunnel, limited in rate: a host that ignores them asks with every packet (RFC 1812 §4.3.2.8,
/// RFC 4443 §2.4 f).
pub(super) struct IcmpErrors {
    room: Vec<u8>,
    limit: TokenBucket,
}

impl IcmpErrors {
    pub(super) fn new() -> IcmpErrors {
        IcmpErrors {
            room: Vec::with_capacity(1280),
            limit: TokenBucket::new(50, Duration::from_millis(10)),
        }
    }

    /// `packet` exceeds `mtu` and may not be cut.
    pub(super) fn too_big(
        &mut self,
        lane: &TunnelShared,
        packet: &Packet<'_>,
        mtu: u16,
        now: Time,
    ) {
        self.answer(lane, now, |room| {
            icmp::too_big(packet, mtu, packet.destination(), room)
        });
    }

    /// `packet` lies outside the selectors.
    pub(super) fn prohibited(&mut self, lane: &TunnelShared, packet: &Packet<'_>, now: Time) {
        self.answer(lane, now, |room| {
            icmp::unreachable(packet, packet.destination(), room)
        });
    }

    fn answer(
        &mut self,
        lane: &TunnelShared,
        now: Time,
        compose: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        self.room.clear();
        if self.limit.allow(now)
            && compose(&mut self.room)
            && lane.device.write(&[OutPacket::whole(&self.room)]).is_err()
        {
            lane.counters.refused.add(DropReason::DeviceFull, 1);
        }
    }
}
