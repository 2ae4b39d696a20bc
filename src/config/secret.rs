//! Files of pre-shared keys and post-quantum pre-shared keys: where they are, and their access rights.
//!
//! ```text
//!   open (non-blocking, following links) ─▶ regular file? ─▶ no access for others, not writable by the group? ─▶ read, bounded ─▶ key_text
//! ```
//!
//! The mode checked is that of the open file, not of the path. Every buffer that holds key text or key bytes is wiped when it is
//! dropped, after an error too, and no error text quotes the file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::key_text::{self, KeyEncoding, KeyFileError, KeyKind, LoadedKey};
use super::service::{ServiceCredential, ServiceView};

/// Options of a load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts the credentials of a service.
    pub credentials: Option<PathBuf>,
    /// Whether key files must be readable.
    pub secrets: SecretPolicy,
}

/// Whether key files must be readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPolicy {
    /// An unreadable key file is an error.
    Required,
    /// A tunnel whose key cannot be read is marked, with a warning and an empty key: for the daemon, in which that tunnel waits.
    Deferred,
    /// An unreadable key file is a note and its key empty: for `check`.
    IfReadable,
    /// A key file that the systemd service cannot read is an error: for `check` as root.
    AsService(ServiceView),
    /// No key file is opened and all keys are empty: for untrusted texts.
    Unread,
}

/// Why a key could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingSecret {
    /// Description.
    pub what: String,
    /// Advice.
    pub advice: String,
    /// Whether only a restart can provide the key: systemd loads credentials before it starts the service.
    pub until_restart: bool,
}

/// Location of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLocation {
    /// A file.
    File(PathBuf),
    /// A credential that systemd provides to the service.
    Credential(String),
}

/// Maximum size of a key file in bytes.
const MAX_FILE_SIZE: usize = 4096;

/// A key file as the configuration names it.
#[derive(Debug, Clone, Copy)]
pub struct KeySource<'a> {
    /// Location.
    pub location: &'a KeyLocation,
    /// Purpose.
    pub kind: KeyKind,
    /// Encoding, if the configuration sets it.
    pub encoding: Option<KeyEncoding>,
}

impl KeySource<'_> {
    /// Loads the key. `options.credentials` is `$CREDENTIALS_DIRECTORY`, whose files systemd protects.
    pub fn read(self, options: &LoadOptions) -> Result<LoadedKey, KeyFileError> {
        match (self.location, &options.credentials, &options.secrets) {
            (KeyLocation::Credential(name), Some(folder), _) => self.read_credential(name, folder),
            (KeyLocation::Credential(name), None, SecretPolicy::AsService(view)) => {
                self.read_as_systemd(name, view)
            }
            (KeyLocation::Credential(name), None, _) => Err(outside_the_service(name)),
            (KeyLocation::File(path), Some(folder), _) if path.parent() == Some(folder) => {
                self.read_file(path, AccessControl::Systemd)
            }
            (KeyLocation::File(path), None, SecretPolicy::AsService(view)) => {
                let key = self.read_file(path, AccessControl::FileMode)?;
                view.check_access(path, self.kind).map(|()| key)
            }
            (KeyLocation::File(path), _, _) => self.read_file(path, AccessControl::FileMode),
        }
    }

    /// Reads a credential inside the service.
    fn read_credential(self, name: &str, folder: &Path) -> Result<LoadedKey, KeyFileError> {
        let path = folder.join(name);
        if path.symlink_metadata().is_err() {
            return Err(invalid(
                format!("systemd provides no credential `{name}`"),
                CREDENTIAL_ADVICE,
            ));
        }
        self.read_file(&path, AccessControl::Systemd)
    }

    fn read_file(self, path: &Path, access: AccessControl) -> Result<LoadedKey, KeyFileError> {
        let kind = self.kind;
        let (shown, word) = (path.display(), kind.word());
        // Non-blocking: to open a FIFO without a writer would block the daemon.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        let cannot_read = |error| cannot_read(path, kind, &error);
        let file = opened.map_err(cannot_read)?;
        let metadata = file.metadata().map_err(cannot_read)?;
        if metadata.is_dir() {
            let what = format!("the {word} file {shown} is a directory");
            return Err(invalid(what, "name a file in it"));
        }
        if !metadata.is_file() {
            let what = format!("the {word} file {shown} is not a regular file");
            return Err(invalid(what, "store the key in a regular file"));
        }
        if access == AccessControl::FileMode {
            check_mode(path, kind, &metadata)?;
        }
        let Some(contents) = read_bounded(&file).map_err(cannot_read)? else {
            let what = format!("the {word} file {shown} has more than {MAX_FILE_SIZE} bytes");
            let advice = "a pre-shared key is shorter; generate one with `groundlink psk`";
            return Err(invalid(what, advice));
        };
        key_text::decode(&contents, kind, self.encoding).map_err(|error| {
            invalid(
                format!("the {word} file {shown} {}", error.what),
                error.advice,
            )
        })
    }

    /// Reads the file from which systemd would make a credential.
    fn read_as_systemd(self, name: &str, view: &ServiceView) -> Result<LoadedKey, KeyFileError> {
        match view.credential(name) {
            ServiceCredential::File(path) if path.symlink_metadata().is_ok() => {
                self.read_file(&path, AccessControl::Systemd)
            }
            ServiceCredential::File(path) => {
                let shown = path.display();
                Err(invalid(
                    format!(
                        "systemd cannot provide the credential `{name}`: there is no file {shown}"
                    ),
                    create_advice(&path),
                ))
            }
            ServiceCredential::Absent => Err(invalid(
                format!("groundlink.service loads no credential `{name}`"),
                CREDENTIAL_ADVICE,
            )),
            ServiceCredential::Unknown => Err(outside_the_service(name)),
        }
    }
}

