//! UDP sockets for IKE and for ESP in UDP. One unconnected socket serves all peers: the kernel reports the local address of each
//! received datagram (`IP_PKTINFO`, RFC 3542), and the source address of each sent datagram is set the same way.
//!
//! Checksums are on: IPv6 demands them, some NATs drop IPv4 datagrams without, and UDP_SEGMENT cannot send without. RFC 3948 §2.1
//! recommends checksum zero.

mod cmsg;
mod gso;
mod gso_probe;
pub(super) mod mmsg;
mod reuseport;
mod sockaddr;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod zero_checksum;

pub use gso_probe::probe_gso;
pub use reuseport::bind_group;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{getsockopt, setsockopt, sockopt as option};
use socket2::{Domain, Protocol, Type};

use super::clock;
use super::process::{self, Process};
use super::{
    Message, ReceiveOffload, RecvBatch, SendBatch, SendOffload, Socket, SocketOffload, sockopt,
};
use gso::GsoState;
use mmsg::Outgoing;

/// Bound UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: socket2::Socket,
    local: SocketAddr,
    gso: GsoState,
    receiving: ReceiveOffload,
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the port.
    #[error("UDP port {port} on {address} is in use{by}: stop that program or give groundlink an address of its own \
             (`listen`, `local-address`)", by = by_holder(holder.as_ref()))]
    PortInUse {
        /// Requested address.
        address: IpAddr,
        /// Requested port.
        port: u16,
        /// Process that holds the port, if /proc shows it.
        holder: Option<Process>,
    },
    /// Ports below 1024 need a capability.
    #[error(
        "no permission to bind UDP port {port}: CAP_NET_BIND_SERVICE is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_BIND_SERVICE"
    )]
    Permission {
        /// Requested port.
        port: u16,
    },
    /// Raw sockets need a capability.
    #[error(
        "no permission to send and receive IP protocol 50 (native ESP): CAP_NET_RAW is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_RAW, or set `encapsulation = \"udp\"`"
    )]
    NoRawSockets,
    /// No interface has the address.
    #[error(
        "{address} is not an address of this machine: `listen` and `local-address` name the address on the interface \
             (behind one-to-one NAT the private one), `address` the one the peer knows"
    )]
    AddressNotHere {
        /// Requested address.
        address: IpAddr,
    },
    /// Another step failed.
    #[error("{step} failed: {error}")]
    Io {
        /// Name of the step.
        step: &'static str,
        /// Error of the system.
        error: io::Error,
    },
}

fn by_holder(holder: Option<&Process>) -> String {
    match holder {
        Some(process) => format!(" by {process}"),
        None => " (`sudo ss -lunp` shows the process)".to_owned(),
    }
}

/// Treatment of datagrams larger than the path MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// Fragmented, by this host or a router (IPv4 without DF): IKE messages may exceed any MTU and must arrive (RFC 7296 §2).
    Allowed,
    /// Rejected with `EMSGSIZE` above the known path MTU (IPv4 with DF).
    Forbidden,
}

/// Whether a socket shares its port (`SO_REUSEPORT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// No: binding a port in use fails.
    Alone,
    /// With the other sockets of its group.
    Group,
}

impl UdpSocket {
    /// Requested buffer size: some thousand full-sized packets.
    const BUFFER: usize = 7 << 20;

    /// Binds a socket to `address` with those of the `wanted` offloads that the kernel supports. Port 0 lets the kernel choose.
    /// An IPv6 socket does not receive IPv4.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(address: SocketAddr, wanted: SocketOffload) -> Result<UdpSocket, BindError> {
        UdpSocket::open(address, wanted, Sharing::Alone)
    }

    fn open(
        address: SocketAddr,
        wanted: SocketOffload,
        sharing: Sharing,
    ) -> Result<UdpSocket, BindError> {
        let io = |step: &'static str| move |error: io::Error| BindError::Io { step, error };
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )
        .map_err(io("creating a UDP socket"))?;
        if address.is_ipv6() {
            setsockopt(&socket, option::Ipv6V6Only, &true)
                .map_err(|errno| io("setting IPV6_V6ONLY")(errno.into()))?;
        }
        prepare(&socket, address)?;
        match sharing {
            Sharing::Alone => Ok(()),
            Sharing::Group => setsockopt(&socket, option::ReusePort, &true),
        }
        .map_err(|errno| io("sharing the port")(errno.into()))?;
        socket
            .bind(&address.into())
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => BindError::PortInUse {
                    address: address.ip(),
                    port: address.port(),
                    holder: process::holding_udp_port(address),
                },
                io::ErrorKind::AddrNotAvailable => BindError::AddressNotHere {
                    address: address.ip(),
                },
                io::ErrorKind::PermissionDenied => BindError::Permission {
                    port: address.port(),
                },
                _ => BindError::Io {
                    step: "binding the UDP socket",
                    error,
                },
            })?;
        let local = socket
            .local_addr()
            .ok()
            .and_then(|bound| bound.as_socket())
            .unwrap_or(address);
        Ok(UdpSocket {
            gso: GsoState::new(sending(&socket, wanted.send)),
            receiving: receiving(&socket, wanted.receive),
            socket,
            local,
        })
    }

    /// Changes the treatment of datagrams larger than the path MTU.
    ///
    /// # Errors
    /// Error of setsockopt(2).
    pub fn set_fragmentation(&self, fragmentation: Fragmentation) -> io::Result<()> {
        set_fragmentation(&self.socket, self.local, fragmentation)
    }
}

