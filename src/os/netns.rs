//! Network namespaces without names: held by a descriptor, gone with the last process that holds or uses them, however that ends.
//!
//! ```text
//!   unprivileged: become_root_in_user_namespace()      (before any thread)
//!   Namespace::new()  ──▶ descriptor ──▶ run(closure)          a thread steps in, works, ends
//!                                   ├──▶ enter(command)        a child steps in before it execs, and dies with us
//!                                   └──▶ connect(other)        a virtual cable between two of them
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

/// A network namespace, alive while this is.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

/// Why there is no user namespace for us.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The machine's settings allow none.
    #[error(
        "user namespaces are switched off for ordinary users ({setting} = {value}): run with sudo, or allow them with \
             `sudo sysctl -w {setting}={wanted}`"
    )]
    Forbidden {
        /// The setting.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// Something else is in the way: a container's seccomp filter, say.
    #[error(
        "a user namespace is refused here ({0}; a container's sandbox, perhaps): run with sudo or outside the container"
    )]
    Refused(io::Error),
    /// It is there, and we cannot make ourselves root in it.
    #[error("becoming root in a user namespace failed: {step}: {error}")]
    Mapping {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Moves this process into namespaces of its own (user, network, mount), where it is root: it may make devices, routes and further
/// network namespaces, and nothing outside changes.
///
/// # Errors
/// See [`UserNamespaceError`]. The process must have one thread only; the kernel refuses otherwise.
pub fn become_root_in_user_namespace() -> Result<(), UserNamespaceError> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| what_forbids().unwrap_or(UserNamespaceError::Refused(errno.into())))?;
    let failed = |step| move |error: io::Error| UserNamespaceError::Mapping { step, error };
    // Without this an unprivileged group map is refused (user_namespaces(7)).
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

/// The setting that keeps ordinary users from making user namespaces, if one of the known ones does.
fn what_forbids() -> Option<UserNamespaceError> {
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
    /// A new namespace with nothing in it but a loopback device, which is up.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN.
    pub fn new() -> io::Result<Namespace> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let namespace = Namespace::current()?;
            Netlink::open()
                .and_then(|mut netlink| netlink.set_up(1))
                .map_err(io::Error::other)?;
            Ok(namespace)
        })?
    }

    /// The namespace this thread is in.
    ///
    /// # Errors
    /// No /proc, or no descriptor left.
    pub fn current() -> io::Result<Namespace> {
        Ok(Namespace(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// Runs `work` on a thread inside. Sockets and devices it makes belong to the namespace wherever they are used later.
    ///
    /// # Errors
    /// The thread cannot step inside.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?
    }

    /// Makes `command` start inside, with no signal blocked whatever this thread blocks, and die (SIGKILL) when the *thread* that
    /// starts it ends, so that nothing outlives us.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        let namespace = self.0.try_clone()?;
        let parent = nix::unistd::getpid();
        let step_in = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            SigSet::empty().thread_set_mask()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // A parent that died before the line above sends nothing any more.
            if getppid() == parent {
                Ok(())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        };
        // SAFETY: between fork and exec, the closure makes four system calls and neither allocates nor locks.
        unsafe { command.pre_exec(step_in) };
        Ok(())
    }

    /// A connection to its routing tables.
    ///
    /// # Errors
    /// The thread cannot step inside, or see [`Netlink::open`].
    pub fn netlink(&self) -> Result<Netlink, NetlinkError> {
        self.run(Netlink::open)?
    }

    /// Lays a virtual cable to `other`: a device `ours` here, a device `theirs` there, both down.
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

    /// Changes a setting inside, e.g. `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// No such setting, or /proc/sys may not be written.
    pub fn set(&self, setting: &str, value: &str) -> io::Result<()> {
        self.run(|| sysctl::write(setting, value))?
    }

    /// A path that names it for other programs (`nsenter --net=PATH`), valid while this process holds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A thread that changes its namespace must not be used for anything else.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, work)?;
        worker
            .join()
            .map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}
