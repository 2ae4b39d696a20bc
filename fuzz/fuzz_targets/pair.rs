//! Arbitrary network behaviour between two gateways and arbitrary operator commands cause no panic and no unbounded state, and
//! both sides agree once the network works again.
//!
//! ```text
//!             ┌─ deliver, drop, repeat, reorder, corrupt, replay, forge ─┐
//!   A ── NAT ─┤                        the input                         ├── B
//!             └─ time · up, down, rekey, limits, failed devices, sleep ──┘
//! ```
//!
//! Run on the stable toolchain with `cargo fuzz run -s none pair fuzz/corpus/pair fuzz/seeds/pair`. With `FUZZ_TRACE=1` it prints
//! all messages and events, to analyse a failing input.
#![no_main]

use std::time::Duration;

use groundlink::crypto::{EspProposal, IkeProposal};
use groundlink::ike::{Command, Dpd, Rekey, RekeyCheck, Start};
use groundlink_fuzz::fuzz_input::FuzzInput;
use groundlink_fuzz::pair::{Pair, Side, TUNNEL, settings};
use groundlink_fuzz::wire::{Nat, SimContent, SimDatagram, Wire};
use libfuzzer_sys::fuzz_target;

/// Upper bound on the steps of one input.
const MAX_STEPS: usize = 150;

/// Upper bound on messages that the on-path attacker holds or remembers.
const MAX_LETTERS: usize = 64;

/// Upper bound on the time before the network works again.
const MAX_TIME: Duration = Duration::from_secs(3600);

/// Time limit for agreement after that: retries pause up to a minute, and a redundant SA is kept for half a minute.
const RECOVERY_TIME: Duration = Duration::from_secs(300);

/// Time limit for agreement during a rekey, when two SAs exist for a moment.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(60);

fuzz_target!(|input: &[u8]| {
    let mut input = FuzzInput::new(input);
    let mut on_path = OnPath::new(&mut input);
    for _ in 0..MAX_STEPS {
        let Some(step) = input.step() else { break };
        on_path.step(step, &mut input);
    }
    on_path.end_faults();
});

struct OnPath {
    pair: Pair,
    /// Held datagrams.
    held: Vec<SimDatagram>,
    /// Datagrams seen before.
    known: Vec<SimDatagram>,
    /// Elapsed time.
    spent: Duration,
}

impl OnPath {
    fn new(input: &mut FuzzInput) -> OnPath {
        let traits = input.byte();
        let esp = ["aes128gcm16", "aes128gcm16-curve25519"];
        let [a, b] = [Side::A, Side::B].map(|side| {
            let mut settings = settings(side);
            let ike = "aes128gcm16-prfsha256-curve25519";
            settings.ike = vec![IkeProposal::parse(ike).expect("known words").0];
            let esp = esp[usize::from(traits & 1)];
            settings.esp = vec![EspProposal::parse(esp).expect("known words").0];
            settings.child_lifetime = Duration::from_secs(400);
            settings.ike_lifetime = Duration::from_secs(1000);
            settings.dpd = Dpd {
                delay: Duration::from_secs(10),
                timeout: Duration::from_secs(30),
            };
            if traits & 2 != 0 {
                settings.rekey_check = RekeyCheck::Once;
            }
            if side == Side::B {
                settings.start = [Start::Add, Start::Auto, Start::Trap, Start::Add]
                    [usize::from(traits >> 2 & 3)];
            }
            settings
        });
        let mut wire = Wire::new();
        if traits & 16 != 0 {
            wire.nat = Some(nat(10_000));
        }
        wire.hold_messages = traits & 32 == 0;
        let mut pair = Pair::on_wire(wire, (a, [1; 32]), (b, [2; 32]));
        if std::env::var_os("FUZZ_TRACE").is_some() {
            pair.enable_trace();
        }
        if traits & 64 != 0 {
            pair.traffic(Duration::from_secs(5));
        }
        // Connected already, unless the input starts with the first message.
        if traits & 32 != 0 {
            pair.run_for(Duration::from_secs(1));
            pair.wire.hold_messages = true;
        }
        OnPath {
            pair,
            held: Vec::new(),
            known: Vec::new(),
            spent: Duration::ZERO,
        }
    }

    fn step(&mut self, step: u8, input: &mut FuzzInput) {
        self.collect_sent();
        match step % 24 {
            // Most steps deliver messages.
            0..=5 => self.all_in_order(usize::from(step >> 5) + 1),
            6 | 7 => self.deliver_some(input),
            8 => drop(self.take(input)),
            9 => {
                let again = self.take(input);
                self.held.extend(again.clone());
                self.held.extend(again);
            }
            10 => {
                if let Some(mut datagram) = self.take(input) {
                    corrupt(&mut datagram, input);
                    self.pair.deliver(datagram);
                }
            }
            11 | 12 => self.replay(input),
            13 => self.forge(input),
            14 | 15 => self.pass(input.span()),
            16..=18 => self.command(input),
            19 => self.inject_fault(input),
            20 => {
                let nat = input
                    .flag()
                    .then(|| nat(input.one(&[0, 10_000, 20_000, 20_001])));
                self.pair.wire.nat = nat;
            }
            21 => {
                let side = side(input);
                self.pair.wire.cut[side as usize] ^= true;
            }
            _ => {
                // A complete exchange and the time that it takes.
                self.all_in_order(MAX_LETTERS);
                self.pass(Duration::from_millis(200));
                self.all_in_order(MAX_LETTERS);
            }
        }
    }

