//! An established IKE SA: its phase, its outstanding request, the queue of jobs behind it, and its Child SAs.
//!
//! A peer's request is answered whatever we wait for ourselves. Rekeying, liveness checks and deletion are requests of ours, never phases. The window is one in
//! both directions (RFC 7296 §2.3), so further requests wait in the queue of jobs. The exchanges extend `IkeSa` by their own `impl` blocks, in
//! [`exchange`](crate::ike::exchange); nothing here imports from there.
//!
//! - `ike_sa`: the type, its creation, its status and its end;
//! - `request_state`: what it keeps for the exchanges under way;
//! - `inbound_request`, `outbound_request`: window, encryption and retransmission of the two directions;
//! - `child_selection`: which Child SA sends, and what follows when none is left;
//! - `timers`: what is due, and when.

mod child_selection;
mod idle_timers;
mod ike_sa;
mod inbound_request;
mod outbound_request;
mod request_state;
mod timers;

pub use ike_sa::{IkeSa, NewIkeSa, Phase, SaOutcome};
pub use request_state::{
    AgreedChild, AgreedIke, AgreedSa, ChildOffer, CollidingChild, FollowupOffer, IkeOffer, Job,
    Offer, PendingFollowup,
};
