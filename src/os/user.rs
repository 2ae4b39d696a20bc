//! Users of this machine, and what they may read.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;

use nix::unistd::{self, Gid, Uid, getgrouplist, setfsgid, setfsuid};

/// A user with the groups of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl User {
    /// The user of this name; `None` if there is none, or for root, who may read everything.
    pub fn named(name: &str) -> Option<User> {
        let user = unistd::User::from_name(name).ok()??;
        let groups = getgrouplist(&CString::new(name).ok()?, user.gid).ok()?;
        (!user.uid.is_root()).then_some(User {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            groups,
        })
    }

    /// Opens a file for reading with the rights of this user; for root only.
    ///
    /// # Errors
    /// The user may not read the file, or this process may not take the user's place.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        // The rights belong to a thread of its own, which ends with them.
        thread::scope(|scope| scope.spawn(|| self.open_here(path)).join())
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }

    /// Opens a file after this thread has taken the rights of the user, which also drops the capabilities for files (capabilities(7)).
    #[allow(unsafe_code, reason = "setgroups for one thread has no safe wrapper")]
    fn open_here(&self, path: &Path) -> io::Result<File> {
        let groups: Vec<libc::gid_t> = self.groups.iter().map(|group| group.as_raw()).collect();
        // SAFETY: the pointer and the length are those of `groups`. The raw system call changes this thread only.
        let failed = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        setfsgid(self.gid);
        setfsuid(self.uid);
        let mut options = OpenOptions::new();
        // Non-blocking: to open a FIFO without a writer would block.
        options
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    #[ignore = "needs root: tests/run runs it"]
    fn a_file_is_opened_with_the_rights_of_the_user_and_no_other_thread_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "x").unwrap();
        let mode =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let nobody = User::named("nobody").unwrap();
        let refused = |path: &Path| nobody.open(path).unwrap_err().kind();
        mode(folder.path(), 0o755);
        mode(&path, 0o644);
        assert!(nobody.open(&path).is_ok());
        mode(&path, 0o640);
        assert_eq!(refused(&path), io::ErrorKind::PermissionDenied);
        mode(&path, 0o644);
        mode(folder.path(), 0o700);
        assert_eq!(refused(&path), io::ErrorKind::PermissionDenied);
        assert!(File::open(&path).is_ok(), "this thread is still root");
        assert!(User::named("root").is_none());
    }
}
