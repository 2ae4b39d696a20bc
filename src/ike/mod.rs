//! The IKEv2 engine, without IO (RFC 7296).
//!
//! [`Endpoint`] is the only entry point. Datagrams, commands and the time go in; events, datagrams and the next deadline come out:
//!
//! ```text
//!   handle_datagram ─▶┌──────────────────────────────────────────────────────────┐─▶ poll_event     first: install, remove, report
//!   handle_command  ─▶│ Endpoint   tunnels: AdminState × ConnectState            │─▶ poll_transmit  then: send
//!   handle_timeout  ─▶│            SAs: InitSent ▶ … ▶ AuthSent ┐                │─▶ poll_timeout   and sleep
//!                     │                 HalfOpen ▶ … ───────────┴▶ Established ▶ …│
//!                     └──────────────────────────────────────────────────────────┘
//! ```
//!
//! # The path of one message
//!
//! Modules import downwards only: `endpoint` → `exchange` → `sa` → the leaves.
//!
//! ```text
//! endpoint/datagram    handle_datagram: header, version
//!                      ├─ IKE_SA_INIT request   on_init_request: peer, repetition, half-open limits, cookie ─▶ begin_with_peer
//!                      └─ message of an SA      on_message_of_sa: the SA by our SPI ─▶ on_message: by its state
//! handshake            exchange/init            InitSent::on_response             exchange/init_responder  respond
//!                      exchange/intermediate    IntermediateSent::on_response · HalfOpen::on_intermediate
//!                      exchange/auth            AuthSent::on_response · HalfOpen::on_auth ─▶ IkeSa::establish (sa/ike_sa)
//!                                               ─▶ endpoint/attempt: on_own_attempt_concluded · on_peers_attempt_concluded ─▶ on_established
//! established SA       endpoint/step            step: runs the next lines, then applies SaOutput to the endpoint and the tunnel
//!                      exchange/established     on_message ─▶ on_request · on_response
//!                        sa/inbound_request       open_request: window, decryption          sa/outbound_request  open_response
//!                        exchange/create_child    on_create_child                                                on_child_response
//!                        exchange/rekey_child     adopt_child                                                    on_child_created
//!                        exchange/rekey_ike       rekey_ike_for_peer ─▶ adopt_ike                                on_rekey_ike_response
//!                        exchange/followup_ke     on_followup_ke
//!                        exchange/informational   on_informational                                               on_informational_response
//!                        sa/inbound_request       respond: encryption, cache                sa/outbound_request  send_next
//! output               context                  Output: events and transmits ─▶ Endpoint::poll_event, Endpoint::poll_transmit
//! ```
//!
//! A request of ours starts at `IkeSa::queue_request` (sa/outbound_request), by a command or a timer (sa/timers); `build_request`
//! (exchange/established) has the exchange build its payloads.
//!
//! # Leaves
//!
//! - `messages` turns payloads into messages whose required payloads are fields; `child_sa` is the table of Child SAs;
//! - `negotiate`, `closest_proposal`, `offer`, `key_schedule`, `authn`, `nat`, `ppk` are pure calculations; `collision` decides which of two SAs stays;
//! - `protect`, `fragments`, `window`, `out_message`, `retransmit` carry a message: encryption, fragments, message IDs, copies;
//! - `half_open`, `cookie`, `limits`, `unauthenticated` bound what unauthenticated peers can cost;
//! - `error` maps each fault to the notification for the peer and the report for people; `tunnel` decides when to connect.
//!
//! An unauthenticated message never changes an established SA.
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
mod child_sa;
mod closest_proposal;
mod collision;
mod context;
mod cookie;
mod endpoint;
mod error;
mod event;
mod exchange;
mod failure;
mod fragments;
mod half_open;
mod identity;
#[cfg(feature = "testing")]
pub mod impair;
mod init_result;
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
mod retransmit;
mod sa;
mod settings;
mod tunnel;
mod unauthenticated;
mod window;

pub use closest_proposal::{ClosestProposal, esp as closest_esp, ike as closest_ike};
pub use endpoint::Endpoint;
pub use event::{
    Child, ChildView, Command, Content, Datagram, DownReason, Event, IkeView, Lookup, Rekey,
    RekeyVerdicts, Rekeys, Sends, Transmit, View,
};
pub use failure::Failure;
pub use fragments::{Assembly, Fragment, Joined, MessageKey, Part};
pub use identity::{Identity, IdentityError, MAX_IDENTITY_LEN, PeerId};
pub use key_schedule::IkeKeys;
pub use messages::validate;
pub use nat::hash as nat_hash;
pub use negotiate::{offer_esp, offer_ike};
pub use offer::words;
pub use out_message::{Datagrams, FragmentSize, FragmentSizes, Fragmentation};
pub use protect::{Opened, Protector, Unopened};
pub use settings::{
    Dpd, Encapsulation, MAX_TRAFFICS, Peer, Ppk, PpkDemand, Psk, RekeyCheck, SelectorMode,
    Settings, Start, TunnelId,
};
pub use unauthenticated::DropClass;
pub use window::Mark;

pub use crate::net::{NatLocation, RekeyVerdict, Role, TunnelState, WaitingFor};

use std::time::Duration;

/// How long a redundant SA is kept by the side that closes it, so that both have moved their traffic before.
const CLOSE_AFTER: Duration = Duration::from_secs(1);

/// How long the other side waits for that before it closes the SA itself.
const CLOSE_FOR_PEER_AFTER: Duration = Duration::from_secs(30);