const CREDENTIAL_ADVICE: &str = "with `LoadCredential=psk:/etc/groundlink/psk` the file NAME there is the credential psk_NAME; restart the service after adding a file";

fn outside_the_service(name: &str) -> KeyFileError {
    KeyFileError::AccessDenied {
        what: format!("the credential `{name}` is only available inside the systemd service"),
        advice: "check `LoadCredential=` in groundlink.service; outside the service use `file`"
            .to_owned(),
    }
}

fn create_advice(path: &Path) -> String {
    format!(
        "create it: (umask 077; groundlink psk > {})",
        path.display()
    )
}

/// What protects a file from other users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessControl {
    /// The mode of the file, which is checked.
    FileMode,
    /// systemd, whose credentials may be world-readable inside a private mount.
    Systemd,
}

/// Rejects any access for others, and write access for the group.
fn check_mode(path: &Path, kind: KeyKind, metadata: &Metadata) -> Result<(), KeyFileError> {
    let mode = metadata.mode() & 0o777;
    let (shown, word) = (path.display(), kind.word());
    let reason = match (mode & 0o007, mode & 0o020) {
        (0, 0) => return Ok(()),
        (0, _) => "its group can write it",
        (_, 0) => "every user can access it",
        (_, _) => "every user can access it, and its group can write it",
    };
    let fixed = mode & 0o750;
    Err(invalid(
        format!("the {word} file {shown} has mode {mode:04o}: {reason}"),
        format!("chmod {fixed:04o} {shown}"),
    ))
}

/// Reads a file; `None` if it is too large.
fn read_bounded(file: &File) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // One allocation that never grows: growing would leave a copy of the key behind. The spare bytes beyond the limit keep
    // `read_to_end` from probing for the end of the file in a buffer of its own.
    let mut contents = Zeroizing::new(Vec::with_capacity(MAX_FILE_SIZE + 64));
    let limit = MAX_FILE_SIZE as u64 + 1;
    file.take(limit).read_to_end(&mut contents)?;
    Ok((contents.len() <= MAX_FILE_SIZE).then_some(contents))
}

fn cannot_read(path: &Path, kind: KeyKind, error: &io::Error) -> KeyFileError {
    let (shown, word) = (path.display(), kind.word());
    match error.kind() {
        io::ErrorKind::PermissionDenied => KeyFileError::AccessDenied {
            what: format!("this user may not read the {word} file {shown}"),
            advice: "make the user of the service its owner or a member of its group, with access to its directories".to_owned(),
        },
        io::ErrorKind::NotFound => invalid(
            format!("there is no {word} file {shown}"),
            create_advice(path),
        ),
        _ => invalid(format!("cannot read the {word} file {shown}: {error}"), ""),
    }
}

