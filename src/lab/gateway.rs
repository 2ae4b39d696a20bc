//! A `groundlink run` process with a configuration file, a key file and a control socket.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::addressing::Addressing;
use super::options::{LabOptions, Side, WeakAlgorithms, proposals};
use super::process::{ChildProcess, write_private};

use crate::control::client::{self, ClientError, HttpMethod};
use crate::os::netns::Namespace;
use crate::status::{Snapshot, TunnelState};

/// A running `groundlink run`.
#[derive(Debug)]
pub struct GatewayProcess {
    process: ChildProcess,
    socket: PathBuf,
}

/// Files of a gateway, in one private directory.
#[derive(Debug, Clone)]
pub struct GatewayFiles {
    /// Configuration.
    pub config: PathBuf,
    /// Control socket.
    pub control: PathBuf,
    /// Pre-shared key.
    pub psk: PathBuf,
    /// Log.
    pub log: PathBuf,
}

impl GatewayFiles {
    /// The files in `dir`.
    pub fn in_dir(dir: &Path) -> GatewayFiles {
        GatewayFiles {
            config: dir.join("groundlink.toml"),
            control: dir.join("control.sock"),
            psk: dir.join("psk"),
            log: dir.join("log"),
        }
    }
}

impl GatewayProcess {
    /// Writes the files and starts `program` in `namespace`.
    pub fn start(
        program: &Path,
        namespace: &Namespace,
        files: &GatewayFiles,
        config: &str,
        psk: &str,
    ) -> io::Result<GatewayProcess> {
        write_private(&files.psk, psk)?;
        write_private(&files.config, config)?;
        GatewayProcess::restart(program, namespace, files)
    }

    /// Starts `program` with existing files.
    pub fn restart(
        program: &Path,
        namespace: &Namespace,
        files: &GatewayFiles,
    ) -> io::Result<GatewayProcess> {
        let mut command = Command::new(program);
        namespace.enter(&mut command)?;
        command
            .args(["run", "--log", "text"])
            .arg("--config")
            .arg(&files.config)
            .env_remove("NOTIFY_SOCKET");
        Ok(GatewayProcess {
            process: ChildProcess::start(command, &files.log)?,
            socket: files.control.clone(),
        })
    }

    /// Status of the gateway; an error until the control socket exists.
    pub fn status(&self) -> Result<Snapshot, ClientError> {
        let json = client::request(&self.socket, HttpMethod::Get, "/v1/status")?;
        serde_json::from_value(json).map_err(|error| ClientError::InvalidReply {
            socket: self.socket.clone(),
            what: error.to_string(),
        })
    }

    /// Sends a command to a tunnel: `up`, `down` or `reset`.
    pub fn command(&self, tunnel: &str, command: &str) -> Result<(), ClientError> {
        client::request(
            &self.socket,
            HttpMethod::Post,
            &format!("/v1/tunnels/{tunnel}/{command}"),
        )
        .map(drop)
    }

    /// Whether all tunnels are up.
    pub fn is_up(&self) -> bool {
        self.status().is_ok_and(|snapshot| {
            snapshot
                .tunnels
                .iter()
                .all(|tunnel| tunnel.state == TunnelState::Up)
        })
    }

    /// Path of the control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Shell command that shows the status.
    pub fn status_command(&self) -> String {
        format!("groundlink status --socket {}", self.socket.display())
    }

    /// The child process.
    pub fn process(&mut self) -> &mut ChildProcess {
        &mut self.process
    }
}

/// The configuration file of one side.
pub fn config(
    options: &LabOptions,
    addressing: &Addressing,
    side: Side,
    files: &GatewayFiles,
) -> String {
    let (ours, theirs) = (addressing.site(side), addressing.site(side.other()));
    let mut toml = String::new();
    let _ = writeln!(
        toml,
        "[gateway]\ncontrol = {:?}",
        files.control.display().to_string()
    );
    let addresses = ours.outside.iter().zip(&ours.public).zip(&theirs.public);
    for (number, ((local, public), peer)) in addresses.enumerate() {
        let start = if options.initiates(side) {
            "auto"
        } else {
            "add"
        };
        let _ = write!(
            toml,
            "
[[tunnel]]
name = \"lab-{}\"
peer = \"{peer}\"
psk = {{ file = {:?} }}
local = [\"{}\"]
remote = [\"{}\"]
local-address = \"{local}\"
address = \"{public}\"
start = \"{start}\"
metric = 100
encapsulation = \"{}\"
",
            number + 1,
            files.psk.display().to_string(),
            ours.network,
            theirs.network,
            options.encapsulation.word(),
        );
        if let Some(preset) = &options.preset {
            let _ = writeln!(toml, "preset = {preset:?}");
        }
        for (key, words) in [("ike", &options.ike), ("esp", &options.esp)] {
            if words.is_some() {
                let list: Vec<&str> = proposals(words.as_deref()).collect();
                let _ = writeln!(toml, "{key} = {list:?}");
            }
        }
        match options.weak {
            WeakAlgorithms::Allowed => toml.push_str("allow-weak = true\n"),
            WeakAlgorithms::Rejected => {}
        }
    }
    toml
}

#[cfg(test)]
mod tests {
    use super::super::options::{InitiatorChoice, NatPlacement};
    use super::*;

    fn written(options: &LabOptions, side: Side) -> toml::Table {
        let files = GatewayFiles::in_dir(Path::new("/tmp/x"));
        config(options, &Addressing::new(options), side, &files)
            .parse()
            .unwrap()
    }

    #[test]
    fn every_tunnel_uses_its_own_pair_of_addresses() {
        let options = LabOptions {
            tunnels: 2,
            role: InitiatorChoice::Responder,
            ..LabOptions::default()
        };
        let toml = written(&options, Side::A);
        let tunnels = toml["tunnel"].as_array().unwrap();
        let texts = |key: &str| {
            tunnels
                .iter()
                .map(|tunnel| tunnel[key].as_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(texts("name"), ["lab-1", "lab-2"]);
        assert_eq!(texts("local-address"), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(texts("peer"), ["192.0.2.129", "192.0.2.130"]);
        assert_eq!(texts("start"), ["add", "add"]);
        assert_eq!(
            tunnels[1]["ike"].as_array().unwrap()[0].as_str(),
            Some("aes128-sha1-modp1024")
        );
    }

    #[test]
    fn a_gateway_behind_nat_binds_its_private_address_and_identifies_by_the_public_one() {
        let options = LabOptions {
            nat: NatPlacement::Us,
            ..LabOptions::default()
        };
        let toml = written(&options, Side::A);
        assert_eq!(
            toml["tunnel"][0]["local-address"].as_str(),
            Some("100.64.1.1")
        );
        assert_eq!(toml["tunnel"][0]["address"].as_str(), Some("192.0.2.254"));
        assert_eq!(
            written(&options, Side::B)["tunnel"][0]["peer"].as_str(),
            Some("192.0.2.254")
        );
    }

    #[test]
    fn a_preset_replaces_missing_proposals() {
        let options = LabOptions {
            preset: Some("alibaba".to_owned()),
            ike: None,
            esp: None,
            ..LabOptions::default()
        };
        let toml = written(&options, Side::B);
        let tunnel = toml["tunnel"][0].as_table().unwrap();
        assert_eq!(tunnel["preset"].as_str(), Some("alibaba"));
        assert!(!tunnel.contains_key("ike") && !tunnel.contains_key("allow-weak"));
    }
}
