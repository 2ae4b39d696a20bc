//! `groundlink lab`: two sites on this machine, a tunnel between them, traffic through it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::outcome::{Exit, Failure, print};
use crate::ike;
use crate::lab::interrupt::{BlockedSignals, Interrupt};
use crate::lab::options::{self, DEFAULT_SUITE, LabOptions};
use crate::lab::{self, Lab as RunningLab};

/// Two sites in network namespaces on this machine, a tunnel between them, traffic through it, a report
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink lab
  groundlink lab --peer strongswan --ike aes256-sha256-modp2048 --esp aes256-sha256 --role responder
  groundlink lab --tunnels 4 --seconds 10
  groundlink lab --nat us --keep

Needs no configuration and nothing installed, and no root where user namespaces are allowed and \
/dev/net/tun may be opened. `--peer strongswan` needs strongSwan, `--nat` needs nft.

Exit status: 0 everything was well · 1 not (with a report) · 2 the command line is wrong")]
pub(crate) struct Lab {
    /// Who is on the far side
    #[arg(long, value_enum, default_value = "self")]
    pub peer: Peer,
    /// Proposals of the IKE SA, in the words of swanctl.conf; several with commas between [default: aes128-sha1-modp1024]
    #[arg(long, value_name = "WORDS")]
    pub ike: Option<String>,
    /// Proposals of the Child SA; a group in them is PFS [default: aes128-sha1-modp1024]
    #[arg(long, value_name = "WORDS")]
    pub esp: Option<String>,
    /// A preset for both sides; gives the proposals that `--ike` and `--esp` do not
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Allow algorithms that protect nothing any more (DES, MD5, MODP 768, group 22)
    #[arg(long)]
    pub allow_weak: bool,
    /// Which part this side plays
    #[arg(long, value_enum, default_value = "initiator")]
    pub role: Role,
    /// How many tunnels between the two networks, with equal metrics
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub tunnels: u8,
    /// How long TCP runs in each direction
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// A translating router in front of one side (needs nft)
    #[arg(long, value_enum, default_value = "none")]
    pub nat: Nat,
    /// The address family between the gateways
    #[arg(long, value_enum, default_value = "4")]
    pub family: Family,
    /// The address family of the two networks
    #[arg(long, value_enum, default_value = "4")]
    pub inner: Family,
    /// How ESP travels between the gateways
    #[arg(long, value_enum, default_value = "udp")]
    pub encapsulation: Encapsulation,
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
    /// A stand-in for Google Cloud VPN (not in this version)
    Google,
    /// A stand-in for Alibaba Cloud VPN Gateway (not in this version)
    Alibaba,
}

/// Which part this side plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// It starts
    Initiator,
    /// It waits for the far side
    Responder,
    /// Both start at once
    Both,
}

/// Where addresses are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nat {
    /// Nowhere
    None,
    /// In front of this side's gateway
    Us,
    /// In front of the far side's gateway
    Peer,
}

/// How ESP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encapsulation {
    /// Always in UDP
    Udp,
    /// As IP protocol 50 where there is no NAT
    Auto,
    /// As IP protocol 50 or not at all
    Esp,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// IPv4
    #[value(name = "4")]
    V4,
    /// IPv6
    #[value(name = "6")]
    V6,
}

impl Lab {
    pub fn execute(self) -> Result<Exit, Failure> {
        let options = self.options()?;
        options
            .check()
            .map_err(|error| Failure::usage(error.to_string(), ""))?;
        let program = own_program()?;
        // In this order: the signals are blocked in one thread, a user namespace wants no second one, then the watching begins.
        let blocked = BlockedSignals::new()
            .map_err(|error| Failure::failed(format!("signals cannot be blocked: {error}"), ""))?;
        lab::enter().map_err(failure)?;
        let interrupt = blocked
            .watch()
            .map_err(|error| Failure::failed(format!("no thread: {error}"), ""))?;
        self.go(&options, &program, &interrupt)
    }

