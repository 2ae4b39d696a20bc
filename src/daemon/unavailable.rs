//! Tunnels that wait for something of this machine: an address, a key, a device name. All other tunnels work meanwhile.
//!
//! ```text
//!   start ─────────────▶ prepare ─▶ sockets, key, device ─▶ the IKE endpoint knows the tunnel
//!   device removed ────▶    │                                         │ was down meanwhile: up
//!   every 5 s, keys 30 s ─▶ └─▶ missing: `connecting`, with `last_error` and `next_attempt_s`
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::control_plane::ControlPlane;
use super::listener::ListenError;
use super::provision;
use super::start_error::StartError;
use super::tunnels::Unavailable;
use crate::config;
use crate::ike::{Command, TunnelState};
use crate::net::{Time, TunnelId};
use crate::os::clock;

/// Interval of the attempts to have what is missing.
const RETRY: Duration = Duration::from_secs(5);

/// What a notice that a tunnel's device is gone leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    /// Nothing: the notice is about an earlier device, or the tunnel waits for its device already.
    Known,
    /// The device is created again.
    Once,
    /// The device was removed soon after it had been created again: the tunnel waits, so that two programs do not race without limit.
    Again,
}

impl Removal {
    /// `has_device`: the tunnel has its device as far as known; `exists`: the kernel has it; `recreated`: when it was created again last.
    fn of(has_device: bool, exists: bool, recreated: Option<Time>, now: Time) -> Removal {
        let is_recent = |at: Time| now.since(at) < RETRY;
        match has_device && !exists {
            false => Removal::Known,
            true if recreated.is_some_and(is_recent) => Removal::Again,
            true => Removal::Once,
        }
    }
}

/// Interval of the attempts to read keys: each one reads the configuration.
const KEY_RETRY: Duration = Duration::from_secs(30);

