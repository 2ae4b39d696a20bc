//! Child processes of the lab, and the private directory for their files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program. Dropping it stops the program: SIGTERM first, then SIGKILL.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    log: PathBuf,
}

/// Time between SIGTERM and SIGKILL; `groundlink run` promises to exit within 2 s.
const TERM_TIMEOUT: Duration = Duration::from_secs(3);

impl ChildProcess {
    /// Starts `command` with its output in `log`.
    ///
    /// The program gets its own process group: Ctrl-C in the terminal reaches only the lab, which stops its programs in order.
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

    /// Process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Exit status, if the program has exited.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), signal);
        }
    }

    /// Stops the program; returns how long that took, and the exit status.
    pub fn stop(&mut self) -> io::Result<(Duration, ExitStatus)> {
        let start = Instant::now();
        if self.exit_status().is_none() {
            self.signal(Signal::SIGTERM);
        }
        while start.elapsed() < TERM_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                return Ok((start.elapsed(), status));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        Ok((start.elapsed(), self.child.wait()?))
    }

    /// Output of the program so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Last `count` lines of the output.
    pub fn tail(&self, count: usize) -> Vec<String> {
        tail(&self.log(), count)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Last `count` lines that are not empty.
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

/// A directory with mode 0700, removed with its content when dropped.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Creates one in the system's temporary directory.
    pub fn new() -> io::Result<ScratchDir> {
        let parent = std::env::temp_dir();
        remove_stale(&parent);
        // Several labs may run in one process, as in tests.
        for number in 0..1000 {
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(ScratchDir(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "too many labs in one process",
        ))
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates a subdirectory.
    pub fn subdir(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes a file with mode 0600.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

const PREFIX: &str = "groundlink-lab-";

/// Removes directories of labs that were killed. Directories of other users cannot be removed and are skipped.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next())
        else {
            continue;
        };
        if owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn shell(script: &str, log: &Path) -> ChildProcess {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ChildProcess::start(command, log).unwrap()
    }

    #[test]
    fn dropping_a_child_process_stops_it() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell("exec sleep 600", &folder.path().join("log"));
        let proc_entry = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc_entry.exists());
        drop(process);
        assert!(!proc_entry.exists());
    }

    #[test]
    fn output_and_exit_status_are_available() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(
            "echo one; echo two >&2; exec sleep 600",
            &folder.path().join("log"),
        );
        let deadline = Instant::now() + Duration::from_secs(20);
        while process.log().lines().count() < 2 {
            assert!(Instant::now() < deadline, "no output");
            std::thread::sleep(Duration::from_millis(1));
        }
        let (_, status) = process.stop().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
        assert_eq!(process.tail(1), ["two"]);
    }

    #[test]
    fn scratch_directories_are_private_and_removed() {
        let scratch = ScratchDir::new().unwrap();
        let path = scratch.path().to_owned();
        write_private(&path.join("psk"), "secret").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            fs::metadata(path.join("psk")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn directories_of_killed_labs_are_removed_and_those_of_running_labs_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        // The largest process id Linux gives is 2^22.
        let dead = parent.path().join("groundlink-lab-4194999-0");
        let live = parent
            .path()
            .join(format!("groundlink-lab-{}-7", std::process::id()));
        fs::create_dir(&dead).unwrap();
        fs::create_dir(&live).unwrap();
        remove_stale(parent.path());
        assert!(!dead.exists() && live.exists());
    }
}
