//! strongSwan as the remote gateway: charon with userspace ESP (the kernel-libipsec plugin), and its configuration files.
//!
//! All files are in one private directory, so that several charons can run at the same time and beside the system's own:
//! `STRONGSWAN_CONF` selects the settings, and swanctl's vici socket is in the directory as well. kernel-libipsec creates one device,
//! `ipsec0`, routes to it from table 220, and always encapsulates ESP in UDP.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;
use super::process::{ChildProcess, tail, write_private};
use crate::net::Prefix;
use crate::os::netns::Namespace;

/// Installation command for strongSwan.
pub const INSTALL: &str = "apt install charon-systemd strongswan-swanctl libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins";

/// Configuration of charon's connection.
#[derive(Debug, Clone)]
pub struct CharonConfig {
    /// Local address.
    pub local: IpAddr,
    /// Peer's address.
    pub remote: IpAddr,
    /// Local identity.
    pub id: String,
    /// Expected identity of the peer.
    pub peer_id: String,
    /// Local network.
    pub local_network: Prefix,
    /// Peer's network.
    pub remote_network: Prefix,
    /// Further networks of the peer, for each of which charon has a Child SA of its own: `lab-2`, `lab-3` and so on.
    pub further_remote_networks: Vec<Prefix>,
    /// IKE proposals; charon's defaults if `None`.
    pub ike: Option<String>,
    /// ESP proposals; charon's defaults if `None`.
    pub esp: Option<String>,
    /// Pre-shared key: letters and digits.
    pub psk: String,
    /// Whether charon initiates.
    pub start: CharonStart,
    /// Seconds between liveness checks.
    pub dpd_delay: u32,
    /// Largest IP packet of an IKE message; charon's default if `None`.
    pub fragment_size: Option<u16>,
    /// Number of half-open IKE SAs from which charon requests cookies; charon's default if `None`.
    pub cookies_from: Option<u32>,
    /// Rekey times.
    pub rekey_times: RekeyTimes,
    /// Milliseconds until the first retransmission; charon's default if `None`.
    pub retransmit_ms: Option<u32>,
    /// Post-quantum pre-shared key.
    pub ppk: Option<CharonPpk>,
    /// Root directory of another system whose charon is used; this system's if `None`.
    pub root: Option<PathBuf>,
}

/// A post-quantum pre-shared key (RFC 8784).
#[derive(Debug, Clone)]
pub struct CharonPpk {
    /// PPK identity.
    pub id: String,
    /// Key: letters and digits.
    pub key: String,
    /// Treatment of a peer without the PPK.
    pub policy: PpkPolicy,
}

/// Treatment of a peer without the PPK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PpkPolicy {
    /// Reject the peer.
    Required,
    /// Connect without the PPK.
    Optional,
}

/// Exact rekey times of charon, whose defaults are hours with a random part.
#[derive(Debug, Clone, Copy, Default)]
pub struct RekeyTimes {
    /// Seconds until the rekey of an IKE SA.
    pub ike_s: Option<u32>,
    /// Seconds until the rekey of a Child SA.
    pub child_s: Option<u32>,
    /// Seconds until reauthentication, if charon initiated the IKE SA.
    pub reauth_s: Option<u32>,
    /// Order of reauthentication.
    pub reauth_order: ReauthOrder,
}

/// Order of reauthentication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReauthOrder {
    /// Create the new IKE SA, then delete the old one.
    #[default]
    MakeBeforeBreak,
    /// Delete the old IKE SA, then create the new one.
    BreakBeforeMake,
}

/// Action of charon after it has loaded its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CharonStart {
    /// Wait for the peer.
    Wait,
    /// Connect at once, and again after every failure.
    Connect,
}

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    process: ChildProcess,
    dir: PathBuf,
}

