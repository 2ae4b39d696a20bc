//! Devices: up and down, MTU, queue, pairs of virtual Ethernet.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, State,
};

use super::{Netlink, NetlinkError};

/// A device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The largest packet it takes.
    pub mtu: u32,
    /// Whether it is up (administratively).
    pub up: bool,
    /// Whether it says that it can carry packets.
    pub carrier: bool,
    /// Whether packets sent into it go anywhere: it is up, it has a carrier, and its queue is open (RFC 2863's `up`).
    pub operational: bool,
}

/// One end of a pair of virtual Ethernet devices.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// The name it gets.
    pub name: &'a str,
    /// The namespace it is born in; `None`: that of the connection.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl Netlink {
    /// Packets a tunnel's device holds while the daemon is busy; the kernel's own choice, 500, is a few milliseconds.
    pub const TUNNEL_QUEUE: u32 = 1000;

    /// All devices of the namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.dump(
            || "listing the devices".to_owned(),
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
        )?;
        Ok(answers.into_iter().filter_map(read).collect())
    }

    /// One device.
    ///
    /// # Errors
    /// See [`NetlinkError`]; [`NetlinkError::is_not_found`] if there is none of this number.
    pub fn link(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let what = move || format!("reading device {index}");
        let answer = self.query(what, RouteNetlinkMessage::GetLink(about(index, vec![])))?;
        read(answer).ok_or_else(|| NetlinkError::Malformed {
            what: what(),
            reason: "it is not about a device".to_owned(),
        })
    }

    /// Waits, briefly, until a device whose carrier has just come up takes packets.
    ///
    /// The kernel (link watch) opens a device's queue a moment after its carrier comes up, and swallows what is sent into it until
    /// then; a busy machine makes the moment long. Asking for the device makes Linux 6.8 and newer do it at once; before, its
    /// operational state tells when it is done.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn await_queue(&mut self, index: u32) -> Result<(), NetlinkError> {
        for _ in 0..50 {
            let link = self.link(index)?;
            if link.operational || !link.up {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The device called `name`.
    ///
    /// # Errors
    /// See [`NetlinkError`]; [`NetlinkError::is_not_found`] if there is none.
    pub fn link_named(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let what = || format!("reading device {name}");
        let answer = self.query(
            what,
            RouteNetlinkMessage::GetLink(about(0, vec![LinkAttribute::IfName(name.to_owned())])),
        )?;
        read(answer).ok_or_else(|| NetlinkError::Malformed {
            what: what(),
            reason: "it is not about a device".to_owned(),
        })
    }

    /// Takes a device up.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags(index, LinkFlags::Up, "up")
    }

    /// Takes a device down; the kernel forgets the routes through it.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags(index, LinkFlags::empty(), "down")
    }

    fn set_flags(&mut self, index: u32, up: LinkFlags, word: &str) -> Result<(), NetlinkError> {
        let mut message = about(index, vec![]);
        message.header.flags = up;
        message.header.change_mask = LinkFlags::Up;
        self.change(
            || format!("taking device {index} {word}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Sets the largest packet a device takes. Below 1280 the kernel takes IPv6 off the device (RFC 8200 §5).
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

    /// Makes a new tunnel's device ready and takes it up: a queue for bursts, no IPv6 address of its own (and so less of the
    /// kernel's noise), the MTU.
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
            || format!("keeping IPv6 addresses off device {index}"),
            RouteNetlinkMessage::SetLink(about(
                index,
                vec![LinkAttribute::AfSpecUnspec(vec![none])],
            )),
            0,
        );
        match quiet {
            // Kernels without IPv6 make no IPv6 addresses; nor is there IPv6 on a device of less than 1280 bytes.
            Err(NetlinkError::Refused { ref error, .. })
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)
                ) => {}
            result => result?,
        }
        self.set_up(index)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.change(
            || format!("removing device {index}"),
            RouteNetlinkMessage::DelLink(about(index, vec![])),
            0,
        )
    }

    /// Makes a pair of virtual Ethernet devices, each end in its namespace.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn add_veth(&mut self, one: VethEnd<'_>, other: VethEnd<'_>) -> Result<(), NetlinkError> {
        let pair = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(about(0, born(other))))),
        ];
        let mut attributes = born(one);
        attributes.push(LinkAttribute::LinkInfo(pair));
        self.change(
            || format!("making the devices {} and {}", one.name, other.name),
            RouteNetlinkMessage::NewLink(about(0, attributes)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }
}

fn born(end: VethEnd<'_>) -> Vec<LinkAttribute> {
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

fn read(answer: RouteNetlinkMessage) -> Option<Link> {
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
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::OperState(state) => link.operational = state == State::Up,
            _ => {}
        }
    }
    Some(link)
}
