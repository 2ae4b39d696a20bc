//! Types and functions of the Internet layer that all other layers share.
//!
//! The module is independent of IPsec: time as a value, address prefixes, traffic selectors, a checked view of a packet, checksums,
//! segmentation and coalescing of packets, and drop reasons. All functions are total over untrusted bytes.
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

pub mod checksum;
pub mod demux;
mod drop_reason;
mod esp_transport;
mod extensions;
pub mod fragment;
pub mod icmp;
mod log_limit;
pub mod mss;
mod numbers;
mod packet;
mod policy;
mod prefix;
pub mod segment;
mod selector;
mod time;
mod timer_queue;
mod token_bucket;
pub mod traffic_class;
mod words;

pub use drop_reason::DropReason;
pub use esp_transport::EspTransport;
pub use extensions::FragmentKind;
pub use log_limit::LogLimit;
pub use numbers::{IKE_PORT, MIN_MTU_IPV4, MIN_MTU_IPV6, NAT_PORT, protocol};
pub use packet::Packet;
pub use policy::{MAX_SELECTORS, Policy, narrow};
pub use prefix::{Prefix, PrefixError};
pub use selector::{PortRange, Selector, SelectorError};
pub use time::Time;
pub use timer_queue::TimerQueue;
pub use token_bucket::TokenBucket;
pub use traffic_class::Dscp;
pub use words::{
    GsoSupport, NatLocation, ReceiveOffload, RekeyVerdict, Role, SendOffload, TunnelState,
    WaitingFor, counted,
};

/// A tunnel's handle: allocated when the tunnel is added, never reused while the process runs, and unrelated to the tunnel's place in the
/// configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u32);
