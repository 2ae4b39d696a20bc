//! What a person can ask of the lab.

use std::fmt;

use crate::crypto::{AlgorithmStatus, EspProposal, IkeProposal, ProposalError};
use crate::ike::Encapsulation;
use crate::net::EspTransport;

/// Everything `groundlink lab` takes; `LabOptions::default()` is the lab without words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabOptions {
    /// Who stands on the far side.
    pub peer: RemoteKind,
    /// IKE proposals for both sides; `None` leaves them to the preset.
    pub ike: Option<String>,
    /// ESP proposals for both sides; `None` leaves them to the preset.
    pub esp: Option<String>,
    /// Which side starts.
    pub role: InitiatorChoice,
    /// Tunnels between the two networks, 1 to 4, with equal metrics.
    pub tunnels: u8,
    /// Seconds of TCP in each direction.
    pub seconds: u32,
    /// Which gateway stands behind a translating router.
    pub nat: NatPlacement,
    /// The address family between the gateways.
    pub outer: AddressFamily,
    /// The address family of the two networks.
    pub inner: AddressFamily,
    /// How ESP travels, on both sides.
    pub encapsulation: Encapsulation,
    /// A preset for both sides.
    pub preset: Option<String>,
    /// Whether forbidden algorithms may be used.
    pub weak: WeakAlgorithms,
}

/// The suite of the lab without words, on both levels: that of the clouds' own guide.
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
            weak: WeakAlgorithms::Refused,
        }
    }
}

impl LabOptions {
    /// Refuses combinations that no lab can be built from.
    pub fn check(&self) -> Result<(), OptionsError> {
        if !(1..=4).contains(&self.tunnels) {
            return Err(OptionsError::Contradiction("--tunnels takes 1, 2, 3 or 4"));
        }
        if self.seconds == 0 {
            return Err(OptionsError::Contradiction("--seconds takes 1 or more"));
        }
        if self.nat != NatPlacement::None && self.outer == AddressFamily::V6 {
            return Err(OptionsError::Contradiction(
                "--nat translates IPv4 only: leave out --family 6",
            ));
        }
        if self.peer == RemoteKind::Strongswan && self.tunnels > 1 {
            return Err(OptionsError::Contradiction(
                "strongSwan's userspace ESP has one device for all tunnels, so equal networks cannot share it: use --peer self with --tunnels",
            ));
        }
        if self.nat != NatPlacement::None && self.tunnels > 1 {
            return Err(OptionsError::Contradiction(
                "behind one translated address only one tunnel can be reached: leave out --nat or --tunnels",
            ));
        }
        for proposal in proposals(self.ike.as_deref()) {
            let (parsed, _) =
                IkeProposal::parse(proposal).map_err(|error| refused("--ike", proposal, error))?;
            self.allow(parsed.weak())?;
        }
        for proposal in proposals(self.esp.as_deref()) {
            let (parsed, _) =
                EspProposal::parse(proposal).map_err(|error| refused("--esp", proposal, error))?;
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
            (Some((word, _)), WeakAlgorithms::Refused) => Err(OptionsError::Forbidden(word)),
            (Some(_), WeakAlgorithms::Allowed) | (None, _) => Ok(()),
        }
    }

    /// Whether this side begins by itself (`start = "auto"`).
    pub fn starts(&self, side: Side) -> bool {
        match self.role {
            InitiatorChoice::Both => true,
            InitiatorChoice::Initiator => side == Side::A,
            InitiatorChoice::Responder => side == Side::B,
        }
    }

    /// What an observer between the gateways should see. strongSwan's userspace ESP has the peer see a NAT, whatever we do.
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

    /// Whether this side's gateway has a private address.
    pub fn is_behind_nat(&self, side: Side) -> bool {
        matches!(
            (self.nat, side),
            (NatPlacement::Us, Side::A) | (NatPlacement::Peer, Side::B)
        )
    }
}

/// Why no lab can be built from some options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A number out of range, or two options that exclude each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A proposal that nobody can read.
    #[error("`{option} {proposal}`: {error}")]
    Words {
        /// `--ike` or `--esp`.
        option: &'static str,
        /// The proposal.
        proposal: String,
        /// What is wrong with it.
        error: ProposalError,
    },
    /// An algorithm that must be allowed first.
    #[error("{0} protects nothing any more: add --allow-weak if you mean it")]
    Forbidden(&'static str),
}

/// The proposals in one option: commas stand between them.
pub fn proposals(words: Option<&str>) -> impl Iterator<Item = &str> {
    words
        .into_iter()
        .flat_map(|words| words.split(','))
        .map(str::trim)
}

fn refused(option: &'static str, proposal: &str, error: ProposalError) -> OptionsError {
    OptionsError::Words {
        option,
        proposal: proposal.to_owned(),
        error,
    }
}

/// One end of the lab. A is the one we report on; the peer stands at B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    A,
    /// The peer's.
    B,
}

impl Side {
    /// The other end.
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

/// Who stands on the far side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// A second groundlink.
    Groundlink,
    /// strongSwan's charon with its userspace ESP.
    Strongswan,
}

impl RemoteKind {
    /// The word on the command line and in the JSON report.
    pub fn word(self) -> &'static str {
        match self {
            RemoteKind::Groundlink => "self",
            RemoteKind::Strongswan => "strongswan",
        }
    }
}

/// Which side starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitiatorChoice {
    /// We do; the peer waits.
    Initiator,
    /// The peer does; we wait.
    Responder,
    /// Both at once, so that their attempts cross.
    Both,
}

/// Where the WAN router translates addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatPlacement {
    /// Nowhere.
    None,
    /// In front of gateway A.
    Us,
    /// In front of gateway B.
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

/// Whether algorithms that give no protection any more may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeakAlgorithms {
    /// No.
    Refused,
    /// `allow-weak = true` on both sides.
    Allowed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lab_without_words_is_sound() {
        assert_eq!(LabOptions::default().check(), Ok(()));
    }

    #[test]
    fn what_cannot_be_built_is_refused_before_anything_is_touched() {
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
            let refusal = options.check().unwrap_err().to_string();
            assert!(refusal.contains(word), "{refusal}");
        }
    }

    #[test]
    fn the_role_says_who_starts() {
        let starts = |role| {
            let options = LabOptions {
                role,
                ..LabOptions::default()
            };
            (options.starts(Side::A), options.starts(Side::B))
        };
        assert_eq!(starts(InitiatorChoice::Initiator), (true, false));
        assert_eq!(starts(InitiatorChoice::Responder), (false, true));
        assert_eq!(starts(InitiatorChoice::Both), (true, true));
    }
}
