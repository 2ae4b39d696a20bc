//! A program in a namespace: its log, and its end.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program. Dropping it ends it: asked first, then killed.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    log: PathBuf,
}

/// How long a program may take to obey SIGTERM: `groundlink run` promises 2 s.
const GRACE: Duration = Duration::from_secs(3);

impl ChildProcess {
    /// Starts `command` with its output going to `log`.
    ///
    /// It is put in a process group of its own: Ctrl-C at the terminal reaches only the lab, which ends its programs in order.
    pub fn start(mut command: Command, log: &Path) -> io::Result<ChildProcess> {
        let output = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        Ok(ChildProcess {
            child: command.spawn()?,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), signal);
        }
    }

    /// Asks it to end, kills it if it does not, and says how long it took and how it ended.
    pub fn stop(&mut self) -> io::Result<(Duration, ExitStatus)> {
        let asked = Instant::now();
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
        }
        while asked.elapsed() < GRACE {
            if let Some(status) = self.child.try_wait()? {
                return Ok((asked.elapsed(), status));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        Ok((asked.elapsed(), self.child.wait()?))
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last `count` lines of it.
    pub fn tail(&self, count: usize) -> Vec<String> {
        tail(&self.log(), count)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The last `count` lines that are not empty.
pub fn tail(text: &str, count: usize) -> Vec<String> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(count))
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn shell(script: &str, log: &Path) -> ChildProcess {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ChildProcess::start(command, log).unwrap()
    }

    #[test]
    fn a_program_that_is_dropped_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell("exec sleep 600", &folder.path().join("log"));
        let proc_entry = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc_entry.exists());
        drop(process);
        assert!(!proc_entry.exists());
    }

    #[test]
    fn what_it_wrote_and_how_it_ended_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(
            "echo one; echo two >&2; exec sleep 600",
            &folder.path().join("log"),
        );
        while process.log().lines().count() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (_, status) = process.stop().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
        assert_eq!(process.tail(1), ["two"]);
    }
}
