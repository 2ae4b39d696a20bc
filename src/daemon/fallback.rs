//! What the kernel has refused to do for many packets at once is told once, whenever the loop next looks.
//!
//! The datapath falls back by itself, in the middle of a batch; its state is all there is to see.

use tracing::warn;

use crate::datapath::Offload;
use crate::os::{Receiving, Sending, Trains};

/// What has been told.
#[derive(Debug)]
pub(super) struct Fallback {
    known: Offload,
}

/// What people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loss {
    feature: &'static str,
    what: &'static str,
}

impl Fallback {
    /// So much was wanted.
    pub(super) fn new(wanted: Offload) -> Fallback {
        Fallback { known: wanted }
    }

    /// Logs what is missing since the last look, a line each.
    pub(super) fn look(&mut self, now: Offload) {
        for loss in self.losses(now).into_iter().flatten() {
            warn!(
                feature = loss.feature,
                "{}: slower, and nothing else changes", loss.what
            );
        }
    }

    fn losses(&mut self, now: Offload) -> [Option<Loss>; 3] {
        let before = std::mem::replace(&mut self.known, now);
        let lost = |has: bool, feature, what| has.then_some(Loss { feature, what });
        let devices = match now.trains {
            Trains::None => "the kernel takes no super-packets into tunnel devices",
            Trains::Tcp | Trains::TcpAndUdp => {
                "the kernel takes no super-packets of UDP into tunnel devices"
            }
        };
        [
            lost(now.trains < before.trains, "tun", devices),
            lost(
                before.sockets.send == Sending::Segments && now.sockets.send == Sending::Single,
                "send",
                "the kernel does not cut trains of datagrams (UDP_SEGMENT)",
            ),
            lost(
                before.sockets.receive == Receiving::Joined
                    && now.sockets.receive == Receiving::Single,
                "receive",
                "the kernel does not join datagrams (UDP_GRO)",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::SocketOffload;

    fn told(fallback: &mut Fallback, now: Offload) -> Vec<&'static str> {
        let losses = fallback.losses(now);
        losses.into_iter().flatten().map(|l| l.feature).collect()
    }

    #[test]
    fn what_is_lost_is_told_once() {
        let mut fallback = Fallback::new(Offload::FULL);
        assert!(told(&mut fallback, Offload::FULL).is_empty());
        let no_udp = Offload {
            trains: Trains::Tcp,
            ..Offload::FULL
        };
        assert_eq!(told(&mut fallback, no_udp), ["tun"]);
        assert!(told(&mut fallback, no_udp).is_empty());
        let single = Offload {
            trains: Trains::Tcp,
            sockets: SocketOffload::NONE,
        };
        assert_eq!(told(&mut fallback, single), ["send", "receive"]);
        assert_eq!(told(&mut fallback, Offload::NONE), ["tun"]);
        assert!(told(&mut fallback, Offload::NONE).is_empty());
    }

    #[test]
    fn what_was_not_wanted_is_not_missed() {
        assert!(told(&mut Fallback::new(Offload::NONE), Offload::NONE).is_empty());
    }
}
