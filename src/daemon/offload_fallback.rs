//! Log lines about offload that the kernel refused: one for each feature, naming the tunnels or sockets that lost it.
//!
//! The datapath falls back by itself in the middle of a batch; the loop compares its state with what was configured. A feature that comes
//! back, or is lost again, is not logged: `status` shows the current state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::warn;

use crate::datapath::Offload;
use crate::net::{Time, TunnelId};
use crate::os::{GsoSupport, ReceiveOffload, SendOffload, SocketOffload};

/// Offload as configured, and the lowest level logged for each device and socket.
#[derive(Debug)]
pub(super) struct OffloadFallback {
    configured: Offload,
    devices: BTreeMap<TunnelId, GsoSupport>,
    sockets: BTreeMap<SocketAddr, SocketOffload>,
    /// Time of the last check.
    checked: Option<Time>,
    /// Whether a check was postponed.
    is_postponed: bool,
}

/// Loss of one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loss {
    feature: &'static str,
    text: &'static str,
    /// Names of the tunnels, or addresses of the sockets.
    subjects: Vec<String>,
}

/// Interval between two checks, each of which visits every device and socket.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl OffloadFallback {
    /// State for a gateway with this configured offload.
    pub(super) fn new(configured: Offload) -> OffloadFallback {
        OffloadFallback {
            configured,
            devices: BTreeMap::new(),
            sockets: BTreeMap::new(),
            checked: None,
            is_postponed: false,
        }
    }

    /// Configured offload.
    pub(super) fn configured(&self) -> Offload {
        self.configured
    }

    /// Time of a postponed check.
    pub(super) fn next_timer(&self) -> Option<Time> {
        let checked = self.checked.filter(|_| self.is_postponed)?;
        Some(checked + CHECK_INTERVAL)
    }

    /// Logs features lost since the last check; postpones a check that follows the last one too soon.
    pub(super) fn check(
        &mut self,
        now: Time,
        devices: impl Iterator<Item = (TunnelId, GsoSupport)>,
        sockets: impl Iterator<Item = (SocketAddr, SocketOffload)>,
        name_of: impl Fn(TunnelId) -> Option<String>,
    ) {
        self.is_postponed = self
            .checked
            .is_some_and(|checked| now.since(checked) < CHECK_INTERVAL);
        if self.is_postponed {
            return;
        }
        self.checked = Some(now);
        for loss in self.losses(devices, sockets, name_of) {
            warn!(
                feature = loss.feature,
                of = abbreviated(&loss.subjects),
                "{}: falling back to a slower path",
                loss.text
            );
        }
    }

    fn losses(
        &mut self,
        devices: impl Iterator<Item = (TunnelId, GsoSupport)>,
        sockets: impl Iterator<Item = (SocketAddr, SocketOffload)>,
        name_of: impl Fn(TunnelId) -> Option<String>,
    ) -> Vec<Loss> {
        let mut losses = Vec::new();
        let configured = self.configured.gso;
        for (tunnel, now) in devices.filter(|(_, now)| *now < configured) {
            let logged = self.devices.entry(tunnel).or_insert(configured);
            if now < *logged {
                *logged = now;
                let name = name_of(tunnel).unwrap_or_else(|| tunnel.0.to_string());
                add(&mut losses, "tun", device_text(now), name);
            }
        }
        let configured = self.configured.sockets;
        for (address, now) in sockets.filter(|(_, now)| now.and(configured) != configured) {
            let logged = self.sockets.entry(address).or_insert(configured);
            if now.send < logged.send {
                add(
                    &mut losses,
                    "send",
                    send_text(now.send),
                    address.to_string(),
                );
            }
            if now.receive < logged.receive {
                let text = receive_text(now.receive);
                add(&mut losses, "receive", text, address.to_string());
            }
            *logged = logged.and(now);
        }
        losses
    }
}

/// Adds a tunnel or socket to the loss with this text.
fn add(losses: &mut Vec<Loss>, feature: &'static str, text: &'static str, subject: String) {
    match losses.iter_mut().find(|loss| loss.text == text) {
        Some(loss) => loss.subjects.push(subject),
        None => losses.push(Loss {
            feature,
            text,
            subjects: vec![subject],
        }),
    }
}

fn device_text(now: GsoSupport) -> &'static str {
    match now {
        GsoSupport::None => "the kernel rejects GSO packets on TUN devices",
        GsoSupport::Tcp | GsoSupport::TcpAndUdp => {
            "the kernel rejects UDP GSO packets on TUN devices"
        }
    }
}

fn send_text(now: SendOffload) -> &'static str {
    match now {
        SendOffload::Short | SendOffload::Segments => {
            "the kernel rejects UDP GSO (UDP_SEGMENT) for long datagrams"
        }
        SendOffload::Single => "the kernel rejects UDP GSO (UDP_SEGMENT)",
    }
}

fn receive_text(now: ReceiveOffload) -> &'static str {
    match now {
        ReceiveOffload::Single | ReceiveOffload::Joined => "the kernel rejects UDP GRO (UDP_GRO)",
    }
}

