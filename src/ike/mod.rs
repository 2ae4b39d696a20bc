//! The IKEv2 engine, without IO (RFC 7296).
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

mod event;
mod failure;
mod settings;

pub use event::{
    Child, ChildView, Command, Content, Datagram, DownReason, Event, IkeView, NatView, Role, State,
    Transmit, View, Waiting,
};
pub use failure::Failure;
pub use settings::{
    Dpd, Encapsulation, Identity, IdentityError, MAX_IDENTITY_LEN, Peer, PeerId, Psk, Settings,
    Start, TunnelId,
};
