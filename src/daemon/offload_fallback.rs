//! What the kernel has refused to do for many packets at once is told once, with the tunnels or sockets that it is about, whenever the
//! loop next looks.
//!
//! The datapath falls back by itself, in the middle of a batch; its state is all there is to see. What comes back by itself is not
//! told, nor what is lost again: `status` has how things stand.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tracing::warn;

use crate::datapath::{Offload, TunnelId};
use crate::os::{GsoSupport, ReceiveOffload, SendOffload, SocketOffload};

/// What was wanted, and the least that has been told since.
#[derive(Debug)]
pub(super) struct OffloadFallback {
    wanted: Offload,
    devices: BTreeMap<TunnelId, GsoSupport>,
    sockets: BTreeMap<SocketAddr, SocketOffload>,
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loss {
    feature: &'static str,
    what: &'static str,
    /// The tunnels or the sockets.
    of: Vec<String>,
}

impl OffloadFallback {
    /// So much was wanted.
    pub(super) fn new(wanted: Offload) -> OffloadFallback {
        OffloadFallback {
            wanted,
            devices: BTreeMap::new(),
            sockets: BTreeMap::new(),
        }
    }

    /// What was wanted.
    pub(super) fn wanted(&self) -> Offload {
        self.wanted
    }

    /// Logs what is missing since the last look: a line for each feature, which names whom it is about.
    pub(super) fn look(
        &mut self,
        devices: impl Iterator<Item = (TunnelId, GsoSupport)>,
        sockets: impl Iterator<Item = (SocketAddr, SocketOffload)>,
        name: impl Fn(TunnelId) -> Option<String>,
    ) {
        for loss in self.losses(devices, sockets, name) {
            warn!(
                feature = loss.feature,
                of = several(&loss.of),
                "{}: slower, and nothing else changes",
                loss.what
            );
        }
    }

    fn losses(
        &mut self,
        devices: impl Iterator<Item = (TunnelId, GsoSupport)>,
        sockets: impl Iterator<Item = (SocketAddr, SocketOffload)>,
        name: impl Fn(TunnelId) -> Option<String>,
    ) -> Vec<Loss> {
        let mut losses = Vec::new();
        for (tunnel, now) in devices.filter(|(_, now)| *now < self.wanted.trains) {
            let told = self.devices.entry(tunnel).or_insert(self.wanted.trains);
            if now < *told {
                *told = now;
                let name = name(tunnel).unwrap_or_else(|| tunnel.0.to_string());
                add(&mut losses, "tun", of_device(now), name);
            }
        }
        let wanted = self.wanted.sockets;
        for (at, now) in sockets.filter(|(_, now)| now.and(wanted) != wanted) {
            let told = self.sockets.entry(at).or_insert(wanted);
            if now.send < told.send {
                add(&mut losses, "send", of_sending(now.send), at.to_string());
            }
            if now.receive < told.receive {
                add(
                    &mut losses,
                    "receive",
                    of_receiving(now.receive),
                    at.to_string(),
                );
            }
            *told = told.and(now);
        }
        losses
    }
}

/// One more that this has happened to.
fn add(losses: &mut Vec<Loss>, feature: &'static str, what: &'static str, whose: String) {
    match losses.iter_mut().find(|loss| loss.what == what) {
        Some(loss) => loss.of.push(whose),
        None => losses.push(Loss {
            feature,
            what,
            of: vec![whose],
        }),
    }
}

fn of_device(now: GsoSupport) -> &'static str {
    match now {
        GsoSupport::None => "the kernel takes no super-packets into tunnel devices",
        GsoSupport::Tcp | GsoSupport::TcpAndUdp => {
            "the kernel takes no super-packets of UDP into tunnel devices"
        }
    }
}

fn of_sending(now: SendOffload) -> &'static str {
    match now {
        SendOffload::Short | SendOffload::Segments => {
            "the kernel cuts no trains of long datagrams (UDP_SEGMENT) on the way out"
        }
        SendOffload::Single => "the kernel does not cut trains of datagrams (UDP_SEGMENT)",
    }
}

fn of_receiving(now: ReceiveOffload) -> &'static str {
    match now {
        ReceiveOffload::Single | ReceiveOffload::Joined => {
            "the kernel does not join datagrams (UDP_GRO)"
        }
    }
}

