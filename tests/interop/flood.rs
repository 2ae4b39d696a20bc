//! IKE_SA_INIT requests in the name of the configured peer, as many as one sender can send, while that peer connects and rekeys.
//!
//! ```text
//!   A: 192.0.2.1 ─┬─ IKE_SA_INIT, another SPI each, any port ──▶ ┐
//!                 └─ the peer: connects, rekeys ───────────────▶ B, which responds
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use groundlink::lab::options::Side;
use groundlink::net::IKE_PORT;
use groundlink::os::udp_blast::{self, BURST};

use super::cookies;
use super::many::{Pair, outer};
use super::wait;

/// Requests in a second; `GROUNDLINK_FLOOD=120000` is what a small attacker sends.
fn rate() -> u64 {
    let given = std::env::var("GROUNDLINK_FLOOD").ok();
    given.map_or(20_000, |given| given.parse().expect("requests in a second"))
}

/// Time to connect; three copies of each message fit into it, on a busy machine and without optimisation.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends requests with different SPIs from A to B until `stop`, at the given rate, and counts them.
fn flood(pair: &Pair, stop: &AtomicBool, sent: &AtomicU64) {
    let target = SocketAddr::new(outer(0).into(), IKE_PORT);
    let socket = pair
        .world
        .gateway(Side::A)
        .run(|| UdpSocket::bind("192.0.2.1:0"))
        .unwrap()
        .unwrap();
    socket.connect(target).unwrap();
    let mut requests: Vec<Vec<u8>> = (0..BURST).map(|n| cookies::init(n as u64 + 1)).collect();
    let (begin, mut spi) = (Instant::now(), 1_000_000_u64);
    while !stop.load(Relaxed) {
        for request in &mut requests {
            spi += 1;
            request[..8].copy_from_slice(&spi.to_be_bytes());
        }
        let burst: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
        // ECONNREFUSED and ENOBUFS: the next burst follows.
        let count = udp_blast::send(&socket, &burst).unwrap_or(0);
        let total = sent.fetch_add(count as u64, Relaxed) + count as u64;
        let due = begin + Duration::from_micros(total * 1_000_000 / rate());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn n12_a_configured_peer_connects_and_rekeys_under_a_flood_in_its_name() {
    const REKEYS: u64 = 5;
    let mut pair = Pair::with(1);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let [a, b] = &pair.gateways;
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&pair, &stop, &sent));
        let work = || {
            wait::until(PATIENCE, "B asks for cookies", || {
                let asked = b.status().unwrap().ike_refused["cookie-asked"];
                if asked > 0 {
                    Ok(())
                } else {
                    Err(asked.to_string())
                }
            });
            for child in 1..=REKEYS {
                a.command("t0", "rekey").unwrap();
                wait::until(PATIENCE, "a rekey", || {
                    let tunnel = a.status().unwrap().tunnels.remove(0);
                    let done = tunnel.rekeys.child >= child;
                    if done {
                        Ok(())
                    } else {
                        Err(format!("{tunnel:?}"))
                    }
                });
            }
            let tunnel = a.status().unwrap().tunnels.remove(0);
            assert_eq!(tunnel.rekeys.packets_lost, 0);
            let begin = Instant::now();
            a.command("t0", "reset").unwrap();
            wait::until(PATIENCE, "the tunnel is up again", || {
                let up = |side: &groundlink::lab::gateway::GatewayProcess| side.is_up();
                if up(a) && up(b) {
                    Ok(())
                } else {
                    Err("down".to_owned())
                }
            });
            begin.elapsed()
        };
        // The flood ends also if the work fails.
        let took = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Relaxed);
        flooding.join().unwrap();
        println!(
            "{} requests sent, connected after {took:?}",
            sent.load(Relaxed)
        );
        took.unwrap();
    });
    let status = pair.gateways[1].status().unwrap();
    println!("B: {:?} {:?}", status.ike_refused, status.unmatched);
    pair.await_up();
}
