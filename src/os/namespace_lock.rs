//! Lock that one process of each network namespace can hold: the name of an abstract unix socket (unix(7)). Abstract names belong to the
//! network namespace, as routes and devices do, and the kernel releases the name with the process, whichever way it ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
    socket, sockopt,
};

use nix::unistd::getuid;

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
    /// A process of a user other than root and this one holds the name: hardly a groundlink, since any user can take an abstract name.
    #[error(
        "a process of user {user} holds the unix socket @groundlink, the lock of this network namespace{}",
        .process.as_ref().map_or(String::new(), |process| format!(": {process}"))
    )]
    Foreign {
        /// User ID.
        user: u32,
        /// The process, if the kernel shows which one.
        process: Option<Process>,
    },
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
            Err(Errno::EADDRINUSE) => return Err(holder()),
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

/// The error that says who holds the lock.
fn holder() -> LockError {
    let credentials = || {
        let socket = unix_socket().ok()?;
        connect(socket.as_raw_fd(), &name().ok()?).ok()?;
        getsockopt(&socket, sockopt::PeerCredentials).ok()
    };
    let Some(credentials) = credentials() else {
        return LockError::Held(None);
    };
    // Process 0: one of another PID namespace.
    let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0);
    held_by(credentials.uid(), pid.map(Process::with_id))
}

fn held_by(user: u32, process: Option<Process>) -> LockError {
    match [0, getuid().as_raw()].contains(&user) {
        true => LockError::Held(process),
        false => LockError::Foreign { user, process },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_another_user_is_not_called_a_groundlink() {
        let process = Process {
            pid: 7,
            name: "other".to_owned(),
        };
        let own = getuid().as_raw();
        for user in [0, own] {
            let text = held_by(user, Some(process.clone())).to_string();
            assert!(text.contains("another groundlink runs"), "{text}");
        }
        let text = held_by(own + 1, Some(process)).to_string();
        let user = format!("a process of user {} holds", own + 1);
        assert!(
            text.contains(&user) && text.ends_with(": other (process 7)"),
            "{text}"
        );
    }
}
