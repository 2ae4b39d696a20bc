//! How many packets one outbound SA may send.
//!
//! A sequence number must never repeat under one key: the peer would drop the packet as a replay, and under an AEAD two packets
//! with one nonce give away the plaintext (RFC 4303 §3.3.3, RFC 4106 §3.1). So the SA stops by itself, whether or not a
//! replacement has come; long before that it says that the end is near, so that one can come. Limits of time are IKE's.
//!
//! ```text
//!  1 ────────────────────────────────── near ─────────────────── last ──────── 2^32 (2^64 with ESN)
//!                 sends                  │  sends, asks for the next SA  │   refuses
//! ```

use crate::crypto::Esn;

/// The last sequence number an SA sends, and the one from which it asks to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    near: u64,
    last: u64,
}

/// Where an SA is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Plenty of numbers left.
    Fresh,
    /// Still sending, but it is time for a replacement.
    NearEnd,
    /// Sends nothing any more.
    Ended,
}

/// Numbers kept back at the end. More than any batch or queue holds, so that nothing in flight can reach the wrap.
const KEPT_BACK: u64 = 1 << 20;

/// How many packets before the end the SA asks to be replaced: over four minutes at a million packets a second.
const NOTICE: u64 = 1 << 28;

impl Lifetime {
    /// The whole sequence space, less what is kept back.
    pub fn new(esn: Esn) -> Lifetime {
        let last = match esn {
            Esn::No => (1u64 << 32).saturating_sub(KEPT_BACK),
            Esn::Yes => u64::MAX.saturating_sub(KEPT_BACK),
        };
        Lifetime {
            near: last.saturating_sub(NOTICE),
            last,
        }
    }

    /// Where in its life an SA is that sends `sequence`.
    pub fn stage(&self, sequence: u64) -> Stage {
        if sequence > self.last {
            Stage::Ended
        } else if sequence > self.near {
            Stage::NearEnd
        } else {
            Stage::Fresh
        }
    }

    /// The last sequence number that is sent.
    pub fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sa_asks_for_its_successor_long_before_it_ends_and_ends_before_the_wrap() {
        for (esn, wrap) in [(Esn::No, 1u128 << 32), (Esn::Yes, 1u128 << 64)] {
            let life = Lifetime::new(esn);
            assert!(u128::from(life.last()) + 100_000 < wrap);
            assert_eq!(life.stage(1), Stage::Fresh);
            assert_eq!(life.stage(life.last() - 100_000_000), Stage::NearEnd);
            assert_eq!(life.stage(life.last()), Stage::NearEnd);
            assert_eq!(life.stage(life.last() + 1), Stage::Ended);
        }
    }
}
