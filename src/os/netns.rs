//! Anonymous network namespaces: kept alive by a descriptor and gone with the last process that holds or uses them.
//!
//! ```text
//!   unprivileged: become_root_in_user_namespace()      (before any thread)
//!   Namespace::new()  ──▶ descriptor ──▶ run(closure)          on a thread inside
//!                                   ├──▶ enter(command)        a child inside, killed with its parent thread
//!                                   └──▶ connect(other)        a veth pair between two namespaces
//! ```

#![allow(unsafe_code, reason = "pre_exec")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getegid, geteuid, getppid};

use super::netlink::{Netlink, NetlinkError, VethEnd};
use super::sysctl;

/// Network namespace, kept alive by its descriptor.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

/// Why no user namespace could be created.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// A setting of the machine forbids user namespaces.
    #[error(
        "user namespaces are disabled for ordinary users ({setting} = {value}): run with sudo, or allow them with \
             `sudo sysctl -w {setting}={wanted}`"
    )]
    Forbidden {
        /// Name of the setting.
        setting: &'static str,
        /// Current value.
        value: String,
        /// Necessary value.
        wanted: &'static str,
    },
    /// Another restriction, such as the seccomp filter of a container.
    #[error(
        "creating a user namespace failed ({0}; perhaps because of a container's sandbox): run with sudo or outside the container"
    )]
    Rejected(io::Error),
    /// The user namespace exists, but its ID maps could not be set up.
    #[error("becoming root in a user namespace failed: {step}: {error}")]
    Mapping {
        /// The step.
        step: &'static str,
        /// Error of the system.
        error: io::Error,
    },
}

/// Moves this process into new user, network and mount namespaces, where it is root: it can create devices, routes and network
/// namespaces without effects outside.
///
/// # Errors
/// See [`UserNamespaceError`]. The process must have a single thread.
pub fn become_root_in_user_namespace() -> Result<(), UserNamespaceError> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| {
            forbidding_setting().unwrap_or(UserNamespaceError::Rejected(errno.into()))
        })?;
    let failed = |step| move |error: io::Error| UserNamespaceError::Mapping { step, error };
    // Necessary for an unprivileged group map (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").map_err(failed("writing setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))
        .map_err(failed("writing the user map"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
        .map_err(failed("writing the group map"))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|errno| failed("making mounts private")(errno.into()))
}

/// Setting that forbids user namespaces to ordinary users, among the known ones.
fn forbidding_setting() -> Option<UserNamespaceError> {
    const SETTINGS: [(&str, &str, &str); 3] = [
        ("user.max_user_namespaces", "0", "10000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    SETTINGS.into_iter().find_map(|(setting, forbids, wanted)| {
        let value = sysctl::read(setting).ok()?;
        (value == forbids).then_some(UserNamespaceError::Forbidden {
            setting,
            value,
            wanted,
        })
    })
}

impl Namespace {
    /// Creates an empty namespace and sets its loopback device up.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN.
    pub fn new() -> io::Result<Namespace> {
        in_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let namespace = Namespace::current()?;
            Netlink::open()
                .and_then(|mut netlink| netlink.set_up(1))
                .map_err(io::Error::other)?;
            Ok(namespace)
        })?
    }

    /// Namespace of this thread.
    ///
    /// # Errors
    /// No /proc, or no descriptor left.
    pub fn current() -> io::Result<Namespace> {
        Ok(Namespace(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// Runs `work` on a thread inside the namespace. Sockets and devices that it creates stay in the namespace.
    ///
    /// # Errors
    /// The thread cannot enter the namespace.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_new_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?
    }

    /// Makes `command` start inside the namespace with no signal blocked, and receive SIGKILL when the *thread* that starts it
    /// ends.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        let namespace = self.0.try_clone()?;
        let parent = nix::unistd::getpid();
        let enter = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            SigSet::empty().thread_set_mask()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // If the parent died before the line above, no signal would come.
            if getppid() == parent {
                Ok(())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        };
        // SAFETY: between fork and exec, the closure makes four system calls and neither allocates nor locks.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// Netlink connection inside the namespace.
    ///
    /// # Errors
    /// The thread cannot enter the namespace, or see [`Netlink::open`].
    pub fn netlink(&self) -> Result<Netlink, NetlinkError> {
        self.run(Netlink::open)?
    }

    /// Connects to `other` by a veth pair: device `ours` here and device `theirs` there, both down.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn connect(&self, ours: &str, other: &Namespace, theirs: &str) -> Result<(), NetlinkError> {
        let end = |namespace| {
            move |name| VethEnd {
                name,
                namespace: Some(namespace),
            }
        };
        self.netlink()?
            .add_veth(end(self.as_fd())(ours), end(other.as_fd())(theirs))
    }

    /// Changes a sysctl inside the namespace, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// No such setting, or /proc/sys is not writable.
    pub fn set(&self, setting: &str, value: &str) -> io::Result<()> {
        self.run(|| sysctl::write(setting, value))?
    }

    /// Path for other programs (`nsenter --net=PATH`), valid while this process holds the descriptor.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A thread that changes its namespace must not be used for other work.
fn in_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, work)?;
        worker
            .join()
            .map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}
