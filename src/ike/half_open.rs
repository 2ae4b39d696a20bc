//! Admission of IKE_SA_INIT requests: half-open IKE SAs are counted by source (RFC 8019 §4).
//!
//! An IKE_SA_INIT request costs the sender nothing and the receiver a key exchange and a state, and its source address may be
//! spoofed. Therefore:
//!
//! ```text
//!                 fewer than 3 half-open of the source, and fewer than 30 in total ──▶ accepted
//!  a new request ─┤
//!                 otherwise, without a valid cookie ──▶ a cookie is sent (RFC 7296 §2.6), and no state is kept
//!                 otherwise, with one: fewer than 5 such of the source, or than it has tunnels,
//!                                      and fewer than 1000 in total beyond the number of tunnels ──▶ accepted
//!                                      otherwise ──▶ dropped
//! ```
//!
//! Half-open SAs with and without a cookie are counted separately: spoofed requests fill only the slots without a cookie, and a
//! real peer, which returns the cookie, gets one of the others. The total limits do not apply to a peer whose tunnel has an SA.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Total of half-open SAs from which on a cookie is required.
const COOKIES_FROM: usize = 30;

/// Half-open SAs of one source from which on a cookie is required.
const COOKIES_FROM_OF_ONE: usize = 3;

/// Maximum of half-open SAs in total, beyond one for each tunnel.
const MAX: usize = 1000;

/// Maximum of half-open SAs of one source with a cookie, unless more tunnels are configured for it.
const MAX_OF_ONE: usize = 5;

/// Lifetime of a half-open SA without an IKE_AUTH request.
const LIFE: Duration = Duration::from_secs(30);

/// The same lifetime while cookies are required (RFC 8019 §4.2): time for three copies of the request.
const LIFE_UNDER_LOAD: Duration = Duration::from_secs(10);

/// The source of a request: an IPv4 address, or an IPv6 /64, in which a host chooses its addresses freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
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

/// Whether the initiator has shown that it receives at its source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnRoutability {
    /// Not shown.
    None,
    /// The initiator returned a cookie sent to that address.
    Cookie,
}

/// Whether the tunnel of a peer has an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerStatus {
    /// The tunnel has an IKE SA: the total limits do not apply.
    Established,
    /// The tunnel has no IKE SA.
    New,
}

/// Number of configured tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Tunnels whose peer is in the source of a request.
    pub of_source: usize,
    /// All tunnels.
    pub all: usize,
}

/// Decision on an IKE_SA_INIT request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The request is processed.
    Accept,
    /// The request is processed if it has a valid cookie.
    RequireCookie,
    /// The request is dropped.
    Reject,
}

/// Half-open SAs of one source, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slots {
    without: usize,
    with_cookie: usize,
}

