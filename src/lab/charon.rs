//! strongSwan on the far side: charon with its userspace ESP (the kernel-libipsec plugin), and the files it reads.
//!
//! Everything lies in one private folder, so that any number of charons run beside each other and beside the system's own:
//! `STRONGSWAN_CONF` names the settings, and the vici socket that swanctl talks to is in the folder too. kernel-libipsec makes one
//! device, `ipsec0`, routes into it from table 220, and always encapsulates in UDP.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;
use super::process::{ChildProcess, tail};
use super::scratch::write_private;
use crate::net::Prefix;
use crate::os::netns::Namespace;

/// What to install when charon is not there.
pub const INSTALL: &str = "apt install charon-systemd strongswan-swanctl libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins";

/// One connection, as charon sees it.
#[derive(Debug, Clone)]
pub struct CharonConfig {
    /// Where it sends from.
    pub local: IpAddr,
    /// Where the peer is.
    pub remote: IpAddr,
    /// Its identity.
    pub id: String,
    /// The identity it wants to see.
    pub peer_id: String,
    /// The network behind it.
    pub local_network: Prefix,
    /// The network behind the peer.
    pub remote_network: Prefix,
    /// IKE proposals; charon's own if there are none.
    pub ike: Option<String>,
    /// ESP proposals; charon's own if there are none.
    pub esp: Option<String>,
    /// The pre-shared key: letters and digits.
    pub psk: String,
    /// Whether it starts the connection.
    pub start: CharonStart,
    /// Seconds between liveness checks.
    pub dpd_delay: u32,
    /// The largest IP packet of an IKE message; charon's own if `None`.
    pub fragment_size: Option<u16>,
    /// How many half-open IKE SAs it must have before it asks for cookies; charon's own threshold if there is none.
    pub cookies_from: Option<u32>,
    /// When it renews its SAs.
    pub rekey_times: RekeyTimes,
    /// Milliseconds until it repeats an unanswered request for the first time; charon's own if `None`.
    pub retransmit_ms: Option<u32>,
    /// Its post-quantum pre-shared key, if it has one.
    pub ppk: Option<CharonPpk>,
    /// The root of another system whose charon it is; this one's if `None`.
    pub root: Option<PathBuf>,
}

/// A post-quantum pre-shared key, as charon has it (RFC 8784).
#[derive(Debug, Clone)]
pub struct CharonPpk {
    /// Its name.
    pub id: String,
    /// The key: letters and digits.
    pub key: String,
    /// What it does with a peer that lacks it.
    pub policy: PpkPolicy,
}

/// What charon does with a peer that lacks its PPK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PpkPolicy {
    /// Refuses it.
    Required,
    /// Does without.
    Optional,
}

/// When charon renews its SAs, exactly: without this it takes hours, and some of them off at random.
#[derive(Debug, Clone, Copy, Default)]
pub struct RekeyTimes {
    /// Seconds after which it rekeys an IKE SA.
    pub ike_s: Option<u32>,
    /// Seconds after which it rekeys a Child SA.
    pub child_s: Option<u32>,
    /// Seconds after which it authenticates anew instead, if it began the IKE SA.
    pub reauth_s: Option<u32>,
    /// What comes first when it authenticates anew.
    pub reauth_order: ReauthOrder,
}

/// How charon authenticates anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReauthOrder {
    /// The new IKE SA, then the end of the old one.
    #[default]
    MakeBeforeBreak,
    /// The end of the old IKE SA, then the new one.
    BreakBeforeMake,
}

/// What charon does once it has its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CharonStart {
    /// Waits for the peer.
    Wait,
    /// Connects at once, and again whenever it fails.
    Connect,
}

/// A running charon.
#[derive(Debug)]
pub struct Charon {
    process: ChildProcess,
    folder: PathBuf,
}

