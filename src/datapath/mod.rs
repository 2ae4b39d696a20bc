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

mod classify;
mod counters;
mod egress;
mod facade;
#[cfg(test)]
mod gso_tests;
mod icmp_errors;
mod inbound_batch;
mod ingress;
pub mod loopback;
mod notice;
mod offload;
mod profile;
mod sa_events;
mod socket_workers;
mod sockets;
mod tables;
#[cfg(test)]
mod testing;
mod trap_queue;
mod tun_writer;
mod tx_batch;
mod unmatched;
mod worker_thread;
mod workers;

pub use crate::net::TunnelId;
pub use counters::{Counters, PacketDropCounters};
pub use facade::{Datapath, IkeFraming, InboundParams, NoSaAction};
pub use notice::{ChildSpi, MAX_IKE_MESSAGE, Notice, Notices};
pub use offload::Offload;
pub use profile::{ProfileStep, StepTotals};
pub use sa_events::FirstPacket;
pub use tables::{EgressPath, EgressState};

/// UDP port of IKE.
pub const IKE_PORT: u16 = 500;

/// UDP port of IKE and ESP behind NATs (RFC 3948), and wherever encapsulation is forced.
pub const NAT_PORT: u16 = 4500;
