//! Socket addresses as C structures.

#![allow(unsafe_code, reason = "socket addresses are C structures")]

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Space for a `sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy)]
pub(super) struct SockAddr(libc::sockaddr_in6);

const V4: usize = size_of::<libc::sockaddr_in>();
const V6: usize = size_of::<libc::sockaddr_in6>();

impl SockAddr {
    pub(super) const EMPTY: SockAddr = SockAddr(libc::sockaddr_in6 {
        sin6_family: libc::AF_UNSPEC as libc::sa_family_t,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    });

    /// Sets this as the `msg_name` of a header, for receiving.
    pub(super) fn offer(&mut self, header: &mut libc::msghdr) {
        header.msg_name = (&raw mut self.0).cast();
        header.msg_namelen = V6 as libc::socklen_t;
    }

    /// Sets this address as the `msg_name` of a header.
    pub(super) fn set(&mut self, address: SocketAddr, header: &mut libc::msghdr) {
        self.offer(header);
        match address {
            SocketAddr::V4(v4) => {
                // SAFETY: a sockaddr_in is smaller than a sockaddr_in6, has no stricter alignment, and any bytes are a valid
                // value of both.
                let name = unsafe { &mut *(&raw mut self.0).cast::<libc::sockaddr_in>() };
                name.sin_family = libc::AF_INET as libc::sa_family_t;
                name.sin_port = v4.port().to_be();
                name.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                name.sin_zero = [0; 8];
                header.msg_namelen = V4 as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                self.0.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                self.0.sin6_port = v6.port().to_be();
                self.0.sin6_flowinfo = v6.flowinfo();
                self.0.sin6_addr.s6_addr = v6.ip().octets();
                self.0.sin6_scope_id = v6.scope_id();
            }
        }
    }

    /// Decodes the address; `None` for another family.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let name = &self.0;
        match libc::c_int::from(name.sin6_family) {
            libc::AF_INET6 => {
                let address = std::net::Ipv6Addr::from(name.sin6_addr.s6_addr);
                let port = u16::from_be(name.sin6_port);
                // Only link-local addresses have a scope. Elsewhere it would make equal addresses unequal.
                let scope = if address.is_unicast_link_local() {
                    name.sin6_scope_id
                } else {
                    0
                };
                Some(SocketAddrV6::new(address, port, 0, scope).into())
            }
            libc::AF_INET => {
                // SAFETY: the family is that of a sockaddr_in, which is smaller than a sockaddr_in6 and has no stricter
                // alignment.
                let name = unsafe { &*(&raw const self.0).cast::<libc::sockaddr_in>() };
                Some(SocketAddr::new(
                    IpAddr::from(name.sin_addr.s_addr.to_ne_bytes()),
                    u16::from_be(name.sin_port),
                ))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_addresses_round_trip() {
        // SAFETY: a C structure of integers and pointers, for which zero is a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        for (text, len) in [
            ("192.0.2.1:4500", V4),
            ("[2001:db8::1]:500", V6),
            ("[fe80::1%7]:4500", V6),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = SockAddr::EMPTY;
            name.set(address, &mut header);
            assert_eq!(name.address(), Some(address));
            assert_eq!(header.msg_namelen as usize, len);
        }
        assert_eq!(SockAddr::EMPTY.address(), None);
    }
}
