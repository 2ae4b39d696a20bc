//! NAT detection (RFC 7296 §2.23).
//!
//! Each side sends SHA-1(SPIi | SPIr | address | port) of the source and the destination of the message as it sees them; the
//! receiver hashes what it sees. A source hash that does not match shows a NAT in front of the sender; a destination hash that
//! does not match, one in front of the receiver.

use std::net::{IpAddr, SocketAddr};

use super::error::Incompatible;
use super::event::NatLocation;
use super::settings::Encapsulation;
use crate::crypto::{Generator, sha1};
use crate::net::EspTransport;
use crate::wire::{IkeSpi, Notify, NotifyType, Payload};

/// The NAT detection hash of one end of a message.
pub fn hash(spi_i: IkeSpi, spi_r: IkeSpi, end: SocketAddr) -> [u8; 20] {
    let port = end.port().to_be_bytes();
    let (spi_i, spi_r) = (spi_i.0.to_be_bytes(), spi_r.0.to_be_bytes());
    match end.ip() {
        IpAddr::V4(address) => sha1(&[&spi_i, &spi_r, &address.octets(), &port]),
        IpAddr::V6(address) => sha1(&[&spi_i, &spi_r, &address.octets(), &port]),
    }
}

/// The two NAT detection notifications of our IKE_SA_INIT. Forced UDP encapsulation sends a source hash that cannot match, so the
/// peer detects a NAT in front of us. An unspecified local address (no route to the peer yet) has the same effect.
pub fn notifies(
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
    encapsulation: Encapsulation,
    rng: &mut Generator,
) -> [Payload; 2] {
    let source = match encapsulation {
        Encapsulation::Udp => rng.bytes::<20>(),
        Encapsulation::Auto | Encapsulation::Esp => hash(spi_i, spi_r, local),
    };
    [
        (NotifyType::NAT_DETECTION_SOURCE_IP, source),
        (
            NotifyType::NAT_DETECTION_DESTINATION_IP,
            hash(spi_i, spi_r, remote),
        ),
    ]
    .map(|(kind, hash)| Payload::Notify(Notify::new(kind, hash.to_vec())))
}

/// Result of NAT detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detected {
    /// We are behind a NAT.
    pub us: bool,
    /// The peer is behind a NAT, or pretends so to force UDP encapsulation.
    pub peer: bool,
}

/// The ESP transport, chosen from the configuration and NAT detection:
///
/// ```text
///   encapsulation   no NAT          NAT detected, or the peer forces encapsulation
///   udp             UDP 4500        UDP 4500
///   auto            protocol 50     UDP 4500
///   esp             protocol 50     rejected: a NAT cannot forward packets without ports
/// ```
///
/// A peer that does not send the notifications (`None`) cannot receive ESP in UDP; for every `encapsulation` but `udp` that
/// counts as no NAT.
pub fn choose_transport(
    detected: Option<Detected>,
    encapsulation: Encapsulation,
) -> Result<(Detected, EspTransport), Incompatible> {
    let no_nat = Detected {
        us: false,
        peer: false,
    };
    let seen = detected.unwrap_or(no_nat);
    match (encapsulation, seen.us || seen.peer) {
        (Encapsulation::Udp, _) => match detected {
            Some(detected) => Ok((detected, EspTransport::Udp)),
            None => Err(Incompatible::NatTraversal),
        },
        (Encapsulation::Auto, true) => Ok((seen, EspTransport::Udp)),
        (Encapsulation::Auto | Encapsulation::Esp, false) => Ok((seen, EspTransport::Esp)),
        (Encapsulation::Esp, true) => Err(Incompatible::NatBetween {
            seen: seen.view(encapsulation),
        }),
    }
}

/// Compares the peer's notifications with the addresses of its message; `None` if the peer sent none, so it does not support NAT
/// traversal.
pub fn detect<'a>(
    notifies: impl Iterator<Item = &'a Notify>,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
) -> Option<Detected> {
    let (mut sources, mut source_fits) = (0usize, false);
    let mut destination_fits = None;
    for notify in notifies {
        if notify.kind == NotifyType::NAT_DETECTION_SOURCE_IP {
            // RFC 7296 §2.23: a host with several addresses may send several source hashes.
            sources = sources.saturating_add(1);
            source_fits |= notify.data == hash(spi_i, spi_r, remote);
        } else if notify.kind == NotifyType::NAT_DETECTION_DESTINATION_IP {
            destination_fits = Some(notify.data == hash(spi_i, spi_r, local));
        }
    }
    (sources > 0).then_some(())?;
    Some(Detected {
        us: !destination_fits?,
        peer: !source_fits,
    })
}

