//! The IKEv2 engine, without IO (RFC 7296).
//!
//! [`Endpoint`] is the one door. Datagrams, commands and the time go in; datagrams, events and the next deadline come out:
//!
//! ```text
//!   handle_datagram ─▶┌──────────────────────────────────────────────────────────┐─▶ poll_event     first: install, remove, report
//!   handle_command  ─▶│ Endpoint   tunnels: AdminState × ConnectState        │─▶ poll_transmit  then: send
//!   handle_timeout  ─▶│            SAs: InitSent ▶ … ▶ AuthSent ┐                │─▶ poll_timeout   and sleep
//!                     │                 HalfOpen ▶ … ───────────┴▶ Established ▶ …│
//!                     └──────────────────────────────────────────────────────────┘
//! ```
//!
//! - `handshake` is the line of states up to an established SA, each consumed by the next; `exchange` holds its steps, both roles side by side.
//! - `sa` is an established IKE SA: phase × outstanding request × queue of jobs × Child SAs (`children`).
//! - `tunnel` decides when to try and when to pause; `collision` which of two SAs stays.
//! - `messages` turns payloads into messages in which nothing is missing; `negotiate`, `key_schedule`, `authn`, `nat` are the arithmetic of RFC 7296, `ppk` that of RFC 8784.
//! - `validate` asks them about a message that somebody else received.
//! - `closest_proposal` says, when proposals do not meet, which pair comes closest and what to write.
//! - `error` names faults by blame: one match gives the notification for the peer, one the words for people.
//! - `half_open` decides who may begin while many do, `unauthenticated` counts what comes to nothing before its sender has proved anything.
//!
//! Nothing unauthenticated changes an established SA, and every table has a bound (`limits`, `half_open`).
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
mod children;
mod closest_proposal;
mod collision;
mod cookie;
mod endpoint;
mod error;
mod event;
mod exchange;
mod failure;
mod fragments;
mod half_open;
mod handshake;
#[cfg(feature = "testing")]
pub mod impair;
mod key_schedule;
mod limits;
mod messages;
mod nat;
mod negotiate;
mod offer;
mod out_message;
mod ppk;
mod protect;
mod rekey_check;
mod rekey_refusal;
mod retransmit;
mod sa;
mod settings;
mod timers;
mod tunnel;
mod unauthenticated;
mod validate;
mod window;

pub use closest_proposal::{ClosestProposal, esp as closest_esp, ike as closest_ike};
pub use endpoint::Endpoint;
pub use event::{
    Child, ChildView, Command, Content, Datagram, DownReason, Event, IkeView, Rekey, RekeyVerdicts,
    Rekeys, Sends, Transmit, View,
};
pub use failure::Failure;
pub use fragments::{Assembly, Fragment, Joined, MessageKey, Part};
pub use key_schedule::IkeKeys;
pub use nat::hash as nat_hash;
pub use negotiate::{offer_esp, offer_ike};
pub use offer::words;
pub use out_message::{Datagrams, FragmentSize, FragmentSizes, Fragmentation};
pub use protect::{Opened, Protector, Unopened};
pub use settings::{
    Dpd, Encapsulation, Identity, IdentityError, MAX_IDENTITY_LEN, Peer, PeerId, Ppk, PpkDemand,
    Psk, RekeyCheck, Settings, Start, TunnelId,
};
pub use unauthenticated::DropClass;
pub use validate::validate;
pub use window::Mark;

pub use crate::net::{NatLocation, RekeyVerdict, Role, TunnelState, WaitingFor};

use std::time::Duration;

/// How long a redundant SA is kept by the side that closes it, so that both have moved their traffic before.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

/// How long the other side waits for that before it closes the SA itself.
const CLOSE_FOR_PEER_AFTER: Duration = Duration::from_secs(30);
