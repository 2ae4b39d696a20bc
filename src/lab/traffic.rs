//! TCP between the hosts at full speed, with an optional comparison of every byte.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;

/// A TCP server in one host's namespace.
#[derive(Debug)]
pub struct TcpSink {
    listener: TcpListener,
    address: IpAddr,
    verification: Verification,
}

/// Treatment of received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verification {
    /// Compare them with the sent bytes.
    Compare,
    /// Count them.
    Count,
}

/// Received data of one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Received payload bytes.
    pub bytes: u64,
    /// Time from the first byte to the last.
    pub elapsed: Duration,
}

impl Throughput {
    /// Payload in Mbit/s.
    pub fn mbit(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-6) / 1e6
    }
}

/// An error of a TCP transfer.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The connection could not be established.
    #[error("TCP connection to {0} failed: {1}")]
    Connect(SocketAddr, io::Error),
    /// The connection broke.
    #[error("TCP connection broke after {0} bytes: {1}")]
    Broke(u64, io::Error),
    /// No data was transferred for too long.
    #[error("TCP stalled after {0} bytes")]
    Stalled(u64),
    /// Received bytes differ from the sent ones.
    #[error("received data differs from the sent data after {0} bytes")]
    Damaged(u64),
    /// The numbers of sent and received bytes differ.
    #[error("{sent} bytes were sent and {received} received")]
    Lost {
        /// Sent bytes.
        sent: u64,
        /// Received bytes.
        received: u64,
    },
    /// The user interrupted the lab.
    #[error(transparent)]
    Interrupted(#[from] super::interrupt::Interrupted),
    /// A local socket operation failed.
    #[error("TCP socket: {0}")]
    Local(#[from] io::Error),
}

impl TcpSink {
    /// Listens in the namespace of the calling thread.
    pub fn new(address: IpAddr) -> io::Result<TcpSink> {
        // Bind to the wildcard address: an address that was just assigned may still be tentative.
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

    /// Disables the comparison, which would take CPU time from the measurement.
    #[must_use]
    pub fn count_only(self) -> TcpSink {
        TcpSink {
            verification: Verification::Count,
            ..self
        }
    }

    /// Address for clients.
    pub fn target(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(
            self.address,
            self.listener.local_addr()?.port(),
        ))
    }

    /// Transfers data over `streams`, which are connected to [`TcpSink::target`], for `duration`.
    pub fn transfer(
        &self,
        streams: Vec<TcpStream>,
        duration: Duration,
        interrupt: &Interrupt,
    ) -> Result<Throughput, TrafficError> {
        let pattern = Pattern::new();
        let deadline = Instant::now() + duration;
        let give_up = deadline + STALL_TIMEOUT;
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
            // The receiver's error comes first: the sender's broken pipe follows from it.
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
                    received: bytes,
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
            TcpStream::connect_timeout(&target, STALL_TIMEOUT)
                .map_err(|error| TrafficError::Connect(target, error))
        })
        .collect()
}

/// Longest stall, and longest time for data in flight after the last write.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
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
    let mut last_progress = Instant::now();
    while Instant::now() < deadline {
        interrupt.check()?;
        match stream.write(pattern.at(sent, CHUNK)) {
            Ok(length) => (sent, last_progress) = (sent + length as u64, Instant::now()),
            Err(error) if is_timeout(&error) && last_progress.elapsed() < STALL_TIMEOUT => {}
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
                let is_valid = match verification {
                    Verification::Compare => {
                        buffer.get(..length) == Some(pattern.at(bytes, length))
                    }
                    Verification::Count => true,
                };
                if !is_valid {
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

/// A stream with a read timeout; tests read from memory.
trait Timeout {
    fn read_timeout(&self, timeout: Duration) -> io::Result<()>;
}

impl Timeout for TcpStream {
    fn read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))
    }
}

/// An endless byte sequence whose period is a prime number, so that a lost, duplicated or reordered segment is detected.
#[derive(Debug)]
struct Pattern(Vec<u8>);

const PERIOD: usize = 65_521;

impl Pattern {
    fn new() -> Pattern {
        let mut state = 0x9e37_79b9_u32;
        let period: Vec<u8> = std::iter::repeat_with(|| {
            // xorshift32: any generator without a short period is sufficient.
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

    /// `length` bytes (at most [`CHUNK`]) from `offset` on.
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
            Instant::now() + STALL_TIMEOUT,
            &Interrupt::default(),
        )
    }

    #[test]
    fn several_streams_are_received_and_counted() {
        let sink = TcpSink::new(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let streams = connect(sink.target().unwrap(), 3).unwrap();
        let carried = sink
            .transfer(streams, Duration::from_millis(50), &Interrupt::default())
            .unwrap();
        assert!(carried.bytes > 0 && carried.mbit() > 0.0, "{carried:?}");
    }

    #[test]
    fn a_changed_lost_or_reordered_byte_is_detected() {
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
    fn the_pattern_continues_across_its_period() {
        let pattern = Pattern::new();
        let edge = PERIOD as u64 - 10;
        assert_eq!(pattern.at(edge, 20)[10..], pattern.at(0, 10)[..]);
    }
}
