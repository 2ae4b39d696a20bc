//! Message IDs and the window of one (RFC 7296 §2.2, §2.3): new and repeated requests, and the cached response.

use super::out_message::Datagrams;
use super::retransmit::HANDSHAKE_PATIENCE;
use crate::crypto::sha1;
use crate::net::Time;
use crate::wire::MessageId;

/// Window of the peer's requests: the next message ID, and the last response.
#[derive(Clone, Debug)]
pub struct Received {
    /// `None` when all message IDs are used.
    next: Option<MessageId>,
    last: Option<CachedResponse>,
}

#[derive(Clone, Debug)]
struct CachedResponse {
    id: MessageId,
    request: Mark,
    response: Datagrams,
}

/// Hash by which a repeated request is recognised: SHA-1 of its datagram, or of the first fragment, since only the first causes
/// the response to be repeated (RFC 7383 §2.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark([u8; 20]);

impl Mark {
    /// The mark of a datagram.
    pub fn of(datagram: &[u8]) -> Mark {
        Mark(sha1(&[datagram]))
    }
}

/// Class of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new request.
    New,
    /// The last request again: the same response is sent.
    Repeated(Datagrams),
    /// Other bytes with the last message ID. If they are the first fragment of the same request in another size, the response is
    /// sent again in the minimum size.
    Refragmented(Datagrams),
    /// Outside the window.
    Stray,
}

impl Received {
    /// A window that expects the message ID `first`.
    pub fn starting_at(first: u32) -> Received {
        Received {
            next: Some(MessageId(first)),
            last: None,
        }
    }

    /// Classifies the request in this datagram.
    pub fn classify(&self, id: MessageId, datagram: &[u8]) -> Request {
        if Some(id) == self.next {
            return Request::New;
        }
        match &self.last {
            Some(last) if last.id != id => Request::Stray,
            Some(last) if last.request == Mark::of(datagram) => {
                Request::Repeated(last.response.clone())
            }
            Some(last) => Request::Refragmented(last.response.clone()),
            None => Request::Stray,
        }
    }

    /// Keeps the response to the expected request and expects the next one. Returns `false` when all message IDs are used: the SA
    /// must be closed before they wrap (RFC 7296 §2.2).
    pub fn record_response(&mut self, request: Mark, response: Datagrams) -> bool {
        if let Some(id) = self.next {
            self.last = Some(CachedResponse {
                id,
                request,
                response,
            });
            self.next = id.next();
        }
        self.next.is_some()
    }
}

/// The last response of a removed IKE SA, in case the response was lost.
#[derive(Debug)]
pub struct LastResponse {
    /// The request and its response.
    pub received: Received,
    /// When it is discarded.
    pub expires: Time,
}

impl LastResponse {
    /// Keeps the response as long as a peer may repeat the request.
    pub fn new(received: Received, now: Time) -> LastResponse {
        LastResponse {
            received,
            expires: now + HANDSHAKE_PATIENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> Datagrams {
        Datagrams::whole(b"response".to_vec())
    }

    #[test]
    fn n24_only_identical_bytes_get_the_cached_answer() {
        let mut window = Received::starting_at(1);
        assert_eq!(window.classify(MessageId(1), b"request"), Request::New);
        assert!(window.record_response(Mark::of(b"request"), response()));
        assert_eq!(
            window.classify(MessageId(1), b"request"),
            Request::Repeated(response())
        );
        assert_eq!(
            window.classify(MessageId(1), b"other"),
            Request::Refragmented(response()),
            "to be proved"
        );
        assert_eq!(window.classify(MessageId(2), b"next"), Request::New);
    }

    #[test]
    fn p01_numbers_outside_the_window_are_stray_and_the_last_one_ends_the_sa() {
        let window = Received::starting_at(5);
        for id in [0, 4, 6, u32::MAX] {
            assert_eq!(window.classify(MessageId(id), b"x"), Request::Stray, "{id}");
        }
        let mut last = Received::starting_at(u32::MAX);
        assert!(!last.record_response(Mark::of(b"x"), response()));
        let id = MessageId(u32::MAX);
        assert_eq!(last.classify(id, b"x"), Request::Repeated(response()));
        assert_eq!(last.classify(id, b"y"), Request::Refragmented(response()));
        assert_eq!(last.classify(MessageId(0), b"y"), Request::Stray);
    }
}
