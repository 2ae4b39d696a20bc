//! Cutting an IPv4 packet into fragments (RFC 791 §3.2) before it is encrypted.

use super::packet::Packet;
use super::refusal::Refusal;

/// The fragments of a packet, in order. Nothing is copied until a fragment is written.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    packet: &'a [u8],
}

/// One fragment: a header of its own and a part of the packet's payload.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    payload: &'a [u8],
}

/// Cuts `packet` so that every fragment fits `mtu`. A packet that fits comes out as one fragment, unchanged.
///
/// # Errors
/// [`Refusal::TooBig`] if it does not fit and may not be cut: DF is set, it is IPv6, or the MTU is absurdly small.
pub fn fragments<'a>(packet: &Packet<'a>, mtu: u16) -> Result<Fragments<'a>, Refusal> {
    todo!()
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Fragment<'a>> {
        todo!()
    }
}

impl Fragment<'_> {
    /// Octets of the whole fragment.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a fragment has at least its header"
    )]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Writes the fragment into `out`, which has exactly [`Fragment::len`] octets; false, and nothing written, if it has not.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> bool {
        todo!()
    }
}
