//! The Child SAs of an IKE SA (RFC 7296 §1.3, §2.8): what was negotiated, the keys of both directions, and where each stands.
//!
//! ```text
//!                 we rekey it: the new one sends at once      ┌────────▶ Leaving ── DELETE answered ──▶ gone
//!  Working ───────────────────────────────────────────────────┤
//!     ▲           the peer rekeys it                          └────────▶ Replaced ── the peer's DELETE ──▶ gone
//!     │
//!  Waiting        made by the peer: we send over it when the peer shows that it has it, by ESP or by its next request
//! ```

use std::time::Duration;

use super::event::{Child, ChildView, DownReason, Role, Sends};
use super::handshake::Connection;
use super::timers::earliest;
use crate::crypto::{EspSuite, IvKey, SaKeys};
use crate::net::{EspTransport, Policy, Time};

/// A Child SA as the IKE SA that carries it remembers it.
#[derive(Debug)]
pub struct ChildSa {
    /// The SPI of packets to us.
    pub spi_in: u32,
    /// The SPI of packets to the peer.
    pub spi_out: u32,
    /// What was negotiated.
    pub suite: EspSuite,
    /// The traffic it carries.
    pub policy: Policy,
    /// Who began the exchange that made it.
    pub role: Role,
    /// When it is due to be rekeyed.
    pub soft_expiry: Time,
    /// When we rekey it next; `None` while that is under way.
    pub rekey_at: Option<Time>,
    /// When a rekeying that does not come about is no longer worth waiting for: another IKE SA is made instead.
    pub renew_at: Time,
    /// When it must be gone.
    pub hard_expiry: Time,
    /// How often the peer has refused to rekey it, or was too busy.
    pub refusals: u32,
    /// Keys of packets to us.
    pub keys_in: SaKeys,
    /// Keys of packets to the peer.
    pub keys_out: SaKeys,
    /// The secret from which the IVs of CBC ciphers come.
    pub iv_key: IvKey,
    /// Where it stands.
    pub standing: Standing,
    /// Whether the peer has it for certain: it answered our request for it, has sent over it, or has asked something since, having heard our answer.
    pub known: bool,
}

/// Where a Child SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It carries traffic both ways.
    Working,
    /// It came of the peer's exchange and takes traffic in; we send over it once the peer shows that it has it, or at the latest then.
    Waiting {
        /// The latest moment.
        until: Time,
        /// How much longer it waits when the peer shows that it has not heard our answer,
        patience: Duration,
        /// but never beyond then.
        end: Time,
    },
    /// The peer's exchange has made another in its place, and the peer will delete it; should it not, we do then.
    Replaced {
        /// When.
        until: Time,
    },
    /// It lost against one that was made at the same time. The peer, whose it was, deletes it; should it not, we do then.
    Redundant {
        /// When.
        until: Time,
    },
    /// Our DELETE is queued or on its way; what the peer sends over it still comes in.
    Leaving {
        /// Why it goes.
        reason: DownReason,
    },
}

/// How long the answer to the peer's exchange may be under way before we take the Child SA for known at both ends.
pub const WAIT_FOR_PEER: Duration = Duration::from_secs(60);

/// The same for the Child SA of a new IKE SA beside one that still serves: longer than any peer takes to repeat its request, and at most three times as long,
/// since the peer may have forgotten the old one.
pub const WAIT_BESIDE: Duration = Duration::from_secs(5);

/// How long the peer may take to delete what it has rekeyed.
pub const DELETE_FOR_PEER: Duration = Duration::from_secs(70);

/// Child SAs of one IKE SA: one, and what rekeying and its collisions leave for a moment.
pub const MOST_CHILDREN: usize = 6;

/// When an SA that may live for `lifetime` is rekeyed, and when another way is tried: at 85 to 90 % of it, and half way from there to the end.
pub fn rekey_schedule(now: Time, lifetime: Duration, jitter: u8) -> (Time, Time) {
    let part = 0.85 + 0.05 * f64::from(jitter) / 255.0;
    let (soft, renew) = (
        lifetime.mul_f64(part),
        lifetime.mul_f64(f64::midpoint(part, 1.0)),
    );
    (now + soft, now + renew)
}

impl ChildSa {
    /// For whoever puts it to work.
    pub fn announced(
        &self,
        conn: &Connection,
        transport: EspTransport,
        sends: Sends,
        replaces: Option<u32>,
    ) -> Child {
        Child {
            tunnel: conn.tunnel,
            spi_in: self.spi_in,
            spi_out: self.spi_out,
            suite: self.suite,
            keys_in: self.keys_in.clone(),
            keys_out: self.keys_out.clone(),
            iv_key: self.iv_key.clone(),
            policy: self.policy.clone(),
            local: conn.local,
            remote: conn.remote,
            transport,
            role: self.role,
            hard_expiry: self.hard_expiry,
            sends,
            replaces,
        }
    }

