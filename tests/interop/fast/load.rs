//! UDP datagrams between the hosts, each with a number, a size and a content of its own, each compared where it arrives.
//!
//! ```text
//!   sender ── 7 ── 8 ── 9 ──▶ tunnel ──▶ receiver       as many under way as the window says, no more:
//!      ▲                                     │          nothing is lost for want of room, so nothing may be lost
//!      └───────── "6 have arrived" ──────────┘          (both are threads of this process)
//! ```

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use groundlink::lab::Lab;
use groundlink::lab::options::Side;
use nix::sys::socket::{setsockopt, sockopt};

use super::content::Content;

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct Load {
    /// The size of each datagram's payload, in this order. Below eight octets there is no room for a number, so there each size comes once.
    pub sizes: Vec<usize>,
    /// How many datagrams may be under way.
    pub window: usize,
    /// How many of one size leave the host in one piece (UDP_SEGMENT), so that its gateway gets a super-packet.
    pub segments: usize,
}

/// How a way carried it, all of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadResult {
    /// Datagrams that arrived a second time.
    pub twice: u64,
    /// Datagrams that arrived after one that was sent later.
    pub overtaken: u64,
}

/// How long nothing may arrive while something is under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room for all that is under way, whatever the kernel adds to it.
const ROOM: usize = 8 << 20;

/// Not a number of a datagram: the first ones only find out what fits the path.
const PROBE: u64 = u64::MAX;

impl Load {
    /// One of each size.
    pub fn of_sizes(sizes: impl IntoIterator<Item = usize>) -> Load {
        Load {
            sizes: sizes.into_iter().collect(),
            window: 32,
            segments: 1,
        }
    }

    /// `count` of one size, in GSO packets.
    pub fn of_gso_packets(count: usize, size: usize) -> Load {
        // The kernel takes no longer datagram, cut or not.
        let segments = (65_000 / size).clamp(1, 30);
        Load {
            sizes: vec![size; count],
            window: 2 * segments,
            segments,
        }
    }

    /// Sends it from each host to the other, both at once; A's way first.
    ///
    /// # Errors
    /// Which way lost or changed what.
    pub fn both_ways(&self, lab: &Lab) -> Result<[LoadResult; 2], String> {
        std::thread::scope(|scope| {
            let [a, b] = [Side::A, Side::B].map(|from| scope.spawn(move || self.fly(lab, from)));
            Ok([a.join().unwrap()?, b.join().unwrap()?])
        })
    }

    /// Sends it from the host of one side to the other.
    ///
    /// # Errors
    /// What was lost or changed.
    pub fn fly(&self, lab: &Lab, from: Side) -> Result<LoadResult, String> {
        let failure = |what: String| format!("UDP from {from}: {what}");
        let bound = |side: Side| -> io::Result<UdpSocket> {
            let address = lab.addressing().site(side).host;
            let socket = lab
                .topology()
                .host(side)
                .run(|| UdpSocket::bind((address, 0)))??;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
            Ok(socket)
        };
        let sockets = bound(from).and_then(|source| Ok((source, bound(from.other())?)));
        let (source, sink) = sockets.map_err(|error| failure(error.to_string()))?;
        let flight = LoadRun {
            load: self,
            content: Content(self.sizes.len() as u64 ^ from as u64),
            arrived: Mutex::new(0),
            more: Condvar::new(),
        };
        let target = sink.local_addr().unwrap();
        flight.probe(&source, &sink, target).map_err(failure)?;
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| flight.send(&source, target));
            let arrived = flight.receive(&sink);
            let sent = sender.join().unwrap();
            sent.map_err(|error| failure(error.to_string()))?;
            arrived.map_err(failure)
        })
    }
}

/// The sizes that tell a host what the path takes whole, so that it cuts everything itself from then on: those that just fit its own
/// link, whatever that is and whichever headers there are. What it cuts at once tells it nothing.
pub fn probes(sizes: &[usize]) -> Vec<usize> {
    let largest = |limit: usize| sizes.iter().copied().filter(|size| *size <= limit).max();
    [1500 - 48, 9000 - 48, usize::MAX]
        .into_iter()
        .filter_map(largest)
        .collect()
}

/// A load on its way.
struct LoadRun<'b> {
    load: &'b Load,
    content: Content,
    arrived: Mutex<usize>,
    more: Condvar,
}

