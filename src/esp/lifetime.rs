//! How much one SA may carry.
//!
//! A sequence number must never repeat under one key: the peer would drop the packet as a replay, and under an AEAD two packets
//! with one nonce give away the plaintext (RFC 4303 §3.3.3, RFC 4106 §3.1). So the SA stops by itself, whether or not a
//! replacement has come; long before that it says that the end is near, so that one can come. People may allow less: so many
//! packets, so many octets (RFC 4301 §4.4.2.1). Limits of time are IKE's.
//!
//! ```text
//!  0 ───────────────────────── soft: 85 to 90 % ─────────────────── hard
//!            carries                  │  carries, asks for the next SA  │   refuses
//! ```
//!
//! Where between 85 and 90 % the soft limit lies is a matter of chance, so that two ends with equal limits rarely ask at once.

use crate::crypto::Esn;
use crate::net::DropReason;

/// What people allow one SA to carry in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Octets of inner packets.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Where the soft limits lie: 0 is as late as possible, 255 as early.
    pub jitter: u8,
}

/// The points in the life of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    numbers: Limit,
    packets: Limit,
    bytes: Limit,
}

/// A soft limit and a hard one; either is the last count that has not reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// How much an SA has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The highest sequence number.
    pub sequence: u64,
    /// Packets.
    pub packets: u64,
    /// Octets of inner packets.
    pub bytes: u64,
}

/// Where an SA is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeState {
    /// Plenty is left.
    Fresh,
    /// Still carrying, but it is time for a replacement.
    NearEnd,
    /// Carries nothing any more.
    Ended,
}

/// Numbers kept back at the end. More than any batch or queue holds, so that nothing in flight can reach the wrap.
const KEPT_BACK: u64 = 1 << 20;

/// How many packets before the end the SA asks to be replaced at the latest: over four minutes at a million packets a second.
const NOTICE: u64 = 1 << 28;

/// The largest inner packet: as many octets are kept back, so that whatever is begun fits.
const LARGEST: u64 = 65_535;

impl Lifetime {
    /// The whole sequence space, less what is kept back.
    pub fn new(esn: Esn) -> Lifetime {
        Lifetime::limited(esn, Limits::default())
    }

    /// The same, and no more than `limits`.
    pub fn limited(esn: Esn, limits: Limits) -> Lifetime {
        let last = match esn {
            Esn::No => (1u64 << 32).saturating_sub(KEPT_BACK),
            Esn::Yes => u64::MAX.saturating_sub(KEPT_BACK),
        };
        let notice = NOTICE.saturating_add(u64::from(limits.jitter).saturating_mul(KEPT_BACK));
        Lifetime {
            numbers: Limit {
                soft: last.saturating_sub(notice),
                hard: last,
            },
            packets: Limit::of(limits.packets, 0, limits.jitter),
            bytes: Limit::of(limits.bytes, LARGEST, limits.jitter),
        }
    }

    /// Where in its life an SA is that has carried so much.
    pub fn stage(&self, carried: Usage) -> LifetimeState {
        let all = [
            (self.numbers, carried.sequence),
            (self.packets, carried.packets),
            (self.bytes, carried.bytes),
        ];
        if all.iter().any(|(span, count)| *count >= span.hard) {
            LifetimeState::Ended
        } else if all.iter().any(|(span, count)| *count > span.soft) {
            LifetimeState::NearEnd
        } else {
            LifetimeState::Fresh
        }
    }

    /// Whether one more packet may be carried by an SA that has carried so much.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, carried: Usage) -> Result<(), DropReason> {
        if carried.sequence >= self.numbers.hard {
            Err(DropReason::SequenceExhausted)
        } else if carried.packets >= self.packets.hard || carried.bytes >= self.bytes.hard {
            Err(DropReason::Expired)
        } else {
            Ok(())
        }
    }

    /// The last sequence number that is sent.
    pub fn last(&self) -> u64 {
        self.numbers.hard
    }
}

impl Limit {
    /// The limits around `most`, of which `kept` are kept back at the end; without `most` they are never reached.
    fn of(most: Option<u64>, kept: u64, jitter: u8) -> Limit {
        let Some(most) = most else {
            return Limit {
                soft: u64::MAX,
                hard: u64::MAX,
            };
        };
        // 510/5100 is 10 %, and 765/5100 is 15 %.
        let early = u128::from(most)
            .saturating_mul(u128::from(jitter).saturating_add(510))
            .checked_div(5100)
            .and_then(|early| u64::try_from(early).ok())
            .unwrap_or(0);
        let hard = most.saturating_sub(kept);
        Limit {
            soft: most.saturating_sub(early).min(hard),
            hard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Usage = Usage {
        sequence: 0,
        packets: 0,
        bytes: 0,
    };

    #[test]
    fn an_sa_asks_for_its_successor_long_before_it_ends_and_ends_before_the_wrap() {
        for (esn, wrap) in [(Esn::No, 1u128 << 32), (Esn::Yes, 1u128 << 64)] {
            for jitter in [0, 255] {
                let limits = Limits {
                    jitter,
                    ..Limits::default()
                };
                let life = Lifetime::limited(esn, limits);
                let stage = |sequence| {
                    life.stage(Usage {
                        sequence,
                        ..NOTHING
                    })
                };
                assert!(u128::from(life.last()) + 100_000 < wrap);
                assert_eq!(stage(1), LifetimeState::Fresh);
                assert_eq!(stage(life.last() - 100_000_000), LifetimeState::NearEnd);
                assert_eq!(stage(life.last() - 1), LifetimeState::NearEnd);
                assert_eq!(stage(life.last()), LifetimeState::Ended);
            }
        }
    }

    #[test]
    fn soft_limits_lie_between_85_and_90_percent_of_the_hard_ones() {
        for (jitter, soft) in [(0, 900_000), (255, 850_000)] {
            let limits = Limits {
                bytes: None,
                packets: Some(1_000_000),
                jitter,
            };
            let life = Lifetime::limited(Esn::No, limits);
            let stage = |packets| life.stage(Usage { packets, ..NOTHING });
            assert_eq!(stage(soft), LifetimeState::Fresh);
            assert_eq!(stage(soft + 1), LifetimeState::NearEnd);
            assert_eq!(stage(999_999), LifetimeState::NearEnd);
            assert_eq!(stage(1_000_000), LifetimeState::Ended);
        }
    }

    #[test]
    fn p19_no_packet_that_may_still_be_carried_reaches_beyond_a_limit_in_bytes() {
        let limits = Limits {
            bytes: Some(1_000_000),
            ..Limits::default()
        };
        let life = Lifetime::limited(Esn::No, limits);
        let carried = |bytes| Usage { bytes, ..NOTHING };
        let last = 1_000_000 - LARGEST - 1;
        assert_eq!(life.admits(carried(last)), Ok(()));
        assert_eq!(life.admits(carried(last + 1)), Err(DropReason::Expired));
        assert_eq!(life.stage(carried(last + 1)), LifetimeState::Ended);
    }

    #[test]
    fn without_limits_only_the_numbers_end() {
        let life = Lifetime::new(Esn::Yes);
        let much = Usage {
            sequence: 1,
            packets: u64::MAX - 1,
            bytes: u64::MAX - 1,
        };
        assert_eq!(life.stage(much), LifetimeState::Fresh);
        assert_eq!(life.admits(much), Ok(()));
    }
}
