//! Who may begin a handshake: half-open IKE SAs are counted by where they came from (RFC 8019 §4).
//!
//! An IKE_SA_INIT request costs its sender nothing and its receiver a key exchange and a state, and anybody can write our peer's address on it. So
//!
//! ```text
//!                 fewer than 3 half-open from there, and fewer than 30 in all ──▶ welcome
//!  a new request ─┤
//!                 otherwise, without a valid cookie ──▶ asked for one (RFC 7296 §2.6), and nothing is kept
//!                 otherwise, with one: fewer than 5 such from there, and fewer than 1000 in all ──▶ welcome
//!                                      otherwise ──▶ dropped
//! ```
//!
//! Handshakes with a cookie and those without are counted apart: whoever forges addresses fills only the slots that need none, and a true peer, who
//! returns the cookie, gets another. The numbers in all do not bind a peer whose tunnel has an SA: it is let in before anybody new.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// From so many half-open SAs in all on, a cookie is asked for.
const COOKIES_FROM: usize = 30;

/// From so many with one source on, likewise.
const COOKIES_FROM_OF_ONE: usize = 3;

/// The most half-open SAs in all.
const MOST: usize = 1000;

/// The most that one source has with a cookie.
const MOST_OF_ONE: usize = 5;

/// How long IKE_AUTH is awaited.
const LIFE: Duration = Duration::from_secs(30);

/// How long while cookies are being asked for (RFC 8019 §4.2): time for three copies of it.
const LIFE_UNDER_LOAD: Duration = Duration::from_secs(10);

/// What counts as one sender: an IPv4 address, or the /64 in which an IPv6 host takes whatever address it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An address.
    V4(Ipv4Addr),
    /// The first 64 bits of one.
    V6([u16; 4]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Source::V6([a, b, c, d])
            }
        }
    }
}

/// Whether somebody receives what is sent to the address he writes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnRoutability {
    /// Nobody has asked.
    None,
    /// He has returned a cookie that went there.
    Cookie,
}

/// Whether the tunnel of a peer has an IKE SA already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerStatus {
    /// It has: the peer is let in before anybody new.
    Established,
    /// It has none.
    New,
}

/// What becomes of a request to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Accept,
    /// It is served if it holds a valid cookie.
    RequireCookie,
    /// Not even then.
    Reject,
}

/// The half-open SAs of one source, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slots {
    without: usize,
    with_cookie: usize,
}

/// The half-open SAs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenTable {
    all: Slots,
    /// Only sources that have any.
    sources: BTreeMap<Source, Slots>,
}

impl Slots {
    fn of(&mut self, routability: ReturnRoutability) -> &mut usize {
        match routability {
            ReturnRoutability::None => &mut self.without,
            ReturnRoutability::Cookie => &mut self.with_cookie,
        }
    }

    fn count(self) -> usize {
        self.without.saturating_add(self.with_cookie)
    }
}

impl HalfOpenTable {
    /// One more.
    pub fn enter(&mut self, source: Source, routability: ReturnRoutability) {
        let slots = self.sources.entry(source).or_default();
        for slot in [slots.of(routability), self.all.of(routability)] {
            *slot = slot.saturating_add(1);
        }
    }

    /// One less.
    pub fn leave(&mut self, source: Source, routability: ReturnRoutability) {
        let Some(slots) = self.sources.get_mut(&source) else {
            return;
        };
        for slot in [slots.of(routability), self.all.of(routability)] {
            *slot = slot.saturating_sub(1);
        }
        if slots.count() == 0 {
            self.sources.remove(&source);
        }
    }

    /// What becomes of one more request from there.
    pub fn admission(&self, source: Source, peer: PeerStatus) -> Admission {
        let of_one = self.of(source);
        let (crowded, full) = match peer {
            PeerStatus::Established => (false, false),
            PeerStatus::New => (self.all.count() >= COOKIES_FROM, self.all.count() >= MOST),
        };
        if full || of_one.with_cookie >= MOST_OF_ONE {
            Admission::Reject
        } else if crowded || of_one.count() >= COOKIES_FROM_OF_ONE {
            Admission::RequireCookie
        } else {
            Admission::Accept
        }
    }

