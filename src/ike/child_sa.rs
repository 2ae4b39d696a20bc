//! Child SAs of an IKE SA (RFC 7296 §1.3, §2.8): negotiated parameters, keys of both directions, lifetimes and states.
//!
//! ```text
//!                 we rekey it: the new Child SA sends at once      ┌────────▶ Deleting ── DELETE answered ──▶ removed
//!  Active ─────────────────────────────────────────────────────────┤
//!     ▲           the peer rekeys it                               └────────▶ Replaced ── the peer's DELETE ──▶ removed
//!     │
//!  AwaitingPeer   created by the peer: we send over it once ESP or the next request shows that the peer has it
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use super::event::{Child, ChildView, DownReason, Role, Sends};
use super::init_result::Connection;
use super::settings::MAX_TRAFFICS;
use crate::crypto::{EspSuite, IvKey, SaKeys};
use crate::net::{EspTransport, Policy, Time};

/// A Child SA.
#[derive(Debug)]
pub struct ChildSa {
    /// The SPI of packets to us.
    pub spi_in: u32,
    /// The SPI of packets to the peer.
    pub spi_out: u32,
    /// The negotiated algorithms.
    pub suite: EspSuite,
    /// The negotiated traffic selectors.
    pub policy: Policy,
    /// Number of its traffic, in order of creation: a rekey keeps it, and Child SAs with the same selectors share it.
    pub traffic: u32,
    /// Our role in the exchange that created it.
    pub role: Role,
    /// When it is due to be rekeyed.
    pub soft_expiry: Time,
    /// When we rekey it next; `None` while a rekey is in progress.
    pub rekey_at: Option<Time>,
    /// When another IKE SA is created instead, if rekeying keeps failing.
    pub renew_at: Time,
    /// When it is deleted at the latest.
    pub hard_expiry: Time,
    /// How often in a row the peer has rejected a rekey.
    pub rejections: u32,
    /// Keys of packets to us.
    pub keys_in: SaKeys,
    /// Keys of packets to the peer.
    pub keys_out: SaKeys,
    /// The secret from which the IVs of CBC ciphers are derived.
    pub iv_key: IvKey,
    /// Its state.
    pub state: ChildState,
    /// Whether the peer certainly has it: the peer answered our request for it, has sent ESP over it, or has sent another request
    /// since our response.
    pub confirmed: bool,
}

/// State of a Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// It carries traffic in both directions.
    Active,
    /// The peer created it, and it receives. We send over it once the peer shows that it has it, or at `until`.
    AwaitingPeer {
        /// When we send over it in any case.
        until: Time,
        /// How far a repeated request, which shows that our response was lost, moves `until`.
        extension: Duration,
        /// The latest value of `until`.
        latest: Time,
    },
    /// The peer has rekeyed it and will delete it; at `until` we do.
    Replaced {
        /// When we delete it.
        until: Time,
    },
    /// It lost a collision. The peer created it and will delete it; at `until` we do.
    Redundant {
        /// When we delete it.
        until: Time,
    },
    /// Our DELETE is queued or sent; it still receives.
    Deleting {
        /// Why.
        reason: DownReason,
    },
}

/// How long we wait for a sign that the peer has a Child SA before we send over it anyway.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(60);

/// The same timeout for the Child SA of a second IKE SA of the tunnel: longer than the interval at which a peer repeats its
/// request. Repeated requests extend the timeout at most three times, since the peer may have lost the first IKE SA.
pub const CONFIRM_TIMEOUT_DUPLICATE: Duration = Duration::from_secs(5);

/// How long the peer may take to delete an SA that it has rekeyed.
pub const PEER_DELETE_TIMEOUT: Duration = Duration::from_secs(70);

/// Maximum of Child SAs of one IKE SA for the same traffic: one, and temporarily those created by rekeys and their collisions.
pub const MAX_CHILDREN: usize = 6;

