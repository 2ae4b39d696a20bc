//! What becomes of datagrams whose UDP checksum is zero, which is none: the kernel decides, and these tests hold it to it.
//!
//! ```text
//!   IPv4   taken: RFC 768, and RFC 3948 §2.1 wants ESP sent so
//!   IPv6   dropped: RFC 8200 §8.1. RFC 6935 §5 would let a tunnel ask for them, but IKE comes to the same port, and
//!          nobody sends ESP in UDP over IPv6 so: Linux fills the checksum in
//! ```

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::time::Duration;

use super::super::poll::Waiter;
use super::super::{RecvBatch, Socket, SocketOffload, sockopt};
use super::UdpSocket;

/// `UDP_NO_CHECK6_TX` of linux/udp.h.
const UDP_NO_CHECK6_TX: libc::c_int = 101;

/// What arrives of two datagrams, of which the first has no checksum.
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
        // What is dropped may have woken us.
        let _ = to.recv(&mut batch);
        all.extend(batch.iter_mut().map(|datagram| datagram.bytes.to_vec()));
    }
    all
}

#[test]
fn over_ipv4_a_datagram_without_a_checksum_is_as_good_as_any() {
    let all = arrived("127.0.0.1", libc::SOL_SOCKET, libc::SO_NO_CHECK);
    assert_eq!(all, [&b"unsummed"[..], b"summed"]);
}

#[test]
fn over_ipv6_a_datagram_without_a_checksum_is_dropped() {
    let all = arrived("::1", libc::SOL_UDP, UDP_NO_CHECK6_TX);
    assert_eq!(all, [b"summed"]);
}
