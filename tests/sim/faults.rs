//! The fault matrix: networks that lose, duplicate, reorder and delay; single lost messages; restarts at every point; clock
//! jumps; peers that are unreachable for half a day.

use std::time::Duration;

use groundlink::crypto::Generator;
use groundlink::ike::{Command, Rekey, Settings, Start};

use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};
use crate::script::BOTH;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Both sides initiate, with short lifetimes.
fn fast() -> (Settings, Settings) {
    let (mut a, mut b) = (settings(Side::A), settings(Side::B));
    b.start = Start::Auto;
    for end in [&mut a, &mut b] {
        end.child_lifetime = 60 * SECOND;
        end.ike_lifetime = 200 * SECOND;
        end.dpd.timeout = 60 * SECOND;
    }
    (a, b)
}

/// Runs a tunnel with short lifetimes and this impairment for ten minutes, and checks three minutes later that one tunnel
/// remains.
fn ten_minutes_of(
    seed: u8,
    name: &str,
    impairment: impl FnMut(Side, &groundlink::ike::Transmit) -> Vec<Duration> + 'static,
) -> Pair {
    let (a, b) = fast();
    let mut pair = Pair::with_seeds(a, b, (seed, seed + 100));
    pair.impairment(impairment);
    pair.traffic(SECOND / 2);
    pair.run_for(10 * MINUTE);
    pair.no_impairment();
    pair.run_for(3 * MINUTE);
    let end = pair.now + MINUTE;
    while let Some(why) = pair.disagreement() {
        assert!(pair.step(end), "after {name}: {why}");
    }
    pair
}

#[test]
fn loss_in_one_and_both_directions() {
    for loss in [1, 10, 30, 50] {
        for lossy in [[true, false], [false, true], [true, true]] {
            let mut dice = Generator::from_seed([loss; 32]);
            let name = format!("{loss} % of loss {lossy:?}");
            let mut pair = ten_minutes_of(loss, &name, move |side, _| {
                let lost = lossy[side as usize] && dice.below(100) < u64::from(loss);
                if lost { Vec::new() } else { vec![LATENCY] }
            });
            // Rekeys tolerate the loss that set-up tolerates: a loss of a tenth has no effect once the tunnel is up.
            if loss <= 10 {
                let after_set_up = groundlink::net::Time::from_secs(1060);
                assert_eq!(pair.monitor.gaps_since(after_set_up), [], "{name}");
            }
            pair.run_for(SECOND);
        }
    }
}

#[test]
fn every_message_duplicated() {
    for apart in [0, 5, 400, 3000] {
        let apart = Duration::from_millis(apart);
        let name = format!("everything twice, {apart:?} apart");
        let pair = ten_minutes_of(7, &name, move |_, _| vec![LATENCY, LATENCY + apart]);
        let after_set_up = groundlink::net::Time::from_secs(1010);
        assert_eq!(pair.monitor.gaps_since(after_set_up), [], "{name}");
    }
}

#[test]
fn a_quarter_of_messages_delayed_by_half_a_second() {
    for seed in 0..4 {
        let mut dice = Generator::from_seed([seed; 32]);
        let pair = ten_minutes_of(seed, "reordering", move |_, _| match dice.below(4) {
            0 => vec![SECOND / 2],
            _ => vec![LATENCY],
        });
        let after_set_up = groundlink::net::Time::from_secs(1010);
        assert_eq!(pair.monitor.gaps_since(after_set_up), []);
    }
}

/// Longer than the first retransmission intervals, so each response answers a retransmitted request.
#[test]
fn responses_delayed_by_seconds() {
    for delay in [2, 5] {
        let name = format!("{delay} s each way");
        ten_minutes_of(3, &name, move |_, _| vec![Duration::from_secs(delay)]);
    }
}

/// A round trip of 20 seconds: less than the timeouts of handshake and liveness check, so the tunnel comes up and stays up.
#[test]
fn responses_delayed_by_twenty_seconds() {
    let (mut a, mut b) = (settings(Side::A), settings(Side::B));
    for end in [&mut a, &mut b] {
        end.dpd.timeout = 60 * SECOND;
    }
    let mut pair = Pair::new(a, b);
    pair.impairment(|_, _| vec![10 * SECOND]);
    pair.run_for(2 * MINUTE);
    pair.assert_agreed();
    let spi = pair.a.children[0].spi_in;
    pair.run_for(30 * MINUTE);
    pair.assert_agreed();
    assert_eq!(pair.a.children[0].spi_in, spi);
}

/// Set-up, liveness checks, a rekey of each kind by each side, and deletion: all messages of a tunnel's life.
fn a_whole_life(pair: &mut Pair) {
    pair.run_for(5 * SECOND);
    pair.run_for(15 * SECOND);
    for side in BOTH {
        for what in [Rekey::Child, Rekey::Ike] {
            let tunnel = TUNNEL;
            pair.command(side, Command::Rekey { tunnel, what });
            pair.run_for(10 * SECOND);
        }
    }
    pair.command(Side::A, Command::Reset(TUNNEL));
    pair.run_for(10 * SECOND);
}

/// The number of messages of a tunnel's life without loss.
fn messages_of_a_life() -> usize {
    let mut pair = Pair::new(settings(Side::A), settings(Side::B));
    a_whole_life(&mut pair);
    pair.a.sent.len() + pair.b.sent.len()
}

