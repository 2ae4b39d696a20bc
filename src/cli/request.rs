//! `groundlink up`, `down`, `reset`, `rekey`: one request to the daemon each, and the client functions that `status` shares.

use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::common::{Exit, Failure, GlobalArgs, print};
use crate::control::client::{self, ClientError};
use crate::status;

/// Connect a tunnel; with `start = "auto"` it also reconnects by itself
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  groundlink up ali-1")]
pub(crate) struct Up {
    #[command(flatten)]
    target: TunnelArgs,
}

/// Disconnect a tunnel until `up` or a restart of the daemon
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  groundlink down ali-1")]
pub(crate) struct Down {
    #[command(flatten)]
    target: TunnelArgs,
}

/// Disconnect a tunnel and connect it again
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  groundlink reset ali-1")]
pub(crate) struct Reset {
    #[command(flatten)]
    target: TunnelArgs,
}

/// Rekey an SA of a tunnel without interrupting its traffic
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  groundlink rekey ali-1\n  groundlink rekey ali-1 --ike\n\nThe command does not wait for the peer: `groundlink status ali-1` shows completed and rejected rekeys.\n\nExit status: 0 initiated · 1 the tunnel has no such SA · 3 the daemon is not reachable"
)]
pub(crate) struct Rekey {
    #[command(flatten)]
    target: TunnelArgs,
    /// Rekey the IKE SA instead of the Child SA
    #[arg(long)]
    ike: bool,
}

/// The tunnel of a request, and the output format.
#[derive(Debug, Args)]
struct TunnelArgs {
    /// Name of the tunnel
    tunnel: String,
    /// Print the tunnel as one JSON object
    #[arg(long)]
    json: bool,
}

impl Up {
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        self.target.run(global, "up")
    }
}

impl Down {
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        self.target.run(global, "down")
    }
}

impl Reset {
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        self.target.run(global, "reset")
    }
}

impl Rekey {
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        let (verb, sa) = if self.ike {
            ("rekey?ike=true", "IKE SA")
        } else {
            ("rekey", "Child SA")
        };
        self.target.post(global, verb, |tunnel| {
            let name = &tunnel.name;
            format!("{name}: rekeying the {sa}; `groundlink status {name}` shows the result")
        })
    }
}

impl TunnelArgs {
    fn run(self, global: &GlobalArgs, verb: &str) -> Result<Exit, Failure> {
        self.post(global, verb, |tunnel| {
            let (name, state) = (&tunnel.name, tunnel.state.word());
            match tunnel.state {
                status::TunnelState::Connecting => {
                    format!("{name}: {state}; `groundlink status {name}` shows the progress")
                }
                status::TunnelState::Up
                | status::TunnelState::Down
                | status::TunnelState::Failed => {
                    format!("{name}: {state}")
                }
            }
        })
    }

    /// Sends the request and prints the tunnel: with `describe`, or as JSON.
    fn post(
        self,
        global: &GlobalArgs,
        verb: &str,
        describe: impl FnOnce(&status::TunnelStatus) -> String,
    ) -> Result<Exit, Failure> {
        let path = format!("{}/{verb}", tunnel_path(&self.tunnel)?);
        let value = request(&global.control_socket(), client::HttpMethod::Post, &path)?;
        if self.json {
            return print(format!("{value}\n").as_bytes());
        }
        let tunnel: status::TunnelStatus = parse_response(value)?;
        print(format!("{}\n", describe(&tunnel)).as_bytes())
    }
}

/// The API path of a tunnel. A name that no tunnel can have is rejected.
pub(crate) fn tunnel_path(name: &str) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Failure::usage(
            format!("`{}` is not a valid tunnel name", name.escape_debug()),
            "`groundlink status` lists the tunnels",
        ));
    }
    Ok(format!("/v1/tunnels/{name}"))
}

/// Sends a request to the daemon.
pub(crate) fn request(
    socket: &Path,
    verb: client::HttpMethod,
    path: &str,
) -> Result<Value, Failure> {
    client::request(socket, verb, path).map_err(|error| match &error {
        ClientError::Unreachable { cause, .. } => {
            let advice = match cause.kind() {
                std::io::ErrorKind::PermissionDenied => "run this as root or as a member of the group `groundlink`",
                _ => "start it (`systemctl start groundlink` or `groundlink run`), or name its socket with `--socket`",
            };
            Failure::unreachable(error.to_string(), advice)
        }
        ClientError::InvalidReply { .. } => Failure::unreachable(error.to_string(), "see its log; `systemctl restart groundlink` restarts it"),
        ClientError::Refused(trouble) => Failure::failed(trouble.error.clone(), trouble.advice.clone()),
    })
}

/// Parses a response of the daemon.
pub(crate) fn parse_response<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        Failure::failed(
            format!("this version of groundlink cannot read the daemon's response: {error}"),
            "restart the daemon if it has been upgraded, or use `--json`",
        )
    })
}
