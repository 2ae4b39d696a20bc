//! `groundlink lab`: two sites on this machine, a tunnel between them, traffic through it.

use clap::{Args, ValueEnum};

use super::outcome::{Exit, Failure};

/// Two sites in network namespaces on this machine, a tunnel between them, traffic through it, a report
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  groundlink lab\n  groundlink lab --peer strongswan --ike aes256-sha256-modp2048 --esp aes256-sha256 --role responder"
)]
pub(crate) struct Lab {
    /// Who is on the far side
    #[arg(long, value_enum, default_value = "self")]
    pub peer: Peer,
    /// Proposal of the IKE SA, in the words of swanctl.conf
    #[arg(long, value_name = "WORDS", default_value = "aes128-sha1-modp1024")]
    pub ike: String,
    /// Proposal of the Child SA; a group in it is PFS
    #[arg(long, value_name = "WORDS", default_value = "aes128-sha1-modp1024")]
    pub esp: String,
    /// Which part this side plays
    #[arg(long, value_enum, default_value = "initiator")]
    pub role: Role,
    /// How many tunnels between the two networks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub tunnels: u8,
    /// How long TCP runs in each direction
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Leave it running and print how to step inside
    #[arg(long)]
    pub keep: bool,
    /// One JSON object on stdout instead of the report
    #[arg(long)]
    pub json: bool,
}

/// Who is on the far side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// A second groundlink
    #[value(name = "self")]
    Itself,
    /// strongSwan's charon, with kernel-libipsec
    Strongswan,
    /// A stand-in for Google Cloud VPN
    Google,
    /// A stand-in for Alibaba Cloud VPN Gateway
    Alibaba,
}

/// Which part this side plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// It starts
    Initiator,
    /// It waits for the far side
    Responder,
}

impl Lab {
    pub fn execute(self) -> Result<Exit, Failure> {
        match self.peer {
            Peer::Google | Peer::Alibaba => Err(Failure::usage(
                "this `--peer` is not in this version",
                "`--peer self` and `--peer strongswan` are",
            )),
            Peer::Itself | Peer::Strongswan => {
                Err(Failure::failed("the lab is not part of this build yet", ""))
            }
        }
    }
}
