//! Files of pre-shared keys and post-quantum pre-shared keys: access rights, and decoding of the key.
//!
//! ```text
//!   open (non-blocking, following links) ─▶ regular file? ─▶ no access for others, not writable by the group? ─▶ read, bounded ─▶ decode
//! ```
//!
//! The mode checked is that of the open file, not of the path. Every buffer that holds key text or key bytes is wiped when it is
//! dropped, after an error too, and no error text quotes the file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use data_encoding::{BASE64_NOPAD, Encoding, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::crypto::Secret;

/// Options of a load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts the credentials of a service.
    pub credentials: Option<PathBuf>,
    /// Whether key files must be readable.
    pub secrets: SecretPolicy,
}

/// Whether key files must be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretPolicy {
    /// An unreadable key file is an error: for the daemon.
    Required,
    /// An unreadable key file is a note and its key empty: for `check`.
    IfReadable,
    /// No key file is opened and all keys are empty: for untrusted texts.
    Unread,
}

/// Location of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLocation {
    /// A file.
    File(PathBuf),
    /// A credential that systemd provides to the service.
    Credential(String),
}

/// Purpose of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Authentication (RFC 7296 §2.15).
    Psk,
    /// Post-quantum security of the IKE SA's keys (RFC 8784).
    Ppk,
}

impl KeyKind {
    /// Name of the kind in error texts.
    fn word(self) -> &'static str {
        match self {
            KeyKind::Psk => "PSK",
            KeyKind::Ppk => "PPK",
        }
    }

    /// A warning with advice if the key is too short.
    fn length_warning(self, key: &Secret, encoding: KeyEncoding) -> Option<KeyWarning> {
        let (minimum, warning) = match (self, encoding) {
            (KeyKind::Psk, KeyEncoding::Binary) => (PSK_MIN_BYTES, SHORT_PSK),
            (KeyKind::Psk, KeyEncoding::Text) => (PSK_MIN_CHARACTERS, SHORT_PSK),
            (KeyKind::Ppk, KeyEncoding::Binary) => (PPK_MIN_BYTES, SHORT_PPK),
            (KeyKind::Ppk, KeyEncoding::Text) => (PPK_MIN_CHARACTERS, SHORT_PPK),
        };
        (key.len() < minimum).then_some(warning)
    }
}

/// Encoding of a key in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyEncoding {
    /// Hexadecimal or base64: every bit may be random.
    Binary,
    /// Plain text: a person may have chosen the characters.
    Text,
}

/// A warning about a key, and advice.
type KeyWarning = (&'static str, &'static str);

const SHORT_PSK: KeyWarning = (
    "this pre-shared key is short: an attacker who answers in the peer's place can find it by an offline search",
    "generate a strong one with `groundlink psk` and set it on both sides",
);

const SHORT_PPK: KeyWarning = (
    "this post-quantum pre-shared key has fewer than 256 bits, of which a quantum computer leaves half (RFC 8784 section 6)",
    "generate a strong one with `groundlink psk` and set it on both sides",
);

const BLANKS: KeyWarning = (
    "this pre-shared key begins or ends with a blank, a carriage return or a second newline, which are part of the key",
    "if they are not meant, write the file with `printf %s KEY > FILE`",
);

/// Why a key could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFileError {
    /// This user may not read the file; another user may.
    AccessDenied {
        /// What happened.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The file must not be used as it is.
    Invalid {
        /// What is wrong.
        what: String,
        /// What to do.
        advice: String,
    },
}

/// A loaded key.
#[derive(Debug, Clone)]
pub struct LoadedKey {
    /// The key.
    pub key: Secret,
    /// Warnings about the key.
    pub warnings: Vec<KeyWarning>,
}

/// Maximum size of a key file in bytes.
const MAX_FILE_SIZE: usize = 4096;

/// Minimum length of a textual PSK: a shorter one can be found by an offline search (RFC 7296 §2.15).
const PSK_MIN_CHARACTERS: usize = 20;

/// Minimum length of a binary PSK: 112 bits.
const PSK_MIN_BYTES: usize = 14;

/// Minimum length of a binary PPK: 256 bits.
const PPK_MIN_BYTES: usize = 32;

/// Minimum length of a textual PPK: 256 bits in letters and digits.
const PPK_MIN_CHARACTERS: usize = 43;

