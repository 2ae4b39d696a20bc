//! Links: up and down, MTU, queue length, veth pairs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, State,
};

use super::{Netlink, NetlinkError};

/// First link group that [`Netlink::remove_devices`] tries: "gl" in ASCII, and zeros.
const FIRST_GROUP: u32 = 0x676c_0000;

/// State of a link (network device).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Carrier present (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Operational state `up` (RFC 2863): up, with a carrier and an open queue.
    pub operational: bool,
    /// Group (`ip link show group N`); 0 is the default.
    pub group: u32,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Device name.
    pub name: &'a str,
    /// Network namespace to create it in; `None`: that of the connection.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl Netlink {
    /// Queue length of a tunnel device, in packets. The kernel's default, 500, is a few milliseconds of traffic.
    pub const TUNNEL_QUEUE: u32 = 1000;

    /// Links of the namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(|| "listing the links".to_owned(), &request, decode)
    }

    /// The link with an interface index. Linux 6.8 and newer first bring its operational state up to date.
    ///
    /// # Errors
    /// See [`NetlinkError`]; [`NetlinkError::is_not_found`] without such a link.
    pub fn link(&mut self, index: u32) -> Result<Link, NetlinkError> {
        self.read_link(
            || format!("reading device {index}"),
            about(index, Vec::new()),
        )
    }

    /// The link with a name.
    ///
    /// # Errors
    /// See [`NetlinkError`]; [`NetlinkError::is_not_found`] without such a link.
    pub fn link_named(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let request = about(0, vec![LinkAttribute::IfName(name.to_owned())]);
        self.read_link(|| format!("reading device {name}"), request)
    }

    fn read_link(
        &mut self,
        what: impl Fn() -> String,
        request: LinkMessage,
    ) -> Result<Link, NetlinkError> {
        let answer = self.query(&what, RouteNetlinkMessage::GetLink(request))?;
        decode(answer).ok_or_else(|| NetlinkError::Malformed {
            what: what(),
            reason: "it is not a link".to_owned(),
        })
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = about(index, Vec::new());
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(
            || format!("setting device {index} up"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Renames a link, which must be down.
    ///
    /// # Errors
    /// See [`NetlinkError`]; [`NetlinkError::is_exists`] if another link has the name.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let message = about(index, vec![LinkAttribute::IfName(name.to_owned())]);
        self.change(
            || format!("renaming device {index} to {name}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Sets the MTU of a link. Below 1280 the kernel removes IPv6 from it (RFC 8200 §5).
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = about(index, vec![LinkAttribute::Mtu(mtu)]);
        self.change(
            || format!("setting the MTU of device {index} to {mtu}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Configures a new tunnel device and sets it up: MTU, queue length, and no generated IPv6 link-local address, which would make
    /// the kernel send router solicitations into the tunnel.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn prepare_tunnel(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let queue = vec![
            LinkAttribute::Mtu(mtu),
            LinkAttribute::TxQueueLen(Self::TUNNEL_QUEUE),
        ];
        self.change(
            || format!("setting the MTU and queue of device {index}"),
            RouteNetlinkMessage::SetLink(about(index, queue)),
            0,
        )?;
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet = self.change(
            || format!("turning off IPv6 address generation on device {index}"),
            RouteNetlinkMessage::SetLink(about(
                index,
                vec![LinkAttribute::AfSpecUnspec(vec![none])],
            )),
            0,
        );
        match quiet {
            // No IPv6 in the kernel, or none on this device (MTU below 1280): no IPv6 addresses either.
            Err(NetlinkError::Rejected { ref error, .. })
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)
                ) => {}
            result => result?,
        }
        self.set_up(index)
    }

    /// Removes devices, given by index and name, in one request, and returns how many it removed. The kernel waits for the readers of removed devices (RCU) once a
    /// request, about 20 ms; closing the descriptors of TUN devices one after another takes that for each.
    ///
    /// The request names a link group. The group is one that no link has, and it is removed only if a dump shows that it holds these
    /// devices and nothing else; otherwise nothing is removed.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn remove_devices(
        &mut self,
        devices: &BTreeMap<u32, String>,
    ) -> Result<usize, NetlinkError> {
        let links = self.links()?;
        let taken: BTreeSet<u32> = links.iter().map(|link| link.group).collect();
        // The index of a device that is gone may be that of another program's device.
        let is_ours = |link: &&Link| devices.get(&link.index) == Some(&link.name);
        let devices: BTreeSet<u32> = links
            .iter()
            .filter(is_ours)
            .map(|link| link.index)
            .collect();
        let Some(group) = (FIRST_GROUP..).find(|group| !taken.contains(group)) else {
            return Ok(0);
        };
        for index in &devices {
            let message = about(*index, vec![LinkAttribute::Group(group)]);
            self.change(
                || format!("setting the group of device {index}"),
                RouteNetlinkMessage::SetLink(message),
                0,
            )?;
        }
        let links = self.links()?.into_iter();
        let members: BTreeSet<u32> = links
            .filter(|link| link.group == group)
            .map(|link| link.index)
            .collect();
        if members.is_empty() || members != devices {
            return Ok(0);
        }
        let message = about(0, vec![LinkAttribute::Group(group)]);
        self.change(
            || format!("removing the devices of group {group}"),
            RouteNetlinkMessage::DelLink(message),
            0,
        )?;
        Ok(members.len())
    }

    /// Creates a veth pair, each end in its namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn add_veth(&mut self, one: VethEnd<'_>, other: VethEnd<'_>) -> Result<(), NetlinkError> {
        let pair = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(about(
                0,
                veth_attributes(other),
            )))),
        ];
        let mut attributes = veth_attributes(one);
        attributes.push(LinkAttribute::LinkInfo(pair));
        self.change(
            || format!("creating the devices {} and {}", one.name, other.name),
            RouteNetlinkMessage::NewLink(about(0, attributes)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }
}

fn veth_attributes(end: VethEnd<'_>) -> Vec<LinkAttribute> {
    let namespace = end
        .namespace
        .map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd()));
    [Some(LinkAttribute::IfName(end.name.to_owned())), namespace]
        .into_iter()
        .flatten()
        .collect()
}

fn about(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn decode(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        operational: false,
        group: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::OperState(state) => link.operational = state == State::Up,
            LinkAttribute::Group(group) => link.group = group,
            _ => {}
        }
    }
    Some(link)
}
