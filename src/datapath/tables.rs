//! What the control plane hands down: immutable tables, swapped in whole, loaded by a worker once a batch.
//!
//! ```text
//!   egress    tunnel ──▶ EgressState     open to a peer under one outbound SA · waiting for traffic · closed
//!   ingress   SPI ─────▶ InboundEntry      the tunnel whose device gets what this inbound SA opens
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::TunnelId;
use super::counters::Counters;
use super::sa_events::InboundEvents;
use crate::esp::{Outbound, Sad, mtu};
use crate::net::{Dscp, Policy};
use crate::os::poll::Signal;
use crate::os::{Device, Socket};

/// What becomes of a packet that the kernel routes into a tunnel's device.
#[derive(Clone)]
pub enum EgressState {
    /// There is no SA: it is refused.
    Closed,
    /// There is no SA yet, but traffic brings one up: the first packets within these selectors wait for it, and the control
    /// plane hears of them.
    Trap(Policy),
    /// It is sealed and sent.
    Open(EgressPath),
}

/// The way to a peer.
#[derive(Clone)]
pub struct EgressPath {
    /// What seals the packets.
    pub sa: Arc<Outbound>,
    /// The socket they leave through: bound to the port of UDP-encapsulated ESP, or a raw one of native ESP.
    pub socket: Arc<dyn Socket>,
    /// The address they leave from; unspecified leaves the choice to the kernel.
    pub local: IpAddr,
    /// Where they go; port 0 by native ESP, which has none.
    pub remote: SocketAddr,
    /// The largest inner packet ([`mtu::inner`]).
    pub mtu: u16,
    /// What their outer headers say about their class of service.
    pub dscp: Dscp,
}

/// What ingress needs to know beside an inbound SA.
#[derive(Clone)]
pub(super) struct InboundEntry {
    pub(super) lane: Arc<TunnelShared>,
    /// Our outer address, where the peer sends to.
    pub(super) local: IpAddr,
    /// Where the peer is known to be; `None` where that is of no interest any more.
    pub(super) remote: Option<SocketAddr>,
    pub(super) clamp: MssClamp,
    pub(super) watch: Arc<InboundEvents>,
}

/// The TCP segment sizes that fit a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MssClamp {
    pub(super) v4: u16,
    pub(super) v6: u16,
}

impl MssClamp {
    /// Of a tunnel with this inner MTU.
    pub(super) fn to(mtu: u16) -> MssClamp {
        MssClamp {
            v4: mtu::mss_ipv4(mtu),
            v6: mtu::mss_ipv6(mtu),
        }
    }
}

/// One tunnel as its workers and the control plane share it.
pub(super) struct TunnelShared {
    pub(super) id: TunnelId,
    pub(super) device: Arc<dyn Device>,
    pub(super) outlet: ArcSwap<EgressState>,
    pub(super) counters: Counters,
    /// Wakes the egress worker when the outlet has changed.
    pub(super) waker: Signal,
}

/// Every inbound SA of every tunnel: one table, for a packet may come to any socket.
pub(super) type InboundTable = ArcSwap<Sad<InboundEntry>>;
