//! TUN devices: one per tunnel, without packet information, with an offload header before every packet.
//!
//! The device lives as long as the [`Tun`] and dies with the process, however that ends: it is never persistent. It is made with
//! `IFF_TUN_EXCL`, so a device of that name that somebody else made is an error and never taken over; this, errors that tell the
//! two steps (`open`, `TUNSETIFF`) apart, and the offload and carrier ioctls are why the three ioctls are called here and not
//! through the `tun` crate.

#![allow(unsafe_code, reason = "ioctl on a TUN descriptor")]

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sys::uio::writev;
use nix::unistd::read;

use super::offload::SharedGsoSupport;
use super::{Device, GsoSupport, OffloadMode, OutPacket, ReadBatch, VnetHeader};
use crate::net::segment::GsoKind;

/// A TUN device of ours.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    index: u32,
    trains: SharedGsoSupport,
}

/// Whether a device says that it can carry packets (`ip link` shows `NO-CARRIER` where it cannot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// It can.
    Up,
    /// It cannot; routes through it are marked `linkdown`.
    Down,
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel offers no TUN devices, or nobody has made the node.
    #[error("there is no /dev/net/tun: {advice}", advice = TunError::NO_NODE)]
    NoDevTun,
    /// The node exists and we may not open it.
    #[error("/dev/net/tun may not be opened: {advice}", advice = TunError::NODE_MODE)]
    NodePermission,
    /// The node is open; making a device takes more.
    #[error(
        "no permission to create the device {name}: CAP_NET_ADMIN is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_ADMIN"
    )]
    Permission {
        /// The device wanted.
        name: String,
    },
    /// Somebody has a device of this name.
    #[error(
        "the device name {name} is taken: choose another with `device`, or stop what made it (`ip -d link show {name}` shows it)"
    )]
    NameTaken {
        /// The device wanted.
        name: String,
    },
    /// No device can be called so.
    #[error(
        "{name:?} cannot be the name of a device: 1 to 15 characters, no space, no `/`, no `%`, neither `.` nor `..`"
    )]
    BadName {
        /// The device wanted.
        name: String,
    },
    /// Something else.
    #[error("{step} failed: {error}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl TunError {
    const NO_NODE: &'static str = "load the driver with `modprobe tun`, and where that makes no node: \
        `mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && chmod 0666 /dev/net/tun`";
    const NODE_MODE: &'static str = "open it to everybody with `sudo chmod 0666 /dev/net/tun` (udev's own choice; making devices \
        still takes CAP_NET_ADMIN), or run as root";
}

/// Opens the node that TUN devices are made from, and nothing else: what a preflight check wants to know.
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
            Some(_) | None => TunError::Io {
                step: "opening /dev/net/tun",
                error,
            },
        })
}