/// An error of charon.
#[derive(Debug, thiserror::Error)]
pub enum CharonError {
    /// A program of strongSwan is missing.
    #[error("{0} is not installed")]
    NotInstalled(&'static str),
    /// charon did not start, or rejected its configuration.
    #[error("strongSwan {what}")]
    Failed {
        /// Description of the failure.
        what: String,
        /// End of the output.
        log: Vec<String>,
    },
    /// The user interrupted the lab.
    #[error(transparent)]
    Interrupted(#[from] super::interrupt::Interrupted),
    /// A file or process operation failed.
    #[error("cannot start strongSwan: {0}")]
    Io(#[from] io::Error),
}

/// Paths of the programs in Debian.
const CHARON: &str = "/usr/sbin/charon-systemd";
const SWANCTL: &str = "/usr/sbin/swanctl";

/// File in the directory that names the root directory of charon's system.
const ROOT: &str = "root";

/// Mount point of the directory in another root.
const MOUNTED: &str = "/mnt";

/// Command that runs charon of another system in a private mount namespace with our devices and `dir`.
fn charon_in_root(root: &Path, dir: &Path) -> Command {
    let script = format!(
        "mount --rbind /dev \"$1/dev\" && mount --bind \"$2\" \"$1{MOUNTED}\" && exec chroot \"$1\" {CHARON}"
    );
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .args([root, dir])
        .env("STRONGSWAN_CONF", format!("{MOUNTED}/strongswan.conf"));
    command
}

/// Checks that strongSwan is installed.
pub fn check_installed() -> Result<(), CharonError> {
    [CHARON, SWANCTL]
        .into_iter()
        .find(|program| !Path::new(program).exists())
        .map_or(Ok(()), |program| Err(CharonError::NotInstalled(program)))
}

impl Charon {
    /// Writes the configuration to `dir` and starts charon in `namespace`.
    pub fn start(
        namespace: &Namespace,
        dir: &Path,
        connection: &CharonConfig,
        interrupt: &Interrupt,
    ) -> Result<Charon, CharonError> {
        check_installed()?;
        let seen_as = match &connection.root {
            None => dir,
            Some(root) => {
                write_private(&dir.join(ROOT), &root.display().to_string())?;
                Path::new(MOUNTED)
            }
        };
        write_private(&dir.join("strongswan.conf"), &settings(seen_as, connection))?;
        write_private(&dir.join("swanctl.conf"), &connection.to_conf())?;
        Charon::restart(namespace, dir, interrupt)
    }

    /// Starts charon with existing files.
    pub fn restart(
        namespace: &Namespace,
        dir: &Path,
        interrupt: &Interrupt,
    ) -> Result<Charon, CharonError> {
        let mut command = match std::fs::read_to_string(dir.join(ROOT)) {
            Err(_) => {
                let mut command = Command::new(CHARON);
                command.env("STRONGSWAN_CONF", dir.join("strongswan.conf"));
                command
            }
            Ok(root) => charon_in_root(Path::new(&root), dir),
        };
        namespace.enter(&mut command)?;
        let process = ChildProcess::start(command, &dir.join("charon.out"))?;
        let mut charon = Charon {
            process,
            dir: dir.to_owned(),
        };
        charon.await_socket(interrupt)?;
        charon.load()?;
        Ok(charon)
    }

    /// Runs swanctl.
    pub fn swanctl(&self, arguments: &[&str]) -> io::Result<Output> {
        Command::new(SWANCTL)
            .args(arguments)
            .args(["--uri", &self.uri()])
            .env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"))
            .output()
    }

    /// Shell command that shows the status.
    pub fn status_command(&self) -> String {
        format!("swanctl --list-sas --uri {}", self.uri())
    }

    fn uri(&self) -> String {
        format!("unix://{}", self.dir.join("vici").display())
    }

    /// Replaces the configuration; charon initiates if the configuration says so.
    pub fn reload(&self, connection: &CharonConfig) -> Result<(), CharonError> {
        write_private(&self.dir.join("swanctl.conf"), &connection.to_conf())?;
        self.load()
    }

    /// Whether a Child SA is installed.
    pub fn is_up(&self) -> bool {
        self.swanctl(&["--list-sas"])
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("INSTALLED"))
    }

    /// Log of charon.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("charon.log")).unwrap_or_default()
    }

    /// Last `count` lines of the log.
    pub fn tail(&self, count: usize) -> Vec<String> {
        tail(&self.log(), count)
    }

    /// The child process.
    pub fn process(&mut self) -> &mut ChildProcess {
        &mut self.process
    }

    fn await_socket(&mut self, interrupt: &Interrupt) -> Result<(), CharonError> {
        let give_up = Instant::now() + Duration::from_secs(10);
        let socket = self.dir.join("vici");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let exited = self
                .process
                .exit_status()
                .map(|status| format!("exited at once: {status}"));
            if let Some(what) = exited.or_else(|| {
                (Instant::now() > give_up).then(|| "did not open its socket".to_owned())
            }) {
                let mut log = self.tail(10);
                log.extend(self.process.tail(5));
                return Err(CharonError::Failed { what, log });
            }
            interrupt.pause(Duration::from_millis(10))?;
        }
        Ok(())
    }

    fn load(&self) -> Result<(), CharonError> {
        let file = self.dir.join("swanctl.conf").display().to_string();
        let output = self.swanctl(&["--load-all", "--file", &file])?;
        if output.status.success() {
            return Ok(());
        }
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Err(CharonError::Failed {
            what: "rejected its configuration".to_owned(),
            log: tail(&text, 10),
        })
    }
}

/// Content of `strongswan.conf`. The plugins are listed, so that other installed plugins have no effect.
fn settings(dir: &Path, connection: &CharonConfig) -> String {
    let dir = dir.display();
    let fragments = connection
        .fragment_size
        .map_or_else(String::new, |size| format!("\n  fragment_size = {size}"));
    let cookies = connection.cookies_from.map_or_else(String::new, |count| {
        format!("\n  cookie_threshold = {count}")
    });
    let repeats = connection.retransmit_ms.map_or_else(String::new, |ms| {
        // Enough tries that packet loss does not end an SA.
        format!(
            "\n  retransmit_timeout = {}.{:03}\n  retransmit_base = 1.5\n  retransmit_tries = 12",
            ms / 1000,
            ms % 1000
        )
    });
    let first = match connection.rekey_times.reauth_order {
        ReauthOrder::MakeBeforeBreak => "yes",
        ReauthOrder::BreakBeforeMake => "no",
    };
    format!(
        "charon-systemd {{
  load = random nonce openssl aes sha1 sha2 md5 hmac kdf gmp curve25519 gcm chapoly kernel-libipsec kernel-netlink socket-default vici
  make_before_break = {first}{fragments}{cookies}{repeats}
  journal {{
    default = -1
  }}
  filelog {{
    file {{
      path = {dir}/charon.log
      default = 1
      time_format = %T
      flush_line = yes
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{dir}/vici
    }}
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
  }}
}}
swanctl {{
  load = random openssl
}}
"
    )
}

