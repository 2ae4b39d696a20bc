//! Lifetime limits of one SA.
//!
//! A sequence number must never repeat under one key: the peer would drop the packet as a replay, and with an AEAD two packets
//! with one nonce reveal the plaintext (RFC 4303 §3.3.3, RFC 4106 §3.1). An SA therefore stops before the wrap, with or without a
//! successor, and requests a rekey long before. The configuration can limit packets and octets further (RFC 4301 §4.4.2.1). IKE
//! limits the time.
//!
//! ```text
//!  0 ───────────────────────── soft: 85 to 90 % ─────────────────── hard
//!            carries                  │  carries, rekey requested       │   drops
//! ```
//!
//! The soft limit is random between 85 and 90 %, so that two peers with equal limits rarely rekey at the same time.

use crate::crypto::Esn;
use crate::net::DropReason;

/// Configured limits of one SA in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Octets of inner packets.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Position of the soft limits: 0 is the latest, 255 the earliest.
    pub jitter: u8,
}

/// Soft and hard limits of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    numbers: Limit,
    packets: Limit,
    bytes: Limit,
}

/// A soft and a hard limit: the last count below each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// Counts of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Highest sequence number.
    pub sequence: u64,
    /// Packets.
    pub packets: u64,
    /// Octets of inner packets.
    pub bytes: u64,
}

/// Lifetime state of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeState {
    /// Below the soft limits.
    Fresh,
    /// Above a soft limit: usable, but due for a rekey.
    NearEnd,
    /// At a hard limit: carries no packet.
    Ended,
}

/// Reserved sequence numbers at the end: more than any batch or queue holds, so that packets in flight cannot reach the wrap.
const RESERVE: u64 = 1 << 20;

/// Distance of the latest soft limit from the end, in packets: over four minutes at a million packets a second.
const NOTICE: u64 = 1 << 28;

/// Maximum inner packet, reserved so that a packet below the limit fits.
const MAX_INNER: u64 = 65_535;

impl Lifetime {
    /// The whole sequence space except the reserve.
    pub fn new(esn: Esn) -> Lifetime {
        Lifetime::limited(esn, Limits::default())
    }

    /// The whole sequence space except the reserve, and `limits`.
    pub fn limited(esn: Esn, limits: Limits) -> Lifetime {
        let last = match esn {
            Esn::No => (1u64 << 32).saturating_sub(RESERVE),
            Esn::Yes => u64::MAX.saturating_sub(RESERVE),
        };
        let notice = NOTICE.saturating_add(u64::from(limits.jitter).saturating_mul(RESERVE));
        Lifetime {
            numbers: Limit {
                soft: last.saturating_sub(notice),
                hard: last,
            },
            packets: Limit::of(limits.packets, 0, limits.jitter),
            bytes: Limit::of(limits.bytes, MAX_INNER, limits.jitter),
        }
    }

    /// State of an SA with these counts.
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

    /// Whether an SA with these counts may carry one more packet.
    ///
    /// # Errors
    /// The drop reason.
    pub fn admits(&self, carried: Usage) -> Result<(), DropReason> {
        if carried.sequence >= self.numbers.hard {
            Err(DropReason::SequenceExhausted)
        } else if carried.packets >= self.packets.hard || carried.bytes >= self.bytes.hard {
            Err(DropReason::Expired)
        } else {
            Ok(())
        }
    }

    /// Last sequence number that is sent.
    pub fn last(&self) -> u64 {
        self.numbers.hard
    }
}

impl Limit {
    /// Limits for a maximum `most`, of which `kept` is reserved; without `most` they are never reached.
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
    fn an_sa_requests_a_rekey_long_before_its_end_and_ends_before_the_wrap() {
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
    fn p19_no_admitted_packet_exceeds_a_limit_in_bytes() {
        let limits = Limits {
            bytes: Some(1_000_000),
            ..Limits::default()
        };
        let life = Lifetime::limited(Esn::No, limits);
        let carried = |bytes| Usage { bytes, ..NOTHING };
        let last = 1_000_000 - MAX_INNER - 1;
        assert_eq!(life.admits(carried(last)), Ok(()));
        assert_eq!(life.admits(carried(last + 1)), Err(DropReason::Expired));
        assert_eq!(life.stage(carried(last + 1)), LifetimeState::Ended);
    }

    #[test]
    fn without_limits_only_sequence_numbers_end() {
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
