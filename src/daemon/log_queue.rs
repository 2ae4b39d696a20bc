//! Queue between the log calls and stderr or the journal: a reader of the log that stops reading never stops the loop.
//!
//! ```text
//!   any thread ── line ──▶ queue of 4096 lines ──▶ thread "log" ── write, which may block ──▶ stderr or journald
//!                           │ full: the line is dropped and counted
//!                           └──▶ "log lines were dropped", once lines are written again, once a second at most
//! ```

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tracing::warn;

use crate::net::Time;
use crate::os::clock;

/// Lines that wait to be written. Each tunnel of a large configuration may log several at once.
const CAPACITY: usize = 4096;

/// Least interval of the reports of dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

thread_local! {
    /// Lines of this thread that were dropped.
    static DROPPED_HERE: Cell<u64> = const { Cell::new(0) };
}

/// Sending end of the queue; a writer of whole lines that never blocks.
#[derive(Clone, Debug)]
pub(super) struct LogQueue {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Everything before this is written: reply.
    Flush(SyncSender<()>),
}

impl LogQueue {
    /// Starts the thread that writes the lines to `sink`.
    ///
    /// # Errors
    /// No thread left.
    pub(super) fn start(sink: impl Write + Send + 'static) -> io::Result<LogQueue> {
        let (messages, receiver) = sync_channel(CAPACITY);
        let dropped = Arc::<AtomicU64>::default();
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(sink, &receiver, &lost, report_dropped))?;
        Ok(LogQueue { messages, dropped })
    }

    /// Waits until the lines so far are written, but not longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let (sender, flushed) = sync_channel(1);
        if self.messages.try_send(Message::Flush(sender)).is_ok() {
            let _ = flushed.recv_timeout(limit);
        }
    }
}

impl Write for LogQueue {
    /// Queues a line, or drops and counts it. Never fails: a failed log line must not become another log line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self
            .messages
            .try_send(Message::Line(line.to_vec()))
            .is_err()
        {
            self.dropped.fetch_add(1, Relaxed);
            DROPPED_HERE.set(DROPPED_HERE.get().wrapping_add(1));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs the number of dropped lines; goes through the queue as any line, in the same format. `false` if this line was dropped.
fn report_dropped(lines: u64) -> bool {
    let before = DROPPED_HERE.get();
    warn!(
        dropped = lines,
        "log lines were dropped: the reader of the log was too slow, or writing failed"
    );
    DROPPED_HERE.get() == before
}

fn write_lines(
    mut sink: impl Write,
    messages: &Receiver<Message>,
    dropped: &AtomicU64,
    report: impl Fn(u64) -> bool,
) {
    let mut report_at = Time::from_secs(0);
    // Nothing can be logged about a sink that fails, such as a closed pipe, before it works again.
    let mut works = true;
    loop {
        let received = match works && dropped.load(Relaxed) > 0 {
            true => messages.recv_timeout(report_at.since(clock::now())),
            false => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(Message::Line(line)) => {
                works = sink.write_all(&line).is_ok();
                dropped.fetch_add(u64::from(!works), Relaxed);
            }
            Ok(Message::Flush(flushed)) => drop(flushed.send(())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = clock::now();
        if !works || now < report_at {
            continue;
        }
        let lines = dropped.swap(0, Relaxed);
        if lines > 0 {
            report_at = now + REPORT_INTERVAL;
            if !report(lines) {
                // The report itself was counted as one.
                dropped.fetch_add(lines.saturating_sub(1), Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Instant;

    use super::*;

    /// Sink that blocks until the test lets it write, once a line.
    struct Blocked {
        go_on: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Blocked {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.go_on.recv();
            self.written.lock().unwrap().extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn blocked() -> (LogQueue, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (sender, go_on) = channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Blocked {
            go_on,
            written: Arc::clone(&written),
        };
        (LogQueue::start(sink).unwrap(), sender, written)
    }

    #[test]
    fn a_blocked_reader_blocks_nobody_and_the_dropped_lines_are_counted() {
        let (mut queue, go_on, written) = blocked();
        let lines = CAPACITY + 1000;
        for n in 0..lines {
            // Returns although nothing is written.
            queue.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        // The thread may have taken one line out of the queue.
        let dropped = queue.dropped.load(Relaxed);
        assert!([999, 1000].contains(&dropped), "{dropped}");
        drop(go_on);
        let kept = lines as u64 - dropped;
        let deadline = Instant::now() + Duration::from_secs(20);
        let written = loop {
            let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            // The report of the dropped lines may follow.
            if text.lines().count() as u64 >= kept {
                break text;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {kept}",
                text.lines().count()
            );
            std::thread::yield_now();
        };
        assert!(written.starts_with("line 0\nline 1\n"), "order is kept");
    }

    #[test]
    fn the_number_of_dropped_lines_is_reported_once_the_reader_reads_again() {
        let (messages, receiver) = sync_channel(8);
        let (dropped, reports) = (AtomicU64::new(17), Mutex::new(Vec::new()));
        for line in ["a\n", "b\n"] {
            messages.send(Message::Line(line.into())).unwrap();
        }
        drop(messages);
        let report = |lines| {
            reports.lock().unwrap().push(lines);
            true
        };
        write_lines(io::sink(), &receiver, &dropped, report);
        assert_eq!(*reports.lock().unwrap(), [17], "once");
    }

    #[test]
    fn the_number_of_a_dropped_report_is_kept_for_the_next_one() {
        let (messages, receiver) = sync_channel(8);
        let (dropped, reports) = (AtomicU64::new(17), Mutex::new(Vec::new()));
        for line in ["a\n", "b\n"] {
            messages.send(Message::Line(line.into())).unwrap();
        }
        let messages = Mutex::new(Some(messages));
        let report = |lines| {
            let mut reports = reports.lock().unwrap();
            reports.push((lines, clock::now()));
            if reports.len() > 1 {
                *messages.lock().unwrap() = None;
                return true;
            }
            // The report itself is dropped.
            dropped.fetch_add(1, Relaxed);
            false
        };
        write_lines(io::sink(), &receiver, &dropped, report);
        let reports = reports.lock().unwrap();
        let [(17, first), (17, second)] = reports[..] else {
            panic!("{reports:?}");
        };
        assert!(second.since(first) >= REPORT_INTERVAL);
    }

    #[test]
    fn lines_that_the_sink_refuses_are_counted_and_reported_once_it_works() {
        struct Refuses(usize);

        impl Write for Refuses {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                match self.0.checked_sub(1) {
                    Some(left) => {
                        self.0 = left;
                        Err(io::ErrorKind::BrokenPipe.into())
                    }
                    None => Ok(line.len()),
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (messages, receiver) = sync_channel(8);
        let (dropped, reports) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        for line in ["a\n", "b\n", "c\n"] {
            messages.send(Message::Line(line.into())).unwrap();
        }
        drop(messages);
        let report = |lines| {
            reports.lock().unwrap().push(lines);
            true
        };
        write_lines(Refuses(2), &receiver, &dropped, report);
        assert_eq!(*reports.lock().unwrap(), [2]);
    }
}
