//! The socket file: made private before anyone can connect, taken over from a daemon that died, left alone while one lives.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Members of this group may talk to the daemon, where the group exists.
const GROUP: &str = "groundlink";

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 64;

/// A control socket that listens. Its file goes when this is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    inode: u64,
}

/// Why there is no control socket.
#[derive(Debug)]
pub enum SocketError {
    /// A daemon answers on it.
    InUse(PathBuf),
    /// Something else has this name.
    NotASocket(PathBuf),
    /// The system refused.
    Refused(PathBuf, io::Error),
}

impl SocketError {
    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            SocketError::InUse(_) => "a groundlink is running already; stop it, or give this one another `control` and `--socket`".to_owned(),
            SocketError::NotASocket(path) => format!("remove {} or set another `control` under `[gateway]`", path.display()),
            SocketError::Refused(path, error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                format!("make its folder: mkdir -m 0755 {} (systemd does it with RuntimeDirectory=groundlink)", folder.display())
            }
            SocketError::Refused(path, _) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                format!("the user running groundlink must be able to write to {}", folder.display())
            }
        }
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::InUse(path) => write!(f, "another daemon listens on {}", path.display()),
            SocketError::NotASocket(path) => {
                write!(f, "{} exists and is no socket", path.display())
            }
            SocketError::Refused(path, error) => write!(
                f,
                "cannot make the control socket {}: {error}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for SocketError {}

/// Makes the control socket. Must be called inside a tokio runtime.
pub fn listen(path: &Path) -> Result<Listener, SocketError> {
    let refused = |error: io::Error| SocketError::Refused(path.to_owned(), error);
    clear(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(refused)?;
    // Linux gives the file the mode of the socket it is bound from: there is no moment at which others could connect.
    fchmod(socket.as_fd(), Mode::from_bits_truncate(0o600))
        .map_err(|error| refused(error.into()))?;
    socket
        .bind(&SockAddr::unix(path).map_err(refused)?)
        .map_err(refused)?;
    let inode = fs::symlink_metadata(path).map_err(refused)?.ino();
    open_to_group(path);
    socket.listen(BACKLOG).map_err(refused)?;
    socket.set_nonblocking(true).map_err(refused)?;
    let socket =
        UnixListener::from_std(std::os::unix::net::UnixListener::from(socket)).map_err(refused)?;
    Ok(Listener {
        socket,
        path: path.to_owned(),
        inode,
    })
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only ours: a successor may have put its own there already.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a daemon that died. One that answers, or that we may not ask, stays.
fn clear(path: &Path) -> Result<(), SocketError> {
    let refused = |error: io::Error| SocketError::Refused(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    // Without waiting: one that accepts nobody just now is alive all the same.
    let asked = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
        .and_then(|socket| socket.connect(&SockAddr::unix(path)?));
    match asked {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(refused)
        }
        // A full backlog is a live daemon as well.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::InUse(path.to_owned()))
        }
        Err(error) => Err(refused(error)),
    }
}

/// Lets the group in, if there is one and we may give the file to it; otherwise it stays ours alone.
fn open_to_group(path: &Path) {
    let Ok(Some(group)) = Group::from_name(GROUP) else {
        return;
    };
    if chown(path, None, Some(Gid::from_raw(group.gid.as_raw()))).is_ok() {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o660));
    }
}
