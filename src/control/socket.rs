//! Socket file: private before it accepts connections, taken over from a dead daemon, left alone while another daemon listens.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Group whose members may use the socket, if the group exists.
const GROUP: &str = "groundlink";

/// Backlog of connections not yet accepted.
const BACKLOG: i32 = 64;

/// Listening control socket; its file is removed on drop.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    inode: u64,
}

/// Reason why the control socket cannot be created.
#[derive(Debug)]
pub enum SocketError {
    /// Another daemon listens on the path.
    InUse(PathBuf),
    /// The path is a file of another type.
    NotASocket(PathBuf),
    /// Error of the operating system.
    Refused(PathBuf, io::Error),
}

impl SocketError {
    /// Advice for the operator.
    pub fn advice(&self) -> String {
        match self {
            SocketError::InUse(_) => {
                "groundlink is already running: stop it, or give this instance another `control` and `--socket`"
                    .to_owned()
            }
            SocketError::NotASocket(path) => format!(
                "remove {} or set another `control` under `[gateway]`",
                path.display()
            ),
            SocketError::Refused(path, error) => {
                let folder = path.parent().unwrap_or(Path::new("/")).display();
                if error.kind() == io::ErrorKind::NotFound {
                    format!(
                        "create its directory: mkdir -m 0755 {folder} (systemd does so with RuntimeDirectory=groundlink)"
                    )
                } else {
                    format!("the user that runs groundlink needs write permission for {folder}")
                }
            }
        }
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::InUse(path) => write!(f, "another daemon listens on {}", path.display()),
            SocketError::NotASocket(path) => {
                write!(f, "{} exists and is not a socket", path.display())
            }
            SocketError::Refused(path, error) => write!(
                f,
                "cannot create the control socket {}: {error}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for SocketError {}

/// Creates the control socket. Must be called inside a tokio runtime.
pub fn listen(path: &Path) -> Result<Listener, SocketError> {
    remove_stale(path)?;
    let refused = |error: io::Error| SocketError::Refused(path.to_owned(), error);
    let (socket, inode) = bind(path).map_err(refused)?;
    Ok(Listener {
        socket,
        path: path.to_owned(),
        inode,
    })
}

fn bind(path: &Path) -> io::Result<(UnixListener, u64)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux copies the socket's mode to the file on bind, so the file is never open to others.
    fchmod(socket.as_fd(), Mode::from_bits_truncate(0o600))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let inode = metadata.ino();
    open_to_group(path, &metadata);
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let socket = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    Ok((socket, inode))
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A later daemon may have replaced the file: remove it only if it is still this listener's.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket file of a dead daemon. Fails if a daemon accepts connections on it, or if connecting is not permitted.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let refused = |error: io::Error| SocketError::Refused(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    // Nonblocking: a live daemon with a full backlog must not block the start.
    let connected = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
        .and_then(|socket| socket.connect(&SockAddr::unix(path)?));
    match connected.map_err(|error| (error.kind(), error)) {
        // WouldBlock: the backlog of a live daemon is full.
        Ok(()) | Err((io::ErrorKind::WouldBlock, _)) => Err(SocketError::InUse(path.to_owned())),
        Err((io::ErrorKind::ConnectionRefused, _)) => fs::remove_file(path).map_err(refused),
        Err((_, error)) => Err(refused(error)),
    }
}

/// Opens the file to the group if the group exists and the file is the group's or may be given to it; otherwise the file stays private.
fn open_to_group(path: &Path, metadata: &fs::Metadata) {
    let Ok(Some(group)) = Group::from_name(GROUP) else {
        return;
    };
    // A service with Group=groundlink owns the file already, and its system call filter rejects every chown, also one that changes nothing.
    let is_owned = metadata.gid() == group.gid.as_raw()
        || chown(path, None, Some(Gid::from_raw(group.gid.as_raw()))).is_ok();
    if is_owned {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o660));
    }
}