impl Tun {
    /// Creates the device `name`, down and without addresses.
    ///
    /// With [`OffloadMode::Auto`] what is read may lack its checksum and be a train of segments, as far as this kernel knows them
    /// ([`Device::gso_support`]); with [`OffloadMode::Off`] every packet is alone and complete.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn create(name: &str, offloading: OffloadMode) -> Result<Tun, TunError> {
        let named = |kind: fn(String) -> TunError| kind(name.to_owned());
        if !is_device_name(name) {
            return Err(named(|name| TunError::BadName { name }));
        }
        let fd = open_node()?;
        let request = interface_request(
            name,
            libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | IFF_TUN_EXCL,
        );
        // SAFETY: the request is a whole ifreq and outlives the call; the kernel writes nothing beyond it.
        unsafe { tun_set_iff(fd.as_raw_fd(), &request) }.map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => named(|name| TunError::Permission { name }),
            Errno::EBUSY | Errno::EEXIST => named(|name| TunError::NameTaken { name }),
            // Not a TUN device, or there would be EBUSY; the name itself has been checked.
            Errno::EINVAL => named(|name| TunError::NameTaken { name }),
            errno => TunError::Io {
                step: "TUNSETIFF",
                error: errno.into(),
            },
        })?;
        let trains = set_offload(&fd, offloading)?;
        let index = nix::net::if_::if_nametoindex(name).map_err(|errno| TunError::Io {
            step: "reading the index of the new device",
            error: errno.into(),
        })?;
        Ok(Tun {
            fd,
            name: name.to_owned(),
            index,
            trains: SharedGsoSupport::new(trains),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, which is what routes name.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Says whether it can carry packets. The device must be up: one that is taken down forgets.
    ///
    /// # Errors
    /// What the kernel said.
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
        batch.fill(|room| read(&self.fd, room).map_err(told))
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
        self.trains.get()
    }

    fn disable_gso(&self, kind: GsoKind) {
        self.trains.disable_gso(kind);
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks for as much as is wanted and says how much the kernel grants.
///
/// What is written is another matter than what is read, but one kernel knows both or neither: USO came with the offload type of
/// datagram trains.
fn set_offload(fd: &OwnedFd, offloading: OffloadMode) -> Result<GsoSupport, TunError> {
    const TCP: libc::c_uint =
        libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    const UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let ladder = [
        (TCP | UDP, GsoSupport::TcpAndUdp),
        (TCP, GsoSupport::Tcp),
        (0, GsoSupport::None),
    ];
    let skip = match offloading {
        OffloadMode::Auto => 0,
        OffloadMode::Off => ladder.len() - 1,
    };
    let mut refused = Errno::EINVAL;
    for (flags, trains) in ladder.into_iter().skip(skip) {
        // SAFETY: TUNSETOFFLOAD takes a number.
        match unsafe { tun_set_offload(fd.as_raw_fd(), flags.cast_signed()) } {
            Ok(_) => return Ok(trains),
            Err(errno) => refused = errno,
        }
    }
    Err(TunError::Io {
        step: "TUNSETOFFLOAD",
        error: refused.into(),
    })
}

/// A device that somebody has removed under us (`ip link del`) is gone for good, which its own error number hides.
fn told(errno: Errno) -> io::Error {
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
        Err(errno) => Err(told(errno)),
    }
}

/// The kernel's own rule (`dev_valid_name`), and no `%`, which would make it a pattern.
fn is_device_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && !name
            .bytes()
            .any(|b| matches!(b, b'/' | b':' | b'%' | 0) || b.is_ascii_whitespace() || b == 0x0b)
}

fn interface_request(name: &str, flags: libc::c_int) -> libc::ifreq {
    // SAFETY: an ifreq is plain integers and arrays of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        // Signed on some machines, unsigned on others.
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

const IFF_TUN_EXCL: libc::c_int = 0x8000;

// The sizes are those the kernel declares the requests with (linux/if_tun.h), not of what is passed.
nix::ioctl_write_ptr_bad!(
    /// TUNSETIFF: makes the descriptor a device.
    tun_set_iff,
    nix::request_code_write!(b'T', 202, 4),
    libc::ifreq
);
nix::ioctl_write_int_bad!(
    /// TUNSETOFFLOAD: what may come unfinished.
    tun_set_offload,
    nix::request_code_write!(b'T', 208, 4)
);
nix::ioctl_write_ptr!(
    /// TUNSETCARRIER: whether the device says it can carry packets.
    tun_set_carrier,
    b'T',
    226,
    libc::c_int
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_the_kernel_takes_are_device_names() {
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
            assert!(!is_device_name(bad), "{bad:?}");
            assert!(
                matches!(
                    Tun::create(bad, OffloadMode::Auto),
                    Err(TunError::BadName { .. })
                ),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_interface_request_carries_name_and_flags() {
        let request = interface_request("gl-a", libc::IFF_TUN | IFF_TUN_EXCL);
        let name: Vec<u8> = request
            .ifr_name
            .iter()
            .map(|c| c.cast_unsigned())
            .take_while(|c| *c != 0)
            .collect();
        assert_eq!(name, b"gl-a");
        // SAFETY: the member that was written.
        assert_eq!(
            unsafe { request.ifr_ifru.ifru_flags }.cast_unsigned(),
            0x8001
        );
    }
}
