//! The outer packet: from IP to what may be IKE or ESP.
//!
//! ```text
//! IP ─┬─ protocol 50 ───────────────────────────────▶ ESP
//!     ├─ UDP, a port 4500 ─┬─ ff ───────────────────▶ keepalive           (RFC 3948 §2)
//!     │                    ├─ 00 00 00 00 │ message ▶ IKE
//!     │                    └─ SPI │ … ──────────────▶ ESP
//!     ├─ UDP, a port 500 ───────────────────────────▶ IKE
//!     └─ anything else                                not ours
//! ```

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::datapath::{IKE_PORT, NAT_PORT};
use crate::net::{FragmentKind, Packet};

/// What an outer packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OuterPacket<'a> {
    /// From where.
    pub(super) from: HostPort,
    /// To where.
    pub(super) to: HostPort,
    /// What.
    pub(super) content: OuterPayload<'a>,
}

/// One end of a packet; native ESP has no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostPort {
    /// Its address.
    pub(super) address: IpAddr,
    /// Its port.
    pub(super) port: Option<u16>,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// What stands behind the outer headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OuterPayload<'a> {
    /// An IKE message, its marker cut off.
    Ike(Cow<'a, [u8]>),
    /// An ESP packet, from its SPI on.
    Esp(Cow<'a, [u8]>),
    /// It only keeps a NAT's mapping alive.
    Keepalive,
    /// It should be one of these and is not.
    Broken(&'static str),
}

/// The part of an IP packet that concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IpPayload<'a> {
    /// The packet's source.
    pub(super) source: IpAddr,
    /// The packet's destination.
    pub(super) destination: IpAddr,
    /// UDP or ESP; anything else is not ours.
    pub(super) protocol: u8,
    /// What stands behind the IP headers.
    pub(super) payload: Cow<'a, [u8]>,
}

pub(super) const UDP: u8 = 17;
pub(super) const ESP: u8 = 50;

/// Why an IP packet is not read.
///
/// A capture with a small snap length is no fault of the sender, so it is told apart.
pub(super) fn why_not(bytes: &[u8]) -> &'static str {
    let stated = match bytes {
        [first, _, l0, l1, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([*l0, *l1])),
        [first, _, _, _, l0, l1, ..] if first >> 4 == 6 => {
            usize::from(u16::from_be_bytes([*l0, *l1])).saturating_add(40)
        }
        _ => 0,
    };
    if stated > bytes.len() {
        "the capture holds only a part of the packet (a snap length?)"
    } else {
        "the IP header contradicts itself"
    }
}

impl<'a> IpPayload<'a> {
    /// Of a packet that is whole; `None` of a fragment.
    pub(super) fn of(packet: &Packet<'a>) -> Option<IpPayload<'a>> {
        let at = packet
            .transport_offset()
            .filter(|_| packet.fragment() == FragmentKind::Whole)?;
        Some(IpPayload {
            source: packet.source(),
            destination: packet.destination(),
            protocol: packet.protocol(),
            payload: Cow::Borrowed(packet.bytes().get(at..)?),
        })
    }

    /// What it carries; `None` if that is not ours.
    pub(super) fn carried(self) -> Option<OuterPacket<'a>> {
        let end = |address, port| HostPort { address, port };
        match self.protocol {
            ESP => Some(OuterPacket {
                from: end(self.source, None),
                to: end(self.destination, None),
                content: OuterPayload::Esp(self.payload),
            }),
            UDP => {
                let [s0, s1, d0, d1] = *self.payload.first_chunk()?;
                let (from, to) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
                let framing = Framing::of(from, to)?;
                Some(OuterPacket {
                    from: end(self.source, Some(from)),
                    to: end(self.destination, Some(to)),
                    content: datagram(self.payload, framing),
                })
            }
            _ => None,
        }
    }
}

/// What a UDP port promises.
#[derive(Clone, Copy)]
enum Framing {
    /// Port 500.
    Bare,
    /// Port 4500.
    Marked,
}

impl Framing {
    /// A NAT may have changed one of the ports.
    fn of(from: u16, to: u16) -> Option<Framing> {
        if from == NAT_PORT || to == NAT_PORT {
            Some(Framing::Marked)
        } else if from == IKE_PORT || to == IKE_PORT {
            Some(Framing::Bare)
        } else {
            None
        }
    }
}