fn invalid(what: impl Into<String>, advice: impl Into<String>) -> KeyFileError {
    KeyFileError::Invalid {
        what: what.into(),
        advice: advice.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const KEY: &[u8] = b"Q7vYd0x3LmZk9TtR2sWcUe8HnB5gJpAi";

    /// The result of reading a file with these contents and this mode.
    fn read_with(contents: &[u8], mode: u32) -> Result<LoadedKey, KeyFileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read(&KeyLocation::File(path), KeyKind::Psk, None)
    }

    fn read(
        location: &KeyLocation,
        kind: KeyKind,
        credentials: Option<&Path>,
    ) -> Result<LoadedKey, KeyFileError> {
        let options = LoadOptions {
            credentials: credentials.map(Path::to_owned),
            secrets: SecretPolicy::Required,
        };
        let encoding = None;
        KeySource {
            location,
            kind,
            encoding,
        }
        .read(&options)
    }

    fn key(contents: &[u8]) -> Vec<u8> {
        read_with(contents, 0o600).unwrap().key.as_bytes().to_vec()
    }

    /// The error of a file with these contents, without the path.
    fn format_error(contents: &[u8]) -> String {
        match read_with(contents, 0o600) {
            Err(KeyFileError::Invalid { what, advice }) => {
                format!("{} | {advice}", what.split_once("/key ").unwrap().1)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn h01_the_key_is_the_exact_bytes_without_one_trailing_newline() {
        for long in [64, 65, 4096] {
            assert_eq!(key(&vec![b'k'; long]), vec![b'k'; long]);
        }
        assert_eq!(key(b"abc\n"), b"abc");
        assert_eq!(key(b"abc\n\n"), b"abc\n");
        assert_eq!(key(b"abc\r\n"), b"abc\r");
        assert_eq!(key(b" a b\0\xff "), b" a b\0\xff ");
        assert_eq!(key(b"\"abc\""), b"\"abc\"");
    }

    #[test]
    fn h01_hexadecimal_and_base64_keys_are_decoded() {
        assert_eq!(key(b"0x00ffA0"), [0, 255, 0xa0]);
        assert_eq!(key(b"0x00ff\n"), [0, 255]);
        assert_eq!(key(b"0sAAECAw=="), [0, 1, 2, 3]);
        assert_eq!(key(b"0sAAECAw"), [0, 1, 2, 3]);
        assert_eq!(key(b"0s/+8="), [0xff, 0xef]);
        assert_eq!(key(b"0sAAEC"), [0, 1, 2]);
        for bad in [&b"0x"[..], b"0x0", b"0xzz", b"0x00 ", b"0x00\n\n"] {
            assert!(format_error(bad).contains("is not hexadecimal"), "{bad:?}");
        }
        for bad in [
            &b"0s"[..],
            b"0sA",
            b"0sAA=A",
            b"0sAA=",
            b"0s====",
            b"0sA A",
            b"0sAA===",
        ] {
            assert!(format_error(bad).contains("is not base64"), "{bad:?}");
        }
    }

    #[test]
    fn h01_empty_and_oversized_files_are_rejected() {
        assert_eq!(
            format_error(b""),
            "is empty | store a key in it; `groundlink psk` generates one"
        );
        assert!(format_error(b"\n").starts_with("is empty"));
        assert!(format_error(&[b'k'; 4097]).starts_with("has more than 4096 bytes"));
    }

    #[test]
    fn h01_a_mode_that_gives_access_to_others_is_rejected_with_the_chmod_command() {
        for good in [0o600, 0o400, 0o640, 0o440, 0o700] {
            assert!(read_with(KEY, good).is_ok(), "{good:o}");
        }
        for (bad, chmod, why) in [
            (0o644, "chmod 0640 ", "every user"),
            (0o604, "chmod 0600 ", "every user"),
            (0o601, "chmod 0600 ", "every user"),
            (0o602, "chmod 0600 ", "every user"),
            (0o660, "chmod 0640 ", "its group can write it"),
            (0o620, "chmod 0600 ", "its group can write it"),
            (0o666, "chmod 0640 ", "and its group can write it"),
        ] {
            match read_with(KEY, bad) {
                Err(KeyFileError::Invalid { what, advice }) => {
                    assert!(
                        what.contains(&format!("{bad:04o}")) && what.contains(why),
                        "{what}"
                    );
                    assert!(advice.starts_with(chmod), "{bad:o}: {advice}");
                }
                other => panic!("{bad:o}: {other:?}"),
            }
        }
    }

    #[test]
    fn h01_the_mode_checked_is_that_of_a_links_target() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, KEY).unwrap();
        symlink(&file, &link).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&KeyLocation::File(link.clone()), KeyKind::Psk, None).is_err());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read(&KeyLocation::File(link), KeyKind::Psk, None).is_ok());
    }

    #[test]
    fn h01_anything_but_a_regular_file_is_rejected_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let what = |path: &Path| match read(&KeyLocation::File(path.to_owned()), KeyKind::Psk, None)
        {
            Err(KeyFileError::Invalid { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert!(what(folder.path()).contains("is a directory"));
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(what(&fifo).contains("is not a regular file"));
        assert!(what(Path::new("/dev/zero")).contains("is not a regular file"));
        assert!(what(&folder.path().join("none")).contains("there is no PSK file"));
        assert!(what(Path::new("/dev/null/x")).contains("cannot read"));
    }

    #[test]
    fn a_file_of_another_user_is_reported_as_access_denied() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(matches!(
            cannot_read(Path::new("/x"), KeyKind::Psk, &error),
            KeyFileError::AccessDenied { .. }
        ));
    }

    #[test]
    fn the_mode_of_a_systemd_credential_is_not_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("psk_a");
        fs::write(&path, KEY).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(read(&KeyLocation::File(path.clone()), KeyKind::Psk, None).is_err());
        assert!(read(&KeyLocation::File(path), KeyKind::Psk, Some(folder.path())).is_ok());
        assert!(
            read(
                &KeyLocation::Credential("psk_a".to_owned()),
                KeyKind::Psk,
                Some(folder.path())
            )
            .is_ok()
        );
    }

    #[test]
    fn h02_short_keys_and_keys_with_blanks_have_warnings() {
        let warnings = |contents: &[u8]| {
            read_with(contents, 0o600)
                .unwrap()
                .findings
                .iter()
                .filter(|finding| finding.is_warning)
                .count()
        };
        assert_eq!(warnings(KEY), 0);
        assert_eq!(warnings(b"nineteen characters"), 1);
        assert_eq!(warnings(b"0x000102030405060708090a0b0c"), 1);
        assert_eq!(warnings(b"0x000102030405060708090a0b0c0d"), 0);
        assert_eq!(warnings(b"long enough for anyone, but \r\n"), 1);
        assert_eq!(warnings(b" hunter2"), 2);
    }

    #[test]
    fn h02_a_ppk_below_256_bits_has_a_warning_and_errors_say_ppk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ppk");
        let found = |contents: &str| {
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            read(&KeyLocation::File(path.clone()), KeyKind::Ppk, None)
        };
        let warnings = |contents: &str| {
            found(contents)
                .unwrap()
                .findings
                .iter()
                .filter(|finding| finding.is_warning)
                .count()
        };
        assert_eq!(warnings(&"k".repeat(43)), 0);
        assert_eq!(warnings(&"k".repeat(42)), 1);
        assert_eq!(warnings(&format!("0x{}", "5a".repeat(32))), 0);
        assert_eq!(warnings(&format!("0x{}", "5a".repeat(31))), 1);
        match found("") {
            Err(KeyFileError::Invalid { what, .. }) => {
                assert!(what.contains("the PPK file"), "{what}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn h04_no_debug_output_contains_the_key() {
        for contents in [KEY, b"0xQ7vYd0x3LmZk9", b"0sQ7vYd0x3LmZk9***"] {
            assert!(!format!("{:?}", read_with(contents, 0o600)).contains("Q7vYd0x3LmZk9"));
        }
    }
}
