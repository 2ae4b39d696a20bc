//! TCP between the hosts: as fast as it goes for a while, every byte checked unless only the speed is wanted.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;

/// A server in one host's namespace, to be filled from the other.
#[derive(Debug)]
pub struct TcpSink {
    listener: TcpListener,
    address: IpAddr,
    verification: Verification,
}

/// What is done with a byte that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verification {
    /// It is compared with the one that was sent.
    Compare,
    /// It is counted.
    Count,
}

/// What one direction carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Payload bytes that arrived, all as they were sent.
    pub bytes: u64,
    /// From the first byte's arrival to the last one's.
    pub elapsed: Duration,
}

impl Throughput {
    /// Payload per second.
    pub fn mbit(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-6) / 1e6
    }
}

/// Why a direction did not carry what it should.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// No connection.
    #[error("TCP could not connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// The connection broke.
    #[error("TCP broke after {0} bytes: {1}")]
    Broke(u64, io::Error),
    /// Nothing moved any more.
    #[error("TCP stood still after {0} bytes")]
    Stalled(u64),
    /// Bytes changed, or changed places.
    #[error("the bytes that arrived differ from those sent, after {0} bytes")]
    Damaged(u64),
    /// Bytes were lost without TCP noticing.
    #[error("{sent} bytes were sent and {arrived} arrived")]
    Lost {
        /// Handed to TCP.
        sent: u64,
        /// Taken from it.
        arrived: u64,
    },
    /// The person wants out.
    #[error(transparent)]
    Interrupted(#[from] super::interrupt::Interrupted),
    /// No socket, no thread.
    #[error("no TCP socket: {0}")]
    Local(#[from] io::Error),
}

impl TcpSink {
    /// Listens in the namespace of the calling thread.
    pub fn new(address: IpAddr) -> io::Result<TcpSink> {
        // The wildcard: an address just given to a device may still be tentative.
        let any = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let listener = TcpListener::bind((any, 0))?;
        listener.set_nonblocking(true)?;
        Ok(TcpSink {
            listener,
            address,
            verification: Verification::Compare,
        })
    }

    /// The same, but it only counts: comparing would take CPU time from what is measured.
    #[must_use]
    pub fn counting(self) -> TcpSink {
        TcpSink {
            verification: Verification::Count,
            ..self
        }
    }

    /// Where to connect.
    pub fn target(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(
            self.address,
            self.listener.local_addr()?.port(),
        ))
    }

    /// Takes everything that `streams`, connected to [`TcpSink::target`], send for `duration`.
    pub fn fill(
        &self,
        streams: Vec<TcpStream>,
        duration: Duration,
        interrupt: &Interrupt,
    ) -> Result<Throughput, TrafficError> {
        let pattern = Pattern::new();
        let deadline = Instant::now() + duration;
        let give_up = deadline + PATIENCE;
        let accepted = streams
            .iter()
            .map(|_| self.accept(give_up, interrupt))
            .collect::<Result<Vec<_>, _>>()?;
        std::thread::scope(|scope| {
            let receivers: Vec<_> = accepted
                .into_iter()
                .map(|stream| {
                    scope.spawn(|| receive(stream, &pattern, self.verification, give_up, interrupt))
                })
                .collect();
            let senders: Vec<_> = streams
                .into_iter()
                .map(|stream| scope.spawn(|| send(stream, &pattern, deadline, interrupt)))
                .collect();
            let sent = senders.into_iter().map(joined).collect::<Vec<_>>();
            let arrived = receivers.into_iter().map(joined).collect::<Vec<_>>();
            interrupt.check()?;
            // What the receiver saw tells more than the sender's broken pipe that follows from it.
            let arrived = arrived.into_iter().collect::<Result<Vec<_>, _>>()?;
            let sent: u64 = sent.into_iter().sum::<Result<u64, _>>()?;
            let bytes = arrived.iter().map(|carried| carried.bytes).sum();
            let elapsed = arrived
                .iter()
                .map(|carried| carried.elapsed)
                .max()
                .unwrap_or_default();
            if sent == bytes {
                Ok(Throughput { bytes, elapsed })
            } else {
                Err(TrafficError::Lost {
                    sent,
                    arrived: bytes,
                })
            }
        })
    }

    fn accept(&self, give_up: Instant, interrupt: &Interrupt) -> Result<TcpStream, TrafficError> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < give_up =>
                {
                    interrupt.pause(Duration::from_millis(2))?;
                }
                Err(error) => return Err(TrafficError::Local(error)),
            }
        }
    }
}

/// Opens `count` connections from the namespace of the calling thread.
pub fn connect(target: SocketAddr, count: usize) -> Result<Vec<TcpStream>, TrafficError> {
    (0..count)
        .map(|_| {
            TcpStream::connect_timeout(&target, PATIENCE)
                .map_err(|error| TrafficError::Connect(target, error))
        })
        .collect()
}

