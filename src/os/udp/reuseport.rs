//! Several sockets on one port (`SO_REUSEPORT`), one for each worker.
//!
//! ```text
//!                    ┌─▶ socket 0      IKE (its marker reads as SPI 0), keepalives, SPI mod 2 = 0
//!   port 4500 ─ SPI ─┤
//!                    └─▶ socket 1      SPI mod 2 = 1
//! ```
//!
//! The SPI is the first word of an ESP packet (RFC 4303 §2). A classic BPF program of three instructions chooses the socket by
//! it, so that each inbound SA has one worker, independent of NAT rebindings, and the tunnels of one peer are spread. Without the
//! program, or when datagrams of several SPIs are joined by GRO, packets reach another worker. That worker opens them too, one at
//! a time under the lock of the SA; packets that wait in two sockets at the same time may be reordered.

use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt as option};

use super::{BindError, Sharing, UdpSocket};
use crate::os::SocketOffload;

/// Binds `count` sockets to `address`: at least one, and fewer if the kernel allows no more. The first is bound without sharing,
/// so that a port in use is an error.
///
/// # Errors
/// See [`BindError`].
pub fn bind_group(
    address: SocketAddr,
    wanted: SocketOffload,
    count: usize,
) -> Result<Vec<UdpSocket>, BindError> {
    let first = UdpSocket::bind(address, wanted)?;
    let address = first.local;
    let mut group = vec![first];
    if count > 1 && setsockopt(&group[0].socket, option::ReusePort, &true).is_ok() {
        for _ in 1..count {
            match UdpSocket::open(address, wanted, Sharing::Group) {
                Ok(socket) => group.push(socket),
                Err(_) => break,
            }
        }
        choose_by_spi(&group);
    }
    Ok(group)
}

/// Attaches the filter. Without it, the kernel chooses by the peer's address and port.
fn choose_by_spi(group: &[UdpSocket]) {
    let instruction = |code: u32, k| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // For a datagram shorter than a word the load fails, which chooses socket 0.
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        instruction(
            libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K,
            group.len() as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_A, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let _ = setsockopt(&group[0].socket, option::AttachReusePortCbpf, &program);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::{RecvBatch, Socket};

    fn here() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    /// First octets and source port of the datagrams that wait.
    fn received(socket: &UdpSocket) -> Vec<(Vec<u8>, u16)> {
        let mut batch = RecvBatch::new();
        let mut all = Vec::new();
        while socket.recv(&mut batch).is_ok() {
            all.extend(
                batch
                    .iter_mut()
                    .map(|d| (d.bytes.to_vec(), d.remote.port())),
            );
        }
        all
    }

    #[test]
    fn each_spi_has_one_socket_for_all_senders() {
        let group = bind_group(here(), SocketOffload::FULL, 3).unwrap();
        assert_eq!(group.len(), 3);
        let peers = [(); 20].map(|()| std::net::UdpSocket::bind(here()).unwrap());
        for spi in (0..300_u32).map(|n| n * 7919) {
            for peer in peers.iter().skip(spi as usize % 10).take(3) {
                let esp = [&spi.to_be_bytes()[..], &[1; 50]].concat();
                peer.send_to(&esp, group[0].local()).unwrap();
            }
        }
        peers[5].send_to(&[0xff], group[0].local()).unwrap();
        let mut total = 0;
        for (index, socket) in (0..).zip(&group) {
            let all = received(socket);
            total += all.len();
            for (bytes, _) in all {
                match bytes.first_chunk() {
                    Some(spi) => assert_eq!(u32::from_be_bytes(*spi) % 3, index),
                    None => assert_eq!(index, 0, "a keepalive"),
                }
            }
        }
        assert_eq!(total, 901);
    }

    #[test]
    fn a_port_shared_by_another_group_is_in_use() {
        let group = bind_group(here(), SocketOffload::FULL, 2).unwrap();
        let error = bind_group(group[0].local(), SocketOffload::FULL, 2).unwrap_err();
        assert!(matches!(error, BindError::PortInUse { .. }), "{error}");
        assert!(
            group
                .iter()
                .all(|socket| socket.local() == group[0].local())
        );
    }

    #[test]
    fn a_group_of_one_shares_with_no_socket() {
        let group = bind_group(here(), SocketOffload::FULL, 1).unwrap();
        assert_eq!(group.len(), 1);
        let error = UdpSocket::open(group[0].local(), SocketOffload::FULL, Sharing::Group);
        assert!(error.is_err(), "the port is not shared");
    }
}
