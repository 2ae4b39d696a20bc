//! Reader and writer helpers for length-checked, big-endian fields.

use std::ops::Range;

use thiserror::Error;

/// A parse error: the error and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} at octet {offset}")]
pub struct Malformed {
    /// Description of the error.
    pub what: &'static str,
    /// Offset from the start of the message.
    pub offset: usize,
}

/// A value that exceeds its length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} is too long for its length field")]
pub struct TooLong {
    /// Name of the value.
    pub what: &'static str,
}

/// A bounds-checked reader that tracks its offset in the message.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// A reader of `bytes`, which start at `offset` of the message.
    #[must_use]
    pub const fn new(bytes: &'a [u8], offset: usize) -> Cursor<'a> {
        Cursor {
            rest: bytes,
            offset,
        }
    }

    /// Offset of the next octet in the message.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// The unread octets.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all octets have been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// An error at the current offset.
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
    /// Fewer octets are left; `what` is the error text.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(self.malformed(what))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    /// The next `count` octets as a separate cursor.
    ///
    /// # Errors
    /// Fewer octets are left.
    pub fn sub(&mut self, count: usize, what: &'static str) -> Result<Cursor<'a>, Malformed> {
        let offset = self.offset;
        Ok(Cursor::new(self.take(count, what)?, offset))
    }

    /// The octets read since `start`, an earlier copy of this cursor.
    #[must_use]
    pub fn read_since(&self, start: Cursor<'a>) -> &'a [u8] {
        let count = self.offset.saturating_sub(start.offset);
        start.rest.get(..count).unwrap_or_default()
    }

    /// All remaining octets.
    pub fn take_rest(&mut self) -> &'a [u8] {
        let taken = self.rest;
        self.offset = self.offset.saturating_add(taken.len());
        self.rest = &[];
        taken
    }

    /// The next `N` octets.
    ///
    /// # Errors
    /// Fewer octets are left.
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
    /// No octet is left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        let [octet] = self.array(what)?;
        Ok(octet)
    }

    /// Two octets as a number.
    ///
    /// # Errors
    /// Fewer octets are left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    /// Four octets as a number.
    ///
    /// # Errors
    /// Fewer octets are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// Eight octets as a number.
    ///
    /// # Errors
    /// Fewer octets are left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }
}

/// Fills in the length field of the structure from `start` to the end of `out`.
///
/// Length fields count their own header, so a structure is written first and its length filled in afterwards:
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

/// A count or size in a field of one octet.
pub(super) fn octet(count: usize, what: &'static str) -> Result<u8, TooLong> {
    u8::try_from(count).map_err(|_| TooLong { what })
}

/// A count or size in a field of two octets.
pub(super) fn two_octets(count: usize, what: &'static str) -> Result<u16, TooLong> {
    u16::try_from(count).map_err(|_| TooLong { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_stops_at_the_end_and_reports_the_offset() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4, 5], 28);
        assert_eq!(cursor.u16("a"), Ok(0x0102));
        assert_eq!(
            cursor.u32("b"),
            Err(Malformed {
                what: "b",
                offset: 30
            })
        );
        assert_eq!(cursor.take(3, "c"), Ok(&[3, 4, 5][..]));
        assert!(cursor.is_empty());
        assert_eq!(cursor.u8("d").unwrap_err().to_string(), "d at octet 33");
    }

    #[test]
    fn read_octets_can_be_retrieved_again() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4], 0);
        let start = cursor;
        cursor.u16("a").unwrap();
        assert_eq!(cursor.read_since(start), [1, 2]);
    }

    #[test]
    fn a_length_includes_its_own_header() {
        let mut out = vec![9, 9, 0, 0, 0, 0, 7];
        fill_length_u16(&mut out, 2, "thing").unwrap();
        assert_eq!(out, [9, 9, 0, 0, 0, 5, 7]);
        let mut large = vec![0; 65_536];
        assert_eq!(
            fill_length_u16(&mut large, 0, "thing"),
            Err(TooLong { what: "thing" })
        );
    }
}
