//! The threads that carry packets between the tunnels' devices and UDP.
//!
//! ```text
//!              tables (swapped in)                                notices (bounded)
//!                  │                                                    ▲
//!   ┌──────────────▼─────────────────────────────────────┐             │
//!   │ egress   a few workers: device → seal → UDP       │── Demand, NearEnd, Ended, DeviceGone
//!   │ ingress  workers of an address: UDP → open → device │── Ike, UnknownSpi, ChildHeard, SeenFrom, NearEnd, Ended
//!   └─────────────────────────────────────────────────────┘
//! ```
//!
//! [`Datapath`] is the door: it starts and ends the workers and swaps their tables. A worker runs to completion: it reads a batch,
//! loads its table once, takes every packet to its end and only then sleeps. Each packet that is not carried is counted under one
//! [`DropReason`](crate::net::DropReason).
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic,
        clippy::unreachable
    )
)]

mod answers;
mod classify;
mod counters;
mod crew;
mod deliveries;
mod departures;
mod desk;
mod door;
mod egress;
mod gates;
mod hold;
mod ingress;
mod limit;
mod notice;
mod offload;
mod reception;
mod run;
mod stages;
mod tables;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod trains;
pub mod twins;
mod watch;
mod worker;

pub use crate::net::TunnelId;
pub use counters::{Counters, PacketDropCounters};
pub use door::{Datapath, Entrance, Envelope, Idle};
pub use notice::{Half, LONGEST_IKE, Notice, Notices};
pub use offload::Offload;
pub use stages::{Stage, Stages};
pub use tables::{Outlet, Path};
pub use watch::FirstPacket;

/// UDP port of IKE.
pub const IKE_PORT: u16 = 500;

/// UDP port of IKE and ESP behind NATs (RFC 3948), and wherever encapsulation is forced.
pub const NAT_PORT: u16 = 4500;
