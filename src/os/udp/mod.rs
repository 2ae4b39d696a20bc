//! UDP sockets for IKE and for ESP in UDP. One unconnected socket serves all peers: the kernel reports the local address of each
//! received datagram (`IP_PKTINFO`, RFC 3542), and the source address of each sent datagram is set the same way.
//!
//! Checksums are on: IPv6 demands them, some NATs drop IPv4 datagrams without, and UDP_SEGMENT cannot send without. RFC 3948 §2.1
//! recommends checksum zero.

mod cmsg;
mod error;
mod gso;
mod gso_probe;
pub(super) mod mmsg;
mod reuseport;
mod sockaddr;
#[cfg(test)]
mod zero_checksum;

pub use error::BindError;
pub use gso_probe::probe_gso;
pub use reuseport::bind_group;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{getsockopt, setsockopt, sockopt as option};
use socket2::{Domain, Protocol, Type};

use super::clock;
use super::process;
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

#[cfg(test)]
mod tests {
    use super::super::poll::Waiter;
    use super::*;

    fn pair(host: &str) -> (UdpSocket, UdpSocket) {
        let any = |host: &str| SocketAddr::new(host.parse().unwrap(), 0);
        (
            UdpSocket::bind(any(host), SocketOffload::FULL).unwrap(),
            UdpSocket::bind(any(host), SocketOffload::FULL).unwrap(),
        )
    }

    fn put(batch: &mut SendBatch, to: &UdpSocket, from: IpAddr, bytes: &[u8]) {
        let mut slot = batch.reserve(to.local(), from, 0, bytes.len()).unwrap();
        slot.bytes().copy_from_slice(bytes);
        slot.commit(bytes.len());
    }

    fn receive_all(socket: &UdpSocket, count: usize) -> Vec<(SocketAddr, IpAddr, Vec<u8>)> {
        let waiter = Waiter::new().unwrap();
        waiter.watch(Socket::as_fd(socket), 0).unwrap();
        let mut batch = RecvBatch::new();
        let mut all = Vec::new();
        while all.len() < count {
            let ready = waiter
                .wait(Some(std::time::Duration::from_secs(5)))
                .unwrap();
            assert!(
                !ready.tokens().is_empty(),
                "{} of {count} arrived",
                all.len()
            );
            socket.recv(&mut batch).unwrap();
            for mut piece in batch.iter_mut() {
                let ends = (piece.remote, piece.local);
                let segments = piece.segments();
                all.extend(segments.map(|bytes| (ends.0, ends.1, bytes.to_vec())));
            }
        }
        all
    }

    #[test]
    fn datagrams_arrive_in_order_with_their_addresses() {
        let (a, b) = pair("127.0.0.1");
        let mut batch = SendBatch::new();
        let packets: Vec<Vec<u8>> = (0..100_u8)
            .map(|n| vec![n; if n == 99 { 3 } else { 1400 }])
            .collect();
        packets
            .iter()
            .for_each(|p| put(&mut batch, &b, a.local().ip(), p));
        assert_eq!(a.send(&batch).unwrap(), 100);
        let arrived = receive_all(&b, 100);
        let ends = |remote, local| remote == a.local() && local == b.local().ip();
        assert!(
            arrived
                .iter()
                .all(|(remote, local, _)| ends(*remote, *local))
        );
        assert!(arrived.iter().map(|(.., bytes)| bytes).eq(&packets));
    }

    #[test]
    fn a_socket_on_an_unspecified_address_reports_and_sets_local_addresses() {
        let any = UdpSocket::bind("0.0.0.0:0".parse().unwrap(), SocketOffload::FULL).unwrap();
        let (peer, _) = pair("127.0.0.1");
        let to_any = SocketAddr::new("127.0.0.3".parse().unwrap(), any.local().port());
        let mut batch = SendBatch::new();
        batch
            .reserve(to_any, peer.local().ip(), 0, 1)
            .unwrap()
            .commit(1);
        peer.send(&batch).unwrap();
        let (_, local, _) = receive_all(&any, 1).remove(0);
        assert_eq!(local, to_any.ip());

        let mut answer = SendBatch::new();
        put(&mut answer, &peer, local, b"from 127.0.0.3");
        any.send(&answer).unwrap();
        assert_eq!(receive_all(&peer, 1)[0].0, to_any);
    }

