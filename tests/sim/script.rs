//! Message by message: a scenario in the order of its arrows.
//!
//! ```text
//! pair.by_hand();                                     from now on messages wait
//! pair.rekey(Side::A, Rekey::Child);
//! let request = pair.take(Side::A, ask(CREATE));      what A has sent; a test fails if that is something else
//! pair.give(&request);                                it arrives at B; not given, it is lost; given twice, it is repeated
//! pair.let_go();                                      and the rest goes by itself
//! ```

#![allow(
    dead_code,
    reason = "a face for scenarios, of which some are still to come"
)]

use std::time::Duration;

use groundlink::ike::{Command, Rekey};
use groundlink::net::Time;
use groundlink::wire::ExchangeType;

use crate::pair::{Pair, Side, TUNNEL};
use crate::wire::{Kind, Letter, Load};

pub const INIT: ExchangeType = ExchangeType::IKE_SA_INIT;
pub const AUTH: ExchangeType = ExchangeType::IKE_AUTH;
pub const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
pub const INFORM: ExchangeType = ExchangeType::INFORMATIONAL;

impl Pair {
    /// From now on every IKE message waits until it is taken and given.
    pub fn by_hand(&mut self) {
        self.wire.by_hand = true;
    }

    /// The messages that wait go on, and from now on every message by itself.
    pub fn let_go(&mut self) {
        self.wire.let_go(self.now);
    }

    /// Takes the oldest waiting message of a side, which must be of this kind.
    pub fn take(&mut self, from: Side, kind: Kind) -> Letter {
        let letter = self.wire.take(from);
        let letter = letter.unwrap_or_else(|| panic!("{from:?} has said nothing, not {kind:?}"));
        let Load::Ike(bytes) = &letter.load else {
            panic!("only IKE waits")
        };
        assert_eq!(Kind::of(bytes), kind, "from {from:?}");
        letter
    }

    /// A side has nothing to say.
    pub fn assert_silent(&mut self, from: Side) {
        let letter = self.wire.take(from);
        assert!(letter.is_none(), "{from:?} says {letter:02x?}");
    }

    /// A message arrives.
    pub fn give(&mut self, letter: &Letter) {
        self.deliver(letter.clone());
    }

    /// A request arrives, and this is the answer.
    pub fn answer_to(&mut self, request: &Letter) -> Letter {
        let Load::Ike(bytes) = &request.load else {
            panic!("only IKE is answered")
        };
        let kind = Kind {
            response: true,
            ..Kind::of(bytes)
        };
        self.give(request);
        self.take(request.to, kind)
    }

    /// A person wants fresh keys.
    pub fn rekey(&mut self, side: Side, what: Rekey) {
        let tunnel = TUNNEL;
        self.command(side, Command::Rekey { tunnel, what });
    }

    /// Connected, with ESP in both directions ten times a second.
    pub fn busy() -> Pair {
        let mut pair = Pair::established();
        pair.traffic(Duration::from_millis(100));
        pair.run_for(Duration::from_secs(1));
        pair
    }

    /// Everything that was sent over ESP has been opened.
    pub fn assert_no_gap(&self) {
        assert_eq!(self.monitor.gaps_since(Time::ZERO), []);
        assert!(self.monitor.opened.iter().all(|count| *count > 0));
    }
}