    fn go(
        &self,
        options: &LabOptions,
        program: &std::path::Path,
        interrupt: &Interrupt,
    ) -> Result<Exit, Failure> {
        let mut progress = |step: &str| eprintln!("lab: {step}");
        progress("making two sites");
        let mut sites = RunningLab::build(options, program, interrupt).map_err(failure)?;
        let report = sites.measure(&mut progress).map_err(failure)?;
        let text = if self.json {
            serde_json::to_string(&report)
                .map_err(|error| Failure::failed(error.to_string(), ""))?
                + "\n"
        } else {
            format!("\n{report}")
        };
        print(text.as_bytes())?;
        if self.keep {
            eprintln!("\nlab: it stays up until Ctrl-C; step inside with");
            for line in sites.namespace_commands() {
                eprintln!("  {line}");
            }
            interrupt.wait();
        }
        Ok(if report.ok { Exit::Done } else { Exit::Failed })
    }

    fn options(&self) -> Result<LabOptions, Failure> {
        let peer = match self.peer {
            Peer::Itself => options::RemoteKind::Groundlink,
            Peer::Strongswan => options::RemoteKind::Strongswan,
            Peer::Google | Peer::Alibaba => {
                let what = "this `--peer` is not in this version";
                return Err(Failure::usage(
                    what,
                    "`--peer self` and `--peer strongswan` are",
                ));
            }
        };
        // Without a preset there must be words; with one, only those that are given override it.
        let words = |given: &Option<String>| {
            given
                .clone()
                .or_else(|| self.preset.is_none().then(|| DEFAULT_SUITE.to_owned()))
        };
        let family = |family| match family {
            Family::V4 => options::AddressFamily::V4,
            Family::V6 => options::AddressFamily::V6,
        };
        Ok(LabOptions {
            peer,
            ike: words(&self.ike),
            esp: words(&self.esp),
            role: match self.role {
                Role::Initiator => options::InitiatorChoice::Initiator,
                Role::Responder => options::InitiatorChoice::Responder,
                Role::Both => options::InitiatorChoice::Both,
            },
            tunnels: self.tunnels,
            seconds: self.seconds,
            nat: match self.nat {
                Nat::None => options::NatPlacement::None,
                Nat::Us => options::NatPlacement::Us,
                Nat::Peer => options::NatPlacement::Peer,
            },
            outer: family(self.family),
            inner: family(self.inner),
            encapsulation: match self.encapsulation {
                Encapsulation::Udp => ike::Encapsulation::Udp,
                Encapsulation::Auto => ike::Encapsulation::Auto,
                Encapsulation::Esp => ike::Encapsulation::Esp,
            },
            preset: self.preset.clone(),
            weak: if self.allow_weak {
                options::WeakAlgorithms::Allowed
            } else {
                options::WeakAlgorithms::Rejected
            },
        })
    }
}

/// This very file, even if it was replaced meanwhile.
pub(super) fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::failed(format!("our own program file is not known: {error}"), ""))
}

pub(super) fn failure(error: lab::LabError) -> Failure {
    let advice = error.advice().unwrap_or_default();
    match error {
        lab::LabError::Options(error) => Failure::usage(error.to_string(), advice),
        other => Failure::failed(other.to_string(), advice),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        lab: Lab,
    }

    fn options(line: &str) -> Result<LabOptions, Failure> {
        Line::parse_from(line.split_whitespace()).lab.options()
    }

    #[test]
    fn the_lab_without_words_is_the_default_one() {
        assert_eq!(options("lab"), Ok(LabOptions::default()));
    }

    #[test]
    fn a_preset_stands_in_for_words_that_are_not_given() {
        let options = options("lab --preset alibaba --esp aes256-sha256").expect("valid");
        assert_eq!(
            (options.ike, options.esp.as_deref()),
            (None, Some("aes256-sha256"))
        );
    }

    #[test]
    fn peers_of_later_versions_are_refused_by_name() {
        for peer in ["google", "alibaba"] {
            let failure = options(&format!("lab --peer {peer}")).expect_err(peer);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(
                failure.to_string().contains("not in this version"),
                "{failure}"
            );
        }
    }
}