/// Times at which an SA with this lifetime is rekeyed (at 85 to 90 %), and replaced if rekeying fails (halfway from there to its
/// end).
pub fn rekey_schedule(now: Time, lifetime: Duration, jitter: u8) -> (Time, Time) {
    let part = 0.85 + 0.05 * f64::from(jitter) / 255.0;
    let (soft, renew) = (
        lifetime.mul_f64(part),
        lifetime.mul_f64(f64::midpoint(part, 1.0)),
    );
    (now + soft, now + renew)
}

impl ChildSa {
    /// The event data that installs it.
    pub fn to_event(
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

    /// The data that status reports show.
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

    /// Whether it carries traffic now or soon.
    pub fn is_usable(&self) -> bool {
        match self.state {
            ChildState::Active | ChildState::AwaitingPeer { .. } => true,
            ChildState::Replaced { .. }
            | ChildState::Redundant { .. }
            | ChildState::Deleting { .. } => false,
        }
    }

    /// Restarts the timer of its state: the peer repeats its request, so it has not received our response.
    pub fn restart_timer(&mut self, now: Time) {
        match &mut self.state {
            ChildState::AwaitingPeer {
                until,
                extension,
                latest,
            } => *until = (now + *extension).min(*latest),
            ChildState::Replaced { until } | ChildState::Redundant { until } => {
                *until = now + PEER_DELETE_TIMEOUT;
            }
            ChildState::Active | ChildState::Deleting { .. } => {}
        }
    }

    fn next_timer(&self) -> Time {
        let state = match self.state {
            ChildState::Active if self.rejections > 0 => {
                self.rekey_at.unwrap_or(Time::MAX).min(self.renew_at)
            }
            ChildState::Active => self.rekey_at.unwrap_or(Time::MAX),
            ChildState::AwaitingPeer { until, .. }
            | ChildState::Replaced { until }
            | ChildState::Redundant { until } => until,
            ChildState::Deleting { .. } => Time::MAX,
        };
        state.min(self.hard_expiry)
    }
}

/// The Child SAs of an IKE SA, oldest first.
#[derive(Debug, Default)]
pub struct Children(Vec<ChildSa>);

impl Children {
    /// A table with one Child SA, or none.
    pub fn of(child: Option<ChildSa>) -> Children {
        Children(child.into_iter().collect())
    }

    /// Every Child SA.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &ChildSa> {
        self.0.iter()
    }

