//! Links, addresses and routes, over rtnetlink (rtnetlink(7), RFC 3549).
//!
//! ```text
//!   us ──── request (sequence n) ───▶ kernel
//!   us ◀─── answers (n) … ─────────── kernel
//!   us ◀─── acknowledgement (n): 0, or an error with a sentence of the kernel's own ("extended ack")
//! ```
//!
//! Calls block, and are short: the kernel carries a request out inside the `sendmsg` that brings it, and its answer waits when that
//! returns. An asynchronous socket would gain nothing and tie namespaces, threads and tests to a runtime. A kernel that does not
//! answer within five seconds is an error.
//!
//! A [`Netlink`] belongs for good to the network namespace of the thread that opened it.

mod address;
mod link;
mod route;

pub use address::{HostAddress, source_inside};
pub use link::{Link, VethEnd};
pub use route::{LAST_RESORT_METRIC, PIN_METRIC, ROUTE_PROTOCOL, Route, Target, Way};

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    setsockopt, socket, sockopt as option,
};
use nix::sys::time::TimeVal;

use super::sockopt;

/// A connection to the kernel's routing tables.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Why the kernel did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// Changing the network takes a capability.
    #[error(
        "no permission for {what}: CAP_NET_ADMIN is missing; run as root, or under systemd with \
             AmbientCapabilities=CAP_NET_ADMIN"
    )]
    Permission {
        /// What was asked.
        what: String,
    },
    /// The kernel said no.
    #[error("{what}: {error}{}", Said(.said))]
    Refused {
        /// What was asked.
        what: String,
        /// Its error number.
        error: io::Error,
        /// What it says in words, where it does.
        said: Option<String>,
    },
    /// A route for this prefix with this metric exists, and it is not ours to replace.
    #[error("{route}: somebody else has installed a route for {prefix} with the same metric; remove it \
             (`ip route del {prefix} metric {metric}`) or give the tunnel another `metric`", prefix = route.prefix, metric = route.metric)]
    RouteTaken {
        /// The route that was to be installed.
        route: Box<Route>,
    },
    /// There is no way to an address, except through a tunnel.
    #[error("there is no route to {0} outside the tunnels")]
    NoWay(std::net::IpAddr),
    /// No answer.
    #[error("{what}: the kernel did not answer")]
    Timeout {
        /// What was asked.
        what: String,
    },
    /// The answer makes no sense.
    #[error("{what}: the kernel's answer is not understood: {reason}")]
    Malformed {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The socket itself failed.
    #[error("talking to the kernel's routing tables failed: {0}")]
    Io(#[from] io::Error),
}

impl NetlinkError {
    /// Whether the thing to change or remove is not (any longer) there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the thing to add is there already.
    pub fn is_already_there(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { error, .. } => error.raw_os_error(),
            NetlinkError::Permission { .. }
            | NetlinkError::RouteTaken { .. }
            | NetlinkError::NoWay(_)
            | NetlinkError::Timeout { .. }
            | NetlinkError::Malformed { .. }
            | NetlinkError::Io(_) => None,
        }
    }
}

