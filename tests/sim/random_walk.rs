//! Random walks: two gateways with random settings run through random faults; then the faults end, and both sides must agree and
//! stay so.
//!
//! ```text
//! draw settings ─▶ faults ─▶ end of faults ─▶ agreed in time? ─▶ rekeys without a lost packet ─▶ down: no SA is left
//!                  └─ at every moment: the invariants of `monitor` ─────────────────────────────────────┘
//! ```
//!
//! The seed determines a walk. Failed seeds are printed, and one of them runs again with a trace with
//!
//! ```text
//! WALK_SEED=4711 cargo test --release --test sim walk -- --nocapture
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use groundlink::crypto::{EspProposal, Generator, IkeProposal};
use groundlink::ike::{Command, Dpd, Rekey, RekeyCheck, Settings, Start, TunnelState};

use crate::pair::{Pair, Side, TUNNEL, settings};
use crate::wire::{Nat, Wire};

/// Time limit for agreement after the faults end: retries pause up to a minute, and a redundant SA is kept for half a minute.
const RECOVERY_TIME: Duration = Duration::from_secs(300);

/// Time limit for agreement during a rekey, when two SAs exist for a moment.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Period without packet loss that follows.
const LOSS_FREE_TIME: Duration = Duration::from_secs(150);

/// Time after which a tunnel that is down on both sides has no SA left.
const EXPIRY_TIME: Duration = Duration::from_secs(400);

/// Number of failed walks after which no further ones run.
const MAX_FAILURES: usize = 20;

const OUTSIDE: &str = "192.0.2.1";

/// One of several items with equal probability.
fn one<T: Copy>(chance: &mut Generator, of: &[T]) -> T {
    of[usize::try_from(chance.below(of.len() as u64)).unwrap()]
}

fn between(chance: &mut Generator, low: u64, high: u64) -> Duration {
    Duration::from_millis(low + chance.below(high - low))
}

