//! Numbered datagrams between the two hosts, in both directions at once, counted where they arrive.
//!
//! ```text
//!   host A ── 0 ── 1 ── 2 ── 3 ──▶ host B      sent 4, arrived 4, twice 0
//!   host A ◀── 0 ── 1 ── 3 ─────── host B      sent 4, arrived 3: one is lost
//! ```

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use groundlink::lab::Lab;
use groundlink::lab::options::Side;

/// A stream in both directions. It flows until [`Stream::end`].
pub struct Stream(Vec<Flow>);

/// One direction.
struct Flow {
    gauge: Arc<Gauge>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Carried>,
}

/// What both ends of a flow and who watches it know.
#[derive(Default)]
struct Gauge {
    sent: AtomicU64,
    arrived: AtomicU64,
    /// The sender shall stop.
    stop: AtomicBool,
    /// It has: `sent` is final.
    stopped: AtomicBool,
}

/// What became of one direction.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Who sent.
    pub from: Side,
    /// Datagrams that left the host.
    pub sent: u64,
    /// Numbers that arrived.
    pub arrived: u64,
    /// Datagrams whose number had arrived before.
    pub twice: u64,
    /// The longest time without any.
    pub gap: Duration,
}

impl Carried {
    /// What was sent and never arrived.
    pub fn lost(&self) -> u64 {
        self.sent - self.arrived
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "from {}: {} sent, {} lost, {} twice, longest gap {:?}",
            self.from,
            self.sent,
            self.lost(),
            self.twice,
            self.gap
        )
    }
}

impl Stream {
    /// Begins a stream of `rate` datagrams a second each way between the hosts of `lab`.
    pub fn begin(lab: &Lab, rate: u32) -> Stream {
        Stream::between(lab, lab.addressing().a.host, lab.addressing().b.host, rate)
    }

    /// The same between an address of host A and one of host B.
    pub fn between(lab: &Lab, a: IpAddr, b: IpAddr, rate: u32) -> Stream {
        let socket = |side: Side, address: IpAddr| {
            let bound = lab
                .topology()
                .host(side)
                .run(|| UdpSocket::bind((address, 0)))
                .and_then(|bound| bound)
                .unwrap();
            Arc::new(bound)
        };
        let (a, b) = (socket(Side::A, a), socket(Side::B, b));
        Stream(vec![
            Flow::begin(Side::A, &a, &b, rate),
            Flow::begin(Side::B, &b, &a, rate),
        ])
    }

    /// How many datagrams have arrived by now, those from A first.
    pub fn arrived(&self) -> [u64; 2] {
        [0, 1].map(|way: usize| self.0[way].gauge.arrived.load(Ordering::Relaxed))
    }

    /// Waits until more have arrived both ways: whatever happened before, now packets get through.
    #[track_caller]
    pub fn await_flow(&self, lab: &mut Lab) {
        let before = self.arrived();
        super::wait::until(Duration::from_secs(30), "50 packets each way", || {
            let after = self.arrived();
            let flows = (0..2).all(|way| after[way] >= before[way] + 50);
            let mut logs = || super::lab::logs(lab);
            flows
                .then_some(())
                .ok_or_else(|| format!("{before:?}, then {after:?}{}", logs()))
        });
    }

    /// Stops sending, waits for what is under way, and says what became of each direction, A's first.
    pub fn end(self) -> [Carried; 2] {
        for flow in &self.0 {
            flow.gauge.stop.store(true, Ordering::Relaxed);
        }
        let carried: Vec<Carried> = self.0.into_iter().map(Flow::end).collect();
        carried.try_into().unwrap()
    }

    /// The same where nothing may be lost, and nothing delivered twice.
    #[track_caller]
    pub fn end_unharmed(self, lab: &mut Lab) -> [Carried; 2] {
        let carried = self.end();
        for way in &carried {
            println!("{way}");
            if way.lost() > 0 || way.twice > 0 || way.sent == 0 {
                panic!("{way}{}", super::lab::logs(lab));
            }
        }
        carried
    }
}

impl Flow {
    fn begin(from: Side, source: &Arc<UdpSocket>, sink: &Arc<UdpSocket>, rate: u32) -> Flow {
        let gauge = Arc::new(Gauge::default());
        let sender = {
            let (gauge, source, target) =
                (gauge.clone(), source.clone(), sink.local_addr().unwrap());
            std::thread::spawn(move || send(&source, target, Duration::from_secs(1) / rate, &gauge))
        };
        let receiver = {
            let (gauge, sink) = (gauge.clone(), sink.clone());
            std::thread::spawn(move || receive(from, &sink, &gauge))
        };
        Flow {
            gauge,
            sender,
            receiver,
        }
    }

    fn end(self) -> Carried {
        self.sender.join().unwrap();
        self.receiver.join().unwrap()
    }
}

fn send(source: &UdpSocket, target: std::net::SocketAddr, pause: Duration, gauge: &Gauge) {
    let mut due = Instant::now();
    let mut number = 0u64;
    while !gauge.stop.load(Ordering::Relaxed) {
        // Never connected, so that an ICMP error cannot make the host drop one by itself.
        let left = source.send_to(&datagram(number), target);
        assert!(
            left.is_ok() || gauge.stop.load(Ordering::Relaxed),
            "{left:?}"
        );
        number += 1;
        gauge.sent.store(number, Ordering::Relaxed);
        // Who could not keep up does not burst: that would be another test.
        due = (due + pause).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    gauge.stopped.store(true, Ordering::Release);
}

/// How long something may be under way.
const UNDER_WAY: Duration = Duration::from_secs(1);

fn receive(from: Side, sink: &UdpSocket, gauge: &Gauge) -> Carried {
    sink.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut seen = HashSet::new();
    let mut twice = 0;
    let mut gap = Duration::ZERO;
    let mut last = Instant::now();
    let mut buffer = [0; 2048];
    loop {
        match sink.recv(&mut buffer) {
            Ok(length) => {
                gap = gap.max(last.elapsed());
                last = Instant::now();
                let number = numbered(&buffer[..length]).expect("a datagram arrives as it left");
                if !seen.insert(number) {
                    twice += 1;
                }
                gauge.arrived.store(seen.len() as u64, Ordering::Relaxed);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(error) => panic!("{error}"),
        }
        if gauge.stopped.load(Ordering::Acquire) {
            let sent = gauge.sent.load(Ordering::Relaxed);
            if seen.len() as u64 == sent || last.elapsed() > UNDER_WAY {
                return Carried {
                    from,
                    sent,
                    arrived: seen.len() as u64,
                    twice,
                    gap,
                };
            }
        }
    }
}

const LENGTH: usize = 200;

/// A number, and a filling that belongs to it.
fn datagram(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(LENGTH, number as u8);
    bytes
}

fn numbered(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.first_chunk()?);
    (bytes == datagram(number)).then_some(number)
}