/// How long a direction may stand still, and how long what is under way may take to arrive after the end.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(200);
const CHUNK: usize = 128 * 1024;

fn send(
    mut stream: TcpStream,
    pattern: &Pattern,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<u64, TrafficError> {
    stream.set_write_timeout(Some(STEP))?;
    let mut sent = 0;
    let mut moved = Instant::now();
    while Instant::now() < deadline {
        interrupt.check()?;
        match stream.write(pattern.at(sent, CHUNK)) {
            Ok(length) => (sent, moved) = (sent + length as u64, Instant::now()),
            Err(error) if is_timeout(&error) && moved.elapsed() < PATIENCE => {}
            Err(error) if is_timeout(&error) => return Err(TrafficError::Stalled(sent)),
            Err(error) => return Err(TrafficError::Broke(sent, error)),
        }
    }
    stream
        .shutdown(Shutdown::Write)
        .map_err(|error| TrafficError::Broke(sent, error))?;
    Ok(sent)
}

fn receive(
    mut stream: impl Read + Timeout,
    pattern: &Pattern,
    verification: Verification,
    give_up: Instant,
    interrupt: &Interrupt,
) -> Result<Throughput, TrafficError> {
    stream.read_timeout(STEP)?;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    let mut first = None;
    let mut last = Instant::now();
    loop {
        interrupt.check()?;
        match stream.read(&mut buffer) {
            Ok(0) => {
                let elapsed = first.map_or(Duration::ZERO, |first| last.duration_since(first));
                return Ok(Throughput { bytes, elapsed });
            }
            Ok(length) => {
                last = Instant::now();
                first.get_or_insert(last);
                let is_sent = match verification {
                    Verification::Compare => {
                        buffer.get(..length) == Some(pattern.at(bytes, length))
                    }
                    Verification::Count => true,
                };
                if !is_sent {
                    return Err(TrafficError::Damaged(bytes));
                }
                bytes += length as u64;
            }
            Err(error) if is_timeout(&error) && Instant::now() < give_up => {}
            Err(error) if is_timeout(&error) => return Err(TrafficError::Stalled(bytes)),
            Err(error) => return Err(TrafficError::Broke(bytes, error)),
        }
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// What [`receive`] needs of a stream besides reading; a test reads from memory.
trait Timeout {
    fn read_timeout(&self, timeout: Duration) -> io::Result<()>;
}

impl Timeout for TcpStream {
    fn read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))
    }
}

/// An endless row of bytes that repeats after a prime number of them, so that a segment that is lost, doubled or out of place shows.
#[derive(Debug)]
struct Pattern(Vec<u8>);

const PERIOD: usize = 65_521;

impl Pattern {
    fn new() -> Pattern {
        let mut state = 0x9e37_79b9_u32;
        let period: Vec<u8> = std::iter::repeat_with(|| {
            // xorshift32: any bytes without a short period do.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .take(PERIOD)
        .collect();
        Pattern(
            period
                .iter()
                .copied()
                .cycle()
                .take(PERIOD + CHUNK)
                .collect(),
        )
    }

    /// `length` bytes (at most [`CHUNK`]) of the row from `offset` on.
    fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.0[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Timeout for &[u8] {
        fn read_timeout(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    fn received(bytes: &[u8]) -> Result<Throughput, TrafficError> {
        receive(
            bytes,
            &Pattern::new(),
            Verification::Compare,
            Instant::now() + PATIENCE,
            &Interrupt::default(),
        )
    }

    #[test]
    fn bytes_arrive_over_several_streams_and_are_counted() {
        let sink = TcpSink::new(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let streams = connect(sink.target().unwrap(), 3).unwrap();
        let carried = sink
            .fill(streams, Duration::from_millis(50), &Interrupt::default())
            .unwrap();
        assert!(carried.bytes > 0 && carried.mbit() > 0.0, "{carried:?}");
    }

    #[test]
    fn a_changed_lost_or_displaced_byte_is_damage() {
        let pattern = Pattern::new();
        let good = pattern.at(0, 10_000).to_vec();
        assert_eq!(received(&good).unwrap().bytes, 10_000);
        let mut changed = good.clone();
        changed[5000] ^= 1;
        assert!(matches!(received(&changed), Err(TrafficError::Damaged(_))));
        let mut lost = good.clone();
        lost.remove(5000);
        assert!(matches!(received(&lost), Err(TrafficError::Damaged(_))));
        let mut displaced = good;
        displaced.swap_with_slice(&mut pattern.at(1448, 10_000).to_vec());
        assert!(matches!(
            received(&displaced),
            Err(TrafficError::Damaged(_))
        ));
    }

    #[test]
    fn the_pattern_runs_on_across_its_period() {
        let pattern = Pattern::new();
        let edge = PERIOD as u64 - 10;
        assert_eq!(pattern.at(edge, 20)[10..], pattern.at(0, 10)[..]);
    }
}