struct Said<'a>(&'a Option<String>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(said) => write!(f, " ({})", said.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel makes no answer larger than this (`NLMSG_GOODSIZE` grown for dumps).
const ANSWER: usize = 64 * 1024;
/// A dump that changed while it was read is read again, this often.
const DUMP_TRIES: usize = 5;

impl Netlink {
    /// A connection in this thread's network namespace.
    ///
    /// # Errors
    /// No descriptor left, or a sandbox without AF_NETLINK.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let open = || -> nix::Result<OwnedFd> {
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )?;
            bind(
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                &NetlinkAddr::new(0, 0),
            )?;
            let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
            setsockopt(&fd, option::ReceiveTimeout, &patience)?;
            setsockopt(&fd, option::SendTimeout, &patience)?;
            Ok(fd)
        };
        let socket = open().map_err(io::Error::from)?;
        // Niceties of newer kernels: errors in words, without our request repeated; and dumps filtered by the kernel (we filter
        // again). Older kernels do without.
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            let _ = sockopt::set_int(&socket, libc::SOL_NETLINK, option, 1);
        }
        Ok(Netlink {
            socket,
            sequence: 0,
            buffer: vec![0; ANSWER],
        })
    }

    /// Asks for a change and waits until it is made.
    fn change(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(&what, message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(drop)
    }

    /// Asks for one thing.
    fn query(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        // Without NLM_F_ACK the answer itself ends the exchange; with it, answer and acknowledgement both come, in this order.
        let answers = self.exchange(&what, message, NLM_F_REQUEST | NLM_F_ACK)?;
        let malformed = |reason: &str| NetlinkError::Malformed {
            what: what(),
            reason: reason.to_owned(),
        };
        answers
            .answers
            .into_iter()
            .next()
            .ok_or_else(|| malformed(answers.unread.as_deref().unwrap_or("it is empty")))
    }

    /// Asks for all there is.
    fn dump(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut last = Vec::new();
        for _ in 0..DUMP_TRIES {
            let answers = self.exchange(&what, message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            last = answers.answers;
            if answers.whole {
                break;
            }
        }
        Ok(last)
    }

    fn exchange(
        &mut self,
        what: &impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answers, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        sendto(fd, &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(io::Error::from)?;

        let mut answers = Answers {
            answers: Vec::new(),
            whole: true,
            unread: None,
        };
        loop {
            let (len, from) =
                recvfrom::<NetlinkAddr>(fd, &mut self.buffer).map_err(|errno| match errno {
                    nix::errno::Errno::EAGAIN => NetlinkError::Timeout { what: what() },
                    errno => NetlinkError::Io(errno.into()),
                })?;
            if from.is_none_or(|from| from.pid() != 0) {
                continue; // not the kernel
            }
            for datagram in messages(self.buffer.get(..len).unwrap_or_default()) {
                match answers.take(datagram, self.sequence) {
                    Progress::More => {}
                    Progress::Done => return Ok(answers),
                    Progress::Refused { error, said } => {
                        let denied = error.kind() == io::ErrorKind::PermissionDenied;
                        let what = what();
                        return Err(if denied {
                            NetlinkError::Permission { what }
                        } else {
                            NetlinkError::Refused { what, error, said }
                        });
                    }
                }
            }
        }
    }
}

/// What has been answered so far.
struct Answers {
    answers: Vec<RouteNetlinkMessage>,
    /// Nothing changed while the kernel was telling.
    whole: bool,
    /// Why the last message that could not be read could not be.
    unread: Option<String>,
}

enum Progress {
    More,
    Done,
    Refused {
        error: io::Error,
        said: Option<String>,
    },
}

impl Answers {
    fn take(&mut self, bytes: &[u8], sequence: u32) -> Progress {
        let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
            Ok(message) => message,
            // One route of a kind the parser does not know must not hide all others.
            Err(error) => {
                self.unread = Some(error.to_string());
                return Progress::More;
            }
        };
        if message.header.sequence_number != sequence {
            return Progress::More; // the late answer to a request that timed out
        }
        self.whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => {
                self.answers.push(answer);
                Progress::More
            }
            NetlinkPayload::Error(error) => match error.code {
                None => Progress::Done,
                Some(_) => {
                    let tlvs = message.header.flags & NLM_F_ACK_TLVS != 0;
                    let said = if tlvs {
                        extended_ack(&error.header)
                    } else {
                        None
                    };
                    Progress::Refused {
                        error: error.to_io(),
                        said,
                    }
                }
            },
            NetlinkPayload::Done(done) => match done.code {
                0 => Progress::Done,
                code => Progress::Refused {
                    error: io::Error::from_raw_os_error(code.abs()),
                    said: None,
                },
            },
            _ => Progress::More,
        }
    }
}

/// Splits what one receive brought: messages, each on a 4-byte boundary.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length)?;
        if length < 16 {
            return None;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The kernel's sentence, from the attributes behind the header of the refused request (`NLMSGERR_ATTR_MSG`).
fn extended_ack(echo: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const MESSAGE: u16 = 1;
    let mut rest = echo.get(HEADER..)?;
    loop {
        let [a, b, c, d] = *rest.first_chunk()?;
        let (length, kind) = (
            u16::from_ne_bytes([a, b]) as usize,
            u16::from_ne_bytes([c, d]),
        );
        let value = rest.get(4..length)?;
        if kind == MESSAGE {
            let text = value.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_messages_in_one_receive_come_apart() {
        let mut bytes = Vec::new();
        for length in [17_u32, 16] {
            let mut message = length.to_ne_bytes().to_vec();
            message.resize((length as usize).next_multiple_of(4), 0);
            bytes.extend(message);
        }
        assert_eq!(
            messages(&bytes).map(<[u8]>::len).collect::<Vec<_>>(),
            [17, 16]
        );
        assert_eq!(messages(&bytes[..30]).count(), 1, "a cut message is none");
        assert_eq!(
            messages(&[0; 64]).count(),
            0,
            "no message is shorter than its header"
        );
    }

    #[test]
    fn the_kernels_sentence_is_found_behind_other_attributes() {
        let mut echo = vec![0; 16];
        echo.extend([8_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
        echo.extend([0; 4]);
        echo.extend([10_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
        echo.extend(b"words\0\0\0");
        assert_eq!(extended_ack(&echo).as_deref(), Some("words"));
        assert_eq!(extended_ack(&echo[..20]), None);
        assert_eq!(extended_ack(&[0; 20]), None);
    }

    #[test]
    fn anyone_may_read_addresses_and_ways() {
        let mut netlink = Netlink::open().unwrap();
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(
            netlink
                .addresses()
                .unwrap()
                .iter()
                .any(|host| host.address == loopback)
        );
        let way = netlink.route_to(loopback).unwrap();
        assert_eq!(
            (way.device, way.gateway, way.source),
            (1, None, Some(loopback))
        );
        assert!(
            netlink
                .links()
                .unwrap()
                .iter()
                .any(|link| link.name == "lo")
        );
    }
}
