//! One request and its answers.

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{MsgFlags, NetlinkAddr, recvfrom, sendto};

use super::{Netlink, NetlinkError};

/// A dump that changed while it was read is read again, this often.
const DUMP_TRIES: usize = 5;

impl Netlink {
    /// Asks for a change and waits until it is made.
    pub(super) fn change(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(&what, message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(drop)
    }

    /// Asks for one thing.
    pub(super) fn query(
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
    pub(super) fn dump(
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
        let fd = self.socket.as_raw_fd();
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
}
