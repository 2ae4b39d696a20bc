//! `groundlink lab`: two sites on this machine, a tunnel between them, and traffic through the tunnel.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::common::{Exit, Failure, own_program, print, render};
use crate::ike;
use crate::lab::interrupt::{BlockedSignals, Interrupt};
use crate::lab::options::{self, DEFAULT_SUITE, LabOptions};
use crate::lab::{self, Lab as RunningLab};

/// Build two sites in network namespaces, connect them with a tunnel, and measure traffic through it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink lab
  groundlink lab --peer strongswan --ike aes256-sha256-modp2048 --esp aes256-sha256 --role responder
  groundlink lab --tunnels 4 --seconds 10
  groundlink lab --nat us --keep

Needs no configuration and no installation, and no root if user namespaces are allowed and /dev/net/tun can be \
opened. `--peer strongswan` needs strongSwan, `--nat` needs nft.

Exit status: 0 all measurements succeeded · 1 one failed (with a report) · 2 the command line is wrong")]
pub(crate) struct Lab {
    /// The remote gateway
    #[arg(long, value_enum, default_value = "self")]
    pub peer: Peer,
    /// Proposals of the IKE SA, in the syntax of swanctl.conf, separated by commas [default: aes128-sha1-modp1024]
    #[arg(long, value_name = "WORDS")]
    pub ike: Option<String>,
    /// Proposals of the Child SA; a group in them is PFS [default: aes128-sha1-modp1024]
    #[arg(long, value_name = "WORDS")]
    pub esp: Option<String>,
    /// Preset of both sides; also the default of `--ike` and `--esp`
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Allow broken algorithms (DES, MD5, MODP 768, group 22)
    #[arg(long)]
    pub allow_weak: bool,
    /// Role of this side
    #[arg(long, value_enum, default_value = "initiator")]
    pub role: Role,
    /// Number of tunnels between the two networks, with equal metrics
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub tunnels: u8,
    /// Duration of the TCP measurement in each direction, in seconds
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Put a NAT router in front of one side (needs nft)
    #[arg(long, value_enum, default_value = "none")]
    pub nat: Nat,
    /// Address family between the gateways
    #[arg(long, value_enum, default_value = "4")]
    pub family: Family,
    /// Address family of the two networks
    #[arg(long, value_enum, default_value = "4")]
    pub inner: Family,
    /// Transport of ESP between the gateways
    #[arg(long, value_enum, default_value = "udp")]
    pub encapsulation: Encapsulation,
    /// Keep the lab running and print the commands to enter it
    #[arg(long)]
    pub keep: bool,
    /// Print one JSON object instead of the report
    #[arg(long)]
    pub json: bool,
}

/// The remote gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// A second groundlink
    #[value(name = "self")]
    Itself,
    /// strongSwan's charon with kernel-libipsec
    Strongswan,
    /// A simulation of Google Cloud VPN (not in this version)
    Google,
    /// A simulation of Alibaba Cloud VPN Gateway (not in this version)
    Alibaba,
}

/// Role of this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// It initiates
    Initiator,
    /// It waits for the remote side
    Responder,
    /// Both sides initiate at once
    Both,
}

/// Location of a NAT router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nat {
    /// Nowhere
    None,
    /// In front of this side's gateway
    Us,
    /// In front of the remote gateway
    Peer,
}

/// Transport of ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encapsulation {
    /// Always in UDP
    Udp,
    /// As IP protocol 50 unless there is a NAT
    Auto,
    /// As IP protocol 50 only
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
        // The order matters: block the signals while there is one thread, enter the user namespace, which allows no second thread,
        // then start the thread that waits for the signals.
        let blocked = BlockedSignals::new()
            .map_err(|error| Failure::failed(format!("cannot block signals: {error}"), ""))?;
        lab::enter()?;
        let interrupt = blocked
            .watch()
            .map_err(|error| Failure::failed(format!("cannot start a thread: {error}"), ""))?;
        self.build_and_measure(&options, &program, &interrupt)
    }

    fn build_and_measure(
        &self,
        options: &LabOptions,
        program: &Path,
        interrupt: &Interrupt,
    ) -> Result<Exit, Failure> {
        let mut progress = |step: &str| eprintln!("lab: {step}");
        progress("building two sites");
        let mut lab = RunningLab::build(options, program, interrupt)?;
        let report = lab.measure(&mut progress)?;
        let gap = if self.json { "" } else { "\n" };
        print(format!("{gap}{}", render(&report, self.json)?).as_bytes())?;
        if self.keep {
            eprintln!("\nlab: running until Ctrl-C; enter it with");
            for line in lab.namespace_commands() {
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
                let what = "this value of `--peer` is not in this version";
                return Err(Failure::usage(
                    what,
                    "use `--peer self` or `--peer strongswan`",
                ));
            }
        };
        // A preset has proposals; without one, the default suite is used.
        let proposals = |given: &Option<String>| {
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
            ike: proposals(&self.ike),
            esp: proposals(&self.esp),
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
    fn without_arguments_the_lab_has_its_default_options() {
        assert_eq!(options("lab"), Ok(LabOptions::default()));
    }

    #[test]
    fn a_preset_replaces_missing_proposals() {
        let options = options("lab --preset alibaba --esp aes256-sha256").expect("valid");
        assert_eq!(
            (options.ike, options.esp.as_deref()),
            (None, Some("aes256-sha256"))
        );
    }

    #[test]
    fn peers_of_later_versions_are_rejected_by_name() {
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
