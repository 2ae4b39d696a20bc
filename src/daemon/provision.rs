//! What a tunnel needs of this machine: its device, created at start and again when another program has removed it, and its keys.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv6Addr;

use tracing::{debug, warn};

use super::start_error::StartError;
use crate::config::{InsideAddress, LoadOptions, MissingSecret, SecretPolicy, TunnelSettings};
use crate::os::OffloadMode;
use crate::os::netlink::Netlink;
use crate::os::sysctl;
use crate::os::systemd;
use crate::os::tun::{Carrier, Tun, TunError};

/// Creates a tunnel's device: up, without carrier, with its addresses.
///
/// # Errors
/// The device name is taken, or the kernel rejects the device or an IPv4 address.
pub(super) fn create_device(
    settings: &TunnelSettings,
    mtu: u16,
    netlink: &mut Netlink,
    offload: OffloadMode,
) -> Result<Tun, StartError> {
    // No device is created only to learn that it cannot be renamed: other programs see each one come and go.
    if netlink.link_named(&settings.device).is_ok() {
        let name = settings.device.clone();
        return Err(TunError::NameTaken { name }.into());
    }
    let device = Tun::create(&settings.device, offload)?;
    // Before the device is up: then the kernel sends router solicitations.
    set_sysctls(device.name());
    netlink.prepare_tunnel(device.index(), mtu.into())?;
    for address in addresses(settings) {
        let added = netlink.add_address(device.index(), address.address, address.length);
        match added {
            Ok(()) => {}
            // IPv6 is off in the kernel, or on this device (MTU below 1280): IPv4 works without it.
            Err(error) if address.address.is_ipv6() => {
                let is_inside = settings.inside.contains(&address);
                if is_inside {
                    warn!(tunnel = settings.name, %error, "no IPv6 address on {}: is IPv6 off (net.ipv6.conf.all.disable_ipv6)?", settings.device);
                } else {
                    debug!(tunnel = settings.name, %error, "no IPv6 link-local address");
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    device
        .set_carrier(Carrier::Down)
        .map_err(|error| StartError::start(format!("cannot set the carrier: {error}"), ""))?;
    Ok(device)
}

/// Options with which the daemon loads its configuration: a tunnel without its key waits for it.
pub(super) fn load_options() -> LoadOptions {
    LoadOptions {
        credentials: systemd::credentials_directory(),
        secrets: SecretPolicy::Deferred,
    }
}

/// The error of a tunnel without its key.
pub(super) fn no_secret(missing: &MissingSecret) -> StartError {
    StartError::start(missing.what.clone(), missing.advice.clone())
}

/// Addresses of a tunnel's device: those of `inside`, and an IPv6 link-local address, which routing protocols need (RFC 4291 §2.8).
pub(super) fn addresses(settings: &TunnelSettings) -> Vec<InsideAddress> {
    let mut addresses = settings.inside.clone();
    let is_link_local = |inside: &InsideAddress| match inside.address {
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
        std::net::IpAddr::V4(_) => false,
    };
    if !addresses.iter().any(is_link_local) {
        addresses.push(InsideAddress {
            address: link_local(settings).into(),
            length: 64,
        });
    }
    addresses
}

/// Link-local address of a device. It stays the same over restarts and differs from that of the peer, whose identity is another.
fn link_local(settings: &TunnelSettings) -> Ipv6Addr {
    let mut hasher = DefaultHasher::new();
    (settings.ike.id.to_string(), &settings.name).hash(&mut hasher);
    // RFC 7136: the bits of an interface identifier have no meaning.
    let [a, b, c, d, e, f, g, h] = hasher.finish().to_be_bytes();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

/// Sets the sysctls of a new device.
fn set_sysctls(device: &str) {
    if let Err(error) = sysctl::loosen_reverse_path_filter(device) {
        warn!(device, %error, "cannot loosen the reverse path filter: replies through another tunnel may be dropped");
    }
    let router = format!("net/ipv6/conf/{device}/accept_ra");
    if let Err(error) = sysctl::write(&router, "0") {
        debug!(device, %error, "cannot disable router advertisements");
    }
}
