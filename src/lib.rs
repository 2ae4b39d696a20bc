//! groundlink: a userspace IKEv2 + ESP gateway.
//!
//! An ordinary Linux machine becomes the on-premises end of a cloud VPN: it negotiates IKEv2 with a pre-shared key and carries
//! IP packets between one TUN device per tunnel and UDP 500/4500, in one process, without the kernel's IPsec.
//!
//! # How packets and messages flow
//!
//! ```text
//!              ┌──────────────────────────── daemon (tokio, one thread) ─────────────────────────────┐
//!   control ──▶│  requests · timers · notices ──▶ ike::Endpoint ──▶ events ──▶ daemon::install        │
//!   socket     └──────▲─────────────────────────────────────────────────────────────┬────────────────┘
//!                     │ notices (bounded)                                           │ tables (swapped in)
//!              ┌──────┴──────────────────────── datapath (threads) ─────────────────▼────────────────┐
//!   TUN ──────▶│  egress:  read → check, clamp → pick the SA → seal → send                           │──▶ UDP 4500
//!   TUN ◀──────│  ingress: write ← check, coalesce ← open ← SA table ← marker? ← receive             │◀── UDP 4500
//!              └─────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # Layers
//!
//! A module imports only from the layers above it in this table; `tests/layers.rs` holds it to that.
//!
//! | layer | modules | may touch |
//! |---|---|---|
//! | L0 | [`net`], [`crypto`] | bytes |
//! | L1 | [`wire`] | bytes |
//! | L2 | [`ike`], [`esp`], [`paths`] | bytes and a `now` argument: no IO, clock, thread or global randomness |
//! | L3 | [`os`] | Linux: the only unsafe code but for the vector instructions of [`crypto::lanes`] |
//! | L4 | [`datapath`], [`config`], [`status`] | threads (datapath), files (config) |
//! | L5 | [`control`] | the unix socket |
//! | L6 | [`lab`], [`inspect`], [`daemon`], [`bench`](mod@bench) | processes and namespaces (lab, bench), tokio and signals (daemon) |
//! | L7 | [`cli`] | stdout |

pub mod net;

pub mod crypto;

pub mod wire;

pub mod esp;
pub mod ike;
pub mod paths;

pub mod os;

pub mod config;
pub mod datapath;
pub mod status;

pub mod control;

pub mod bench;
pub mod daemon;
pub mod inspect;
pub mod lab;

pub mod cli;
