//! The octets of a file in order, counted, so that damage can be told with its place.

use std::io::{self, ErrorKind, Read};

/// A file being read.
#[derive(Debug)]
pub(super) struct Source<R> {
    inner: R,
    offset: u64,
}

impl<R: Read> Source<R> {
    pub(super) const fn new(inner: R) -> Source<R> {
        Source { inner, offset: 0 }
    }

    /// Where the next octet lies in the file.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `room` as far as the file reaches; how far it did.
    pub(super) fn fill(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0_usize;
        while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) => break,
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.offset = self.offset.saturating_add(filled as u64);
        Ok(filled)
    }

    /// As [`Source::fill`], for a whole array or nothing of use.
    pub(super) fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut room = [0; N];
        Ok((self.fill(&mut room)? == N).then_some(room))
    }

    /// Reads past `count` octets; whether there were as many.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<bool> {
        let skipped = io::copy(&mut (&mut self.inner).take(count), &mut io::sink())?;
        self.offset = self.offset.saturating_add(skipped);
        Ok(skipped == count)
    }
}