/// Counters of half-open SAs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenTable {
    all: Slots,
    /// Sources with at least one half-open SA.
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
    /// Adds a half-open SA.
    pub fn enter(&mut self, source: Source, routability: ReturnRoutability) {
        let slots = self.sources.entry(source).or_default();
        for slot in [slots.of(routability), self.all.of(routability)] {
            *slot = slot.saturating_add(1);
        }
    }

    /// Removes a half-open SA.
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

    /// Decides on another request from the source.
    pub fn admission(&self, source: Source, peer: PeerStatus, configured: Configured) -> Admission {
        let max = MAX.saturating_add(configured.all);
        let full = match peer {
            PeerStatus::Established => false,
            PeerStatus::New => self.all.count() >= max,
        };
        if full || self.of(source).with_cookie >= MAX_OF_ONE.max(configured.of_source) {
            Admission::Reject
        } else if self.is_crowded(source, peer) {
            Admission::RequireCookie
        } else {
            Admission::Accept
        }
    }

    /// Whether a cookie is required.
    fn is_crowded(&self, source: Source, peer: PeerStatus) -> bool {
        let in_total = match peer {
            PeerStatus::Established => false,
            PeerStatus::New => self.all.count() >= COOKIES_FROM,
        };
        in_total || self.of(source).count() >= COOKIES_FROM_OF_ONE
    }

    /// Lifetime of a half-open SA of the source under the present load.
    pub fn life(&self, source: Source) -> Duration {
        if self.is_crowded(source, PeerStatus::New) {
            LIFE_UNDER_LOAD
        } else {
            LIFE
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
    const ONE: Configured = Configured {
        of_source: 1,
        all: 1,
    };

    #[test]
    fn n12_the_fourth_from_one_address_or_one_ipv6_network_needs_a_cookie() {
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let table = filled([a, a].into_iter(), ReturnRoutability::None);
        assert_eq!(table.admission(a, NEW, ONE), Admission::Accept);
        let table = filled([a, a, a].into_iter(), ReturnRoutability::None);
        assert_eq!(table.admission(a, NEW, ONE), Admission::RequireCookie);
        assert_eq!(
            table.admission(a, PeerStatus::Established, ONE),
            Admission::RequireCookie,
            "its address may be spoofed as well"
        );
        assert_eq!(table.admission(b, NEW, ONE), Admission::Accept);
        let network = ["2001:db8::1", "2001:db8::2:3", "2001:db8::ffff:0:0:1"].map(source);
        let table = filled(network.into_iter(), ReturnRoutability::None);
        assert_eq!(
            table.admission(source("2001:db8::4"), NEW, ONE),
            Admission::RequireCookie
        );
        assert_eq!(
            table.admission(source("2001:db8:0:1::4"), NEW, ONE),
            Admission::Accept
        );
        assert_eq!(source("::ffff:192.0.2.1"), a);
    }

    #[test]
    fn n12_from_30_half_open_sas_on_new_peers_need_a_cookie_and_established_ones_do_not() {
        let a = source("192.0.2.1");
        assert_eq!(
            filled(sources(29), ReturnRoutability::None).admission(a, NEW, ONE),
            Admission::Accept
        );
        let table = filled(sources(30), ReturnRoutability::None);
        assert_eq!(table.admission(a, NEW, ONE), Admission::RequireCookie);
        assert_eq!(
            table.admission(a, PeerStatus::Established, ONE),
            Admission::Accept
        );
    }

    #[test]
    fn n12_half_open_sas_with_a_cookie_have_separate_slots_up_to_a_limit() {
        let a = source("192.0.2.1");
        let mut table = filled([a; 3].into_iter(), ReturnRoutability::None);
        (0..4).for_each(|_| table.enter(a, ReturnRoutability::Cookie));
        assert_eq!(table.admission(a, NEW, ONE), Admission::RequireCookie);
        table.enter(a, ReturnRoutability::Cookie);
        assert_eq!(table.admission(a, NEW, ONE), Admission::Reject);
        let mut table = filled(sources(1001), ReturnRoutability::Cookie);
        assert_eq!(table.admission(a, NEW, ONE), Admission::Reject);
        assert_eq!(
            table.admission(a, PeerStatus::Established, ONE),
            Admission::Accept
        );
        table.leave(Source::V4(Ipv4Addr::from(1)), ReturnRoutability::Cookie);
        assert_eq!(table.admission(a, NEW, ONE), Admission::RequireCookie);
    }

    #[test]
    fn a_source_with_a_cookie_has_as_many_slots_as_tunnels() {
        let a = source("192.0.2.1");
        let configured = Configured {
            of_source: 40,
            all: 50,
        };
        let table = filled([a; 39].into_iter(), ReturnRoutability::Cookie);
        assert_eq!(
            table.admission(a, NEW, configured),
            Admission::RequireCookie
        );
        let table = filled([a; 40].into_iter(), ReturnRoutability::Cookie);
        assert_eq!(table.admission(a, NEW, configured), Admission::Reject);
    }

    #[test]
    fn n25_half_open_sas_live_shorter_under_load() {
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
    fn removed_half_open_sas_leave_no_counters() {
        let mut table = filled(sources(100), ReturnRoutability::None);
        sources(100).for_each(|source| table.leave(source, ReturnRoutability::None));
        table.leave(source("192.0.2.1"), ReturnRoutability::Cookie);
        assert_eq!(table, HalfOpenTable::default());
    }
}