/// Sets the options that UDP and raw sockets share: reception of local address and traffic class, buffer sizes, fragmentation.
pub(super) fn prepare(socket: &socket2::Socket, address: SocketAddr) -> Result<(), BindError> {
    let io = |step: &'static str| move |error: io::Error| BindError::Io { step, error };
    match address {
        SocketAddr::V4(_) => setsockopt(socket, option::Ipv4PacketInfo, &true),
        SocketAddr::V6(_) => setsockopt(socket, option::Ipv6RecvPacketInfo, &true),
    }
    .map_err(|errno| io("requesting the local address of datagrams")(errno.into()))?;
    match address {
        SocketAddr::V4(_) => setsockopt(socket, option::IpRecvTos, &true),
        SocketAddr::V6(_) => setsockopt(socket, option::Ipv6RecvTClass, &true),
    }
    .map_err(|errno| io("requesting the traffic class of datagrams")(errno.into()))?;
    grow_buffers(socket);
    set_fragmentation(socket, address, Fragmentation::Allowed)
        .map_err(io("setting the fragmentation policy"))
}

/// Support of `UDP_SEGMENT` (4.18). An older kernel would ignore the control message and send all segments as one datagram, so
/// the option is queried first.
fn sending(socket: &socket2::Socket, wanted: SendOffload) -> SendOffload {
    match wanted {
        SendOffload::Segments if getsockopt(socket, option::UdpGsoSegment).is_ok() => {
            SendOffload::Segments
        }
        SendOffload::Segments | SendOffload::Short | SendOffload::Single => SendOffload::Single,
    }
}

/// Enables `UDP_GRO` (5.0).
fn receiving(socket: &socket2::Socket, wanted: ReceiveOffload) -> ReceiveOffload {
    match wanted {
        ReceiveOffload::Joined if setsockopt(socket, option::UdpGroSegment, &true).is_ok() => {
            ReceiveOffload::Joined
        }
        ReceiveOffload::Joined | ReceiveOffload::Single => ReceiveOffload::Single,
    }
}

/// Sets the buffer sizes, with CAP_NET_ADMIN beyond `net.core.rmem_max`. Errors are ignored: small buffers only drop packets
/// earlier.
fn grow_buffers(socket: &socket2::Socket) {
    if setsockopt(socket, option::RcvBufForce, &UdpSocket::BUFFER).is_err() {
        let _ = setsockopt(socket, option::RcvBuf, &UdpSocket::BUFFER);
    }
    if setsockopt(socket, option::SndBufForce, &UdpSocket::BUFFER).is_err() {
        let _ = setsockopt(socket, option::SndBuf, &UdpSocket::BUFFER);
    }
}

fn set_fragmentation(
    socket: &socket2::Socket,
    address: SocketAddr,
    fragmentation: Fragmentation,
) -> io::Result<()> {
    let (level, option, value) = match (address, fragmentation) {
        // Fragmented to the MTU of the device. A smaller path MTU, which a forged ICMP message can claim, is left to the routers.
        (SocketAddr::V4(_), Fragmentation::Allowed) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_OMIT,
        ),
        (SocketAddr::V4(_), Fragmentation::Forbidden) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        // IPv6 routers do not fragment: the sender must know the path MTU and fragment to it.
        (SocketAddr::V6(_), Fragmentation::Allowed) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_WANT,
        ),
        (SocketAddr::V6(_), Fragmentation::Forbidden) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    sockopt::set_int(socket, level, option, value)
}

impl Socket for UdpSocket {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        receive(&self.socket, self.local.ip(), batch)
    }

    fn send(&self, batch: &SendBatch) -> io::Result<usize> {
        let Some(first) = batch.messages().next() else {
            return Ok(0);
        };
        let as_gso = self.gso.takes(&first, clock::now);
        let packets = batch.messages().enumerate().flat_map(|(index, message)| {
            let whole = if index == 0 {
                as_gso
            } else {
                self.gso.takes(&message, clock::now)
            };
            outgoing(message, whole)
        });
        match mmsg::send(&self.socket, packets) {
            // Only the first message can have failed.
            Err(error) if as_gso && GsoState::may_be_about_gso(&error) => {
                let sent = mmsg::send(&self.socket, Outgoing::singles(first))?;
                self.gso.rejected(&first, &error, clock::now());
                Ok(sent)
            }
            result => result,
        }
    }

    fn offload(&self) -> SocketOffload {
        SocketOffload {
            send: self.gso.state(),
            receive: self.receiving,
        }
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Fills the batch with the datagrams that wait.
pub(super) fn receive(
    socket: &socket2::Socket,
    bound: IpAddr,
    batch: &mut RecvBatch,
) -> io::Result<usize> {
    batch.clear();
    // A pending ICMP error comes before the datagrams and is cleared by reading it. After eight in a row, the next call
    // continues.
    for _ in 0..8 {
        match mmsg::receive(socket, bound, batch) {
            Err(error) if is_icmp(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// A message as passed to the kernel: as one GSO send, or packet by packet.
fn outgoing(message: Message<'_>, whole: bool) -> impl Iterator<Item = Outgoing<'_>> {
    let (gso, singles) = if whole {
        (Some(Outgoing::gso(message)), None)
    } else {
        (None, Some(Outgoing::singles(message)))
    };
    gso.into_iter().chain(singles.into_iter().flatten())
}

/// Whether the error comes from an ICMP message about an earlier datagram. Such messages are not authenticated and are ignored.
fn is_icmp(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EHOSTDOWN
        )
    )
}
