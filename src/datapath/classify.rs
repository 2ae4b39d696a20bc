//! What a datagram is, by its first octets (RFC 3948 §2). An SPI is never zero, so four zero octets can mark IKE.
//!
//! ```text
//!   UDP 500    IKE message
//!   UDP 4500   ff                            NAT keepalive
//!              00 00 00 00 │ IKE message     non-ESP marker
//!              SPI         │ sequence …      ESP
//!   protocol 50  SPI    │ sequence …      ESP
//! ```

use super::notice::MAX_IKE_MESSAGE;
use super::{IKE_PORT, NAT_PORT};
use crate::net::Packet;

/// What may come to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admits {
    /// UDP 500.
    Ike,
    /// UDP 4500.
    IkeAndEsp,
    /// IP protocol 50.
    Esp,
}

/// What a datagram is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// It only keeps a NAT's mapping alive, and says nothing about the peer.
    Keepalive,
    /// An IKE message, its marker cut off.
    Ike(&'a [u8]),
    /// An ESP packet with this SPI.
    Esp(u32),
    /// None of these.
    Stray,
}

pub(super) fn classify(admits: Admits, datagram: &[u8]) -> Content<'_> {
    match admits {
        Admits::Ike => ike(datagram),
        Admits::IkeAndEsp if datagram == [0xff] => Content::Keepalive,
        Admits::IkeAndEsp => match datagram.split_first_chunk::<4>() {
            None => Content::Stray,
            Some(([0, 0, 0, 0], message)) => ike(message),
            Some((spi, _)) => Content::Esp(u32::from_be_bytes(*spi)),
        },
        // Nothing but ESP, so there is no marker: an SPI of zero is one that nobody has.
        Admits::Esp => match datagram.first_chunk::<4>() {
            Some(spi) => Content::Esp(u32::from_be_bytes(*spi)),
            None => Content::Stray,
        },
    }
}

/// Only what tells its own length right is worth the control plane's time (RFC 7296 §3.1: the length ends the header).
fn ike(message: &[u8]) -> Content<'_> {
    const HEADER: usize = 28;
    let stated = message
        .first_chunk::<HEADER>()
        .and_then(|header| header.last_chunk::<4>());
    let honest = stated.is_some_and(|length| u32::from_be_bytes(*length) as usize == message.len());
    if honest && message.len() <= MAX_IKE_MESSAGE {
        Content::Ike(message)
    } else {
        Content::Stray
    }
}

/// Whether an inner packet is what tunnels are made of: ESP, or UDP to an IKE port.
pub(super) fn is_tunnel(packet: &Packet<'_>) -> bool {
    const UDP: u8 = 17;
    const ESP: u8 = 50;
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
    fn protocol_50_is_esp_whatever_it_begins_with() {
        assert_eq!(classify(Admits::Esp, &[0; 40]), Content::Esp(0));
        assert_eq!(classify(Admits::Esp, &[0xff; 4]), Content::Esp(0xffff_ffff));
        assert_eq!(classify(Admits::Esp, &[0xff]), Content::Stray);
    }

    #[test]
    fn the_first_octets_tell() {
        let mut message = vec![0x11; 40];
        message[24..28].copy_from_slice(&40u32.to_be_bytes());
        let marked = [&[0; 4], &message[..]].concat();
        let both = |bytes| {
            (
                classify(Admits::Ike, bytes),
                classify(Admits::IkeAndEsp, bytes),
            )
        };
        assert_eq!(
            both(&message),
            (Content::Ike(&message), Content::Esp(0x1111_1111))
        );
        assert_eq!(both(&marked), (Content::Stray, Content::Ike(&message)));
        assert_eq!(both(&[0xff]), (Content::Stray, Content::Keepalive));
        assert_eq!(
            both(&[0xff; 4]),
            (Content::Stray, Content::Esp(0xffff_ffff))
        );
        assert_eq!(both(&[0, 0, 0, 1]), (Content::Stray, Content::Esp(1)));
        for short in 0..4 {
            assert_eq!(both(&[0; 4][..short]), (Content::Stray, Content::Stray));
            assert_eq!(classify(Admits::Esp, &[0; 4][..short]), Content::Stray);
        }
    }
}
