//! Several sockets of one port, so that several workers receive (`SO_REUSEPORT`).
//!
//! ```text
//!                    ┌─▶ socket 0      IKE (its marker reads as SPI 0), keepalives, every second SPI
//!   port 4500 ─ SPI ─┤
//!                    └─▶ socket 1      every other SPI
//! ```
//!
//! The SPI is the first word of an ESP packet (RFC 4303 §2), and what a peer changes last: when a NAT moves it, and when its tunnels
//! share an address and a port. Choosing the socket by it, with a filter of three instructions in the kernel, gives each inbound SA
//! one worker and spreads the tunnels of one peer. Where there is no filter, or a train of datagrams has several SPIs, packets come to
//! another socket. They are opened there all the same, one worker after the other; what two sockets hold at one moment may then pass
//! each other, as on two links.

use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt as option};

use super::{BindError, Sharing, UdpSocket};
use crate::os::SocketOffload;

/// Binds `count` sockets to `address` (at least one, and fewer where the kernel has no more). The first is bound alone, so that a
/// port that somebody else has is in use.
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

/// Without it the kernel chooses by the peer's address and port, which serves as well as long as those stay.
fn choose_by_spi(group: &[UdpSocket]) {
    let instruction = |code: u32, k| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // A datagram shorter than a word makes the load fail, which chooses socket 0.
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

    /// The first words of what waits, and from which port each came.
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
    fn every_spi_has_one_socket_whoever_sends_it() {
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
    fn a_port_that_somebody_has_is_in_use_even_if_they_share_it_among_themselves() {
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
    fn a_group_of_one_is_one_socket() {
        let group = bind_group(here(), SocketOffload::FULL, 1).unwrap();
        assert_eq!(group.len(), 1);
        let error = UdpSocket::open(group[0].local(), SocketOffload::FULL, Sharing::Group);
        assert!(error.is_err(), "it shares with nobody");
    }
}
