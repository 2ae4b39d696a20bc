//! A Child SA as the IKE SA that made it remembers it (RFC 7296 §1.3): what was negotiated, and the keys of both directions.

use crate::crypto::{EspSuite, SaKeys};
use crate::net::{Policy, Time};

/// The Child SA of an IKE SA.
#[derive(Debug)]
pub struct ChildSa {
    /// The SPI of packets to us.
    pub spi_in: u32,
    /// The SPI of packets to the peer.
    pub spi_out: u32,
    /// What was negotiated.
    pub suite: EspSuite,
    /// The traffic it carries.
    pub policy: Policy,
    /// When it must be gone.
    pub hard_expiry: Time,
    /// Keys of packets to us.
    pub keys_in: SaKeys,
    /// Keys of packets to the peer.
    pub keys_out: SaKeys,
    /// The secret from which the IVs of CBC ciphers come.
    pub iv_key: [u8; 16],
}