    /// Collects all sent datagrams.
    fn collect_sent(&mut self) {
        for side in [Side::A, Side::B] {
            while let Some(datagram) = self.pair.wire.take(side) {
                self.known.push(datagram.clone());
                self.held.push(datagram);
            }
        }
        for datagrams in [&mut self.held, &mut self.known] {
            let surplus = datagrams.len().saturating_sub(MAX_LETTERS);
            datagrams.drain(..surplus);
        }
    }

    fn take(&mut self, input: &mut FuzzInput) -> Option<SimDatagram> {
        let index = usize::from(input.byte());
        let held = self.held.len();
        (held > 0).then(|| self.held.remove(index % held))
    }

    /// Delivers the oldest held datagrams and their responses, up to this number.
    fn all_in_order(&mut self, max: usize) {
        for _ in 0..max {
            self.collect_sent();
            if self.held.is_empty() {
                return;
            }
            let datagram = self.held.remove(0);
            self.pair.deliver(datagram);
        }
    }

    fn deliver_some(&mut self, input: &mut FuzzInput) {
        if let Some(datagram) = self.take(input) {
            self.pair.deliver(datagram);
        }
    }

    /// Replays an earlier datagram, possibly from another address, back to its sender, or changed.
    fn replay(&mut self, input: &mut FuzzInput) {
        if self.known.is_empty() {
            return;
        }
        let mut datagram = input.one(&self.known);
        let how = input.byte();
        if how & 1 != 0 {
            corrupt(&mut datagram, input);
        }
        if how & 2 != 0 {
            datagram.to = datagram.to.other();
            std::mem::swap(&mut datagram.local, &mut datagram.remote);
        }
        if how & 4 != 0 {
            datagram.remote.set_port(input.one(&[500, 4500, 14_500, 7]));
        }
        self.pair.deliver(datagram);
    }

    fn forge(&mut self, input: &mut FuzzInput) {
        let (to, port) = (side(input), input.one(&[500, 4500]));
        let bytes = input.bytes().to_vec();
        self.pair.inject(to, port, &bytes);
    }

    fn pass(&mut self, span: Duration) {
        let span = span.min(MAX_TIME.saturating_sub(self.spent));
        self.spent += span;
        self.pair.run_for(span);
    }

    fn command(&mut self, input: &mut FuzzInput) {
        let side = side(input);
        let tunnel = TUNNEL;
        let children = &self.pair.node(side).children;
        let spi_in = match children.len() {
            0 => 0,
            count => children[usize::from(input.byte()) % count].spi_in,
        };
        let command = match input.byte() % 12 {
            0 => Command::Down(tunnel),
            1 | 2 => Command::Up(tunnel),
            3 => Command::Reset(tunnel),
            4 => Command::Demand(tunnel),
            5 | 6 => Command::Rekey {
                tunnel,
                what: Rekey::Child,
            },
            7 | 8 => Command::Rekey {
                tunnel,
                what: Rekey::Ike,
            },
            9 => Command::SoftLimit { tunnel, spi_in },
            10 => Command::SequenceExhausted { tunnel, spi_in },
            _ => Command::InstallFailed {
                tunnel,
                spi_in,
                why: "the device is gone".to_owned(),
            },
        };
        self.pair.command(side, command);
    }

    fn inject_fault(&mut self, input: &mut FuzzInput) {
        let side = side(input);
        match input.byte() % 3 {
            0 => self.pair.node(side).broken_installs = 1,
            1 => {
                let span = input.span();
                self.pair.node(side).asleep_until = self.pair.now + span;
            }
            // A replaced SA receives for five more seconds.
            _ => self.pair.wire.esp_delay = input.span().min(Duration::from_secs(4)),
        }
    }

    /// Ends all manipulation; held datagrams arrive late.
    fn end_faults(mut self) {
        self.collect_sent();
        for datagram in std::mem::take(&mut self.held) {
            self.pair.deliver(datagram);
        }
        let now = self.pair.now;
        self.pair.no_impairment();
        self.pair.wire.release_messages(now);
        self.pair.wire.esp_delay = Duration::from_millis(5);
        for side in [Side::A, Side::B] {
            let node = self.pair.node(side);
            node.broken_installs = 0;
            node.asleep_until = node.asleep_until.min(now);
            self.pair.command(side, Command::Up(TUNNEL));
        }
        self.pair.run_for(RECOVERY_TIME);
        let end = self.pair.now + AGREEMENT_TIMEOUT;
        while let Some(why) = self.pair.disagreement() {
            assert!(self.pair.step(end), "no agreement: {why}");
        }
    }
}

fn side(input: &mut FuzzInput) -> Side {
    input.one(&[Side::A, Side::B])
}

fn nat(shift: u16) -> Nat {
    let outside = Side::A.ip().parse().expect("an address");
    Nat { outside, shift }
}

fn corrupt(datagram: &mut SimDatagram, input: &mut FuzzInput) {
    match &mut datagram.content {
        SimContent::Ike(bytes) => input.corrupt(bytes),
        SimContent::Esp(_) => {}
    }
}
