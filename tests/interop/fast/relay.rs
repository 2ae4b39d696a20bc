//! A relay on the WAN router, which each gateway takes for its peer. The test chooses which ESP packets the relay drops, delays or changes.
//!
//! ```text
//!   gateway A ──▶ …126:4500  relay  …254:4500 ──▶ gateway B
//!                    1 2 3 4 5 6  ──▶  1 3 4 2 5 5 6           2 goes on behind 4, 5 goes twice
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use groundlink::lab::Lab;
use groundlink::lab::options::Side;
use nix::sys::socket::{setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};

/// What happens to ESP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Impairment {
    /// One packet of so many goes on later; none if 0.
    pub late: u64,
    /// So many others pass it.
    pub behind: u64,
    /// One packet of so many goes on twice; none if 0.
    pub double: u64,
    /// Whether datagrams leave with a UDP checksum.
    pub checksum: Checksum,
}

/// What stands in the place of a checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum.
    #[default]
    Computed,
    /// Zero, for "none": so kernels and clouds send ESP in UDP (RFC 3948 §2.1).
    Zero,
}

/// The relay at work. Dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    /// What went twice, from A and from B.
    doubled: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<()>>,
}

/// How long a late packet waits where no others come to pass it.
const LATEST: Duration = Duration::from_millis(5);

/// Room for what arrives in one piece; a relay that lost packets would be another test.
const ROOM: usize = 8 << 20;

sockopt_impl!(
    NoChecksum,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_NO_CHECK,
    bool
);

impl Relay {
    /// Begins to relay between the gateways of `lab`, which know it by the router's addresses.
    pub fn begin(lab: &Lab, mischief: Impairment) -> io::Result<Relay> {
        let mut relay = Relay {
            stop: Arc::default(),
            doubled: Default::default(),
            threads: Vec::new(),
        };
        for port in [500, 4500] {
            let open = |side: Side| -> io::Result<Arc<UdpSocket>> {
                let router = lab.addressing().site(side).router;
                let socket = lab
                    .topology()
                    .wan()
                    .run(|| UdpSocket::bind((router, port)))??;
                setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
                setsockopt(&socket, sockopt::SndBufForce, &ROOM)?;
                let none = mischief.checksum == Checksum::Zero;
                setsockopt(&socket, NoChecksum, &none)?;
                socket.set_read_timeout(Some(LATEST))?;
                Ok(Arc::new(socket))
            };
            let (a, b) = (open(Side::A)?, open(Side::B)?);
            let ways = [(Side::B, &a, &b), (Side::A, &b, &a)];
            for ((to, near, far), doubled) in ways.into_iter().zip(&relay.doubled) {
                let lane = RelayDirection {
                    near: Arc::clone(near),
                    far: Arc::clone(far),
                    target: (lab.addressing().site(to).outside[0], port).into(),
                    mischief: match port {
                        4500 => mischief,
                        // There is no ESP on port 500.
                        _ => Impairment::default(),
                    },
                    doubled: Arc::clone(doubled),
                };
                let stop = Arc::clone(&relay.stop);
                relay
                    .threads
                    .push(std::thread::spawn(move || lane.run(&stop)));
            }
        }
        Ok(relay)
    }

    /// How many packets have gone on twice towards `side`.
    pub fn doubled_towards(&self, side: Side) -> u64 {
        let [from_a, from_b] = &self.doubled;
        match side {
            Side::A => from_b.load(Ordering::Relaxed),
            Side::B => from_a.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One way through the relay on one port.
struct RelayDirection {
    near: Arc<UdpSocket>,
    far: Arc<UdpSocket>,
    target: SocketAddr,
    mischief: Impairment,
    doubled: Arc<AtomicU64>,
}

impl RelayDirection {
    fn run(&self, stop: &AtomicBool) {
        let mut buffer = vec![0; 1 << 16];
        let mut count = 0;
        // Late ones, each with the count at which it goes on.
        let mut late: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            let Ok(length) = self.near.recv(&mut buffer) else {
                late.drain(..).for_each(|(_, bytes)| self.pass(&bytes));
                continue;
            };
            let bytes = &buffer[..length];
            if !is_esp(bytes) {
                self.pass(bytes);
                continue;
            }
            count += 1;
            let comes = |every: u64| every > 0 && count % every == 0;
            if comes(self.mischief.late) {
                late.push_back((count + self.mischief.behind, bytes.to_vec()));
            } else {
                self.pass(bytes);
            }
            if comes(self.mischief.double) {
                self.doubled.fetch_add(1, Ordering::Relaxed);
                self.pass(bytes);
            }
            while late.front().is_some_and(|(due, _)| *due <= count) {
                late.pop_front()
                    .into_iter()
                    .for_each(|(_, bytes)| self.pass(&bytes));
            }
        }
    }

    fn pass(&self, bytes: &[u8]) {
        // A gateway that is gone is none of the relay's business: its test sees that.
        let _ = self.far.send_to(bytes, self.target);
    }
}

/// Neither IKE behind its marker nor a keepalive (RFC 3948 §2).
fn is_esp(bytes: &[u8]) -> bool {
    bytes.len() > 8 && bytes[..4] != [0; 4]
}
