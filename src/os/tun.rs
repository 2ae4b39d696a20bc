//! TUN devices: one for each tunnel, layer 3, with a virtio-net header in front of every packet (`IFF_VNET_HDR`).
//!
//! A device exists as long as its [`Tun`]: it is not persistent, so the kernel removes it with its descriptor.
//!
//! The `tun` crate creates the devices. It does not set `IFF_TUN_EXCL`, and TUNSETIFF with the name of an existing device attaches to that
//! device. Each device is therefore created from a name template, which always makes a new device, and renamed over netlink while it is
//! down; the kernel rejects a name in use. The ioctls for offloads and carrier are not part of the crate.

#![allow(unsafe_code, reason = "ioctl on a TUN descriptor")]

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use ::tun::AbstractDevice;
use nix::errno::Errno;
use nix::sys::uio::writev;
use nix::unistd::read;

use super::netlink::Netlink;
use super::offload::SharedGsoSupport;
use super::{Device, GsoSupport, OffloadMode, OutPacket, ReadBatch, VnetHeader};
use crate::net::segment::GsoKind;

/// A TUN device.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    index: u32,
    gso: SharedGsoSupport,
}

/// Carrier of a device (`ip link` shows `NO-CARRIER` without).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The device can carry packets.
    Up,
    /// The device cannot carry packets; routes through it are marked `linkdown`.
    Down,
}

/// Why a TUN device could not be created.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The driver is missing, or its device node.
    #[error("there is no /dev/net/tun: {advice}", advice = TunError::NO_NODE)]
    NoDevTun,
    /// The device node exists, but its mode denies access.
    #[error("no permission to open /dev/net/tun: {advice}", advice = TunError::NODE_MODE)]
    NodePermission,
    /// The device node is open, but the capability to create devices is missing.
    #[error(
        "no permission to create the device {name}: CAP_NET_ADMIN is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_ADMIN"
    )]
    Permission {
        /// Requested name.
        name: String,
    },
    /// Another device has this name.
    #[error(
        "the device name {name} is taken: choose another with `device`, or stop the program that created it \
             (`ip -d link show {name}` shows it)"
    )]
    NameTaken {
        /// Requested name.
        name: String,
    },
    /// The name breaks the kernel's rules.
    #[error(
        "{name:?} is not a valid device name: 1 to 15 characters, no space, no `/`, no `%`, neither `.` nor `..`"
    )]
    BadName {
        /// Requested name.
        name: String,
    },
    /// Another step failed.
    #[error("{step} failed: {error}")]
    Io {
        /// The step.
        step: &'static str,
        /// Error of the system.
        error: io::Error,
    },
}

impl TunError {
    const NO_NODE: &'static str = "load the driver with `modprobe tun`; where that creates no node, run \
        `mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && chmod 0666 /dev/net/tun`";
    const NODE_MODE: &'static str = "allow it to everybody with `sudo chmod 0666 /dev/net/tun` (udev's default; creating devices \
        still needs CAP_NET_ADMIN), or run as root";

    fn io(step: &'static str) -> impl FnOnce(io::Error) -> TunError {
        move |error| TunError::Io { step, error }
    }
}

/// Opens the node of the TUN driver, as a preflight check.
///
/// # Errors
/// [`TunError::NoDevTun`], [`TunError::NodePermission`] or [`TunError::Io`].
pub fn open_node() -> Result<OwnedFd, TunError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun");
    opened
        .map(OwnedFd::from)
        .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::ENOTDIR) => {
                TunError::NoDevTun
            }
            Some(Errno::EACCES | Errno::EPERM) => TunError::NodePermission,
            Some(_) | None => TunError::io("opening /dev/net/tun")(error),
        })
}

impl Tun {
    /// Name template of new devices: the kernel replaces `%d` by the first free number.
    const TEMPLATE: &'static str = "gl%d";

    /// Creates the device `name`, down and without addresses.
    ///
    /// With [`OffloadMode::Auto`], packets read may have partial checksums or be GSO packets, as far as this kernel supports them
    /// ([`Device::gso_support`]). With [`OffloadMode::Off`], every packet is a single one with complete checksums.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn create(name: &str, offload: OffloadMode) -> Result<Tun, TunError> {
        if !is_device_name(name) {
            return Err(TunError::BadName {
                name: name.to_owned(),
            });
        }
        // Tells a missing node from a missing capability, which are one error to the crate.
        open_node()?;
        let (fd, template_name) = create_from_template(name)?;
        let gso = set_offload(&fd, offload)?;
        let index = nix::net::if_::if_nametoindex(template_name.as_str())
            .map_err(|errno| TunError::io("reading the index of the new device")(errno.into()))?;
        rename(index, name)?;
        Ok(Tun {
            fd,
            name: name.to_owned(),
            index,
            gso: SharedGsoSupport::new(gso),
        })
    }

    /// Creates a device under a name that the kernel chooses, down: it stands for one whose name is taken.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn placeholder(offload: OffloadMode) -> Result<Tun, TunError> {
        let (fd, name) = create_from_template(Tun::TEMPLATE)?;
        let gso = set_offload(&fd, offload)?;
        let index = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|errno| TunError::io("reading the index of the new device")(errno.into()))?;
        Ok(Tun {
            fd,
            name,
            index,
            gso: SharedGsoSupport::new(gso),
        })
    }

    /// Device name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Interface index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sets the carrier. The device must be up: the kernel resets the carrier of a device that is set down.
    ///
    /// # Errors
    /// Error of the ioctl.
    pub fn set_carrier(&self, carrier: Carrier) -> io::Result<()> {
        let on = match carrier {
            Carrier::Up => 1,
            Carrier::Down => 0,
        };
        // SAFETY: TUNSETCARRIER reads one int, which outlives the call.
        unsafe { tun_set_carrier(self.fd.as_raw_fd(), &on) }?;
        Ok(())
    }
}

