//! Netlink requests and their answers: changes, lookups and dumps.

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::{Netlink, NetlinkError};

/// Attempts at a dump that the kernel marks as interrupted (`NLM_F_DUMP_INTR`: a table changed while it was read).
const DUMP_ATTEMPTS: usize = 5;

/// Length of a netlink message header (`struct nlmsghdr`).
const HEADER: usize = 16;

impl Netlink {
    /// Requests a change and waits until the kernel has made it.
    pub(super) fn change(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.exchange(&what, message, flags, &|_| None::<()>)
            .map(drop)
    }

    /// Requests one object.
    pub(super) fn query(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        // Without NLM_F_ACK the answer itself ends the exchange; with it, answer and acknowledgement both come, in this order.
        let answers = self.exchange(&what, message, NLM_F_REQUEST | NLM_F_ACK, &Some)?;
        let reason = answers.unparsed.unwrap_or_else(|| "it is empty".to_owned());
        answers
            .items
            .into_iter()
            .next()
            .ok_or_else(|| NetlinkError::Malformed {
                what: what(),
                reason,
            })
    }

    /// Reads a table and keeps what `select` returns of each entry. An interrupted dump may miss entries: it is read again, and is an
    /// error in the end.
    pub(super) fn dump<T>(
        &mut self,
        what: impl Fn() -> String,
        message: &RouteNetlinkMessage,
        select: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            let answers = self.exchange(&what, message.clone(), flags, &select)?;
            if !answers.interrupted {
                return Ok(answers.items);
            }
        }
        Err(NetlinkError::Interrupted { what: what() })
    }

    fn exchange<T>(
        &mut self,
        what: &impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
        select: &impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Answers<T>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let fd = self.socket.as_raw_fd();
        send(fd, &bytes, MsgFlags::empty()).map_err(io::Error::from)?;

        let mut answers = Answers {
            items: Vec::new(),
            interrupted: false,
            unparsed: None,
        };
        loop {
            let len =
                recv(fd, &mut self.buffer, MsgFlags::empty()).map_err(|errno| match errno {
                    Errno::EAGAIN => NetlinkError::Timeout { what: what() },
                    errno => NetlinkError::Io(errno.into()),
                })?;
            for bytes in messages(self.buffer.get(..len).unwrap_or_default()) {
                match answers.take(bytes, self.sequence, select) {
                    Progress::More => {}
                    Progress::Done => return Ok(answers),
                    Progress::Rejected(error, _)
                        // EACCES has other reasons, such as IPv6 that is off on the device.
                        if error.raw_os_error() == Some(libc::EPERM) =>
                    {
                        return Err(NetlinkError::Permission { what: what() });
                    }
                    Progress::Rejected(error, detail) => {
                        return Err(NetlinkError::Rejected {
                            what: what(),
                            error,
                            detail,
                        });
                    }
                }
            }
        }
    }
}

/// Answers received so far.
struct Answers<T> {
    items: Vec<T>,
    /// The kernel marked a part of the dump with `NLM_F_DUMP_INTR`.
    interrupted: bool,
    /// Parser error for the last message that was not understood.
    unparsed: Option<String>,
}

enum Progress {
    More,
    Done,
    /// Error number, and the kernel's extended acknowledgement where it sent one.
    Rejected(io::Error, Option<String>),
}

impl<T> Answers<T> {
    fn take(
        &mut self,
        bytes: &[u8],
        sequence: u32,
        select: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Progress {
        let header = NetlinkBuffer::new(bytes);
        if header.sequence_number() != sequence {
            return Progress::More; // late answer to a request that timed out
        }
        let flags = header.flags();
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
            Ok(message) => message,
            // One entry of a kind that the parser does not know must not hide the others.
            Err(error) => {
                self.unparsed = Some(error.to_string());
                return Progress::More;
            }
        };
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => {
                self.items.extend(select(answer));
                Progress::More
            }
            NetlinkPayload::Error(error) if error.code.is_none() => Progress::Done,
            NetlinkPayload::Error(error) => {
                let has_attributes = flags & NLM_F_ACK_TLVS != 0;
                let detail = has_attributes.then(|| extended_ack(&error.header));
                Progress::Rejected(error.to_io(), detail.flatten())
            }
            NetlinkPayload::Done(done) if done.code == 0 => Progress::Done,
            NetlinkPayload::Done(done) => {
                Progress::Rejected(io::Error::from_raw_os_error(done.code.abs()), None)
            }
            _ => Progress::More,
        }
    }
}

/// Splits one datagram into its messages, each on a 4-byte boundary.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest
            .get(..length)
            .filter(|message| message.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Error message of the kernel (`NLMSGERR_ATTR_MSG`), from the attributes behind the echoed header of the rejected request.
fn extended_ack(echo: &[u8]) -> Option<String> {
    const MESSAGE: u16 = 1;
    let attribute = NlasIterator::new(echo.get(HEADER..)?)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == MESSAGE)?;
    let text = attribute.value().split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::super::testing::{connection, serve_dumps};
    use super::*;

    fn dump_with(interrupted: usize) -> Result<Vec<u32>, NetlinkError> {
        let (mut netlink, kernel) = connection();
        let thread = std::thread::spawn(move || serve_dumps(&kernel, interrupted));
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let result = netlink.dump(
            || "listing".to_owned(),
            &request,
            |answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
                _ => None,
            },
        );
        drop(netlink);
        thread.join().unwrap();
        result
    }

    #[test]
    fn an_interrupted_dump_is_read_again_and_is_an_error_in_the_end() {
        assert_eq!(dump_with(0).unwrap(), [1]);
        assert_eq!(
            dump_with(2).unwrap(),
            [3],
            "only the last, whole dump counts"
        );
        let error = dump_with(DUMP_ATTEMPTS).unwrap_err();
        assert!(matches!(error, NetlinkError::Interrupted { .. }), "{error}");
    }

    #[test]
    fn one_datagram_holds_several_messages() {
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
        assert_eq!(messages(&bytes[..30]).count(), 1, "truncated");
        assert_eq!(messages(&[0; 64]).count(), 0, "shorter than a header");
    }

    #[test]
    fn the_extended_acknowledgement_is_found_behind_other_attributes() {
        let mut echo = vec![0; 16];
        echo.extend([8_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
        echo.extend([0; 4]);
        echo.extend([10_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
        echo.extend(b"words\0\0\0");
        assert_eq!(extended_ack(&echo).as_deref(), Some("words"));
        assert_eq!(extended_ack(&echo[..20]), None);
        assert_eq!(extended_ack(&[0; 20]), None);
    }
}
