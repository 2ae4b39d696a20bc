//! Files of pre-shared keys, and of post-quantum ones: who may read them, and which bytes in them are the key.
//!
//! ```text
//!   open (no waiting, following links) ─▶ a regular file? ─▶ nobody else may read, no group may write? ─▶ read, bounded ─▶ decode
//! ```
//!
//! Permissions are those of the open file, not of its name: what was checked is what is read. Nothing here ever prints a key.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::crypto::Secret;

/// Where a key is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLocation {
    /// A file.
    File(PathBuf),
    /// A credential that systemd hands to the service.
    Credential(String),
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Proving who is who.
    Psk,
    /// The keys of an IKE SA, beside the key exchange (RFC 8784).
    Ppk,
}

impl KeyKind {
    /// As files of this kind are called.
    fn word(self) -> &'static str {
        match self {
            KeyKind::Psk => "PSK",
            KeyKind::Ppk => "PPK",
        }
    }

    /// What is doubtful about a key with fewer bytes, if it is written out, or else with fewer characters; and what to do.
    fn short(self, key: &Secret, written: KeyEncoding) -> Option<(&'static str, &'static str)> {
        let (least, doubt) = match (self, written) {
            (KeyKind::Psk, KeyEncoding::Binary) => (FEW_BYTES, GUESSED),
            (KeyKind::Psk, KeyEncoding::Text) => (FEW_CHARACTERS, GUESSED),
            (KeyKind::Ppk, KeyEncoding::Binary) => (QUANTUM_BYTES, SEARCHED),
            (KeyKind::Ppk, KeyEncoding::Text) => (QUANTUM_CHARACTERS, SEARCHED),
        };
        (key.len() < least).then_some(doubt)
    }
}

/// How a file holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyEncoding {
    /// In hex or base64: every bit of it counts.
    Binary,
    /// In characters, of which a person may have chosen each.
    Text,
}

const GUESSED: (&str, &str) = (
    "this pre-shared key is short enough to be guessed by someone who answers in the peer's place",
    "`groundlink psk` makes a strong one; set it on both sides",
);

const SEARCHED: (&str, &str) = (
    "this post-quantum pre-shared key has fewer than 256 bits, and a quantum computer halves that (RFC 8784 §6)",
    "`groundlink psk` makes a strong one; set it on both sides",
);

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFileError {
    /// This user may not read it; another may.
    AccessDenied {
        /// What happened.
        what: String,
        /// What to do about it.
        advice: String,
    },
    /// Nobody should use it as it is.
    Invalid {
        /// What is wrong.
        what: String,
        /// What to do about it.
        advice: String,
    },
}

/// A key, and what is doubtful about it.
#[derive(Debug, Clone)]
pub struct LoadedKey {
    /// The key.
    pub key: Secret,
    /// Warnings: what is doubtful, what to do.
    pub warnings: Vec<(&'static str, &'static str)>,
}

/// The most bytes a key file may have.
const MOST: u64 = 4096;

/// Fewer characters than this can be guessed offline by someone who answers in the peer's place (RFC 7296 §2.15).
const FEW_CHARACTERS: usize = 20;

/// Fewer bytes than this of hex or base64 are as bad: 112 bits.
const FEW_BYTES: usize = 14;

/// 256 bits.
const QUANTUM_BYTES: usize = 32;

/// As many letters and digits.
const QUANTUM_CHARACTERS: usize = 43;

/// Reads a key. `credentials` is `$CREDENTIALS_DIRECTORY`: systemd guards what is in it.
pub fn read(
    location: &KeyLocation,
    kind: KeyKind,
    credentials: Option<&Path>,
) -> Result<LoadedKey, KeyFileError> {
    match location {
        KeyLocation::Credential(name) => {
            let Some(folder) = credentials else {
                return Err(KeyFileError::AccessDenied {
                    what: format!("the credential `{name}` exists only inside the service"),
                    advice: "systemd provides it (`LoadCredential=` in groundlink.service); elsewhere name a `file`".to_owned(),
                });
            };
            let path = folder.join(name);
            if path.symlink_metadata().is_err() {
                return Err(unusable(
                    format!("systemd provides no credential `{name}`"),
                    "with `LoadCredential=psk:/etc/groundlink/psk` the file NAME there is the credential psk_NAME; restart the service after adding one",
                ));
            }
            read_file(&path, kind, AccessControl::Systemd)
        }
        KeyLocation::File(path) => {
            let guard = match credentials {
                Some(folder) if path.parent() == Some(folder) => AccessControl::Systemd,
                Some(_) | None => AccessControl::FileMode,
            };
            read_file(path, kind, guard)
        }
    }
}

/// Who keeps others from reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessControl {
    /// Its mode, which is checked.
    FileMode,
    /// systemd, whose credentials may be world-readable inside a private mount.
    Systemd,
}

