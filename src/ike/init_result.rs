//! Result of IKE_SA_INIT: the algorithms, keys and addresses that every later exchange of the handshake uses, and the IKE SA after it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::authn::Intermediates;
use super::event::Role;
use super::key_schedule::{IkeKeys, Nonces};
use super::nat::Detected;
use super::ppk::PpkUse;
use super::protect::Protector;
use super::settings::Settings;
use crate::crypto::IkeSuite;
use crate::net::{EspTransport, Time, TunnelId};
use crate::wire::IkeSpi;

/// Tunnel and addresses of an IKE SA.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The settings of the tunnel.
    pub settings: Arc<Settings>,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// When the first message of the handshake was sent or received.
    pub started: Time,
}

/// State of an IKE SA between IKE_SA_INIT and the end of IKE_AUTH.
#[derive(Debug)]
pub struct InitResult {
    /// Tunnel and addresses.
    pub conn: Connection,
    /// The initiator's SPI.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// Our role.
    pub role: Role,
    /// The negotiated algorithms.
    pub suite: IkeSuite,
    /// The nonces.
    pub nonces: Nonces,
    /// The keys.
    pub keys: IkeKeys,
    /// Encryption and integrity under these keys.
    pub protector: Protector,
    /// Where a NAT was detected.
    pub detected: Detected,
    /// The transport of ESP that follows from NAT detection.
    pub transport: EspTransport,
    /// Whether a post-quantum pre-shared key is mixed into the keys.
    pub ppk: PpkUse,
    /// The IKE_INTERMEDIATE exchanges so far.
    pub intermediates: Intermediates,
    /// The peer's implementation.
    pub peer: PeerKind,
    /// The IKE_SA_INIT request as sent.
    pub init_request: Vec<u8>,
    /// The IKE_SA_INIT response as sent.
    pub init_response: Vec<u8>,
}

impl InitResult {
    /// Whether ML-KEM or a PPK is mixed into the keys.
    pub fn is_post_quantum(&self) -> bool {
        match self.ppk {
            PpkUse::Mixed => true,
            PpkUse::Unused | PpkUse::Announced => self.suite.additional.is_some(),
        }
    }
}

/// The peer's implementation. Two groundlinks resolve crossed handshakes by the same rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Another groundlink, recognised by its Vendor ID payload.
    Groundlink,
    /// Any other implementation.
    Other,
}
