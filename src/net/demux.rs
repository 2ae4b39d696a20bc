//! Demultiplexing of UDP port 4500: IKE, ESP and NAT keepalives share it (RFC 3948 §2).
//!
//! ```text
//!   ff                            NAT keepalive
//!   00 00 00 00 │ IKE message     non-ESP marker in front: no SPI is zero (RFC 4303 §2.1)
//!   SPI         │ sequence …      ESP
//! ```

use super::protocol::{ESP, UDP};
use super::{IKE_PORT, NAT_PORT, Packet};

/// Octets in front of an IKE message on port 4500 (RFC 3948 §2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// The payload of a NAT keepalive (RFC 3948 §2.3).
pub const NAT_KEEPALIVE: [u8; 1] = [0xff];

/// The contents of a datagram to or from UDP port 4500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatPayload<'a> {
    /// A NAT keepalive. It is no sign of life of the peer.
    Keepalive,
    /// An IKE message, without the non-ESP marker.
    Ike(&'a [u8]),
    /// An ESP packet with this SPI, which starts at the first octet of the datagram.
    Esp(u32),
    /// Too short for any of these.
    Truncated,
}

/// Tells what a datagram of UDP port 4500 holds.
#[inline]
pub fn port_4500(datagram: &[u8]) -> NatPayload<'_> {
    match datagram.split_first_chunk::<4>() {
        Some((&NON_ESP_MARKER, message)) => NatPayload::Ike(message),
        Some((spi, _)) => NatPayload::Esp(u32::from_be_bytes(*spi)),
        None if datagram == NAT_KEEPALIVE => NatPayload::Keepalive,
        None => NatPayload::Truncated,
    }
}

/// Whether a packet is what IPsec tunnels consist of: ESP, or UDP to a port of IKE.
pub fn is_ipsec(packet: &Packet<'_>) -> bool {
    match packet.protocol() {
        ESP => true,
        UDP => packet
            .ports()
            .is_some_and(|(_, port)| port == IKE_PORT || port == NAT_PORT),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_four_octets_decide() {
        assert_eq!(port_4500(&[0xff]), NatPayload::Keepalive);
        assert_eq!(port_4500(&[0, 0, 0, 0, 7, 8]), NatPayload::Ike(&[7, 8]));
        assert_eq!(port_4500(&[0; 4]), NatPayload::Ike(&[]));
        assert_eq!(port_4500(&[0, 0, 0, 1]), NatPayload::Esp(1));
        assert_eq!(port_4500(&[0xff; 4]), NatPayload::Esp(0xffff_ffff));
        for short in [&[][..], &[0], &[0xfe], &[0xff, 0xff], &[0, 0, 0]] {
            assert_eq!(port_4500(short), NatPayload::Truncated);
        }
    }
}
