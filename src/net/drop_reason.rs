//! Why a packet was not carried.
//!
//! Every packet that enters the datapath and does not leave it is exactly one of these. A reason is one row: its variant, the name
//! of its counter, and the sentence people read.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident, $metric:literal, $sentence:literal;)*) => {
        /// Why a packet was not carried.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant),* }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),*];

            /// How many reasons there are: the length of an array of counters.
            pub const COUNT: usize = DropReason::ALL.len();

            /// The name of its counter.
            #[must_use]
            pub const fn metric(self) -> &'static str {
                match self { $(DropReason::$variant => $metric),* }
            }

            /// What happened, for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(DropReason::$variant => $sentence),* }
            }
        }
    };
}
drop_reasons! {
    /// A packet is not what its headers say.
    Malformed, "malformed", "the packet's own headers contradict each other or its length";
    /// There is no SA to send through.
    NoSa, "no-sa", "no security association is up for this tunnel";
    /// A packet to send that no selector covers.
    NoPolicy, "no-policy", "source, destination, protocol or port lie outside the tunnel's traffic selectors";
    /// A packet received that no selector covers.
    Inner, "inner", "the peer sent a packet from or to addresses outside the agreed traffic selectors";
    /// An address that may not appear on a network, such as a loopback or multicast source.
    Martian, "martian", "the inner packet has an address that is never valid there, such as a loopback or multicast source";
    /// The sequence number was seen before, or is too far behind.
    Replay, "replay", "the sequence number was already seen or lies behind the replay window";
    /// The integrity check failed.
    Auth, "auth", "the integrity check failed: forged, damaged, or protected with another key";
    /// Too short, or not aligned, for what the SA's suite needs.
    Short, "short", "the ESP packet is too short or not aligned for the suite of its security association";
    /// No inbound SA has this SPI.
    UnknownSpi, "unknown-spi", "no security association has this SPI: expired, deleted, or never ours";
    /// The padding does not fit the payload.
    Padding, "padding", "the padding length exceeds the payload or its content is wrong";
    /// Next header 59: a packet sent only to hide how much traffic there is (RFC 4303 §2.6). Discarded silently.
    Dummy, "dummy", "a dummy packet for traffic flow confidentiality";
    /// The next header says neither IPv4 nor IPv6, or not what the inner packet is.
    NextHeader, "next-header", "the protected payload is not the IP packet that its next header announces";
    /// A router marked congestion on the outer packet, and the inner one has no room for such a mark (RFC 6040 §4.2).
    Congestion, "congestion", "a router marked congestion on the way, and the inner sender knows no other sign than loss";
    /// Does not fit the tunnel and may not be cut; its sender is told.
    TooBig, "too-big", "the packet exceeds the tunnel's MTU and may not be fragmented";
    /// The sequence number would repeat.
    SequenceExhausted, "sequence-exhausted", "the security association has used all its sequence numbers";
    /// The SA reached its hard limit of time, bytes or packets.
    Expired, "expired", "the security association has reached the end of its lifetime";
    /// Waited for an SA among too many others, or too long.
    QueueFull, "queue-full", "too many packets waited for the tunnel to come up, or for too long";
    /// The TUN device's queue was full.
    DeviceFull, "device-full", "the device's queue was full";
    /// The UDP socket's buffer was full.
    SocketFull, "socket-full", "the socket's send buffer was full";
    /// The kernel would not take the packet for another reason.
    SendFailed, "send-failed", "the kernel refused to send the packet";
    /// The device could not be read or waited for; it is tried again. Counts the tries.
    DeviceFailed, "device-failed", "the device could not be read or waited for";
    /// A socket could not be read for no reason of the network's. Counts the tries.
    ReceiveFailed, "receive-failed", "the kernel could not hand over what a socket has received";
    /// The packet goes to the tunnel's own far end.
    Loop, "loop", "the packet would carry the tunnel through itself";
    /// A datagram or batch larger than the room for it.
    Overflow, "overflow", "the datagram was larger than any the tunnel takes";
    /// What the kernel says by itself on a new device: router solicitations, MLD. Not counted as traffic.
    Noise, "noise", "link-local chatter of the kernel itself";
    /// A UDP datagram that is neither ESP, IKE nor a keepalive.
    Stray, "stray", "a datagram that is neither IKE, ESP nor a keepalive";
    /// The bounded queue to the control plane was full.
    NoticeFull, "notice-full", "the queue of IKE messages towards the control plane was full";
}

impl DropReason {
    /// Its place in an array of [`DropReason::COUNT`] counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for DropReason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_place_name_and_sentence() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert!(
                reason
                    .metric()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{reason:?}"
            );
            for other in DropReason::ALL.iter().skip(place + 1) {
                assert_ne!(reason.metric(), other.metric());
                assert_ne!(reason.sentence(), other.sentence());
            }
        }
    }
}