    /// How long a half-open SA with that source is kept, as things stand.
    pub fn life(&self, source: Source) -> Duration {
        match self.admission(source, PeerStatus::New) {
            Admission::Accept => LIFE,
            Admission::RequireCookie | Admission::Reject => LIFE_UNDER_LOAD,
        }
    }

    fn of(&self, source: Source) -> Slots {
        self.sources.get(&source).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::from(text.parse::<IpAddr>().unwrap())
    }

    fn filled(
        sources: impl Iterator<Item = Source>,
        routability: ReturnRoutability,
    ) -> HalfOpenTable {
        let mut table = HalfOpenTable::default();
        sources.for_each(|source| table.enter(source, routability));
        table
    }

    fn sources(count: u32) -> impl Iterator<Item = Source> {
        (1..=count).map(|n| Source::V4(Ipv4Addr::from(n)))
    }

    const NEW: PeerStatus = PeerStatus::New;

    #[test]
    fn n12_the_fourth_from_one_address_or_one_ipv6_network_needs_a_cookie() {
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let table = filled([a, a].into_iter(), ReturnRoutability::None);
        assert_eq!(table.admission(a, NEW), Admission::Accept);
        let table = filled([a, a, a].into_iter(), ReturnRoutability::None);
        assert_eq!(table.admission(a, NEW), Admission::RequireCookie);
        assert_eq!(
            table.admission(a, PeerStatus::Established),
            Admission::RequireCookie,
            "its address may be forged as well"
        );
        assert_eq!(table.admission(b, NEW), Admission::Accept);
        let network = ["2001:db8::1", "2001:db8::2:3", "2001:db8::ffff:0:0:1"].map(source);
        let table = filled(network.into_iter(), ReturnRoutability::None);
        assert_eq!(
            table.admission(source("2001:db8::4"), NEW),
            Admission::RequireCookie
        );
        assert_eq!(
            table.admission(source("2001:db8:0:1::4"), NEW),
            Admission::Accept
        );
        assert_eq!(source("::ffff:192.0.2.1"), a);
    }

    #[test]
    fn n12_from_thirty_on_everybody_new_needs_a_cookie_and_an_established_peer_does_not() {
        let a = source("192.0.2.1");
        assert_eq!(
            filled(sources(29), ReturnRoutability::None).admission(a, NEW),
            Admission::Accept
        );
        let table = filled(sources(30), ReturnRoutability::None);
        assert_eq!(table.admission(a, NEW), Admission::RequireCookie);
        assert_eq!(
            table.admission(a, PeerStatus::Established),
            Admission::Accept
        );
    }

    #[test]
    fn n12_cookies_get_their_own_slots_up_to_a_bound() {
        let a = source("192.0.2.1");
        let mut table = filled([a; 3].into_iter(), ReturnRoutability::None);
        (0..4).for_each(|_| table.enter(a, ReturnRoutability::Cookie));
        assert_eq!(table.admission(a, NEW), Admission::RequireCookie);
        table.enter(a, ReturnRoutability::Cookie);
        assert_eq!(table.admission(a, NEW), Admission::Reject);
        let mut table = filled(sources(1000), ReturnRoutability::Cookie);
        assert_eq!(table.admission(a, NEW), Admission::Reject);
        assert_eq!(
            table.admission(a, PeerStatus::Established),
            Admission::Accept
        );
        table.leave(Source::V4(Ipv4Addr::from(1)), ReturnRoutability::Cookie);
        assert_eq!(table.admission(a, NEW), Admission::RequireCookie);
    }

    #[test]
    fn n25_under_load_ike_auth_is_awaited_for_a_shorter_time() {
        let a = source("192.0.2.1");
        let table = filled([a; 3].into_iter(), ReturnRoutability::None);
        assert_eq!(table.life(a), LIFE_UNDER_LOAD);
        assert_eq!(table.life(source("192.0.2.2")), LIFE);
        assert_eq!(
            filled(sources(30), ReturnRoutability::None).life(a),
            LIFE_UNDER_LOAD
        );
    }

    #[test]
    fn what_has_left_leaves_nothing_behind() {
        let mut table = filled(sources(100), ReturnRoutability::None);
        sources(100).for_each(|source| table.leave(source, ReturnRoutability::None));
        table.leave(source("192.0.2.1"), ReturnRoutability::Cookie);
        assert_eq!(table, HalfOpenTable::default());
    }
}