/// What is missing: the code of `last_error`, and the text.
type Missing = (&'static str, Box<StartError>);

impl ControlPlane {
    /// Tries again to have what these tunnels miss.
    pub(super) fn retry_unavailable(&mut self, ids: &[TunnelId]) {
        if ids.is_empty() {
            return;
        }
        let addresses = self.netlink.addresses().unwrap_or_default();
        let addresses: BTreeSet<IpAddr> = addresses.iter().map(|host| host.address).collect();
        for id in ids {
            match self.prepare(*id, &addresses) {
                Ok(()) => self.on_available(*id),
                Err((code, error)) => self.on_unavailable(*id, code, *error),
            }
        }
    }

    /// Carries out an `up`, `down` or `reset` of a tunnel that waits; `false` if it does not wait.
    pub(super) fn steer_unavailable(&mut self, id: TunnelId, command: &Command) -> bool {
        let comes_up = !matches!(command, Command::Down(_));
        let waits = self.tunnels.update(id, |tunnel| {
            let unavailable = tunnel.unavailable.as_mut();
            unavailable
                .map(|unavailable| unavailable.comes_up = comes_up)
                .is_some()
        });
        let waits = waits == Some(true);
        if waits && comes_up {
            // The operator may have written the key just now.
            self.keys_read = None;
            self.retry_unavailable(&[id]);
        }
        waits
    }

    /// Creates the device of a tunnel again that another program has removed. The SAs stay: routes and addresses follow the new device.
    /// A tunnel that cannot have a device, since its name is taken meanwhile, goes down until it has one.
    pub(super) fn on_device_removed(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get(id) else {
            return;
        };
        let (name, device) = (tunnel.settings.name.clone(), tunnel.device.clone());
        let link = self.netlink.link(device.index());
        let exists = link.is_ok_and(|link| link.name == device.name());
        let removal = Removal::of(
            tunnel.has_device,
            exists,
            tunnel.device_recreated,
            clock::now(),
        );
        if removal == Removal::Known {
            return;
        }
        self.tunnels.update(id, |tunnel| tunnel.has_device = false);
        let created = match removal {
            Removal::Known | Removal::Once => self.create_device(id),
            Removal::Again => Err(("no-device", Box::new(removed_again(device.name())))),
        };
        match created {
            Ok(()) => warn!(
                tunnel = name,
                "another program removed the tunnel's device; it was created again"
            ),
            Err((code, error)) => self.on_unavailable(id, code, *error),
        }
    }

    fn prepare(&mut self, id: TunnelId, addresses: &BTreeSet<IpAddr>) -> Result<(), Missing> {
        self.read_key(id)?;
        let served = self.tunnels.update(id, |tunnel| {
            let settings = &mut tunnel.settings;
            let datapath = &mut self.datapath;
            self.listener.serve(settings, addresses, datapath)
        });
        match served {
            Some(Err(ListenError::Unavailable(error) | ListenError::Fatal(error))) => {
                return Err(("no-address", Box::new(error)));
            }
            Some(Ok(())) | None => {}
        }
        match self.tunnels.get(id) {
            Some(tunnel) if !tunnel.has_device => self.create_device(id),
            Some(_) | None => Ok(()),
        }
    }

    /// Reads the key of a tunnel without one from the files that the configuration names now.
    fn read_key(&mut self, id: TunnelId) -> Result<(), Missing> {
        let missing = self.tunnels.get(id).map(|t| &t.settings.missing_secret);
        let missing = missing.and_then(Option::as_ref);
        if missing.is_some_and(|missing| !missing.until_restart) {
            self.read_keys();
        }
        let tunnel = self.tunnels.get(id);
        match tunnel.and_then(|tunnel| tunnel.settings.missing_secret.as_ref()) {
            Some(missing) => Err(("no-secret", Box::new(provision::no_secret(missing)))),
            None => Ok(()),
        }
    }

    /// Reads the configuration again for the keys of all tunnels without one, unless that was done less than [`KEY_RETRY`] ago.
    fn read_keys(&mut self) {
        let now = clock::now();
        if self.keys_read.is_some_and(|at| now.since(at) < KEY_RETRY) {
            return;
        }
        self.keys_read = Some(now);
        let loaded = config::load(&self.config, &provision::load_options());
        for settings in loaded.settings.map(|all| all.tunnels).unwrap_or_default() {
            let Some(id) = self.tunnels.find(&settings.name) else {
                continue;
            };
            self.tunnels.update(id, |tunnel| {
                let ours = &mut tunnel.settings;
                if ours.missing_secret.is_some() {
                    (ours.ike.psk, ours.ike.ppk) = (settings.ike.psk, settings.ike.ppk);
                    ours.missing_secret = settings.missing_secret;
                }
            });
        }
    }

    fn create_device(&mut self, id: TunnelId) -> Result<(), Missing> {
        let Some(tunnel) = self.tunnels.get(id) else {
            return Ok(());
        };
        let (mtu, netlink) = (tunnel.mtu, &mut self.netlink);
        let created = provision::create_device(&tunnel.settings, mtu, netlink, self.offload_mode);
        let device = created
            .map(Arc::new)
            .map_err(|error| ("no-device", Box::new(error)))?;
        self.datapath
            .replace_device(id, device.clone())
            .map_err(|error| ("no-device", Box::new(StartError::out_of_resources(error))))?;
        self.tunnels.update(id, |tunnel| {
            tunnel.device = device;
            tunnel.has_device = true;
            tunnel.device_recreated = Some(clock::now());
        });
        Ok(())
    }

    fn on_available(&mut self, id: TunnelId) {
        let waited = self.tunnels.update(id, |tunnel| {
            info!(
                tunnel = tunnel.settings.name,
                "what the tunnel waited for is there"
            );
            tunnel.unavailable.take()
        });
        let comes_up = waited.flatten().is_none_or(|waited| waited.comes_up);
        if self.endpoint.view(id).is_some() {
            if comes_up {
                self.command(Command::Up(id));
            }
        } else if let Some(tunnel) = self.tunnels.get(id) {
            let settings = tunnel.settings.ike.clone();
            self.endpoint.add_tunnel(clock::now(), id, settings);
            if !comes_up {
                self.command(Command::Down(id));
            }
        }
    }

    fn on_unavailable(&mut self, id: TunnelId, code: &'static str, error: StartError) {
        let now = clock::now();
        let text = error.to_string();
        let view = self.endpoint.view(id);
        let is_up = view.is_none_or(|view| view.state != TunnelState::Down);
        let is_first = self.tunnels.update(id, |tunnel| {
            let old = tunnel.unavailable.take();
            let is_first = old.is_none();
            let name = &tunnel.settings.name;
            if old.as_ref().is_none_or(|old| old.code != code) {
                warn!(tunnel = name, code, "the tunnel waits: {text}");
            }
            tunnel.unavailable = Some(Unavailable {
                code,
                error,
                since: old.as_ref().map_or(now, |old| old.since),
                comes_up: old.map_or(is_up, |old| old.comes_up),
                retry_at: now
                    + match code {
                        "no-secret" => KEY_RETRY,
                        _ => RETRY,
                    },
            });
            is_first
        });
        if is_first == Some(true) {
            self.fail_children(id, &text);
            self.command(Command::Down(id));
        }
    }
}

fn removed_again(device: &str) -> StartError {
    StartError::start(
        format!("another program removes the device {device} soon after it is created"),
        "find that program and exclude the device from what it manages",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_notice_removes_no_device_and_a_second_removal_waits() {
        let now = Time::from_secs(100);
        let [recent, old] = [96, 95].map(|at| Some(Time::from_secs(at)));
        assert_eq!(Removal::of(true, true, recent, now), Removal::Known);
        assert_eq!(Removal::of(false, false, recent, now), Removal::Known);
        assert_eq!(Removal::of(true, false, None, now), Removal::Once);
        assert_eq!(Removal::of(true, false, old, now), Removal::Once);
        assert_eq!(Removal::of(true, false, recent, now), Removal::Again);
    }
}
