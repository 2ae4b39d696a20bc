//! Errors of opening sockets, with advice.

use std::io;
use std::net::IpAddr;

use crate::os::process::Process;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the port.
    #[error("UDP port {port} on {address} is in use{by}: stop that program or give groundlink an address of its own \
             (`listen`, `local-address`)", by = by(holder.as_ref()))]
    PortInUse {
        /// Requested address.
        address: IpAddr,
        /// Requested port.
        port: u16,
        /// Process that holds the port, if /proc shows it.
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
        /// The address wanted.
        address: IpAddr,
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

fn by(holder: Option<&Process>) -> String {
    match holder {
        Some(process) => format!(" by {process}"),
        None => " (`sudo ss -lunp` shows the process)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::UdpSocket;
    use super::*;
    use crate::os::{Socket, SocketOffload};

    #[test]
    fn a_port_in_use_names_its_process() {
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
    fn an_address_of_no_interface_has_its_own_error() {
        let error =
            UdpSocket::bind("192.0.2.1:4500".parse().unwrap(), SocketOffload::FULL).unwrap_err();
        assert!(matches!(error, BindError::AddressNotHere { .. }), "{error}");
    }
}
