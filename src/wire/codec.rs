//! Reading and writing bounded fields, big-endian as everything on the wire.

use std::ops::Range;

use thiserror::Error;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} at octet {offset}")]
pub struct Malformed {
    /// What is wrong.
    pub what: &'static str,
    /// Where, counted from the start of the message.
    pub offset: usize,
}

/// A value whose encoding does not fit the length field in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} is too long for its length field")]
pub struct TooLong {
    /// What does not fit.
    pub what: &'static str,
}

/// A reader that cannot leave its bytes, and knows where in the message they lie.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes`, of which the first lies at `offset` of the message.
    #[must_use]
    pub const fn new(bytes: &'a [u8], offset: usize) -> Cursor<'a> {
        Cursor {
            rest: bytes,
            offset,
        }
    }

    /// Where the next octet lies in the message.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// An error about the place where the cursor stands.
    #[must_use]
    pub const fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            what,
            offset: self.offset,
        }
    }

    /// The next `count` octets.
    ///
    /// # Errors
    /// There are fewer; `what` names the field that is cut.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(self.malformed(what))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    /// The next `count` octets as a cursor of their own.
    ///
    /// # Errors
    /// There are fewer.
    pub fn sub(&mut self, count: usize, what: &'static str) -> Result<Cursor<'a>, Malformed> {
        let offset = self.offset;
        Ok(Cursor::new(self.take(count, what)?, offset))
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        let taken = self.rest;
        self.offset = self.offset.saturating_add(taken.len());
        self.rest = &[];
        taken
    }

    /// The next `N` octets.
    ///
    /// # Errors
    /// There are fewer.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(self.malformed(what))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(N);
        Ok(*taken)
    }

    /// One octet.
    ///
    /// # Errors
    /// There is none left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        let [octet] = self.array(what)?;
        Ok(octet)
    }

    /// Two octets as a number.
    ///
    /// # Errors
    /// There are fewer left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    /// Four octets as a number.
    ///
    /// # Errors
    /// There are fewer left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// Eight octets as a number.
    ///
    /// # Errors
    /// There are fewer left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }
}

/// Writes what `body` writes, and then its length into the two octets that it left at `length_at`, counted from `start`.
///
/// Lengths on the wire count their own header, so a structure is written first and measured afterwards:
///
/// ```text
/// start ─▶ next │ flags │ length (start + 2) │ …    ◀─ out.len()
/// ```
pub(super) fn fill_length_u16(
    out: &mut [u8],
    start: usize,
    what: &'static str,
) -> Result<(), TooLong> {
    let length = u16::try_from(out.len().saturating_sub(start)).map_err(|_| TooLong { what })?;
    let field: Range<usize> = start.saturating_add(2)..start.saturating_add(4);
    out.get_mut(field)
        .ok_or(TooLong { what })?
        .copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// A count or size that the wire gives one octet.
pub(super) fn octet(count: usize, what: &'static str) -> Result<u8, TooLong> {
    u8::try_from(count).map_err(|_| TooLong { what })
}

/// A count or size that the wire gives two octets.
pub(super) fn two_octets(count: usize, what: &'static str) -> Result<u16, TooLong> {
    u16::try_from(count).map_err(|_| TooLong { what })
}
