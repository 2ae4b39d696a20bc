//! States that logs, `status` and JSON show by one stable word each. The word, its JSON form and the variant share a row.

use super::segment::GsoKind;

/// A number and what it counts: "1 packet", "2 packets". The noun's plural ends in s.
pub fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// Declares an enum whose variants each have a stable word, which is also their JSON form.
macro_rules! word_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every value, in the order of its declaration.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The stable word in JSON, `status` and logs.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }
    };
}

word_enum! {
    /// Administrative and operational state of a tunnel.
    TunnelState {
        /// Taken down by request, until `up` or a restart.
        Down = "down",
        /// Being negotiated, pausing between attempts, or waiting for its trigger.
        Connecting = "connecting",
        /// A Child SA carries traffic.
        Up = "up",
        /// Given up: no further attempt by itself.
        Failed = "failed",
    }
}

word_enum! {
    /// Event that a connecting or failed tunnel waits for.
    WaitingFor {
        /// A response from the peer or the name service.
        Answer = "answer",
        /// The end of the pause before the next attempt.
        Retry = "retry",
        /// A packet for the tunnel (`start = "trap"`).
        Traffic = "traffic",
        /// The peer, or `groundlink up` (`start = "add"`).
        Peer = "peer",
    }
}

impl WaitingFor {
    /// Wording for people.
    pub fn phrase(self) -> &'static str {
        match self {
            WaitingFor::Answer => "waiting for an answer",
            WaitingFor::Retry => "pausing before the next attempt",
            WaitingFor::Traffic => "waiting for traffic",
            WaitingFor::Peer => "waiting for the peer",
        }
    }
}

word_enum! {
    /// Role of this gateway in an exchange (RFC 7296 §1.2).
    Role {
        /// This gateway sent the first message.
        Initiator = "initiator",
        /// The peer sent the first message.
        Responder = "responder",
    }
}

impl Role {
    /// Role of the peer.
    #[must_use]
    pub fn other(self) -> Role {
        match self {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        }
    }

    /// Wording for people.
    pub fn phrase(self) -> &'static str {
        match self {
            Role::Initiator => "initiated by us",
            Role::Responder => "initiated by the peer",
        }
    }
}

word_enum! {
    /// Place where NAT detection found an address translation (RFC 7296 §2.23).
    NatLocation {
        /// No NAT.
        None = "none",
        /// In front of this gateway.
        Us = "us",
        /// In front of the peer.
        Peer = "peer",
        /// In front of both.
        Both = "both",
        /// The configuration forces UDP encapsulation, so the peer assumes a NAT in front of this gateway.
        Forced = "forced",
    }
}

impl NatLocation {
    /// Wording for people.
    pub fn phrase(self) -> &'static str {
        match self {
            NatLocation::None => "no NAT",
            NatLocation::Us => "NAT in front of us",
            NatLocation::Peer => "NAT in front of the peer",
            NatLocation::Both => "NAT in front of both",
            NatLocation::Forced => "UDP encapsulation forced",
        }
    }
}

word_enum! {
    /// Result of rekeying an SA once to check whether the peer accepts it (`rekey-check`).
    RekeyVerdict {
        /// Not tried or not answered yet.
        Pending = "pending",
        /// The peer rekeyed the SA.
        Accepted = "accepted",
        /// The peer rejected the rekeying of the SA.
        Refused = "refused",
    }
}

word_enum! {
    /// GSO packets that a TUN device accepts, in ascending order.
    GsoSupport {
        /// None: one packet a write.
        None = "none",
        /// TCP.
        Tcp = "tcp",
        /// TCP and UDP (Linux 6.2).
        TcpAndUdp = "tcp+udp",
    }
}

impl GsoSupport {
    /// Support that remains after the device rejected a GSO packet of this kind: TCP without UDP, or none without TCP.
    #[must_use]
    pub fn without(self, kind: GsoKind) -> GsoSupport {
        self.min(match kind {
            GsoKind::Udp => GsoSupport::Tcp,
            GsoKind::TcpV4 | GsoKind::TcpV6 => GsoSupport::None,
        })
    }
}

word_enum! {
    /// UDP segmentation offload of a socket, in ascending order.
    SendOffload {
        /// None: one datagram a message, many messages a system call.
        Single = "single",
        /// `UDP_SEGMENT` for short datagrams only: an outgoing interface rejected longer ones.
        Short = "short",
        /// `UDP_SEGMENT`: the kernel or the network card splits one buffer into equal datagrams.
        Segments = "segments",
    }
}

word_enum! {
    /// UDP receive offload of a socket, in ascending order.
    ReceiveOffload {
        /// None: one datagram a message, many messages a system call.
        Single = "single",
        /// `UDP_GRO`: the kernel coalesces equal datagrams of one sender.
        Joined = "joined",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_of_each_value_is_its_word() {
        fn check<T: serde::Serialize + Copy>(all: &[T], word: fn(T) -> &'static str) {
            for value in all {
                assert_eq!(serde_json::to_value(value).unwrap(), word(*value));
            }
        }
        check(TunnelState::ALL, TunnelState::word);
        check(WaitingFor::ALL, WaitingFor::word);
        check(Role::ALL, Role::word);
        check(NatLocation::ALL, NatLocation::word);
        check(RekeyVerdict::ALL, RekeyVerdict::word);
        check(GsoSupport::ALL, GsoSupport::word);
        check(SendOffload::ALL, SendOffload::word);
        check(ReceiveOffload::ALL, ReceiveOffload::word);
    }
}
