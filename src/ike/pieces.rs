//! A message as it leaves: one datagram, or several if it is cut into fragments (RFC 7383).

use std::net::SocketAddr;

use super::event::{Content, Transmit};

/// The datagrams of one message, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    /// A message in one datagram.
    pub fn whole(bytes: Vec<u8>) -> Pieces {
        Pieces(vec![bytes])
    }

    /// The datagrams on their way between these ends.
    pub fn transmits(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> impl Iterator<Item = Transmit> + '_ {
        self.0.iter().map(move |bytes| Transmit {
            local,
            remote,
            content: Content::Ike(bytes.clone()),
        })
    }
}

/// A message with its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Where it leaves from.
    pub local: SocketAddr,
    /// Where it goes.
    pub remote: SocketAddr,
    /// The message.
    pub pieces: Pieces,
}

impl Parcel {
    /// Its datagrams.
    pub fn transmits(&self) -> impl Iterator<Item = Transmit> + '_ {
        self.pieces.transmits(self.local, self.remote)
    }
}