    fn equal_datagrams(
        to: &UdpSocket,
        from: &UdpSocket,
        lengths: &[usize],
    ) -> (SendBatch, Vec<Vec<u8>>) {
        let mut batch = SendBatch::new();
        let packets = lengths.iter().zip(0..).map(|(len, fill)| vec![fill; *len]);
        let packets: Vec<_> = packets.collect();
        packets
            .iter()
            .for_each(|p| put(&mut batch, to, from.local().ip(), p));
        (batch, packets)
    }

    #[test]
    fn a_train_leaves_and_arrives_as_gso() {
        for host in ["127.0.0.1", "::1"] {
            let (a, b) = pair(host);
            for lengths in [
                &[1400; 46][..],
                &[1400, 1400, 3],
                &[1; 64],
                &[32_000, 32_000],
            ] {
                let (batch, packets) = equal_datagrams(&b, &a, lengths);
                assert_eq!(a.send(&batch).unwrap(), lengths.len());
                let mut received = RecvBatch::new();
                assert_eq!(b.recv(&mut received).unwrap(), 1, "{host} {lengths:?}");
                let mut train = received.iter_mut().next().unwrap();
                assert_eq!((train.remote, train.segment), (a.local(), lengths[0]));
                assert!(train.segments().eq(&packets), "{host} {lengths:?}");
            }
            assert_eq!(
                (a.offload(), b.offload()),
                (SocketOffload::FULL, SocketOffload::FULL)
            );
        }
    }

    #[test]
    fn joined_and_single_datagrams_keep_order_and_traffic_class() {
        let (a, b) = pair("127.0.0.1");
        let mut batch = SendBatch::new();
        let mut expected = Vec::new();
        for n in 0..100_u8 {
            let (class, len) = (n / 40 * 4, if n % 7 == 0 { 50 } else { 100 });
            let slot = batch.reserve(b.local(), a.local().ip(), class, len);
            let mut slot = slot.unwrap();
            slot.bytes().fill(n);
            slot.commit(len);
            expected.push((class, vec![n; len]));
        }
        while !batch.is_empty() {
            let sent = a.send(&batch).unwrap();
            batch.advance(sent);
        }
        let (mut received, mut all) = (RecvBatch::new(), Vec::new());
        while b.recv(&mut received).is_ok() {
            for mut piece in received.iter_mut() {
                let class = piece.class;
                all.extend(piece.segments().map(|bytes| (class, bytes.to_vec())));
            }
        }
        assert_eq!(all, expected);
    }