impl LoadRun<'_> {
    fn datagram(&self, number: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.load.sizes[number]];
        self.content.fill(number as u64, &mut bytes);
        if let Some(place) = bytes.first_chunk_mut() {
            *place = (number as u64).to_be_bytes();
        }
        bytes
    }

    /// Which datagram this is, if it is one as it left.
    fn number_of(&self, bytes: &[u8]) -> Option<usize> {
        let sizes = &self.load.sizes;
        let number = match bytes.first_chunk() {
            Some(number) => usize::try_from(u64::from_be_bytes(*number)).ok()?,
            None => sizes.iter().position(|size| *size == bytes.len())?,
        };
        (number < sizes.len() && self.datagram(number) == bytes).then_some(number)
    }

    /// Sends some of those that may not fit until one arrives.
    fn probe(
        &self,
        source: &UdpSocket,
        sink: &UdpSocket,
        target: SocketAddr,
    ) -> Result<(), String> {
        sink.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        for size in probes(&self.load.sizes) {
            let mut probe = vec![0; size.max(8)];
            probe[..8].copy_from_slice(&PROBE.to_be_bytes());
            let begin = Instant::now();
            // What its own host refuses to send is lost like anything else.
            while source.send_to(&probe, target).is_err() || sink.recv(&mut [0; 1 << 16]).is_err() {
                if begin.elapsed() > PATIENCE {
                    return Err(format!("none of {size} octets arrives"));
                }
            }
        }
        Ok(())
    }

    fn send(&self, source: &UdpSocket, target: SocketAddr) -> io::Result<()> {
        let mut numbers = (0..self.load.sizes.len()).peekable();
        let mut sent = 0;
        while let Some(first) = numbers.next() {
            let size = self.load.sizes[first];
            let mut packet = self.datagram(first);
            let mut count = 1;
            while count < self.load.segments
                && let Some(next) = numbers.next_if(|next| self.load.sizes[*next] == size)
            {
                packet.extend(self.datagram(next));
                count += 1;
            }
            if !self.await_room(sent, count) {
                // The receiver says what is missing.
                return Ok(());
            }
            if self.load.segments > 1 {
                setsockopt(source, sockopt::UdpGsoSegment, &(size as i32))?;
            }
            // Never connected, so that an ICMP error cannot make the host drop one by itself.
            source.send_to(&packet, target)?;
            sent += count;
        }
        Ok(())
    }

    /// Waits until the window has room for `count` more.
    fn await_room(&self, sent: usize, count: usize) -> bool {
        let full = |arrived: &mut usize| sent + count > *arrived + self.load.window;
        let arrived = self.arrived.lock().unwrap();
        let waited = self.more.wait_timeout_while(arrived, 2 * PATIENCE, full);
        !waited.unwrap().1.timed_out()
    }

    fn receive(&self, sink: &UdpSocket) -> Result<LoadResult, String> {
        let mut seen = vec![false; self.load.sizes.len()];
        let (mut result, mut newest) = (LoadResult::default(), 0);
        let mut buffer = vec![0; 1 << 16];
        sink.set_read_timeout(Some(PATIENCE)).unwrap();
        while seen.contains(&false) {
            let Ok(length) = sink.recv(&mut buffer) else {
                let missing: Vec<usize> = (0..seen.len()).filter(|n| !seen[*n]).collect();
                let sizes = missing.iter().map(|number| self.load.sizes[*number]);
                return Err(format!(
                    "of {} datagrams {} did not arrive or were not sent, the first of them {:?}, in octets {:?}",
                    seen.len(),
                    missing.len(),
                    &missing[..missing.len().min(10)],
                    sizes.take(10).collect::<Vec<_>>()
                ));
            };
            let bytes = &buffer[..length];
            if bytes.starts_with(&PROBE.to_be_bytes()) {
                continue;
            }
            let number = self
                .number_of(bytes)
                .ok_or_else(|| format!("{length} octets that nobody sent: {bytes:02x?}"))?;
            if std::mem::replace(&mut seen[number], true) {
                result.twice += 1;
                continue;
            }
            result.overtaken += u64::from(number < newest);
            newest = newest.max(number);
            *self.arrived.lock().unwrap() += 1;
            self.more.notify_one();
        }
        Ok(result)
    }
}
