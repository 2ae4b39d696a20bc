//! Security association database (RFC 4301 §4.4.2): inbound SAs by SPI.
//!
//! The gateway chooses the SPI, so it identifies the SA without the source address, which a NAT may change at any time (RFC 4301
//! §4.1, RFC 3948 §4).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::inbound::Inbound;

/// Inbound SAs by SPI, each with data of its owner. The table is rebuilt when an SA is added or removed, and is otherwise read
/// only.
#[derive(Debug)]
pub struct Sad<T> {
    entries: HashMap<u32, Entry<T>, BuildHasherDefault<SpiHasher>>,
}

/// An SA with data of its owner.
#[derive(Debug)]
pub struct Entry<T> {
    /// The SA.
    pub sa: Arc<Inbound>,
    /// Data of the owner.
    pub extra: T,
}

impl<T> Sad<T> {
    /// SA with this SPI.
    pub fn find(&self, spi: u32) -> Option<&Entry<T>> {
        self.entries.get(&spi)
    }

    /// Number of SAs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the table is empty.
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

/// Of two SAs with one SPI the later one is kept.
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

/// SPIs are random numbers of this gateway, which an attacker cannot choose, so a multiplication mixes enough.
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