fn read_file(path: &Path, kind: KeyKind, guard: AccessControl) -> Result<LoadedKey, KeyFileError> {
    let (shown, word) = (path.display(), kind.word());
    // Not waiting: a FIFO without a writer would hold up the daemon for ever.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = opened.map_err(|error| cannot_open(path, kind, &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| cannot_open(path, kind, &error))?;
    if metadata.is_dir() {
        return Err(unusable(
            format!("the {word} file {shown} is a directory"),
            "name the file in it",
        ));
    }
    if !metadata.is_file() {
        return Err(unusable(
            format!("the {word} file {shown} is not a regular file"),
            "put the key into an ordinary file",
        ));
    }
    if guard == AccessControl::FileMode {
        check_mode(path, kind, &metadata)?;
    }
    let contents = read_bounded(&file).map_err(|error| cannot_open(path, kind, &error))?;
    let Some(contents) = contents else {
        return Err(unusable(
            format!("the {word} file {shown} has more than {MOST} bytes"),
            "that is no pre-shared key; `groundlink psk` makes one",
        ));
    };
    decode(&contents, kind)
        .map_err(|fault| unusable(format!("the {word} file {shown} {}", fault.0), fault.1))
}

/// Neither any access for others nor writing for the group.
fn check_mode(path: &Path, kind: KeyKind, metadata: &Metadata) -> Result<(), KeyFileError> {
    let mode = metadata.mode() & 0o777;
    let (shown, word) = (path.display(), kind.word());
    let who = match (mode & 0o007, mode & 0o020) {
        (0, 0) => return Ok(()),
        (0, _) => "its group may change it",
        (_, 0) => "everyone on this machine has access to it",
        (_, _) => "everyone on this machine has access to it, and its group may change it",
    };
    let fixed = mode & 0o750;
    Err(unusable(
        format!("the {word} file {shown} has mode {mode:04o}: {who}"),
        format!("chmod {fixed:04o} {shown}"),
    ))
}

fn read_bounded(file: &File) -> io::Result<Option<Secret>> {
    // One allocation that never grows: a buffer that moves leaves copies of the key behind.
    let mut contents = Vec::with_capacity(MOST as usize + 2);
    file.take(MOST + 1).read_to_end(&mut contents)?;
    let fits = contents.len() as u64 <= MOST;
    let contents = Secret::new(contents);
    Ok(fits.then_some(contents))
}

/// What is wrong with the contents of a key file, and what to do; neither quotes it.
#[derive(Debug, PartialEq, Eq)]
struct KeyFormatError(&'static str, &'static str);

/// One trailing newline is dropped; `0x…` is hex, `0s…` base64; otherwise the exact bytes.
fn decode(contents: &Secret, kind: KeyKind) -> Result<LoadedKey, KeyFormatError> {
    let bytes = contents.as_bytes();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() {
        return Err(KeyFormatError(
            "is empty",
            "put the key into it; `groundlink psk` makes one",
        ));
    }
    if let Some(hex) = bytes.strip_prefix(b"0x") {
        let key = unhex(hex).ok_or(KeyFormatError(
            "starts with 0x but is not whole bytes of hex",
            "write two hex digits a byte, and nothing else",
        ))?;
        return Ok(found(key, kind, KeyEncoding::Binary));
    }
    if let Some(base64) = bytes.strip_prefix(b"0s") {
        let key = unbase64(base64).ok_or(KeyFormatError(
            "starts with 0s but is not base64",
            "write base64 in one line, and nothing else",
        ))?;
        return Ok(found(key, kind, KeyEncoding::Binary));
    }
    Ok(found(Secret::from_slice(bytes), kind, KeyEncoding::Text))
}

fn found(key: Secret, kind: KeyKind, written: KeyEncoding) -> LoadedKey {
    let mut warnings = Vec::new();
    warnings.extend(kind.short(&key, written));
    let bytes = key.as_bytes();
    let blank = |at: Option<&u8>| at.is_some_and(u8::is_ascii_whitespace);
    if written == KeyEncoding::Text && (blank(bytes.first()) || blank(bytes.last())) {
        warnings.push((
            "this pre-shared key begins or ends with a blank, a carriage return or a second newline, all of which count",
            "write the file with `printf %s KEY > FILE` if that is not meant",
        ));
    }
    LoadedKey { key, warnings }
}

fn unhex(digits: &[u8]) -> Option<Secret> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    let mut bytes = Vec::with_capacity(pairs.len());
    for [high, low] in pairs {
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(Secret::new(bytes))
}

/// RFC 4648 §4, padded or not.
fn unbase64(text: &[u8]) -> Option<Secret> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = text.get(..text.len().checked_sub(padding)?)?;
    let padded = padding == 0 || (padding <= 2 && text.len().is_multiple_of(4));
    if digits.is_empty() || digits.len() % 4 == 1 || !padded {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            let value = ALPHABET.iter().position(|digit| digit == byte)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        let whole = (bits << (6 * (4 - group.len()))).to_be_bytes();
        bytes.extend_from_slice(whole.get(1..group.len())?);
    }
    Some(Secret::new(bytes))
}

