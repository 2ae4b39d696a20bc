//! ICMP errors about packets that are not forwarded.
//!
//! A raw socket sends them, with this machine's address on the side of the sender as source. Without one (CAP_NET_RAW is missing) they are
//! written back into the device that the packet came from, with the destination of the packet as source: that address is routed through
//! this device, so no reverse-path filter drops the error, and it is no address of this machine, which the kernel would drop as a martian.

use std::time::Duration;

use super::tables::TunnelShared;
use crate::net::{Packet, Time, TokenBucket, icmp};
use crate::os::OutPacket;

/// The ICMP errors of one tunnel, limited in rate (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
pub(super) struct IcmpErrors {
    message: Vec<u8>,
    limit: TokenBucket,
}

impl IcmpErrors {
    pub(super) fn new() -> IcmpErrors {
        IcmpErrors {
            message: Vec::with_capacity(1280),
            limit: TokenBucket::new(50, Duration::from_millis(10)),
        }
    }

    /// Reports that `packet` exceeds `mtu` and must not be fragmented.
    pub(super) fn too_big(
        &mut self,
        tunnel: &TunnelShared,
        packet: &Packet<'_>,
        mtu: u16,
        now: Time,
    ) {
        self.message.clear();
        if self.limit.allow(now)
            && icmp::too_big(packet, mtu, packet.destination(), &mut self.message)
        {
            self.send(tunnel, packet);
        }
    }

    /// Reports that no selector covers `packet` (RFC 4301 §5.1).
    pub(super) fn prohibited(&mut self, tunnel: &TunnelShared, packet: &Packet<'_>, now: Time) {
        self.message.clear();
        if self.limit.allow(now)
            && icmp::unreachable(packet, packet.destination(), &mut self.message)
        {
            self.send(tunnel, packet);
        }
    }

    fn send(&self, tunnel: &TunnelShared, about: &Packet<'_>) {
        let message = icmp::message(&self.message);
        let own = tunnel.icmp.as_ref();
        if own.is_some_and(|socket| socket.send(about.source(), message).is_ok()) {
            return;
        }
        // Best effort: the packet is counted as dropped already, and a lost error is repeated with the sender's next packet.
        let _ = tunnel.device.write(&[OutPacket::whole(&self.message)]);
    }
}