/// Loads a key. `credentials` is `$CREDENTIALS_DIRECTORY`, whose files systemd protects.
pub fn read(
    location: &KeyLocation,
    kind: KeyKind,
    credentials: Option<&Path>,
) -> Result<LoadedKey, KeyFileError> {
    match location {
        KeyLocation::Credential(name) => {
            let Some(folder) = credentials else {
                return Err(KeyFileError::AccessDenied {
                    what: format!("the credential `{name}` is only available inside the systemd service"),
                    advice: "check `LoadCredential=` in groundlink.service; outside the service use `file`".to_owned(),
                });
            };
            let path = folder.join(name);
            if path.symlink_metadata().is_err() {
                return Err(invalid(
                    format!("systemd provides no credential `{name}`"),
                    "with `LoadCredential=psk:/etc/groundlink/psk` the file NAME there is the credential psk_NAME; restart the service after adding a file",
                ));
            }
            read_file(&path, kind, AccessControl::Systemd)
        }
        KeyLocation::File(path) => {
            let access = match credentials {
                Some(folder) if path.parent() == Some(folder) => AccessControl::Systemd,
                Some(_) | None => AccessControl::FileMode,
            };
            read_file(path, kind, access)
        }
    }
}

/// What protects a file from other users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessControl {
    /// The mode of the file, which is checked.
    FileMode,
    /// systemd, whose credentials may be world-readable inside a private mount.
    Systemd,
}

fn read_file(path: &Path, kind: KeyKind, access: AccessControl) -> Result<LoadedKey, KeyFileError> {
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
    decode(&contents, kind)
        .map_err(|error| invalid(format!("the {word} file {shown} {}", error.0), error.1))
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

/// What is wrong with the contents of a key file, and advice; neither quotes the file.
#[derive(Debug, PartialEq, Eq)]
struct KeyFormatError(&'static str, &'static str);

/// Decodes a key: one trailing newline is removed, `0x…` is hexadecimal, `0s…` base64, anything else the bytes themselves.
fn decode(contents: &[u8], kind: KeyKind) -> Result<LoadedKey, KeyFormatError> {
    let bytes = contents.strip_suffix(b"\n").unwrap_or(contents);
    let (key, encoding) = if bytes.is_empty() {
        let advice = "store a key in it; `groundlink psk` generates one";
        return Err(KeyFormatError("is empty", advice));
    } else if let Some(digits) = bytes.strip_prefix(b"0x") {
        let key = decode_with(&HEXLOWER_PERMISSIVE, digits).ok_or(KeyFormatError(
            "starts with 0x, but the rest is not hexadecimal",
            "write two hex digits for each byte, and nothing else",
        ))?;
        (key, KeyEncoding::Binary)
    } else if let Some(text) = bytes.strip_prefix(b"0s") {
        let key = decode_with(&BASE64, without_padding(text)).ok_or(KeyFormatError(
            "starts with 0s, but the rest is not base64",
            "write base64 in one line, and nothing else",
        ))?;
        (key, KeyEncoding::Binary)
    } else {
        (Secret::from_slice(bytes), KeyEncoding::Text)
    };
    let bytes = key.as_bytes();
    let is_blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    let has_blanks =
        encoding == KeyEncoding::Text && (is_blank(bytes.first()) || is_blank(bytes.last()));
    let length_warning = kind.length_warning(&key, encoding);
    let warnings = length_warning
        .into_iter()
        .chain(has_blanks.then_some(BLANKS))
        .collect();
    Ok(LoadedKey { key, warnings })
}

/// Base64 (RFC 4648 §4) without padding. Unused bits of the last digit may be set, as other implementations accept them.
static BASE64: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE64_NOPAD.specification();
    specification.check_trailing_bits = false;
    specification
        .encoding()
        .expect("base64 without a check is a valid encoding")
});

/// Base64 text without its padding, if the padding is correct; other text is left as it is.
fn without_padding(text: &[u8]) -> &[u8] {
    if !text.len().is_multiple_of(4) {
        return text;
    }
    let text = text.strip_suffix(b"=").unwrap_or(text);
    text.strip_suffix(b"=").unwrap_or(text)
}

/// Decodes a key of at least one byte into a buffer that is wiped also if decoding fails halfway.
fn decode_with(encoding: &Encoding, text: &[u8]) -> Option<Secret> {
    let length = encoding
        .decode_len(text.len())
        .ok()
        .filter(|length| *length > 0)?;
    let mut key = Zeroizing::new(vec![0; length]);
    encoding.decode_mut(text, &mut key).ok()?;
    Some(Secret::new(std::mem::take(&mut *key)))
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
            format!("create it: (umask 077; groundlink psk > {shown})"),
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
        let warnings = |contents: &[u8]| read_with(contents, 0o600).unwrap().warnings.len();
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
        let warnings = |contents: &str| found(contents).unwrap().warnings.len();
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