fn cannot_open(path: &Path, kind: KeyKind, error: &io::Error) -> KeyFileError {
    let (shown, word) = (path.display(), kind.word());
    match error.kind() {
        io::ErrorKind::PermissionDenied => KeyFileError::AccessDenied {
            what: format!("the {word} file {shown} is not readable by this user"),
            advice: "the service's user must own it or be in its group, and be able to enter its folders".to_owned(),
        },
        io::ErrorKind::NotFound => unusable(format!("there is no {word} file {shown}"), format!("make one: (umask 077; groundlink psk > {shown})")),
        _ => unusable(format!("the {word} file {shown} cannot be read: {error}"), ""),
    }
}

fn unusable(what: impl Into<String>, advice: impl Into<String>) -> KeyFileError {
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

    /// A file with these contents and this mode, and what reading it gives.
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

    /// What is wrong with a file, path left out.
    fn fault(contents: &[u8]) -> String {
        match read_with(contents, 0o600) {
            Err(KeyFileError::Invalid { what, advice }) => {
                format!("{} | {advice}", what.split_once("/key ").unwrap().1)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn h01_the_exact_bytes_are_the_key_but_for_one_newline() {
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
    fn h01_hex_and_base64() {
        assert_eq!(key(b"0x00ffA0"), [0, 255, 0xa0]);
        assert_eq!(key(b"0x00ff\n"), [0, 255]);
        assert_eq!(key(b"0sAAECAw=="), [0, 1, 2, 3]);
        assert_eq!(key(b"0sAAECAw"), [0, 1, 2, 3]);
        assert_eq!(key(b"0s/+8="), [0xff, 0xef]);
        assert_eq!(key(b"0sAAEC"), [0, 1, 2]);
        for bad in [&b"0x"[..], b"0x0", b"0xzz", b"0x00 ", b"0x00\n\n"] {
            assert!(fault(bad).contains("is not whole bytes of hex"), "{bad:?}");
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
            assert!(fault(bad).contains("is not base64"), "{bad:?}");
        }
    }

    #[test]
    fn h01_empty_and_huge_files_are_no_keys() {
        assert_eq!(
            fault(b""),
            "is empty | put the key into it; `groundlink psk` makes one"
        );
        assert!(fault(b"\n").starts_with("is empty"));
        assert!(fault(&[b'k'; 4097]).starts_with("has more than 4096 bytes"));
    }

    #[test]
    fn h01_modes_that_let_others_in_are_refused_with_the_chmod() {
        for good in [0o600, 0o400, 0o640, 0o440, 0o700] {
            assert!(read_with(KEY, good).is_ok(), "{good:o}");
        }
        for (bad, chmod, why) in [
            (0o644, "chmod 0640 ", "everyone on this machine"),
            (0o604, "chmod 0600 ", "everyone"),
            (0o601, "chmod 0600 ", "everyone"),
            (0o602, "chmod 0600 ", "everyone"),
            (0o660, "chmod 0640 ", "its group may change it"),
            (0o620, "chmod 0600 ", "its group may change it"),
            (0o666, "chmod 0640 ", "and its group may change it"),
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
    fn h01_a_link_is_judged_by_the_file_behind_it() {
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
    fn h01_what_is_no_file_is_refused_without_waiting() {
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
        assert!(what(Path::new("/dev/null/x")).contains("cannot be read"));
    }

    #[test]
    fn a_file_of_another_user_is_somebody_elses_business() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(matches!(
            cannot_open(Path::new("/x"), KeyKind::Psk, &error),
            KeyFileError::AccessDenied { .. }
        ));
    }

    #[test]
    fn systemd_guards_its_own_folder() {
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
    fn h02_keys_that_can_be_guessed_are_doubted() {
        let warnings = |contents: &[u8]| read_with(contents, 0o600).unwrap().warnings.len();
        assert_eq!(warnings(KEY), 0);
        assert_eq!(warnings(b"nineteen characters"), 1);
        assert_eq!(warnings(b"0x000102030405060708090a0b0c"), 1);
        assert_eq!(warnings(b"0x000102030405060708090a0b0c0d"), 0);
        assert_eq!(warnings(b"long enough for anyone, but \r\n"), 1);
        assert_eq!(warnings(b" hunter2"), 2);
    }

    #[test]
    fn h02_a_post_quantum_key_wants_256_bits_and_is_called_by_its_name() {
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
    fn h04_nothing_about_a_key_file_prints_the_key() {
        for contents in [KEY, b"0xQ7vYd0x3LmZk9", b"0sQ7vYd0x3LmZk9***"] {
            assert!(!format!("{:?}", read_with(contents, 0o600)).contains("Q7vYd0x3LmZk9"));
        }
    }
}
