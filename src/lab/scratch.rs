//! A private folder that goes when the lab goes.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A folder only we may enter, removed with everything in it when dropped.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes one under the system's temporary folder.
    pub fn new() -> io::Result<ScratchDir> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        // Another lab of this process may run at the same time (the tests do that), hence the number.
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a folder inside.
    pub fn folder(&self, name: &str) -> io::Result<PathBuf> {
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

/// Writes a file that only we may read.
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

/// Removes what labs that were killed left behind. Folders of others cannot be removed and are passed over.
fn sweep(parent: &Path) {
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

    use super::*;

    #[test]
    fn nobody_else_may_look_inside_and_nothing_stays() {
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
    fn the_folder_of_a_killed_lab_is_swept_and_that_of_a_live_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        // The largest process id Linux gives is 2^22.
        let dead = parent.path().join("groundlink-lab-4194999-0");
        let live = parent
            .path()
            .join(format!("groundlink-lab-{}-7", std::process::id()));
        fs::create_dir(&dead).unwrap();
        fs::create_dir(&live).unwrap();
        sweep(parent.path());
        assert!(!dead.exists() && live.exists());
    }
}
