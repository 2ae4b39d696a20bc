//! Queue between the log calls and stderr or the journal: a reader of the log that stops reading never stops the loop.
//!
//! ```text
//!   any thread ── line ──▶ queue of 4096 lines ──▶ thread "log" ── write, which may block ──▶ stderr or journald
//!                           │ full: the line is dropped and counted
//!                           └──▶ "log lines were dropped", once lines are written again
//! ```

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::warn;

/// Lines that wait to be written. Each tunnel of a large configuration may log several at once.
const CAPACITY: usize = 4096;

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
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs the number of dropped lines; goes through the queue as any line, in the same format.
fn report_dropped(lines: u64) {
    warn!(
        dropped = lines,
        "log lines were dropped: the reader of the log was too slow"
    );
}

fn write_lines(
    mut sink: impl Write,
    messages: &Receiver<Message>,
    dropped: &AtomicU64,
    report: impl Fn(u64),
) {
    while let Ok(message) = messages.recv() {
        match message {
            // Nothing can be logged about a sink that fails, such as a closed pipe.
            Message::Line(line) => drop(sink.write_all(&line)),
            Message::Flush(flushed) => drop(flushed.send(())),
        }
        let lines = dropped.swap(0, Relaxed);
        if lines > 0 {
            report(lines);
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
        let report = |lines| reports.lock().unwrap().push(lines);
        write_lines(io::sink(), &receiver, &dropped, report);
        assert_eq!(*reports.lock().unwrap(), [17], "once");
    }
}
