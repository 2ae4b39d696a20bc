//! Options of the lab.

use std::fmt;

use crate::crypto::{AlgorithmStatus, EspProposal, IkeProposal, ProposalError};
use crate::ike::Encapsulation;
use crate::net::EspTransport;

/// Options of `groundlink lab`; the default is the lab without command-line options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabOptions {
    /// Implementation of the remote gateway.
    pub peer: RemoteKind,
    /// IKE proposals for both sides; `None` leaves them to the preset.
    pub ike: Option<String>,
    /// ESP proposals for both sides; `None` leaves them to the preset.
    pub esp: Option<String>,
    /// Initiating side.
    pub role: InitiatorChoice,
    /// Number of tunnels between the two networks, 1 to 4, with equal metrics.
    pub tunnels: u8,
    /// Seconds of TCP in each direction.
    pub seconds: u32,
    /// Gateway behind NAT.
    pub nat: NatPlacement,
    /// Address family between the gateways.
    pub outer: AddressFamily,
    /// Address family of the two networks.
    pub inner: AddressFamily,
    /// Transport of ESP on both sides.
    pub encapsulation: Encapsulation,
    /// Preset for both sides.
    pub preset: Option<String>,
    /// Whether forbidden algorithms are allowed.
    pub weak: WeakAlgorithms,
}

/// The default IKE and ESP suite, taken from the clouds' guides.
pub const DEFAULT_SUITE: &str = "aes128-sha1-modp1024";

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions {
            peer: RemoteKind::Groundlink,
            ike: Some(DEFAULT_SUITE.to_owned()),
            esp: Some(DEFAULT_SUITE.to_owned()),
            role: InitiatorChoice::Initiator,
            tunnels: 1,
            seconds: 2,
            nat: NatPlacement::None,
            outer: AddressFamily::V4,
            inner: AddressFamily::V4,
            encapsulation: Encapsulation::Udp,
            preset: None,
            weak: WeakAlgorithms::Rejected,
        }
    }
}

impl LabOptions {
    /// Rejects invalid values and combinations.
    pub fn check(&self) -> Result<(), OptionsError> {
        if !(1..=4).contains(&self.tunnels) {
            return Err(OptionsError::Invalid("--tunnels takes 1, 2, 3 or 4"));
        }
        if self.seconds == 0 {
            return Err(OptionsError::Invalid("--seconds takes 1 or more"));
        }
        if self.nat != NatPlacement::None && self.outer == AddressFamily::V6 {
            return Err(OptionsError::Invalid(
                "--nat translates IPv4 only: leave out --family 6",
            ));
        }
        if self.peer == RemoteKind::Strongswan && self.tunnels > 1 {
            return Err(OptionsError::Invalid(
                "strongSwan's userspace ESP has one device for all tunnels, which several tunnels with equal networks cannot share: use --peer self with --tunnels",
            ));
        }
        if self.nat != NatPlacement::None && self.tunnels > 1 {
            return Err(OptionsError::Invalid(
                "only one tunnel is reachable behind a translated address: leave out --nat or --tunnels",
            ));
        }
        for proposal in proposals(self.ike.as_deref()) {
            let (parsed, _) = IkeProposal::parse(proposal)
                .map_err(|error| invalid_proposal("--ike", proposal, error))?;
            self.allow(parsed.weak())?;
        }
        for proposal in proposals(self.esp.as_deref()) {
            let (parsed, _) = EspProposal::parse(proposal)
                .map_err(|error| invalid_proposal("--esp", proposal, error))?;
            self.allow(parsed.weak())?;
        }
        Ok(())
    }

