//! Scenarios message by message, in the order of their arrows.
//!
//! ```text
//! pair.hold_messages();                               from now on messages are held
//! pair.rekey(Side::A, Rekey::Child);
//! let request = pair.take(Side::A, request_kind(CREATE)); the request of A; another message fails the test
//! pair.deliver_copy(&request);                        it arrives at B; not delivered, it is lost; delivered twice, it is a duplicate
//! pair.release_messages();                            and sends the rest
//! ```

#![allow(dead_code, reason = "the fuzz targets use a part of these helpers")]

use std::time::Duration;

use groundlink::ike::{Command, Rekey, Rekeys, Role, Settings};
use groundlink::net::Time;
use groundlink::wire::ExchangeType;

use crate::pair::{Pair, Side, TUNNEL, settings};
use crate::wire::{Kind, SimContent, SimDatagram};

pub const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
pub const INFORM: ExchangeType = ExchangeType::INFORMATIONAL;

pub const BOTH: [Side; 2] = [Side::A, Side::B];

impl Pair {
    /// Holds every message of an established IKE SA until the test takes and delivers it.
    pub fn hold_messages(&mut self) {
        self.wire.hold_messages = true;
    }

    /// Sends the held messages and stops holding messages.
    pub fn release_messages(&mut self) {
        self.wire.release_messages(self.now);
    }

    /// Takes the oldest held message of a side, which must be of this kind.
    pub fn take(&mut self, from: Side, kind: Kind) -> SimDatagram {
        let datagram = self.wire.take(from);
        let datagram =
            datagram.unwrap_or_else(|| panic!("{from:?} has sent nothing, expected {kind:?}"));
        let SimContent::Ike(bytes) = &datagram.content else {
            panic!("only IKE waits")
        };
        assert_eq!(Kind::of(bytes), kind, "from {from:?}");
        datagram
    }

    /// Checks that a side has sent no message.
    pub fn assert_silent(&mut self, from: Side) {
        let datagram = self.wire.take(from);
        assert!(datagram.is_none(), "{from:?} sent {datagram:02x?}");
    }

    /// Delivers a copy of a message.
    pub fn deliver_copy(&mut self, datagram: &SimDatagram) {
        self.deliver(datagram.clone());
    }

    /// Delivers a request and takes the response.
    pub fn response_to(&mut self, request: &SimDatagram) -> SimDatagram {
        let SimContent::Ike(bytes) = &request.content else {
            panic!("only IKE is answered")
        };
        let kind = Kind {
            response: true,
            ..Kind::of(bytes)
        };
        self.deliver_copy(request);
        self.take(request.to, kind)
    }

    /// Commands a side to rekey.
    pub fn rekey(&mut self, side: Side, what: Rekey) {
        let tunnel = TUNNEL;
        self.command(side, Command::Rekey { tunnel, what });
    }

    /// A connected pair with ESP in both directions a hundred times a second.
    pub fn busy() -> Pair {
        Pair::busy_with(settings(Side::A), settings(Side::B))
    }

    /// The same with these settings.
    pub fn busy_with(a: Settings, b: Settings) -> Pair {
        Pair::new(a, b).into_busy()
    }

    /// The same with other random numbers, and so with another winner where nonces decide.
    pub fn busy_with_seeds(seed: u8) -> Pair {
        let ends = (settings(Side::A), settings(Side::B));
        Pair::with_seeds(ends.0, ends.1, (seed, seed + 100)).into_busy()
    }

    fn into_busy(mut self) -> Pair {
        self.run_for(Duration::from_secs(2));
        self.assert_agreed();
        self.traffic(Duration::from_millis(10));
        self.run_for(Duration::from_millis(50));
        self
    }

    /// Checks that every ESP packet was decrypted.
    pub fn assert_no_gap(&self) {
        assert_eq!(self.monitor.gaps_since(Time::ZERO), []);
        assert!(self.monitor.opened.iter().all(|count| *count > 0));
    }

    /// Waits until both sides agree: during a rekey two SAs exist for a moment.
    pub fn await_agreement(&mut self, timeout: Duration) {
        let end = self.now + timeout;
        while let Some(why) = self.disagreement() {
            assert!(self.step(end), "no agreement: {why}");
        }
    }

    /// Checks that both sides agree in the end and that no packet was lost.
    pub fn assert_connected_throughout(&mut self) {
        self.slow_traffic();
        self.run_for(Duration::from_secs(120));
        self.assert_agreed();
        self.assert_no_gap();
        assert_eq!((self.a.count("IkeDown"), self.b.count("IkeDown")), (0, 0));
    }

    /// The same, and that both sides count this many rekeyed Child SAs and IKE SAs.
    pub fn assert_done(&mut self, (child, ike): (u64, u64)) {
        self.assert_connected_throughout();
        let rekeys = Rekeys { ike, child };
        assert_eq!(self.a.view().rekeys, rekeys);
        assert_eq!(self.b.view().rekeys, rekeys);
    }

    /// The side that initiated the exchange of the SA in use.
    pub fn child_winner(&self) -> Side {
        initiator_side(self.a.children[0].role)
    }

    /// The side that initiated the exchange of the SA in use.
    pub fn ike_winner(&self) -> Side {
        initiator_side(self.a.view().ike.expect("it is up").role)
    }

    /// Runs a scenario, which returns the winner, with other nonces until each side has won.
    pub fn until_each_side_has_won(
        begin: impl Fn(u8) -> Pair,
        scenario: impl Fn(&mut Pair) -> Side,
    ) {
        let winners: Vec<Side> = (0..12).map(|seed| scenario(&mut begin(seed))).collect();
        assert!(
            BOTH.iter().all(|side| winners.contains(side)),
            "{winners:?}"
        );
    }
}

fn initiator_side(role_of_a: Role) -> Side {
    match role_of_a {
        Role::Initiator => Side::A,
        Role::Responder => Side::B,
    }
}
