//! Addresses of this host.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError, ignore_missing};
use crate::net::Prefix;

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// Index of its device.
    pub device: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length of its network.
    pub prefix_length: u8,
    /// Whether it can be a source address: of global scope, not loopback, tentative or deprecated.
    pub usable: bool,
}

/// Source address for the host's own packets to `towards`: the first usable address of that family inside one of `prefixes`. Without
/// one, the gateway's own packets do not match the tunnel's traffic selectors.
pub fn source_inside(
    addresses: &[HostAddress],
    prefixes: &[Prefix],
    towards: IpAddr,
) -> Option<IpAddr> {
    addresses
        .iter()
        .filter(|host| host.usable && host.address.is_ipv4() == towards.is_ipv4())
        .map(|host| host.address)
        .find(|address| prefixes.iter().any(|prefix| prefix.contains(*address)))
}

impl Netlink {
    /// Addresses of the namespace, in the kernel's order.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn addresses(&mut self) -> Result<Vec<HostAddress>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(
            || "listing the addresses".to_owned(),
            &request,
            |answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => decode(&message),
                _ => None,
            },
        )
    }

    /// Adds an address to a device; one that is there already stays. IPv6 addresses skip duplicate address detection, since no other
    /// host is on a tunnel device or a veth pair.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn add_address(
        &mut self,
        device: u32,
        address: IpAddr,
        prefix_length: u8,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(encode(device, address, prefix_length));
        self.change(
            || format!("adding {address}/{prefix_length} to device {device}"),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Removes an address from a device; one that is gone already is no error.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn delete_address(
        &mut self,
        device: u32,
        address: IpAddr,
        prefix_length: u8,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(encode(device, address, prefix_length));
        ignore_missing(self.change(
            || format!("removing {address}/{prefix_length} from device {device}"),
            message,
            0,
        ))
    }
}

fn encode(device: u32, address: IpAddr, prefix_length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = device;
    message.header.prefix_len = prefix_length;
    message.attributes = vec![
        AddressAttribute::Address(address),
        AddressAttribute::Local(address),
    ];
    match address {
        IpAddr::V4(_) => message.header.family = AddressFamily::Inet,
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    message
}

pub(super) fn decode(message: &AddressMessage) -> Option<HostAddress> {
    // IPv4 has the host's address in Local (Address is the other end of a point-to-point link), IPv6 mostly in Address.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let unready = AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    let ready = !message
        .attributes
        .iter()
        .any(|a| matches!(a, AddressAttribute::Flags(flags) if flags.intersects(unready)));
    Some(HostAddress {
        device: message.header.index,
        address,
        prefix_length: message.header.prefix_len,
        usable: ready && message.header.scope == AddressScope::Universe && !address.is_loopback(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: &str, usable: bool) -> HostAddress {
        HostAddress {
            device: 1,
            address: address.parse().unwrap(),
            prefix_length: 24,
            usable,
        }
    }

    #[test]
    fn the_source_is_the_first_usable_address_inside_the_prefixes_and_of_the_same_family() {
        let ours = [
            host("203.0.113.7", true),
            host("10.0.0.1", false),
            host("10.0.0.2", true),
            host("fd00::1", true),
        ];
        let prefixes = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let towards = |to: &str| source_inside(&ours, &prefixes, to.parse().unwrap());
        assert_eq!(towards("172.16.0.1"), Some("10.0.0.2".parse().unwrap()));
        assert_eq!(towards("2001:db8::1"), Some("fd00::1".parse().unwrap()));
        assert_eq!(
            source_inside(&ours, &prefixes[1..], "172.16.0.1".parse().unwrap()),
            None
        );
    }
}
