//! The IKEv2 engine, without IO (RFC 7296).
//!
//! [`Endpoint`] is the one door. Datagrams, commands and the time go in; datagrams, events and the next deadline come out:
//!
//! ```text
//!   handle_datagram ─▶┌──────────────────────────────────────────────────────────┐─▶ poll_event     first: install, remove, report
//!   handle_command  ─▶│ Endpoint   tunnels: wish × plan                          │─▶ poll_transmit  then: send
//!   handle_timeout  ─▶│            SAs: InitSent ▶ … ▶ AuthSent ┐                │─▶ poll_timeout   and sleep
//!                     │                 HalfOpen ▶ … ───────────┴▶ Established ▶ …│
//!                     └──────────────────────────────────────────────────────────┘
//! ```
//!
//! - `handshake` is the line of states up to an established SA, each consumed by the next; `exchange` holds its steps, both roles side by side.
//! - `sa` is an established IKE SA: phase × outstanding request × queue of jobs × Child SAs (`children`).
//! - `tunnel` decides when to try and when to pause; `collision` which of two SAs stays.
//! - `shape` turns payloads into messages in which nothing is missing; `negotiate`, `schedule`, `authn`, `nat` are the arithmetic of RFC 7296, `ppk` that of RFC 8784.
//! - `complete` asks the shapes about a message that somebody else received.
//! - `nearest` says, when proposals do not meet, which pair comes closest and what to write.
//! - `error` names faults by blame: one match gives the notification for the peer, one the words for people.
//! - `census` decides who may begin while many do, `refused` counts what comes to nothing before its sender has proved anything.
//!
//! Nothing unauthenticated changes an established SA, and every table has a bound (`limits`, `census`).
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

mod authn;
mod census;
mod children;
mod collision;
mod complete;
mod cookie;
mod endpoint;
mod error;
mod event;
mod exchange;
mod failure;
mod fragments;
mod handshake;
#[cfg(feature = "testing")]
pub mod impair;
mod limits;
mod nat;
mod nearest;
mod negotiate;
mod offer;
mod pieces;
mod ppk;
mod protect;
mod refused;
mod rekey_refusal;
mod rekey_trial;
mod retransmit;
mod sa;
mod schedule;
mod settings;
mod shape;
mod timers;
mod tunnel;
mod window;

pub use complete::complete;
pub use endpoint::Endpoint;
pub use event::{
    Child, ChildView, Command, Content, Datagram, DownReason, Event, IkeView, Rekey, RekeyCheck,
    Rekeys, Sends, Transmit, View,
};
pub use failure::Failure;
pub use fragments::{Assembly, Fragment, Joined, MessageKey, Part};
pub use nat::hash as nat_hash;
pub use nearest::{Nearest, esp as nearest_esp, ike as nearest_ike};
pub use negotiate::{offer_esp, offer_ike};
pub use offer::words;
pub use pieces::{Cut, Fragmentation, Pieces, Sizes};
pub use protect::{Opened, Protector, Unopened};
pub use refused::Refused;
pub use schedule::IkeKeys;
pub use settings::{
    Dpd, Encapsulation, Identity, IdentityError, MAX_IDENTITY_LEN, Peer, PeerId, Ppk, PpkDemand,
    Psk, RekeyTest, Settings, Start, TunnelId,
};
pub use window::Mark;

pub use crate::net::{NatLocation, RekeyVerdict, Role, TunnelState, WaitingFor};

use std::time::Duration;

/// How long a redundant SA is kept by the side that closes it, so that both have moved their traffic before.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

/// How long the other side waits for that before it closes the SA itself.
const CLOSE_FOR_PEER_AFTER: Duration = Duration::from_secs(30);