impl CharonConfig {
    /// Content of `swanctl.conf`.
    fn to_conf(&self) -> String {
        let CharonConfig {
            local,
            remote,
            id,
            peer_id,
            psk,
            dpd_delay,
            rekey_times,
            ..
        } = self;
        let ike = self.ike.as_deref().unwrap_or("default");
        let esp = self.esp.as_deref().unwrap_or("default");
        let (start, tries) = match self.start {
            CharonStart::Wait => ("none", "1"),
            // 0: unlimited.
            CharonStart::Connect => ("start", "0"),
        };
        let again = match self.start {
            CharonStart::Wait => "clear",
            CharonStart::Connect => "restart",
        };
        // The default hard limit is a tenth of the time later in whole seconds: for 2 s, that is no time.
        let exactly = |soft: &str, after: Option<u32>, hard: &str, indent: &str| {
            after.map_or_else(String::new, |after| {
                format!("\n{indent}{soft} = {after}s\n{indent}rand_time = 0s\n{indent}{hard}")
            })
        };
        let ike_ends = exactly("rekey_time", rekey_times.ike_s, "over_time = 20s", "    ")
            + &exactly(
                "reauth_time",
                rekey_times.reauth_s,
                "over_time = 20s",
                "    ",
            );
        let child_life = format!("life_time = {}s", rekey_times.child_s.unwrap_or(0) + 20);
        let child_ends = exactly("rekey_time", rekey_times.child_s, &child_life, "        ");
        let (ppk, secret) = self.ppk.as_ref().map_or_else(Default::default, |ppk| {
            let required = match ppk.policy {
                PpkPolicy::Required => "yes",
                PpkPolicy::Optional => "no",
            };
            let CharonPpk { id, key, .. } = ppk;
            (
                format!("\n    ppk_id = {id}\n    ppk_required = {required}"),
                format!("\n  ppk-lab {{\n    id = {id}\n    secret = {key}\n  }}"),
            )
        });
        let mut children = String::new();
        let networks = [&self.remote_network].into_iter();
        for (index, network) in networks.chain(&self.further_remote_networks).enumerate() {
            let name = match index {
                0 => "lab".to_owned(),
                index => format!("lab-{}", index + 1),
            };
            let _ = write!(
                children,
                "
      {name} {{
        local_ts = {}
        remote_ts = {network}
        esp_proposals = {esp}
        start_action = {start}
        dpd_action = {again}{child_ends}
      }}",
                self.local_network
            );
        }
        let mut conf = String::new();
        let _ = write!(
            conf,
            "connections {{
  lab {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {ike}
    keyingtries = {tries}
    dpd_delay = {dpd_delay}s{ike_ends}{ppk}
    local {{
      auth = psk
      id = {id}
    }}
    remote {{
      auth = psk
      id = {peer_id}
    }}
    children {{{children}
    }}
  }}
}}
secrets {{
  ike-lab {{
    secret = {psk}
  }}{secret}
}}
"
        );
        conf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_has_the_configured_values() {
        let conf = CharonConfig {
            local: "192.0.2.129".parse().unwrap(),
            remote: "192.0.2.1".parse().unwrap(),
            id: "192.0.2.129".to_owned(),
            peer_id: "gw.example.org".to_owned(),
            local_network: "10.2.0.0/24".parse().unwrap(),
            remote_network: "10.1.0.0/24".parse().unwrap(),
            ike: Some("aes128-sha1-modp1024".to_owned()),
            esp: None,
            psk: "abc123".to_owned(),
            start: CharonStart::Connect,
            dpd_delay: 7,
            fragment_size: None,
            cookies_from: None,
            rekey_times: RekeyTimes {
                child_s: Some(9),
                ..RekeyTimes::default()
            },
            retransmit_ms: None,
            further_remote_networks: Vec::new(),
            ppk: Some(CharonPpk {
                id: "q-1".to_owned(),
                key: "def456".to_owned(),
                policy: PpkPolicy::Optional,
            }),
            root: None,
        }
        .to_conf();
        for line in [
            "proposals = aes128-sha1-modp1024",
            "esp_proposals = default",
            "local_ts = 10.2.0.0/24",
            "id = gw.example.org",
            "start_action = start",
            "dpd_delay = 7s",
            "rekey_time = 9s",
            "secret = abc123",
            "ppk_id = q-1",
            "ppk_required = no",
            "secret = def456",
        ] {
            assert!(conf.contains(line), "no {line} in\n{conf}");
        }
        assert_eq!(conf.matches('{').count(), conf.matches('}').count());
    }
}