/// The first names, and the number of the others.
fn abbreviated(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let first = names.iter().take(SHOWN).map(String::as_str);
    let first = first.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        others => format!("{first} and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses logged when the devices of these tunnels and the sockets of these ports have these levels.
    fn logged(
        fallback: &mut OffloadFallback,
        devices: &[(u32, GsoSupport)],
        sockets: &[(u16, SocketOffload)],
    ) -> Vec<(&'static str, Vec<String>)> {
        let devices = devices
            .iter()
            .map(|(id, support)| (TunnelId(*id), *support));
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let sockets = sockets.iter().map(|(port, has)| (at(*port), *has));
        let losses = fallback.losses(devices, sockets, |id| Some(format!("site-{}", id.0)));
        losses
            .into_iter()
            .map(|loss| (loss.feature, loss.subjects))
            .collect()
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
    fn loss_of_each_tunnel_is_logged_once_with_its_name() {
        let mut fallback = OffloadFallback::new(Offload::FULL);
        let mut logged = |devices: &[_]| logged(&mut fallback, devices, &[]);
        let (full, tcp) = (GsoSupport::TcpAndUdp, GsoSupport::Tcp);
        assert!(logged(&[(1, full), (2, full)]).is_empty());
        assert_eq!(
            logged(&[(1, tcp), (2, full)]),
            [("tun", names(&["site-1"]))]
        );
        assert!(logged(&[(1, tcp), (2, full)]).is_empty());
        // The loss of one tunnel hides no other, and a level that comes and goes is not logged again.
        assert_eq!(logged(&[(1, tcp), (2, tcp)]), [("tun", names(&["site-2"]))]);
        assert!(logged(&[(2, tcp)]).is_empty());
        assert!(logged(&[(1, full)]).is_empty());
        assert!(logged(&[(1, tcp)]).is_empty());
        assert_eq!(
            logged(&[(1, GsoSupport::None)]),
            [("tun", names(&["site-1"]))]
        );
    }

    #[test]
    fn simultaneous_losses_share_a_line() {
        let mut fallback = OffloadFallback::new(Offload::FULL);
        let devices: Vec<_> = (0..1000).map(|id| (id, GsoSupport::Tcp)).collect();
        let losses = logged(&mut fallback, &devices, &[]);
        assert_eq!((losses.len(), losses[0].1.len()), (1, 1000));
        let line = abbreviated(&losses[0].1);
        assert_eq!(line, "site-0, site-1, site-2, site-3 and 996 more");
    }

    #[test]
    fn loss_of_each_socket_is_logged_once_long_datagrams_first() {
        let mut fallback = OffloadFallback::new(Offload::FULL);
        let mut logged = |sockets: &[_]| logged(&mut fallback, &[], sockets);
        assert!(logged(&[(1, SocketOffload::FULL)]).is_empty());
        let first = || names(&["192.0.2.1:1"]);
        assert_eq!(logged(&[(1, SHORT)]), [("send", first())]);
        assert!(logged(&[(1, SHORT)]).is_empty());
        assert_eq!(
            logged(&[(1, SocketOffload::NONE)]),
            [("send", first()), ("receive", first())]
        );
        // The datapath retries GSO, and falls back again.
        assert!(logged(&[(1, SocketOffload::FULL)]).is_empty());
        assert!(logged(&[(1, SHORT)]).is_empty());
        assert_eq!(
            logged(&[(1, SHORT), (2, NO_GRO), (2, NO_GRO)]),
            [("receive", names(&["192.0.2.1:2"]))]
        );
    }

    #[test]
    fn offload_that_is_not_configured_is_not_missed() {
        let mut fallback = OffloadFallback::new(Offload::NONE);
        let (devices, sockets) = ([(1, GsoSupport::None)], [(1, SocketOffload::NONE)]);
        assert!(logged(&mut fallback, &devices, &sockets).is_empty());
    }

    #[test]
    fn checks_are_a_second_apart_and_the_postponed_one_has_a_timer() {
        let mut fallback = OffloadFallback::new(Offload::FULL);
        let visits = std::cell::Cell::new(0);
        let check = |fallback: &mut OffloadFallback, seconds, millis| {
            let now = Time::from_secs(seconds) + Duration::from_millis(millis);
            let devices = std::iter::once((TunnelId(1), GsoSupport::TcpAndUdp))
                .inspect(|_| visits.set(visits.get() + 1));
            fallback.check(now, devices, std::iter::empty(), |_| None);
            visits.get()
        };
        assert_eq!(check(&mut fallback, 100, 0), 1);
        assert_eq!(fallback.next_timer(), None);
        assert_eq!(check(&mut fallback, 100, 999), 1);
        assert_eq!(fallback.next_timer(), Some(Time::from_secs(101)));
        assert_eq!(check(&mut fallback, 101, 0), 2);
        assert_eq!(fallback.next_timer(), None);
    }
}