    fn allow(
        &self,
        mut weak: impl Iterator<Item = (&'static str, AlgorithmStatus)>,
    ) -> Result<(), OptionsError> {
        let forbidden = weak.find(|(_, status)| *status == AlgorithmStatus::Forbidden);
        match (forbidden, self.weak) {
            (Some((word, _)), WeakAlgorithms::Rejected) => Err(OptionsError::Forbidden(word)),
            (Some(_), WeakAlgorithms::Allowed) | (None, _) => Ok(()),
        }
    }

    /// Whether this side initiates (`start = "auto"`).
    pub fn initiates(&self, side: Side) -> bool {
        match self.role {
            InitiatorChoice::Both => true,
            InitiatorChoice::Initiator => side == Side::A,
            InitiatorChoice::Responder => side == Side::B,
        }
    }

    /// Expected transport of ESP on the WAN. strongSwan's userspace ESP always makes the peer detect a NAT.
    pub fn transport(&self) -> EspTransport {
        match (self.encapsulation, self.nat, self.peer) {
            (Encapsulation::Udp, _, _)
            | (_, NatPlacement::Us | NatPlacement::Peer, _)
            | (_, _, RemoteKind::Strongswan) => EspTransport::Udp,
            (
                Encapsulation::Auto | Encapsulation::Esp,
                NatPlacement::None,
                RemoteKind::Groundlink,
            ) => EspTransport::Esp,
        }
    }

    /// Whether this side's gateway is behind NAT.
    pub fn is_behind_nat(&self, side: Side) -> bool {
        matches!(
            (self.nat, side),
            (NatPlacement::Us, Side::A) | (NatPlacement::Peer, Side::B)
        )
    }
}

/// An error in the options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A number out of range, or options that exclude each other.
    #[error("{0}")]
    Invalid(&'static str),
    /// A proposal with a syntax error.
    #[error("`{option} {proposal}`: {error}")]
    Proposal {
        /// Option: `--ike` or `--esp`.
        option: &'static str,
        /// Proposal as given.
        proposal: String,
        /// Syntax error.
        error: ProposalError,
    },
    /// A forbidden algorithm.
    #[error("{0} gives no protection any more: add --allow-weak to use it anyway")]
    Forbidden(&'static str),
}

/// The comma-separated proposals in one option.
pub fn proposals(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
}

fn invalid_proposal(option: &'static str, proposal: &str, error: ProposalError) -> OptionsError {
    OptionsError::Proposal {
        option,
        proposal: proposal.to_owned(),
        error,
    }
}

/// A side of the lab. The report is about side A; the peer is side B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The local gateway.
    A,
    /// The remote gateway.
    B,
}

impl Side {
    /// The other side.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::A => "A",
            Side::B => "B",
        })
    }
}

/// Implementation of the remote gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// A second groundlink.
    Groundlink,
    /// strongSwan's charon with its userspace ESP.
    Strongswan,
}

impl RemoteKind {
    /// Keyword on the command line and in the JSON report.
    pub fn word(self) -> &'static str {
        match self {
            RemoteKind::Groundlink => "self",
            RemoteKind::Strongswan => "strongswan",
        }
    }
}

/// Initiating side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitiatorChoice {
    /// Side A.
    Initiator,
    /// Side B.
    Responder,
    /// Both at once: their exchanges collide.
    Both,
}

/// Gateway behind NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatPlacement {
    /// No NAT.
    None,
    /// Gateway A.
    Us,
    /// Gateway B.
    Peer,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Whether algorithms that give no protection any more are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeakAlgorithms {
    /// No.
    Rejected,
    /// `allow-weak = true` on both sides.
    Allowed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_options_are_valid() {
        assert_eq!(LabOptions::default().check(), Ok(()));
    }

    #[test]
    fn invalid_options_are_rejected_before_the_lab_is_built() {
        let base = LabOptions::default;
        for (options, word) in [
            (
                LabOptions {
                    tunnels: 5,
                    ..base()
                },
                "--tunnels",
            ),
            (
                LabOptions {
                    seconds: 0,
                    ..base()
                },
                "--seconds",
            ),
            (
                LabOptions {
                    nat: NatPlacement::Us,
                    outer: AddressFamily::V6,
                    ..base()
                },
                "--family",
            ),
            (
                LabOptions {
                    peer: RemoteKind::Strongswan,
                    tunnels: 2,
                    ..base()
                },
                "--peer self",
            ),
            (
                LabOptions {
                    nat: NatPlacement::Peer,
                    tunnels: 2,
                    ..base()
                },
                "--nat",
            ),
            (
                LabOptions {
                    ike: Some("aes129-sha1-modp1024".into()),
                    ..base()
                },
                "aes129",
            ),
            (
                LabOptions {
                    esp: Some("aes128-sha1, aes128".into()),
                    ..base()
                },
                "--esp aes128",
            ),
            (
                LabOptions {
                    ike: Some("des-md5-modp768".into()),
                    ..base()
                },
                "--allow-weak",
            ),
        ] {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_role_determines_the_initiator() {
        let initiates = |role| {
            let options = LabOptions {
                role,
                ..LabOptions::default()
            };
            (options.initiates(Side::A), options.initiates(Side::B))
        };
        assert_eq!(initiates(InitiatorChoice::Initiator), (true, false));
        assert_eq!(initiates(InitiatorChoice::Responder), (false, true));
        assert_eq!(initiates(InitiatorChoice::Both), (true, true));
    }
}
