//! The security association database (RFC 4301 §4.4.2): which inbound SA a packet belongs to.
//!
//! An SPI is a number this gateway chose itself, so it alone names the SA, wherever the packet came from: a NAT may give the peer
//! another address at any time (RFC 4301 §4.1, RFC 3948 §4).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::inbound::Inbound;

/// Inbound SAs by SPI, each with what its owner keeps extra it. Built anew when an SA comes or goes, then only read.
#[derive(Debug)]
pub struct Sad<T> {
    entries: HashMap<u32, Entry<T>, BuildHasherDefault<SpiHasher>>,
}

/// One SA and what is kept extra it.
#[derive(Debug)]
pub struct Entry<T> {
    /// The SA.
    pub sa: Arc<Inbound>,
    /// Whatever its owner needs when a packet has been opened.
    pub extra: T,
}

impl<T> Sad<T> {
    /// The SA that owns this SPI.
    pub fn find(&self, spi: u32) -> Option<&Entry<T>> {
        self.entries.get(&spi)
    }

    /// How many SAs there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<T> Default for Sad<T> {
    fn default() -> Self {
        Sad {
            entries: HashMap::default(),
        }
    }
}

/// Of two SAs with one SPI the later one stays.
impl<T> FromIterator<(Arc<Inbound>, T)> for Sad<T> {
    fn from_iter<I: IntoIterator<Item = (Arc<Inbound>, T)>>(sas: I) -> Self {
        Sad {
            entries: sas
                .into_iter()
                .map(|(sa, extra)| (sa.spi(), Entry { sa, extra }))
                .collect(),
        }
    }
}

/// SPIs are our own random numbers, so nobody can aim them at one bucket and a multiplication is mixing enough.
#[derive(Debug, Default)]
struct SpiHasher(u64);

impl Hasher for SpiHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, spi: u32) {
        self.0 = (self.0.rotate_left(8) ^ u64::from(spi)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::testing::pair_with_spi;

    #[test]
    fn each_spi_finds_its_own_sa_and_no_other() {
        let sad: Sad<u32> = (256..2000u32)
            .map(|spi| {
                (
                    Arc::new(pair_with_spi("aes128gcm16", spi).1),
                    spi.wrapping_mul(3),
                )
            })
            .collect();
        assert_eq!(sad.len(), 1744);
        for spi in 256..2000u32 {
            let entry = sad.find(spi).unwrap();
            assert_eq!((entry.sa.spi(), entry.extra), (spi, spi.wrapping_mul(3)));
        }
        // E01: zero, the reserved ones and the unknown.
        for spi in [0, 1, 255, 2000, u32::MAX] {
            assert!(sad.find(spi).is_none());
        }
    }
}
