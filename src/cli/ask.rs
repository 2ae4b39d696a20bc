//! `groundlink up`, `down`, `rekey`, `reset`: asks the daemon, and the way all verbs talk to it.

use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::GlobalArgs;
use super::outcome::{Exit, Failure, print};
use crate::control::client::{self, ClientError};
use crate::status;

/// Connects a tunnel, and again whenever it drops if it starts by itself
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  groundlink up ali-1")]
pub(crate) struct Up {
    #[command(flatten)]
    target: TunnelArgs,
}

/// Takes a tunnel down until `up` or a restart
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  groundlink down ali-1")]
pub(crate) struct Down {
    #[command(flatten)]
    target: TunnelArgs,
}

/// Takes a tunnel down and connects it afresh
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  groundlink reset ali-1")]
pub(crate) struct Reset {
    #[command(flatten)]
    target: TunnelArgs,
}

/// Gives a tunnel fresh keys without a pause in its traffic
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  groundlink rekey ali-1\n  groundlink rekey ali-1 --ike\n\nIt does not wait for the peer's answer: `groundlink status ali-1` counts the rekeys and tells of a refusal.\n\nExit status: 0 begun · 1 there is no such SA now · 3 the daemon is not reachable"
)]
pub(crate) struct Rekey {
    #[command(flatten)]
    target: TunnelArgs,
    /// Of the IKE SA; otherwise of the Child SA, which carries the packets
    #[arg(long)]
    ike: bool,
}

/// Which tunnel, and how to answer.
#[derive(Debug, Args)]
struct TunnelArgs {
    /// The tunnel's name
    tunnel: String,
    /// The tunnel as one JSON object
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
            format!("{name}: rekeying the {sa}; `groundlink status {name}` shows how it goes")
        })
    }
}

impl TunnelArgs {
    fn run(self, global: &GlobalArgs, verb: &str) -> Result<Exit, Failure> {
        self.post(global, verb, |tunnel| {
            let hint = hint(tunnel);
            format!("{}: {}{hint}", tunnel.name, tunnel.state.word())
        })
    }

    /// Asks, and says what has come of it in `words`, or as JSON.
    fn post(
        self,
        global: &GlobalArgs,
        verb: &str,
        words: impl FnOnce(&status::TunnelStatus) -> String,
    ) -> Result<Exit, Failure> {
        let path = format!("{}/{verb}", tunnel_path(&self.tunnel)?);
        let value = request(&global.control_socket(), client::HttpMethod::Post, &path)?;
        if self.json {
            return print(format!("{value}\n").as_bytes());
        }
        let tunnel: status::TunnelStatus = parse_response(value)?;
        print(format!("{}\n", words(&tunnel)).as_bytes())
    }
}

/// What to look at next.
fn hint(tunnel: &status::TunnelStatus) -> String {
    match tunnel.state {
        status::TunnelState::Connecting => {
            format!("; `groundlink status {}` shows how it goes", tunnel.name)
        }
        status::TunnelState::Up | status::TunnelState::Down | status::TunnelState::Failed => {
            String::new()
        }
    }
}

/// The resource of a tunnel. A name that no tunnel can have is not sent.
pub(crate) fn tunnel_path(name: &str) -> Result<String, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Failure::usage(
            format!("`{}` is not the name of a tunnel", name.escape_debug()),
            "`groundlink status` lists the tunnels",
        ));
    }
    Ok(format!("/v1/tunnels/{name}"))
}

/// Asks the daemon.
pub(crate) fn request(
    socket: &Path,
    verb: client::HttpMethod,
    path: &str,
) -> Result<Value, Failure> {
    client::request(socket, verb, path).map_err(|error| match &error {
        ClientError::Unreachable { cause, .. } => {
            let advice = match cause.kind() {
                std::io::ErrorKind::PermissionDenied => "run this as root, or become a member of the group `groundlink`",
                _ => "start it (`systemctl start groundlink`, or `groundlink run`), or say where it listens with `--socket`",
            };
            Failure::unreachable(error.to_string(), advice)
        }
        ClientError::InvalidReply { .. } => Failure::unreachable(error.to_string(), "its log says more; `systemctl restart groundlink` starts it afresh"),
        ClientError::Refused(trouble) => Failure::failed(trouble.error.clone(), trouble.advice.clone()),
    })
}

/// Reads what the daemon answered.
pub(crate) fn parse_response<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        Failure::failed(
            format!("the daemon answered something this version does not know: {error}"),
            "restart the daemon after an upgrade, or use `--json`",
        )
    })
}