impl Device for Tun {
    fn read(&self, batch: &mut ReadBatch) -> io::Result<usize> {
        batch.fill(|room| read(&self.fd, room).map_err(device_error))
    }

    fn write(&self, packets: &[OutPacket<'_>]) -> io::Result<usize> {
        for (done, packet) in packets.iter().enumerate() {
            match write_one(&self.fd, packet) {
                Ok(()) => {}
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            }
        }
        Ok(packets.len())
    }

    fn gso_support(&self) -> GsoSupport {
        self.gso.get()
    }

    fn disable_gso(&self, kind: GsoKind) {
        self.gso.disable_gso(kind);
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Creates a device from the template and returns its descriptor and the name that the kernel chose. `name` appears in errors only.
fn create_from_template(name: &str) -> Result<(OwnedFd, String), TunError> {
    let mut config = ::tun::Configuration::default();
    config.tun_name(Tun::TEMPLATE).platform_config(|linux| {
        // Without "root privileges" the crate configures nothing: no address, no MTU, not up.
        linux.vnet_hdr(true).ensure_root_privileges(false);
    });
    let failed = |error: ::tun::Error| match io::Error::from(error) {
        error if error.kind() == io::ErrorKind::PermissionDenied => TunError::Permission {
            name: name.to_owned(),
        },
        error => TunError::io("creating a TUN device")(error),
    };
    let device = ::tun::create(&config).map_err(failed)?;
    device
        .set_nonblock()
        .map_err(TunError::io("making the TUN descriptor non-blocking"))?;
    let template_name = device.tun_name().map_err(failed)?;
    // SAFETY: `into_raw_fd` passes on the ownership of an open descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
    Ok((fd, template_name))
}

fn rename(index: u32, name: &str) -> Result<(), TunError> {
    let renamed = Netlink::open().and_then(|mut netlink| netlink.rename(index, name));
    renamed.map_err(|error| {
        if error.is_exists() {
            TunError::NameTaken {
                name: name.to_owned(),
            }
        } else {
            TunError::io("renaming the new TUN device")(io::Error::other(error))
        }
    })
}

/// Requests the offloads of `mode` and returns the GSO support that the kernel grants.
///
/// TUNSETOFFLOAD is about packets read from the device. GSO packets written to the device need the same kernel version: USO (6.2) came
/// together with the virtio GSO type for UDP.
fn set_offload(fd: &OwnedFd, mode: OffloadMode) -> Result<GsoSupport, TunError> {
    const TCP: libc::c_uint =
        libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    const UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let levels = [
        (TCP | UDP, GsoSupport::TcpAndUdp),
        (TCP, GsoSupport::Tcp),
        (0, GsoSupport::None),
    ];
    let skip = match mode {
        OffloadMode::Auto => 0,
        OffloadMode::Off => levels.len() - 1,
    };
    let mut rejected = Errno::EINVAL;
    for (flags, gso) in levels.into_iter().skip(skip) {
        // SAFETY: TUNSETOFFLOAD takes a number.
        match unsafe { tun_set_offload(fd.as_raw_fd(), flags.cast_signed()) } {
            Ok(_) => return Ok(gso),
            Err(errno) => rejected = errno,
        }
    }
    Err(TunError::io("TUNSETOFFLOAD")(rejected.into()))
}

/// EBADFD means that the device was deleted (`ip link del`): reported as `NotConnected`.
fn device_error(errno: Errno) -> io::Error {
    match errno {
        Errno::EBADFD => io::ErrorKind::NotConnected.into(),
        errno => errno.into(),
    }
}

fn write_one(fd: &OwnedFd, packet: &OutPacket<'_>) -> io::Result<()> {
    let vnet = packet.vnet.to_bytes();
    match writev(fd, &[IoSlice::new(&vnet), IoSlice::new(packet.bytes)]) {
        Ok(written) if written == VnetHeader::LEN + packet.bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(errno) => Err(device_error(errno)),
    }
}

/// The kernel's rule (`dev_valid_name`), without `%`, which would make the name a template.
fn is_device_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && !name
            .bytes()
            .any(|b| matches!(b, b'/' | b':' | b'%' | 0) || b.is_ascii_whitespace() || b == 0x0b)
}

// The request numbers contain the sizes that linux/if_tun.h declares, not those of the values passed.
nix::ioctl_write_int_bad!(
    /// TUNSETOFFLOAD: the offloads accepted in packets read.
    tun_set_offload,
    nix::request_code_write!(b'T', 208, 4)
);
nix::ioctl_write_ptr!(
    /// TUNSETCARRIER: the carrier.
    tun_set_carrier,
    b'T',
    226,
    libc::c_int
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_kernel_accepts_are_device_names() {
        for good in ["gl-gcp-1", "a", "fifteen-letters", "tun0.5"] {
            assert!(is_device_name(good), "{good}");
        }
        for bad in [
            "",
            "sixteen-letters-",
            ".",
            "..",
            "a b",
            "a/b",
            "tun%d",
            "a:1",
            "a\n",
        ] {
            let created = Tun::create(bad, OffloadMode::Auto);
            assert!(matches!(created, Err(TunError::BadName { .. })), "{bad:?}");
        }
    }
}