    #[test]
    fn without_offload_every_datagram_is_single() {
        let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), SocketOffload::NONE).unwrap();
        let (a, b) = (bind(), bind());
        assert_eq!(a.offload(), SocketOffload::NONE);
        let (joining, _) = pair("127.0.0.1");
        for to in [&b, &joining] {
            let (batch, packets) = equal_datagrams(to, &a, &[1000; 20]);
            assert_eq!(a.send(&batch).unwrap(), 20);
            let mut received = RecvBatch::new();
            assert_eq!(to.recv(&mut received).unwrap(), 20);
            assert!(received.iter_mut().map(|d| d.bytes.to_vec()).eq(packets));
        }
        let (batch, packets) = equal_datagrams(&b, &joining, &[1000; 20]);
        assert_eq!(joining.send(&batch).unwrap(), 20, "one GSO send");
        let mut received = RecvBatch::new();
        assert_eq!(
            b.recv(&mut received).unwrap(),
            20,
            "segmented by the kernel"
        );
        assert!(received.iter_mut().map(|d| d.bytes.to_vec()).eq(packets));
    }

    #[test]
    fn a_rejected_gso_send_is_repeated_packet_by_packet() {
        let (a, b) = pair("127.0.0.1");
        // The kernel rejects GSO without checksums (EINVAL).
        sockopt::set_int(&a.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let (first, mut expected) = equal_datagrams(&b, &a, &[1400; 20]);
        assert_eq!(a.send(&first).unwrap(), 20);
        assert_eq!(
            a.offload().send,
            SendOffload::Short,
            "the length may be the reason"
        );
        let (mut second, packets) = equal_datagrams(&b, &a, &[1000, 100, 500, 500, 500]);
        expected.extend(packets);
        while !second.is_empty() {
            let sent = a.send(&second).unwrap();
            second.advance(sent);
        }
        assert_eq!(a.offload().send, SendOffload::Single);
        let arrived = receive_all(&b, expected.len());
        assert!(arrived.into_iter().map(|(.., bytes)| bytes).eq(expected));
    }

    #[test]
    fn an_unsendable_gso_message_does_not_disable_gso() {
        let (a, b) = pair("127.0.0.1");
        let mut batch = SendBatch::new();
        for _ in 0..3 {
            put(&mut batch, &b, "192.0.2.77".parse().unwrap(), &[1; 100]);
        }
        for _ in 0..3 {
            assert!(a.send(&batch).is_err());
            batch.advance(1);
        }
        assert_eq!(a.offload(), SocketOffload::FULL);
    }

    #[test]
    fn the_traffic_class_travels_with_the_datagram() {
        for host in ["127.0.0.1", "::1"] {
            let (a, b) = pair(host);
            let mut batch = SendBatch::new();
            for class in [0, 0xb8, 0xbb, 0xff] {
                let slot = batch.reserve(b.local(), a.local().ip(), class, 100);
                slot.unwrap().commit(100);
            }
            assert_eq!(a.send(&batch).unwrap(), 4);
            let mut classes = Vec::new();
            let mut received = RecvBatch::new();
            while b.recv(&mut received).is_ok() {
                classes.extend(received.iter_mut().map(|d| d.class));
            }
            assert_eq!(classes, [0, 0xb8, 0xbb, 0xff], "{host}");
        }
    }

    #[test]
    fn a_datagram_of_maximum_size_arrives() {
        let (a, b) = pair("127.0.0.1");
        let large = vec![7; SendBatch::MAX_UDP_PAYLOAD];
        let mut batch = SendBatch::new();
        put(&mut batch, &b, a.local().ip(), &large);
        assert_eq!(a.send(&batch).unwrap(), 1);
        assert_eq!(receive_all(&b, 1)[0].2, large);
    }

    #[test]
    fn an_empty_socket_is_would_block() {
        let (a, _) = pair("127.0.0.1");
        assert_eq!(
            a.recv(&mut RecvBatch::new()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn e15_icmp_port_unreachable_is_ignored() {
        let (a, b) = pair("127.0.0.1");
        let (dead, _) = pair("127.0.0.1");
        // With this option the socket receives all ICMP errors.
        nix::sys::socket::setsockopt(&a.socket, option::Ipv4RecvErr, &true).unwrap();
        let mut to_nobody = SendBatch::new();
        put(&mut to_nobody, &dead, a.local().ip(), b"hello?");
        drop(dead);
        let mut to_b = SendBatch::new();
        put(&mut to_b, &b, a.local().ip(), b"hello");
        for _ in 0..3 {
            assert_eq!(a.send(&to_nobody).unwrap(), 1);
            assert_eq!(a.send(&to_b).unwrap(), 1);
            assert_eq!(
                a.recv(&mut RecvBatch::new()).unwrap_err().kind(),
                io::ErrorKind::WouldBlock
            );
        }
        assert_eq!(receive_all(&b, 3).len(), 3);
    }

    #[test]
    fn an_unsendable_packet_does_not_affect_the_next() {
        let (a, b) = pair("127.0.0.1");
        let mut batch = SendBatch::new();
        put(
            &mut batch,
            &b,
            "192.0.2.77".parse().unwrap(),
            b"from an address that is not ours",
        );
        put(&mut batch, &b, a.local().ip(), b"fine");
        assert!(a.send(&batch).is_err());
        batch.advance(1);
        assert_eq!(a.send(&batch).unwrap(), 1);
        assert_eq!(receive_all(&b, 1)[0].2, b"fine");
    }
}
