//! `groundlink lab`: two sites on this machine, a tunnel between them, and traffic through the tunnel.

use std::path::Path;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::common::{Exit, Failure, own_program, print, render};
use crate::config;
use crate::ike::Encapsulation;
use crate::lab::interrupt::{BlockedSignals, Interrupt};
use crate::lab::options::{
    AddressFamily, DEFAULT_SUITE, InitiatorChoice, LabOptions, NatPlacement, RemoteKind,
    WeakAlgorithms,
};
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
    pub role: InitiatorChoice,
    /// Number of tunnels between the two networks, with equal metrics
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub tunnels: u8,
    /// Duration of the TCP measurement in each direction, in seconds
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Put a NAT router in front of one side (needs nft)
    #[arg(long, value_enum, default_value = "none")]
    pub nat: NatPlacement,
    /// Address family between the gateways
    #[arg(long, value_enum, default_value = "4")]
    pub family: AddressFamily,
    /// Address family of the two networks
    #[arg(long, value_enum, default_value = "4")]
    pub inner: AddressFamily,
    /// Transport of ESP between the gateways, in place of the preset's
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

/// Implements [`ValueEnum`] for an option type of the lab: the word and the help text of each variant.
macro_rules! value_enum {
    ($type:ty { $($variant:ident = $word:literal: $help:literal),+ $(,)? }) => {
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$variant),+]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self {
                    $(Self::$variant => PossibleValue::new($word).help($help)),+
                })
            }
        }
    };
}

value_enum!(InitiatorChoice {
    Initiator = "initiator": "It initiates",
    Responder = "responder": "It waits for the remote side",
    Both = "both": "Both sides initiate at once",
});

value_enum!(NatPlacement {
    None = "none": "Nowhere",
    Us = "us": "In front of this side's gateway",
    Peer = "peer": "In front of the remote gateway",
});

value_enum!(Encapsulation {
    Udp = "udp": "Always in UDP",
    Auto = "auto": "As IP protocol 50 unless there is a NAT",
    Esp = "esp": "As IP protocol 50 only",
});

value_enum!(AddressFamily {
    V4 = "4": "IPv4",
    V6 = "6": "IPv6",
});

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
            Peer::Itself => RemoteKind::Groundlink,
            Peer::Strongswan => RemoteKind::Strongswan,
            Peer::Google | Peer::Alibaba => {
                let what = "this value of `--peer` is not in this version";
                return Err(Failure::usage(
                    what,
                    "use `--peer self` or `--peer strongswan`",
                ));
            }
        };
        if let Some(preset) = &self.preset {
            config::check_preset(preset).map_err(|(what, advice)| Failure::usage(what, advice))?;
        }
        // A preset has proposals; without one, the default suite is used.
        let proposals = |given: &Option<String>| {
            given
                .clone()
                .or_else(|| self.preset.is_none().then(|| DEFAULT_SUITE.to_owned()))
        };
        Ok(LabOptions {
            peer,
            ike: proposals(&self.ike),
            esp: proposals(&self.esp),
            role: self.role,
            tunnels: self.tunnels,
            seconds: self.seconds,
            nat: self.nat,
            outer: self.family,
            inner: self.inner,
            encapsulation: self.encapsulation,
            preset: self.preset.clone(),
            weak: if self.allow_weak {
                WeakAlgorithms::Allowed
            } else {
                WeakAlgorithms::Rejected
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
    fn an_unknown_preset_is_a_usage_error() {
        let failure = options("lab --preset alibab").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.advice.contains("alibaba"), "{failure}");
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
