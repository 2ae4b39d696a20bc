//! Addresses of this machine.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};
use crate::net::Prefix;

/// An address on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The device.
    pub device: u32,
    /// The address.
    pub address: IpAddr,
    /// How many of its bits name the network on that device.
    pub prefix_length: u8,
    /// Whether others can be talked to from it: not loopback, not link-local, not on its way in or out.
    pub usable: bool,
}

/// The address of ours that a packet into a tunnel should come from: the first usable one inside one of `prefixes` and of the
/// family of `towards`. Without one, what the gateway itself sends does not fit the tunnel's selectors.
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
    /// All addresses of the namespace, in the kernel's order.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn addresses(&mut self) -> Result<Vec<HostAddress>, NetlinkError> {
        let answers = self.dump(
            || "listing the addresses".to_owned(),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        )?;
        Ok(answers.into_iter().filter_map(read).collect())
    }

    /// Gives a device an address, or keeps it if it has it. IPv6 addresses may be used at once: nobody else is on a tunnel or a
    /// virtual cable of ours, so duplicates need no detecting.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn add_address(
        &mut self,
        device: u32,
        address: IpAddr,
        prefix_length: u8,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(about(device, address, prefix_length));
        self.change(
            || format!("adding {address}/{prefix_length} to device {device}"),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Takes an address off a device. That it was not there is fine.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn delete_address(
        &mut self,
        device: u32,
        address: IpAddr,
        prefix_length: u8,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(about(device, address, prefix_length));
        let result = self.change(
            || format!("removing {address}/{prefix_length} from device {device}"),
            message,
            0,
        );
        result.or_else(|error| {
            if error.is_not_found() {
                Ok(())
            } else {
                Err(error)
            }
        })
    }
}

fn about(device: u32, address: IpAddr, prefix_length: u8) -> AddressMessage {
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

fn read(answer: RouteNetlinkMessage) -> Option<HostAddress> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    // IPv4 tells ours as Local (Address is the other end of a point-to-point link), IPv6 mostly as Address.
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let address = of(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        of(|a| match a {
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
    fn the_source_is_the_first_usable_address_inside_and_of_the_same_family() {
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
