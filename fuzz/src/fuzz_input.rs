//! Decisions read from the start of the fuzzer's bytes. An empty input yields zero or empty values, so every input is complete
//! and a longer input continues a shorter one.

use std::time::Duration;

use groundlink::wire::{Critical, Payload, PayloadType};

/// The remaining input.
#[derive(Clone, Copy, Debug)]
pub struct FuzzInput<'a>(&'a [u8]);

impl<'a> FuzzInput<'a> {
    /// A reader of the whole input.
    pub fn new(input: &'a [u8]) -> FuzzInput<'a> {
        FuzzInput(input)
    }

    /// The next step, or `None` at the end of the input.
    pub fn step(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.step().unwrap_or(0)
    }

    /// One boolean.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of several items.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()].clone()
    }

    /// Bytes after a length octet, or the remaining ones if fewer.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All remaining bytes.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// From a millisecond to ten minutes.
    pub fn span(&mut self) -> Duration {
        let byte = self.byte();
        let unit = match byte >> 6 {
            0 => 1,
            1 => 50,
            2 => 1000,
            _ => 10_000,
        };
        Duration::from_millis(unit * (1 + u64::from(byte & 63)))
    }

    /// Payloads of any type with any body, as the content of an Encrypted payload.
    pub fn payloads(&mut self) -> Vec<Payload> {
        let count = self.byte() & 15;
        (0..count)
            .map(|_| {
                let kind = match self.byte() {
                    // The types of RFC 7296, twice as often as all others together.
                    known @ 0..170 => PayloadType(33 + known % 17),
                    _ => PayloadType(self.byte()),
                };
                let critical = if self.flag() {
                    Critical::Yes
                } else {
                    Critical::No
                };
                let body = self.bytes().to_vec();
                Payload::Unknown {
                    kind,
                    critical,
                    body,
                }
            })
            .collect()
    }

    /// Changes some of the bytes.
    pub fn corrupt(&mut self, bytes: &mut [u8]) {
        for _ in 0..self.byte() & 7 {
            let at = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
            let change = self.byte();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= change;
            }
        }
    }
}
