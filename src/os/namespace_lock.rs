//! Lock that one process of each network namespace can hold: the name of an abstract unix socket (unix(7)). Abstract names belong to the
//! network namespace, as routes and devices do, and the kernel releases the name with the process, whichever way it ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
    socket, sockopt,
};

use super::process::Process;

/// Abstract name of the lock: `ss -xl` shows it as `@groundlink`.
const NAME: &[u8] = b"groundlink";

/// The held lock; released on drop.
#[derive(Debug)]
pub struct NamespaceLock {
    _socket: OwnedFd,
}

/// Why the lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it; `None` if the kernel does not show which one (another PID namespace).
    #[error(
        "another groundlink runs in this network namespace{}",
        .0.as_ref().map_or(String::new(), |process| format!(": {process}"))
    )]
    Held(Option<Process>),
    /// Error of the operating system.
    #[error("cannot take the lock of this network namespace: {0}")]
    Io(#[from] io::Error),
}

impl NamespaceLock {
    /// Takes the lock of this thread's network namespace.
    ///
    /// # Errors
    /// [`LockError::Held`] while another process holds it.
    pub fn acquire() -> Result<NamespaceLock, LockError> {
        let socket = unix_socket()?;
        match bind(socket.as_raw_fd(), &name()?) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => return Err(LockError::Held(holder())),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        // A listening socket tells who holds the lock (SO_PEERCRED). Nothing is accepted.
        listen(&socket, Backlog::MAXCONN).map_err(io::Error::from)?;
        Ok(NamespaceLock { _socket: socket })
    }
}

fn name() -> io::Result<UnixAddr> {
    UnixAddr::new_abstract(NAME).map_err(io::Error::from)
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None);
    socket.map_err(io::Error::from)
}

/// Process that holds the lock.
fn holder() -> Option<Process> {
    let socket = unix_socket().ok()?;
    connect(socket.as_raw_fd(), &name().ok()?).ok()?;
    let credentials = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    // Process 0: one of another PID namespace.
    let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0);
    pid.map(Process::with_id)
}