/// The first of them, and how many others there are.
fn several(names: &[String]) -> String {
    const NAMED: usize = 4;
    let first = names.iter().take(NAMED).map(String::as_str);
    let first = first.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        others => format!("{first} and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told when the devices of these tunnels and the sockets of these ports are so.
    fn told(
        fallback: &mut OffloadFallback,
        devices: &[(u32, GsoSupport)],
        sockets: &[(u16, SocketOffload)],
    ) -> Vec<(&'static str, Vec<String>)> {
        let devices = devices.iter().map(|(id, trains)| (TunnelId(*id), *trains));
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let sockets = sockets.iter().map(|(port, has)| (at(*port), *has));
        let losses = fallback.losses(devices, sockets, |id| Some(format!("site-{}", id.0)));
        losses.into_iter().map(|l| (l.feature, l.of)).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    const NO_GRO: SocketOffload = SocketOffload {
        receive: ReceiveOffload::Single,
        ..SocketOffload::FULL
    };
    const SHORT: SocketOffload = SocketOffload {
        send: SendOffload::Short,
        ..SocketOffload::FULL
    };

    #[test]
    fn each_tunnels_loss_is_told_once_with_its_name() {
        let mut fallback = OffloadFallback::new(Offload::FULL);
        let mut told = |devices: &[_]| told(&mut fallback, devices, &[]);
        let (full, tcp) = (GsoSupport::TcpAndUdp, GsoSupport::Tcp);
        assert!(told(&[(1, full), (2, full)]).is_empty());
        assert_eq!(told(&[(1, tcp), (2, full)]), [("tun", names(&["site-1"]))]);
        assert!(told(&[(1, tcp), (2, full)]).is_empty());
        // One's loss hides no other's, and what comes and goes is not told again.
        assert_eq!(told(&[(1, tcp), (2, tcp)]), [("tun", names(&["site-2"]))]);
        assert!(told(&[(2, tcp)]).is_empty());
        assert!(told(&[(1, full)]).is_empty());
        assert!(told(&[(1, tcp)]).is_empty());
        assert_eq!(
            told(&[(1, GsoSupport::None)]),
            [("tun", names(&["site-1"]))]
        );
    }

    #[test]
    fn what_all_have_lost_at_once_is_one_line() {
        let mut fallback = OffloadFallback::new(Offload::FULL);
        let devices: Vec<_> = (0..1000).map(|id| (id, GsoSupport::Tcp)).collect();
        let losses = told(&mut fallback, &devices, &[]);
        assert_eq!((losses.len(), losses[0].1.len()), (1, 1000));
        let line = several(&losses[0].1);
        assert_eq!(line, "site-0, site-1, site-2, site-3 and 996 more");
    }

    #[test]
    fn each_sockets_loss_is_told_once_also_that_of_long_datagrams_only() {
        let mut fallback = OffloadFallback::new(Offload::FULL);
        let mut told = |sockets: &[_]| told(&mut fallback, &[], sockets);
        assert!(told(&[(1, SocketOffload::FULL)]).is_empty());
        let first = || names(&["192.0.2.1:1"]);
        assert_eq!(told(&[(1, SHORT)]), [("send", first())]);
        assert!(told(&[(1, SHORT)]).is_empty());
        assert_eq!(
            told(&[(1, SocketOffload::NONE)]),
            [("send", first()), ("receive", first())]
        );
        // It was tried again, and may be once more.
        assert!(told(&[(1, SocketOffload::FULL)]).is_empty());
        assert!(told(&[(1, SHORT)]).is_empty());
        assert_eq!(
            told(&[(1, SHORT), (2, NO_GRO), (2, NO_GRO)]),
            [("receive", names(&["192.0.2.1:2"]))]
        );
    }

    #[test]
    fn what_was_not_wanted_is_not_missed() {
        let mut fallback = OffloadFallback::new(Offload::NONE);
        let (devices, sockets) = ([(1, GsoSupport::None)], [(1, SocketOffload::NONE)]);
        assert!(told(&mut fallback, &devices, &sockets).is_empty());
    }
}