#[test]
fn each_single_message_lost_once() {
    let count = messages_of_a_life();
    assert!(count > 25, "{count}");
    for lost in 0..count {
        let mut pair = Pair::new(settings(Side::A), settings(Side::B));
        let mut number = 0;
        pair.impairment(move |_, _| {
            number += 1;
            if number == lost + 1 {
                Vec::new()
            } else {
                vec![LATENCY]
            }
        });
        a_whole_life(&mut pair);
        pair.run_for(MINUTE);
        let end = pair.now + MINUTE;
        while let Some(why) = pair.disagreement() {
            assert!(pair.step(end), "without message {lost}: {why}");
        }
    }
}

/// All messages of one kind are lost during the impairment: the exchange fails, nothing else does, and afterwards the tunnel
/// recovers.
#[test]
fn each_single_message_lost_always() {
    let count = messages_of_a_life();
    for lost in 0..count {
        let mut pair = Pair::new(settings(Side::A), settings(Side::B));
        let (mut number, mut victim) = (0, None);
        pair.impairment(move |_, transmit| {
            number += 1;
            if number == lost + 1 {
                victim = Some(transmit.content.clone());
            }
            if victim.as_ref() == Some(&transmit.content) {
                Vec::new()
            } else {
                vec![LATENCY]
            }
        });
        a_whole_life(&mut pair);
        pair.run_for(3 * MINUTE);
        let end = pair.now + MINUTE;
        while let Some(why) = pair.disagreement() {
            assert!(pair.step(end), "without message {lost} for ever: {why}");
        }
    }
}

/// Either side crashes after each message of a tunnel's life.
#[test]
fn a_restart_at_every_point() {
    let count = messages_of_a_life();
    for side in BOTH {
        for at in 0..count {
            let mut pair = Pair::new(settings(Side::A), settings(Side::B));
            let (mut number, crash) = (0, std::rc::Rc::new(std::cell::Cell::new(false)));
            let bell = crash.clone();
            pair.impairment(move |_, _| {
                number += 1;
                bell.set(number > at);
                vec![LATENCY]
            });
            let begin = pair.now;
            let rekey = |pair: &mut Pair, n: u32| {
                let (tunnel, what) = (
                    TUNNEL,
                    if n.is_multiple_of(2) {
                        Rekey::Child
                    } else {
                        Rekey::Ike
                    },
                );
                let side = if n % 4 < 2 { Side::A } else { Side::B };
                pair.command(side, Command::Rekey { tunnel, what });
            };
            let mut next = (begin + 20 * SECOND, 0);
            let end = begin + 80 * SECOND;
            while !crash.get() && pair.now < end {
                if !pair.step(next.0.min(end)) && pair.now < end {
                    rekey(&mut pair, next.1);
                    next = (next.0 + 10 * SECOND, next.1 + 1);
                }
            }
            let fresh = settings(side);
            pair.reboot(side, fresh, 77);
            pair.no_impairment();
            pair.run_for(3 * MINUTE);
            pair.await_agreement(MINUTE);
        }
    }
}

/// Only the messages of one side arrive: that side declares the other dead; the other side detects it by missing responses.
#[test]
fn one_direction_blocked() {
    for deaf in BOTH {
        let (a, b) = fast();
        let mut pair = Pair::new(a, b);
        pair.traffic(SECOND);
        pair.run_for(10 * SECOND);
        pair.assert_agreed();
        pair.wire.cut[deaf.other() as usize] = true;
        pair.run_for(3 * MINUTE);
        assert!(pair.node(deaf).children.is_empty(), "traffic stops");
        pair.no_impairment();
        pair.run_for(2 * MINUTE);
        pair.await_agreement(MINUTE);
    }
}

/// A peer that is unreachable for half a day costs a datagram now and then, and no state grows.
#[test]
fn peer_unreachable_for_half_a_day() {
    let (a, b) = fast();
    let mut pair = Pair::new(a, b);
    pair.run_for(10 * SECOND);
    pair.cut();
    let mut most_in = |span: Duration| {
        let (before, end) = (pair.a.sent.len(), pair.now + span);
        let mut most = 0;
        while pair.now < end {
            pair.run_for(7 * SECOND);
            most = most.max(format!("{:?}", pair.a.endpoint).len());
        }
        (pair.a.sent.len() - before, most)
    };
    let (_, at_first) = most_in(15 * MINUTE);
    let (sent, later) = most_in(Duration::from_secs(12 * 3600));
    assert!((500..6000).contains(&sent), "{sent} messages in 12 hours");
    assert!(later <= at_first + 100, "{at_first} became {later}");
    pair.no_impairment();
    pair.run_for(3 * MINUTE);
    pair.await_agreement(MINUTE);
}

/// One side is suspended for a shorter or longer time than its lifetimes and the other's timeouts; afterwards one SA remains.
#[test]
fn host_suspend_and_resume() {
    for side in BOTH {
        for span in [3, 20, 55, 70, 300, 3600, 86_400 * 30] {
            let (a, b) = fast();
            let mut pair = Pair::new(a, b);
            pair.traffic(SECOND);
            pair.run_for(30 * SECOND);
            let now = pair.now;
            pair.node(side).asleep_until = now + Duration::from_secs(span);
            // The other side keeps running; a day stands for a month.
            pair.run_for(Duration::from_secs(span.min(86_400)));
            let now = pair.now;
            pair.node(side).asleep_until = now;
            pair.run_for(3 * MINUTE);
            pair.await_agreement(MINUTE);
        }
    }
}