/// Why there is no charon.
#[derive(Debug, thiserror::Error)]
pub enum CharonError {
    /// A program of strongSwan's is missing.
    #[error("{0} is not installed")]
    NotInstalled(&'static str),
    /// It did not come up, or did not take its configuration.
    #[error("strongSwan {what}")]
    Failed {
        /// What went wrong.
        what: String,
        /// The end of its output.
        log: Vec<String>,
    },
    /// The person wants out.
    #[error(transparent)]
    Interrupted(#[from] super::interrupt::Interrupted),
    /// No file, no process.
    #[error("strongSwan cannot be started: {0}")]
    Io(#[from] io::Error),
}

/// The programs, as Debian installs them.
const CHARON: &str = "/usr/sbin/charon-systemd";
const SWANCTL: &str = "/usr/sbin/swanctl";

/// In a folder: which root the charon that it is for lives in.
const ROOT: &str = "root";

/// Where charon sees its folder if it lives in another root.
const MOUNTED: &str = "/mnt";

/// charon of another system, which sees our devices and `folder` beside its own files, and whose mounts nobody else sees.
fn in_root(root: &Path, folder: &Path) -> Command {
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
        .args([root, folder])
        .env("STRONGSWAN_CONF", format!("{MOUNTED}/strongswan.conf"));
    command
}

/// Whether strongSwan is here.
pub fn is_installed() -> Result<(), CharonError> {
    [CHARON, SWANCTL]
        .into_iter()
        .find(|program| !Path::new(program).exists())
        .map_or(Ok(()), |program| Err(CharonError::NotInstalled(program)))
}

impl Charon {
    /// Starts charon in `namespace` with `connection`, its files in `folder`.
    pub fn start(
        namespace: &Namespace,
        folder: &Path,
        connection: &CharonConfig,
        interrupt: &Interrupt,
    ) -> Result<Charon, CharonError> {
        is_installed()?;
        let seen_as = match &connection.root {
            None => folder,
            Some(root) => {
                write_private(&folder.join(ROOT), &root.display().to_string())?;
                Path::new(MOUNTED)
            }
        };
        write_private(
            &folder.join("strongswan.conf"),
            &settings(seen_as, connection),
        )?;
        write_private(&folder.join("swanctl.conf"), &connection.to_conf())?;
        Charon::resume(namespace, folder, interrupt)
    }

    /// Starts it with the files that an earlier one left.
    pub fn resume(
        namespace: &Namespace,
        folder: &Path,
        interrupt: &Interrupt,
    ) -> Result<Charon, CharonError> {
        let mut command = match std::fs::read_to_string(folder.join(ROOT)) {
            Err(_) => {
                let mut command = Command::new(CHARON);
                command.env("STRONGSWAN_CONF", folder.join("strongswan.conf"));
                command
            }
            Ok(root) => in_root(Path::new(&root), folder),
        };
        namespace.enter(&mut command)?;
        let process = ChildProcess::start(command, &folder.join("charon.out"))?;
        let mut charon = Charon {
            process,
            folder: folder.to_owned(),
        };
        charon.await_socket(interrupt)?;
        charon.load()?;
        Ok(charon)
    }

    /// Runs swanctl against it.
    pub fn swanctl(&self, arguments: &[&str]) -> io::Result<Output> {
        Command::new(SWANCTL)
            .args(arguments)
            .args(["--uri", &self.uri()])
            .env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"))
            .output()
    }

    /// What a person types to see it.
    pub fn status_command(&self) -> String {
        format!("swanctl --list-sas --uri {}", self.uri())
    }

    fn uri(&self) -> String {
        format!("unix://{}", self.folder.join("vici").display())
    }

    /// Replaces its configuration, and connects if that says so.
    pub fn reload(&self, connection: &CharonConfig) -> Result<(), CharonError> {
        write_private(&self.folder.join("swanctl.conf"), &connection.to_conf())?;
        self.load()
    }

    /// Whether it has an SA that carries packets.
    pub fn is_up(&self) -> bool {
        self.swanctl(&["--list-sas"])
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("INSTALLED"))
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("charon.log")).unwrap_or_default()
    }

    /// The last `count` lines of that.
    pub fn tail(&self, count: usize) -> Vec<String> {
        tail(&self.log(), count)
    }

    /// The process, to be stopped or killed.
    pub fn process(&mut self) -> &mut ChildProcess {
        &mut self.process
    }

    fn await_socket(&mut self, interrupt: &Interrupt) -> Result<(), CharonError> {
        let give_up = Instant::now() + Duration::from_secs(10);
        let socket = self.folder.join("vici");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let ended = self
                .process
                .ended()
                .map(|status| format!("ended at once: {status}"));
            if let Some(what) = ended.or_else(|| {
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
        let file = self.folder.join("swanctl.conf").display().to_string();
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
            what: "refused its configuration".to_owned(),
            log: tail(&text, 10),
        })
    }
}

/// `strongswan.conf`. The plugins are named, so that whatever else is installed cannot change the result.
fn settings(folder: &Path, connection: &CharonConfig) -> String {
    let folder = folder.display();
    let fragments = connection
        .fragment_size
        .map_or_else(String::new, |size| format!("\n  fragment_size = {size}"));
    let cookies = connection.cookies_from.map_or_else(String::new, |count| {
        format!("\n  cookie_threshold = {count}")
    });
    let repeats = connection.retransmit_ms.map_or_else(String::new, |ms| {
        // Enough tries that a lossy way does not end an SA.
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
      path = {folder}/charon.log
      default = 1
      time_format = %T
      flush_line = yes
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{folder}/vici
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
    /// `swanctl.conf`.
    fn to_conf(&self) -> String {
        let CharonConfig {
            local,
            remote,
            id,
            peer_id,
            local_network,
            remote_network,
            psk,
            dpd_delay,
            rekey_times,
            ..
        } = self;
        let ike = self.ike.as_deref().unwrap_or("default");
        let esp = self.esp.as_deref().unwrap_or("default");
        let (start, tries) = match self.start {
            CharonStart::Wait => ("none", "1"),
            // 0: for ever.
            CharonStart::Connect => ("start", "0"),
        };
        let again = match self.start {
            CharonStart::Wait => "clear",
            CharonStart::Connect => "restart",
        };
        // A tenth of the time would be left until the hard end, cut to whole seconds: of 2 s, nothing.
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
    children {{
      lab {{
        local_ts = {local_network}
        remote_ts = {remote_network}
        esp_proposals = {esp}
        start_action = {start}
        dpd_action = {again}{child_ends}
      }}
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
    fn the_connection_says_what_both_sides_agreed_to_use() {
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