fn datagram(payload: Cow<'_, [u8]>, framing: Framing) -> OuterPayload<'_> {
    let Some([_, _, _, _, l0, l1, _, _]) = payload.first_chunk::<8>() else {
        return OuterPayload::Broken("the UDP header is cut");
    };
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    let content = match payload {
        Cow::Borrowed(bytes) => bytes.get(8..length).map(Cow::Borrowed),
        Cow::Owned(bytes) => bytes
            .get(8..length)
            .map(|content| Cow::Owned(content.to_vec())),
    };
    let Some(content) = content else {
        return OuterPayload::Broken("the length of the UDP header is not that of the packet");
    };
    match (framing, content.as_ref()) {
        (Framing::Marked, [0xff]) => OuterPayload::Keepalive,
        (Framing::Marked, [0, 0, 0, 0, ..]) => OuterPayload::Ike(match content {
            Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(4..).unwrap_or_default()),
            Cow::Owned(bytes) => Cow::Owned(bytes.get(4..).unwrap_or_default().to_vec()),
        }),
        (Framing::Marked, [_, _, _, _, ..]) => OuterPayload::Esp(content),
        (Framing::Marked, _) => OuterPayload::Broken("neither IKE nor ESP nor a keepalive"),
        (Framing::Bare, _) => OuterPayload::Ike(content),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(from, to)
            .write(&mut bytes, payload)
            .unwrap();
        bytes
    }

    fn carried(bytes: &[u8]) -> Option<OuterPacket<'_>> {
        IpPayload::of(&Packet::parse(bytes).unwrap())?.carried()
    }

    fn content(from: u16, to: u16, payload: &[u8]) -> Option<OuterPayload<'static>> {
        let bytes = udp(from, to, payload);
        Some(match carried(&bytes)?.content {
            OuterPayload::Ike(bytes) => OuterPayload::Ike(Cow::Owned(bytes.into_owned())),
            OuterPayload::Esp(bytes) => OuterPayload::Esp(Cow::Owned(bytes.into_owned())),
            OuterPayload::Keepalive => OuterPayload::Keepalive,
            OuterPayload::Broken(what) => OuterPayload::Broken(what),
        })
    }

    #[test]
    fn ports_and_the_first_octets_say_what_a_datagram_is() {
        let ike = |bytes: &[u8]| Some(OuterPayload::Ike(Cow::Owned(bytes.to_vec())));
        assert_eq!(content(500, 500, b"message"), ike(b"message"));
        assert_eq!(content(500, 33_000, b"message"), ike(b"message"));
        assert_eq!(content(4500, 4500, b"\0\0\0\0message"), ike(b"message"));
        assert_eq!(content(1025, 4500, b"\xff"), Some(OuterPayload::Keepalive));
        assert_eq!(
            content(4500, 1025, b"\0\0\x01\0rest"),
            Some(OuterPayload::Esp(Cow::Owned(b"\0\0\x01\0rest".to_vec())))
        );
        assert!(matches!(
            content(4500, 4500, b"abc"),
            Some(OuterPayload::Broken(_))
        ));
        assert_eq!(content(53, 33_000, b"\0\0\0\0"), None);
    }

    #[test]
    fn native_esp_has_no_ports() {
        let mut bytes = udp(1, 2, b"12345678");
        bytes[9] = ESP;
        let carried = carried(&bytes).unwrap();
        assert_eq!(carried.from.to_string(), "192.0.2.1");
        assert!(matches!(carried.content, OuterPayload::Esp(esp) if esp.len() == 16));
        let end = HostPort {
            address: "2001:db8::1".parse().unwrap(),
            port: Some(4500),
        };
        assert_eq!(end.to_string(), "[2001:db8::1]:4500");
    }

    #[test]
    fn a_udp_length_that_lies_is_broken() {
        for length in [0, 7, 13, 65_535_u16] {
            let mut bytes = udp(500, 500, b"1234");
            bytes[24..26].copy_from_slice(&length.to_be_bytes());
            let content = carried(&bytes).unwrap().content;
            assert!(
                matches!(content, OuterPayload::Broken(_)),
                "{length}: {content:?}"
            );
        }
    }

    #[test]
    fn a_short_capture_is_told_apart_from_a_wrong_header() {
        let bytes = udp(500, 500, b"1234");
        assert!(why_not(&bytes[..20]).contains("snap length"));
        assert!(why_not(&[0x41; 40]).contains("snap length"));
        let mut wrong = bytes;
        wrong[0] = 0x41;
        assert!(why_not(&wrong).contains("contradicts"));
        assert!(why_not(&[]).contains("contradicts"));
    }
}
