//! Drop reasons.
//!
//! Every packet that enters the datapath and does not leave it has exactly one of them. Each reason is one row: variant, counter
//! name and description. `docs/interface.md` repeats name and description, and `daemon/install.rs` lists the reasons that count as
//! packets lost for want of an SA.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident, $metric:literal, $sentence:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant),* }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),*];

            /// Number of reasons: the length of an array of counters.
            pub const COUNT: usize = DropReason::ALL.len();

            /// Counter name.
            #[must_use]
            pub const fn metric(self) -> &'static str {
                match self { $(DropReason::$variant => $metric),* }
            }

            /// Description for output.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(DropReason::$variant => $sentence),* }
            }
        }
    };
}
drop_reasons! {
    /// Inconsistent headers.
    Malformed, "malformed", "the packet's own headers contradict each other or its length";
    /// No outbound SA.
    NoSa, "no-sa", "no security association is up for this tunnel";
    /// A packet to send outside the selectors.
    NoPolicy, "no-policy", "source, destination, protocol or port lie outside the tunnel's traffic selectors";
    /// A received packet outside the selectors.
    Inner, "inner", "the peer sent a packet from or to addresses outside the agreed traffic selectors";
    /// An invalid address, such as a loopback or multicast source.
    Martian, "martian", "the inner packet has an address that is never valid there, such as a loopback or multicast source";
    /// Sequence number already received, or below the replay window.
    Replay, "replay", "the sequence number was already seen or lies behind the replay window";
    /// The integrity check failed.
    Auth, "auth", "the integrity check failed: forged, damaged, or protected with another key";
    /// Too short or not aligned for the suite of the SA.
    Short, "short", "the ESP packet is too short or not aligned for the suite of its security association";
    /// No inbound SA has this SPI.
    UnknownSpi, "unknown-spi", "no security association has this SPI: expired, deleted, or never ours";
    /// The padding does not fit the payload.
    Padding, "padding", "the padding length exceeds the payload, or the padding bytes are wrong";
    /// Next header 59: a packet sent only to hide how much traffic there is (RFC 4303 §2.6). Discarded silently.
    Dummy, "dummy", "a dummy packet for traffic flow confidentiality";
    /// The next header is neither IPv4 nor IPv6, or contradicts the inner packet.
    NextHeader, "next-header", "the protected payload is not the IP packet that its next header announces";
    /// The outer packet is marked CE, and the inner sender does not support ECN (RFC 6040 §4.2).
    Congestion, "congestion", "a router marked congestion on the path, and the inner sender does not support ECN";
    /// Exceeds the tunnel MTU and may not be fragmented; the sender gets an ICMP error.
    TooBig, "too-big", "the packet exceeds the tunnel's MTU and may not be fragmented";
    /// No sequence number left.
    SequenceExhausted, "sequence-exhausted", "the security association has used all its sequence numbers";
    /// The SA reached its hard limit of time, bytes or packets.
    Expired, "expired", "the security association has reached the end of its lifetime";
    /// Too many packets waited for an SA, or this one for too long.
    QueueFull, "queue-full", "too many packets waited for an SA, or for too long";
    /// The TUN device's queue was full.
    DeviceFull, "device-full", "the device's queue was full";
    /// The UDP socket's buffer was full.
    SocketFull, "socket-full", "the socket's send buffer was full";
    /// The kernel rejected the packet for another reason.
    SendFailed, "send-failed", "the kernel refused to send the packet";
    /// The device could not be read or polled; it is retried. Counts attempts.
    DeviceFailed, "device-failed", "the device could not be read or waited for";
    /// A socket could not be read. Counts attempts.
    ReceiveFailed, "receive-failed", "receiving from a socket failed";
    /// The packet goes to the peer of the tunnel itself.
    Loop, "loop", "the packet would carry the tunnel through itself";
    /// A datagram or batch larger than its buffer.
    Overflow, "overflow", "the datagram was larger than any the tunnel takes";
    /// Packets that the kernel sends by itself on a new device: router solicitations, MLD. Not counted as traffic.
    Noise, "noise", "router solicitations and MLD reports of the kernel itself";
    /// A UDP datagram that is neither ESP, IKE nor a keepalive.
    Stray, "stray", "a datagram that is neither IKE, ESP nor a keepalive";
    /// The queue of IKE messages to the control plane was full.
    NoticeFull, "notice-full", "the queue of IKE messages to the control plane was full";
}

impl DropReason {
    /// Index in an array of [`DropReason::COUNT`] counters.
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
    fn each_reason_has_a_unique_index_name_and_description() {
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