    /// As status reports show it.
    pub fn view(&self, transport: EspTransport) -> ChildView {
        ChildView {
            spi_in: self.spi_in,
            spi_out: self.spi_out,
            suite: self.suite,
            policy: self.policy.clone(),
            transport,
            rekey_at: self.rekey_at.unwrap_or(Time::ZERO),
            hard_expiry: self.hard_expiry,
        }
    }

    /// Whether it serves, or is about to.
    pub fn is_of_use(&self) -> bool {
        match self.standing {
            Standing::Working | Standing::Waiting { .. } => true,
            Standing::Replaced { .. } | Standing::Redundant { .. } | Standing::Leaving { .. } => {
                false
            }
        }
    }

    /// The peer asks again, so it has not heard our answer: whatever we waited for it to know or do begins anew.
    pub fn wait_on(&mut self, now: Time) {
        match &mut self.standing {
            Standing::Waiting {
                until,
                patience,
                end,
            } => *until = (now + *patience).min(*end),
            Standing::Replaced { until } | Standing::Redundant { until } => {
                *until = now + DELETE_FOR_PEER;
            }
            Standing::Working | Standing::Leaving { .. } => {}
        }
    }

    /// When there is something to do about it.
    fn next_timer(&self) -> Time {
        let standing = match self.standing {
            Standing::Working if self.refusals > 0 => {
                self.rekey_at.unwrap_or(Time::MAX).min(self.renew_at)
            }
            Standing::Working => self.rekey_at.unwrap_or(Time::MAX),
            Standing::Waiting { until, .. }
            | Standing::Replaced { until }
            | Standing::Redundant { until } => until,
            Standing::Leaving { .. } => Time::MAX,
        };
        standing.min(self.hard_expiry)
    }
}

/// All Child SAs of an IKE SA, oldest first.
#[derive(Debug, Default)]
pub struct Children(Vec<ChildSa>);

impl Children {
    /// One Child SA, or none.
    pub fn of(child: Option<ChildSa>) -> Children {
        Children(child.into_iter().collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &ChildSa> {
        self.0.iter()
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut ChildSa> {
        self.0.iter_mut()
    }

    /// Whether one more may be made.
    pub fn has_room(&self) -> bool {
        self.0.len() < MOST_CHILDREN
    }

    /// The one that sends: the newest at work, or the newest of all.
    pub fn current(&self) -> Option<&ChildSa> {
        let working = |child: &&ChildSa| child.standing == Standing::Working;
        let replaced = |child: &&ChildSa| match child.standing {
            Standing::Replaced { .. } => true,
            Standing::Working
            | Standing::Waiting { .. }
            | Standing::Redundant { .. }
            | Standing::Leaving { .. } => false,
        };
        (self.0.iter().rev().find(working))
            .or_else(|| self.0.iter().rev().find(replaced))
            .or(self.0.last())
    }

    /// Whether one serves, or is about to.
    pub fn any_of_use(&self) -> bool {
        self.0.iter().any(ChildSa::is_of_use)
    }

    /// By our SPI.
    pub fn of_ours(&self, spi_in: u32) -> Option<&ChildSa> {
        self.0.iter().find(|child| child.spi_in == spi_in)
    }

    /// By our SPI.
    pub fn of_ours_mut(&mut self, spi_in: u32) -> Option<&mut ChildSa> {
        self.0.iter_mut().find(|child| child.spi_in == spi_in)
    }

    /// By the peer's SPI, which is how the peer names it.
    pub fn of_peers(&self, spi_out: u32) -> Option<&ChildSa> {
        self.0.iter().find(|child| child.spi_out == spi_out)
    }

    /// Adds the newest.
    pub fn push(&mut self, child: ChildSa) {
        self.0.push(child);
    }

    /// Takes one out.
    pub fn remove(&mut self, spi_in: u32) -> Option<ChildSa> {
        let index = self.0.iter().position(|child| child.spi_in == spi_in)?;
        Some(self.0.remove(index))
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<ChildSa> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// When there is something to do about one of them.
    pub fn next_timer(&self) -> Time {
        earliest(self.0.iter().map(ChildSa::next_timer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rekeying_begins_between_85_and_90_percent_and_the_way_out_lies_before_the_end() {
        for (jitter, least, most) in [(0, 85.0, 85.1), (255, 89.9, 90.1)] {
            let (soft, renew) = rekey_schedule(Time::ZERO, Duration::from_secs(100), jitter);
            assert!((least..most).contains(&soft.as_secs_f64()), "{soft:?}");
            assert!(soft < renew && renew < Time::from_secs(100));
        }
    }
}