struct Walk {
    chance: Generator,
    settings: [Settings; 2],
    pair: Pair,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut start = [0; 32];
        start[..8].copy_from_slice(&seed.to_le_bytes());
        let mut chance = Generator::from_seed(start);
        let ike = match chance.below(16) {
            0 => ["aes128-sha256-curve25519"; 2],
            // The first group differs: INVALID_KE_PAYLOAD.
            1 => [
                "aes128gcm16-prfsha256-curve25519-ecp256",
                "aes128gcm16-prfsha256-ecp256",
            ],
            // IKE_INTERMEDIATE, and IKE_FOLLOWUP_KE for a rekey.
            2 => ["aes128gcm16-prfsha256-curve25519-ke1_mlkem768"; 2],
            _ => ["aes128gcm16-prfsha256-curve25519"; 2],
        };
        let esp = match chance.below(16) {
            0 => ["aes128gcm16-curve25519", "aes128gcm16"],
            1 => ["aes128gcm16-curve25519-ecp256", "aes128gcm16-ecp256"],
            2 => ["aes128gcm16-curve25519-ke1_mlkem768"; 2],
            3..10 => ["aes128gcm16-curve25519"; 2],
            _ => ["aes128gcm16"; 2],
        };
        let starts = [Start::Auto, Start::Auto, Start::Add, Start::Trap];
        let settings = [Side::A, Side::B].map(|side| {
            let mut settings = settings(side);
            settings.ike = vec![IkeProposal::parse(ike[side as usize]).unwrap().0];
            settings.esp = vec![EspProposal::parse(esp[side as usize]).unwrap().0];
            settings.child_lifetime = between(&mut chance, 30_000, 120_000);
            settings.ike_lifetime = between(&mut chance, 60_000, 300_000);
            settings.dpd = Dpd {
                delay: between(&mut chance, 4000, 15_000),
                timeout: between(&mut chance, 15_000, 40_000),
            };
            settings.rekey_check = one(&mut chance, &[RekeyCheck::Never, RekeyCheck::Once]);
            if side == Side::B {
                settings.start = one(&mut chance, &starts);
            }
            settings
        });
        let mut wire = Wire::new();
        if chance.below(3) == 0 {
            let (outside, shift) = (OUTSIDE.parse().unwrap(), one(&mut chance, &[0, 10_000]));
            wire.nat = Some(Nat { outside, shift });
        }
        let seeds = (chance.bytes(), chance.bytes());
        let [a, b] = settings.clone();
        let mut pair = Pair::on_wire(wire, (a, seeds.0), (b, seeds.1));
        pair.traffic(between(&mut chance, 200, 2000));
        Walk {
            chance,
            settings,
            pair,
        }
    }

    /// Injects one random fault or command.
    fn inject_fault(&mut self) {
        let side = one(&mut self.chance, &[Side::A, Side::B]);
        let child = self.pair.node(side).outbound();
        let tunnel = TUNNEL;
        match self.chance.below(24) {
            0 => self.pair.command(side, Command::Down(TUNNEL)),
            1 | 2 => self.pair.command(side, Command::Up(TUNNEL)),
            3 => self.pair.command(side, Command::Reset(TUNNEL)),
            4 => {
                let settings = self.settings[side as usize].clone();
                let seed = self.chance.bytes();
                self.pair.reboot_with(side, settings, seed);
            }
            5 => self.pair.command(side, Command::Demand(TUNNEL)),
            6..=8 => self.impairment(),
            9 => self.pair.wire.cut[side as usize] ^= true,
            10 | 11 => self.pair.no_impairment(),
            12..=14 => {
                let what = one(&mut self.chance, &[Rekey::Child, Rekey::Ike]);
                self.pair.command(side, Command::Rekey { tunnel, what });
            }
            // Both sides at once, perhaps for different SAs.
            15..=17 => {
                for side in [Side::A, Side::B] {
                    let what = one(&mut self.chance, &[Rekey::Child, Rekey::Ike]);
                    self.pair.command(side, Command::Rekey { tunnel, what });
                    let pause = between(&mut self.chance, 0, 20);
                    self.pair.run_for(pause);
                }
            }
            18 => {
                if let Some(spi_in) = child {
                    let command = Command::SoftLimit { tunnel, spi_in };
                    self.pair.command(side, command);
                }
            }
            19 => {
                if let Some(spi_in) = child {
                    let command = Command::SequenceExhausted { tunnel, spi_in };
                    self.pair.command(side, command);
                }
            }
            20 => self.pair.node(side).broken_installs = 1,
            21 => {
                let span = between(&mut self.chance, 100, 400_000);
                self.pair.node(side).asleep_until = self.pair.now + span;
            }
            22 => {
                if let Some(nat) = &mut self.pair.wire.nat {
                    nat.shift = one(&mut self.chance, &[0, 10_000, 20_000, 20_001]);
                }
            }
            _ => self.pair.wire.esp_delay = between(&mut self.chance, 1, 2000),
        }
    }

    fn impairment(&mut self) {
        let loss = self.chance.below(60);
        let twice = one(&mut self.chance, &[0, 20, 100]);
        let delay = one(&mut self.chance, &[10, 400, 3000, 20_000]);
        let mut dice = Generator::from_seed(self.chance.bytes());
        self.pair.impairment(move |_, _| {
            if dice.below(100) < loss {
                return Vec::new();
            }
            let copies = 1 + u64::from(dice.below(100) < twice);
            let delay = |_| Duration::from_millis(dice.below(delay));
            (0..copies).map(delay).collect()
        });
    }

    fn run(&mut self) {
        let count = 5 + self.chance.below(25);
        for _ in 0..count {
            self.inject_fault();
            let pause = one(&mut self.chance, &[5, 40, 300, 2000, 9000, 30_000]);
            let pause = between(&mut self.chance, 0, pause);
            self.pair.run_for(pause);
        }
        self.end_faults();
        self.pair.run_for(RECOVERY_TIME);
        self.await_agreement();
        let calm = self.pair.now;
        self.pair.run_for(LOSS_FREE_TIME);
        let [a, b] = &self.settings;
        // A gap occurs where one side rejects rekeys and only the side with the longer lifetime can reach the other.
        if a.esp == b.esp {
            let gaps = self.pair.monitor.gaps_since(calm);
            assert!(gaps.is_empty(), "lost though nothing is wrong: {gaps:?}");
        }
        self.await_agreement();
        self.end();
    }

    fn end_faults(&mut self) {
        self.pair.no_impairment();
        self.pair.wire.esp_delay = crate::wire::LATENCY;
        for side in [Side::A, Side::B] {
            let now = self.pair.now;
            let node = self.pair.node(side);
            node.broken_installs = 0;
            node.asleep_until = node.asleep_until.min(now);
            self.pair.command(side, Command::Up(TUNNEL));
        }
    }

    fn await_agreement(&mut self) {
        let end = self.pair.now + AGREEMENT_TIMEOUT;
        while let Some(why) = self.pair.disagreement() {
            assert!(self.pair.step(end), "no agreement: {why}");
        }
    }

    fn end(&mut self) {
        for side in [Side::A, Side::B] {
            self.pair.command(side, Command::Down(TUNNEL));
        }
        self.pair.run_for(EXPIRY_TIME);
        for side in [Side::A, Side::B] {
            let now = self.pair.now;
            let node = self.pair.node(side);
            assert_eq!((node.ikes.len(), node.children.len()), (0, 0));
            assert_eq!(node.esp.len(now), 0);
            assert_eq!(node.state(), TunnelState::Down);
            assert!(node.endpoint.is_idle());
        }
    }
}

/// Runs the walks with these seeds on all cores.
fn walk_all(count: u64) {
    if let Ok(seed) = std::env::var("WALK_SEED") {
        let seed = seed.parse().expect("WALK_SEED is a number");
        let mut walk = Walk::new(seed);
        walk.pair.enable_trace();
        return walk.run();
    }
    let first = std::env::var("WALK_FIRST").map_or(0, |first| first.parse().unwrap());
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let begin = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.lock().unwrap().len() >= MAX_FAILURES {
                        break;
                    }
                    if catch_unwind(AssertUnwindSafe(|| Walk::new(seed).run())).is_err() {
                        println!("walk {seed} failed");
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let failed = failed.into_inner().unwrap();
    if let Some(one) = failed.first() {
        panic!(
            "walks {failed:?} failed: WALK_SEED={one} cargo test --release --test sim walk -- --nocapture"
        );
    }
    println!(
        "{count} walks in {seconds:.1} s, {:.0} a second",
        count as f64 / seconds
    );
}

#[test]
fn p11_after_any_random_walk_both_ends_agree_on_one_tunnel_without_packet_loss() {
    walk_all(if cfg!(debug_assertions) { 32 } else { 10_000 });
}

#[test]
fn p11_walk_32271_passes() {
    // The DELETE of a redundant IKE SA was lost for longer than its Child SA received.
    Walk::new(32_271).run();
}

#[test]
#[ignore = "takes hours: as many walks as WALKS says, or a million"]
fn walk_long() {
    let count = std::env::var("WALKS").map_or(1_000_000, |count| count.parse().unwrap());
    walk_all(count);
}