    /// Every Child SA.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut ChildSa> {
        self.0.iter_mut()
    }

    /// Whether the limits allow one more that rekeys `old` or carries this traffic.
    pub fn has_room(&self, old: Option<u32>, policy: &Policy) -> bool {
        match self.traffic_of(old, policy) {
            Some(traffic) => self.of_traffic(traffic).count() < MAX_CHILDREN,
            None => self.traffics().len() < MAX_TRAFFICS,
        }
    }

    /// Number of the traffic of one that rekeys `old` or has these selectors; `None` if there is none with it yet.
    fn traffic_of(&self, old: Option<u32>, policy: &Policy) -> Option<u32> {
        let same = |child: &&ChildSa| child.policy.covers(policy) && policy.covers(&child.policy);
        (old.and_then(|old| self.by_spi_in(old)))
            .or_else(|| self.0.iter().rev().find(same))
            .map(|child| child.traffic)
    }

    /// Numbers of all traffic, in order of creation.
    pub fn traffics(&self) -> BTreeSet<u32> {
        self.0.iter().map(|child| child.traffic).collect()
    }

    /// Every Child SA for this traffic, oldest first.
    pub fn of_traffic(&self, traffic: u32) -> impl DoubleEndedIterator<Item = &ChildSa> {
        let is_of = move |child: &&ChildSa| child.traffic == traffic;
        self.0.iter().filter(is_of)
    }

    /// Whether one for this traffic carries it now or soon.
    pub fn any_usable_of(&self, traffic: u32) -> bool {
        self.of_traffic(traffic).any(ChildSa::is_usable)
    }

    /// Whether one carries some of the traffic of this policy now or soon.
    pub fn serves(&self, policy: &Policy) -> bool {
        let mut usable = self.0.iter().filter(|child| child.is_usable());
        usable.any(|child| child.policy.overlaps(policy))
    }

    /// The newest active Child SA of each traffic.
    pub fn sending(&self) -> impl Iterator<Item = &ChildSa> {
        let active = |child: &&ChildSa| child.state == ChildState::Active;
        let traffics = self.traffics().into_iter();
        traffics.filter_map(move |traffic| self.of_traffic(traffic).rev().find(active))
    }

    /// The Child SA that sends: the newest active one, else the newest replaced one, else the newest.
    pub fn current(&self) -> Option<&ChildSa> {
        current(self.0.iter())
    }

    /// The Child SA of each traffic that sends, in order of creation.
    pub fn current_of_each(&self) -> impl Iterator<Item = &ChildSa> {
        let traffics = self.traffics().into_iter();
        traffics.filter_map(|traffic| current(self.of_traffic(traffic)))
    }

    /// Whether one carries traffic now or soon.
    pub fn any_usable(&self) -> bool {
        self.0.iter().any(ChildSa::is_usable)
    }

    /// The Child SA with this inbound SPI.
    pub fn by_spi_in(&self, spi_in: u32) -> Option<&ChildSa> {
        self.0.iter().find(|child| child.spi_in == spi_in)
    }

    /// The Child SA with this inbound SPI.
    pub fn by_spi_in_mut(&mut self, spi_in: u32) -> Option<&mut ChildSa> {
        self.0.iter_mut().find(|child| child.spi_in == spi_in)
    }

    /// The Child SA with this outbound SPI, by which the peer names it.
    pub fn by_spi_out(&self, spi_out: u32) -> Option<&ChildSa> {
        self.0.iter().find(|child| child.spi_out == spi_out)
    }

    /// Adds the newest, which rekeys `old` or none.
    pub fn push(&mut self, mut child: ChildSa, old: Option<u32>) {
        let highest = self.0.iter().map(|child| child.traffic).max();
        let next = highest.map_or(0, |highest| highest.saturating_add(1));
        child.traffic = self.traffic_of(old, &child.policy).unwrap_or(next);
        self.0.push(child);
    }

    /// Takes all Child SAs of another table.
    pub fn append(&mut self, other: &mut Children) {
        self.0.append(&mut other.0);
    }

    /// Removes the Child SA with this inbound SPI.
    pub fn remove(&mut self, spi_in: u32) -> Option<ChildSa> {
        let index = self.0.iter().position(|child| child.spi_in == spi_in)?;
        Some(self.0.remove(index))
    }

    /// Removes the oldest.
    pub fn pop(&mut self) -> Option<ChildSa> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// The next time at which one of them has a timer.
    pub fn next_timer(&self) -> Time {
        let timers = self.0.iter().map(ChildSa::next_timer);
        timers.min().unwrap_or(Time::MAX)
    }
}

/// The one that sends, of Child SAs for the same traffic.
fn current<'a>(children: impl Iterator<Item = &'a ChildSa>) -> Option<&'a ChildSa> {
    let rank = |child: &&ChildSa| match child.state {
        ChildState::Active => 2,
        ChildState::Replaced { .. } => 1,
        ChildState::AwaitingPeer { .. }
        | ChildState::Redundant { .. }
        | ChildState::Deleting { .. } => 0,
    };
    // Of equal ones, the last is the maximum.
    children.max_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sa_is_rekeyed_at_85_to_90_percent_and_replaced_before_its_end() {
        for (jitter, min, max) in [(0, 85.0, 85.1), (255, 89.9, 90.1)] {
            let (soft, renew) = rekey_schedule(Time::ZERO, Duration::from_secs(100), jitter);
            assert!((min..max).contains(&soft.as_secs_f64()), "{soft:?}");
            assert!(soft < renew && renew < Time::from_secs(100));
        }
    }
}
