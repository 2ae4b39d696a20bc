//! ICMP errors towards the sender of a packet that is not carried.

use std::net::IpAddr;

use super::packet::Packet;

/// Writes "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443 §3.2) with `mtu` about `packet` into `out`, as if it came
/// from `from`; false if no error may be sent about this packet.
#[must_use]
pub fn too_big(packet: &Packet<'_>, mtu: u16, from: IpAddr, out: &mut Vec<u8>) -> bool {
    todo!()
}

/// Writes "destination unreachable, administratively prohibited" about `packet` into `out`, as if it came from `from`; false if no
/// error may be sent about this packet.
#[must_use]
pub fn unreachable(packet: &Packet<'_>, from: IpAddr, out: &mut Vec<u8>) -> bool {
    todo!()
}