impl Detected {
    /// The NAT location for status reports. With forced encapsulation the peer's source hash is no evidence, since the peer may
    /// force it too; a NAT in front of us is certain.
    pub fn view(self, encapsulation: Encapsulation) -> NatLocation {
        match (encapsulation, self.us, self.peer) {
            (Encapsulation::Udp, false, _) => NatLocation::Forced,
            (Encapsulation::Udp, true, _) | (_, true, false) => NatLocation::Us,
            (_, true, true) => NatLocation::Both,
            (_, false, true) => NatLocation::Peer,
            (_, false, false) => NatLocation::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const I: IkeSpi = IkeSpi(0x1111);
    const R: IkeSpi = IkeSpi(0x2222);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn notifications(payloads: &[Payload]) -> Vec<Notify> {
        payloads
            .iter()
            .filter_map(|payload| match payload {
                Payload::Notify(notify) => Some(notify.clone()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn without_a_nat_both_hashes_match() {
        let mut rng = Generator::from_seed([1; 32]);
        let (a, b) = (at("192.0.2.1:500"), at("192.0.2.2:500"));
        let sent = notifications(&notifies(I, R, a, b, Encapsulation::Auto, &mut rng));
        let seen = detect(sent.iter(), I, R, b, a).unwrap();
        assert_eq!((seen.us, seen.peer), (false, false));
        assert_eq!(seen.view(Encapsulation::Auto), NatLocation::None);
    }

    #[test]
    fn a_rewritten_source_shows_a_nat_in_front_of_the_peer_and_a_rewritten_destination_one_in_front_of_us()
     {
        let mut rng = Generator::from_seed([1; 32]);
        let (private, public, server) = (
            at("10.0.0.5:500"),
            at("203.0.113.9:1024"),
            at("192.0.2.2:500"),
        );
        let sent = notifications(&notifies(
            I,
            R,
            private,
            server,
            Encapsulation::Auto,
            &mut rng,
        ));
        let at_server = detect(sent.iter(), I, R, server, public).unwrap();
        assert_eq!(at_server.view(Encapsulation::Auto), NatLocation::Peer);

        let response = notifications(&notifies(
            I,
            R,
            server,
            public,
            Encapsulation::Auto,
            &mut rng,
        ));
        let behind = detect(response.iter(), I, R, private, server).unwrap();
        assert_eq!(behind.view(Encapsulation::Auto), NatLocation::Us);
        assert_eq!(behind.view(Encapsulation::Udp), NatLocation::Us);
    }

    #[test]
    fn forced_encapsulation_sends_a_source_hash_that_cannot_match() {
        let mut rng = Generator::from_seed([1; 32]);
        let (a, b) = (at("192.0.2.1:500"), at("192.0.2.2:500"));
        let sent = notifications(&notifies(I, R, a, b, Encapsulation::Udp, &mut rng));
        let seen = detect(sent.iter(), I, R, b, a).unwrap();
        assert_eq!((seen.us, seen.peer), (false, true));
        assert_eq!(seen.view(Encapsulation::Udp), NatLocation::Forced);
    }

    #[test]
    fn esp_uses_ip_protocol_50_only_without_a_nat() {
        use Encapsulation::{Auto, Esp, Udp};
        let seen = |us, peer| Some(Detected { us, peer });
        let transport =
            |detected, wanted| choose_transport(detected, wanted).map(|(_, transport)| transport);
        for nat in [seen(true, false), seen(false, true), seen(true, true)] {
            assert_eq!(transport(nat, Udp), Ok(EspTransport::Udp));
            assert_eq!(transport(nat, Auto), Ok(EspTransport::Udp));
            let refused = transport(nat, Esp).unwrap_err();
            assert!(matches!(refused, Incompatible::NatBetween { .. }));
        }
        let clear = seen(false, false);
        assert_eq!(transport(clear, Udp), Ok(EspTransport::Udp));
        assert_eq!(transport(clear, Auto), Ok(EspTransport::Esp));
        assert_eq!(transport(clear, Esp), Ok(EspTransport::Esp));
        // A peer that does not support NAT traversal.
        assert_eq!(transport(None, Udp), Err(Incompatible::NatTraversal));
        assert_eq!(transport(None, Auto), Ok(EspTransport::Esp));
        assert_eq!(transport(None, Esp), Ok(EspTransport::Esp));
    }

    #[test]
    fn a_peer_without_the_notifications_does_not_support_nat_traversal() {
        assert_eq!(
            detect([].iter(), I, R, at("192.0.2.1:500"), at("192.0.2.2:500")),
            None
        );
    }
}
