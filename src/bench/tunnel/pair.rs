//! Two gateways of one kind, and the machines around them.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::TunnelBenchError;
use crate::config::{self, ConfigText, LoadOptions, SecretPolicy};
use crate::ike;
use crate::lab::addressing::Addressing;
use crate::lab::charon::{self, Charon};
use crate::lab::gateway::{self, GatewayFiles, GatewayProcess};
use crate::lab::interrupt::Interrupt;
use crate::lab::options::{LabOptions, Side};
use crate::lab::scratch::{ScratchDir, write_private};
use crate::lab::topology::Topology;
use crate::lab::{self, RemoteGateway};
use crate::os::netns::Namespace;
use crate::status::Snapshot;

/// What both gateways are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// `groundlink run`.
    Groundlink,
    /// strongSwan's charon with its userspace ESP.
    Strongswan,
}

impl System {
    /// Whether it is installed.
    pub(super) fn is_here(self) -> Result<(), lab::LabError> {
        match self {
            System::Groundlink => Ok(()),
            System::Strongswan => Ok(charon::is_installed()?),
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            System::Groundlink => "groundlink",
            System::Strongswan => "strongSwan",
        })
    }
}

/// Both gateways, connected. Dropping it ends everything.
pub(super) struct GatewayPair {
    // Dropped in this order: programs before what they stand on.
    a: RemoteGateway,
    b: RemoteGateway,
    pub(super) world: Topology,
    pub(super) plan: Addressing,
    options: LabOptions,
    psk: String,
    scratch: ScratchDir,
}

/// How long a tunnel may take.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

impl GatewayPair {
    /// Builds the machines, starts the gateways and waits for the tunnel.
    pub(super) fn connect(
        system: System,
        options: &LabOptions,
        program: &Path,
        interrupt: &Interrupt,
    ) -> Result<GatewayPair, TunnelBenchError> {
        let doing =
            |what: &'static str| move |source: io::Error| lab::LabError::Io { what, source };
        let plan = Addressing::new(options);
        let scratch = ScratchDir::new().map_err(doing("no temporary folder"))?;
        let world = Topology::new(options, &plan).map_err(lab::LabError::from)?;
        let psk = lab::psk().map_err(doing("no random key"))?;
        let start = |side: Side| -> Result<RemoteGateway, lab::LabError> {
            let folder = scratch
                .folder(&side.to_string())
                .map_err(doing("no temporary folder"))?;
            let namespace = world.gateway(side);
            match system {
                System::Groundlink => {
                    let files = GatewayFiles::in_folder(&folder);
                    let config = gateway::config(options, &plan, side, &files);
                    GatewayProcess::start(program, namespace, &files, &config, &psk)
                        .map(RemoteGateway::Groundlink)
                        .map_err(doing("groundlink cannot be started"))
                }
                System::Strongswan => {
                    let connection = lab::connection(options, &plan, side, &psk);
                    let charon = Charon::start(namespace, &folder, &connection, interrupt)?;
                    Ok(RemoteGateway::Strongswan(charon))
                }
            }
        };
        // B waits for A.
        let b = start(Side::B)?;
        let a = start(Side::A)?;
        let mut pair = GatewayPair {
            a,
            b,
            world,
            plan,
            options: options.clone(),
            psk,
            scratch,
        };
        let give_up = Instant::now() + PATIENCE;
        while !(is_up(&pair.a) && is_up(&pair.b)) {
            if Instant::now() > give_up || has_ended(&mut pair.a) || has_ended(&mut pair.b) {
                let mut log = tail(&mut pair.a);
                log.extend(tail(&mut pair.b));
                return Err(TunnelBenchError::NotUp {
                    system,
                    esp: options.esp.clone().unwrap_or_default(),
                    log,
                });
            }
            interrupt.pause(POLL)?;
        }
        Ok(pair)
    }

    /// The process of one gateway.
    pub(super) fn process(&mut self, side: Side) -> u32 {
        let far = match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        };
        match far {
            RemoteGateway::Groundlink(gateway) => gateway.process().id(),
            RemoteGateway::Strongswan(charon) => charon.process().id(),
        }
    }

    /// Ends gateway A, which says goodbye; another may then take its place.
    pub(super) fn end_a(&mut self) -> io::Result<()> {
        match &mut self.a {
            RemoteGateway::Groundlink(gateway) => gateway.process().stop(),
            RemoteGateway::Strongswan(charon) => charon.process().stop(),
        }
        .map(drop)
    }

    /// What IKE needs to know to be gateway A.
    pub(super) fn settings_of_a(&self) -> Result<ike::Settings, lab::LabError> {
        let doing =
            |what: &'static str| move |source: io::Error| lab::LabError::Io { what, source };
        let folder = self
            .scratch
            .folder("peer")
            .map_err(doing("no temporary folder"))?;
        let files = GatewayFiles::in_folder(&folder);
        write_private(&files.psk, &self.psk).map_err(doing("no temporary file"))?;
        let text = gateway::config(&self.options, &self.plan, Side::A, &files);
        let environment = LoadOptions {
            credentials: None,
            secrets: SecretPolicy::Required,
        };
        let loaded = config::load_text(ConfigText::new("peer", text), &folder, &environment);
        let tunnel = loaded.settings.and_then(|mut all| all.tunnels.pop());
        tunnel.map(|tunnel| tunnel.ike).ok_or_else(|| {
            let nothing = io::Error::other("no tunnel in it");
            doing("the configuration of gateway A")(nothing)
        })
    }

    /// What both gateways say of themselves; `None` if they are not groundlink.
    pub(super) fn status(&self) -> Option<[Snapshot; 2]> {
        let of = |far: &RemoteGateway| match far {
            RemoteGateway::Groundlink(gateway) => gateway.status().ok(),
            RemoteGateway::Strongswan(_) => None,
        };
        Some([of(&self.a)?, of(&self.b)?])
    }

    /// Runs `work` on one of the hosts.
    pub(super) fn on_host<T: Send>(
        &self,
        side: Side,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, lab::LabError> {
        enter(self.world.host(side), work)
    }

    /// Runs `work` where gateway A is, or was.
    pub(super) fn on_gateway_a<T: Send>(
        &self,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, lab::LabError> {
        enter(self.world.gateway(Side::A), work)
    }

    /// Runs `work` on the router between the gateways.
    pub(super) fn on_wan<T: Send>(
        &self,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, lab::LabError> {
        enter(self.world.wan(), work)
    }
}

fn enter<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> T + Send,
) -> Result<T, lab::LabError> {
    let what = "a network namespace cannot be entered";
    namespace
        .run(work)
        .map_err(|source| lab::LabError::Io { what, source })
}

fn is_up(far: &RemoteGateway) -> bool {
    match far {
        RemoteGateway::Groundlink(gateway) => gateway.is_up(),
        RemoteGateway::Strongswan(charon) => charon.is_up(),
    }
}

fn has_ended(far: &mut RemoteGateway) -> bool {
    match far {
        RemoteGateway::Groundlink(gateway) => gateway.process().ended().is_some(),
        RemoteGateway::Strongswan(charon) => charon.process().ended().is_some(),
    }
}

fn tail(far: &mut RemoteGateway) -> Vec<String> {
    match far {
        RemoteGateway::Groundlink(gateway) => gateway.process().tail(8),
        RemoteGateway::Strongswan(charon) => charon.tail(8),
    }
}

/// A log behind a sentence.
pub(super) fn said(log: &[String]) -> String {
    log.iter().map(|line| format!("\n  | {line}")).collect()
}
