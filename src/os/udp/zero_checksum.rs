//! Tests of the kernel's treatment of datagrams with UDP checksum zero, which means no checksum.
//!
//! ```text
//!   IPv4   accepted: RFC 768, and RFC 3948 §2.1 recommends it for ESP
//!   IPv6   dropped: RFC 8200 §8.1. RFC 6935 §5 lets a tunnel accept them, but IKE uses the same port, and Linux
//!          sends ESP in UDP over IPv6 with a checksum
//! ```

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::Duration;

use super::super::poll::Waiter;
use super::super::{RecvBatch, Socket, SocketOffload, sockopt};
use super::UdpSocket;

/// `UDP_NO_CHECK6_TX` of linux/udp.h.
const UDP_NO_CHECK6_TX: libc::c_int = 101;

/// Sends two datagrams, the first without a checksum, and returns those that arrive.
fn arrived(host: &str, level: libc::c_int, option: libc::c_int) -> Vec<Vec<u8>> {
    let address = SocketAddr::new(host.parse().unwrap(), 0);
    let to = UdpSocket::bind(address, SocketOffload::FULL).unwrap();
    let from = StdSocket::bind(address).unwrap();
    sockopt::set_int(&from, level, option, 1).unwrap();
    from.send_to(b"unsummed", to.local()).unwrap();
    sockopt::set_int(&from, level, option, 0).unwrap();
    from.send_to(b"summed", to.local()).unwrap();

    let waiter = Waiter::new().unwrap();
    waiter.watch(Socket::as_fd(&to), 0).unwrap();
    let (mut batch, mut all) = (RecvBatch::new(), Vec::new());
    while all.last().is_none_or(|last| last != b"summed") {
        let ready = waiter.wait(Some(Duration::from_secs(5))).unwrap();
        assert!(!ready.tokens().is_empty(), "{all:?}");
        // A dropped datagram may also wake the socket.
        let _ = to.recv(&mut batch);
        all.extend(batch.iter_mut().map(|datagram| datagram.bytes.to_vec()));
    }
    all
}

#[test]
fn over_ipv4_a_datagram_without_a_checksum_is_accepted() {
    let all = arrived("127.0.0.1", libc::SOL_SOCKET, libc::SO_NO_CHECK);
    assert_eq!(all, [&b"unsummed"[..], b"summed"]);
}

#[test]
fn over_ipv6_a_datagram_without_a_checksum_is_dropped() {
    let all = arrived("::1", libc::SOL_UDP, UDP_NO_CHECK6_TX);
    assert_eq!(all, [b"summed"]);
}
