//! Why a port cannot be had, with what to do about it.

use std::io;
use std::net::IpAddr;

use crate::os::process::Process;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the port.
    #[error("UDP port {port} on {address} is in use{by}: stop that program or give groundlink an address of its own \
             (`listen`, `local-address`)", by = by(holder.as_ref()))]
    PortInUse {
        /// The address wanted.
        address: IpAddr,
        /// The port wanted.
        port: u16,
        /// Whose socket it is, if /proc would tell.
        holder: Option<Process>,
    },
    /// Ports below 1024 are for the privileged.
    #[error(
        "no permission to bind UDP port {port}: CAP_NET_BIND_SERVICE is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_BIND_SERVICE"
    )]
    Permission {
        /// The port wanted.
        port: u16,
    },
    /// Raw sockets are for the privileged.
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
        /// The address wanted.
        address: IpAddr,
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

fn by(holder: Option<&Process>) -> String {
    match holder {
        Some(process) => format!(" by {process}"),
        None => " (`ss -lunp`, run as root, says by what)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::UdpSocket;
    use super::*;
    use crate::os::{Socket, SocketOffload};

    #[test]
    fn a_taken_port_names_its_holder() {
        let a = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), SocketOffload::FULL).unwrap();
        let error = UdpSocket::bind(a.local(), SocketOffload::FULL).unwrap_err();
        let BindError::PortInUse {
            port,
            holder: Some(holder),
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((*port, holder.pid), (a.local().port(), std::process::id()));
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{error}"
        );
    }

    #[test]
    fn a_foreign_address_is_told_from_a_taken_one() {
        let error =
            UdpSocket::bind("192.0.2.1:4500".parse().unwrap(), SocketOffload::FULL).unwrap_err();
        assert!(matches!(error, BindError::AddressNotHere { .. }), "{error}");
    }
}
