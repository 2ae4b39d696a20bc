//! What IKE and ESP proposals have in common: ciphers of one mode, notes, and how lists of rows print.

use std::fmt;

use super::Protection;
use super::words::{Meaning, Word, WordError, WordErrorKind};
use crate::crypto::registry::{Encryption, Group, Integrity, Prf, Status};

/// Something accepted that is better written differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A hash beside an AEAD in an IKE proposal was taken for the PRF.
    HashNamesPrf {
        /// The hash, as written.
        word: String,
        /// Where it begins in the proposal, in bytes.
        offset: usize,
        /// The word to write.
        write: &'static str,
    },
    /// A hash beside an AEAD does nothing.
    HashUnused {
        /// The hash, as written.
        word: String,
        /// Where it begins in the proposal, in bytes.
        offset: usize,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::HashNamesPrf { word, write, .. } => {
                write!(
                    f,
                    "\"{word}\" beside an AEAD is taken for the PRF; write \"{write}\""
                )
            }
            Note::HashUnused { word, .. } => {
                write!(
                    f,
                    "\"{word}\" is not used: the AEAD beside it protects integrity itself"
                )
            }
        }
    }
}

/// The encryption algorithms of a proposal, which are all of one mode.
pub(super) struct Ciphers<'a> {
    pub rows: Vec<&'static Encryption>,
    pub mode: Mode,
    pub last: Word<'a>,
}

/// Whether an integrity algorithm stands beside the cipher.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Cbc,
    Aead,
}

pub(super) fn encryption<'a>(words: &[Word<'a>]) -> Result<Ciphers<'a>, WordError> {
    let mut ciphers: Option<Ciphers<'a>> = None;
    for word in words {
        let Meaning::Encryption(row) = word.meaning else {
            continue;
        };
        let mode = if row.is_aead() { Mode::Aead } else { Mode::Cbc };
        match &mut ciphers {
            None => {
                ciphers = Some(Ciphers {
                    rows: vec![row],
                    mode,
                    last: *word,
                })
            }
            Some(ciphers) if ciphers.mode == mode => {
                ciphers.rows.push(row);
                ciphers.last = *word;
            }
            Some(_) => return Err(word.error(WordErrorKind::MixedEncryption, None)),
        }
    }
    ciphers.ok_or_else(|| match words.first() {
        Some(word) => word.error(
            WordErrorKind::MissingEncryption,
            Some(format!("aes256-{}", word.text)),
        ),
        None => WordError {
            word: String::new(),
            offset: 0,
            kind: WordErrorKind::Empty,
            suggestion: None,
        },
    })
}

pub(super) fn hashes<'w, 'a>(
    words: &'w [Word<'a>],
) -> impl Iterator<Item = (Word<'a>, &'static Integrity)> + use<'w, 'a> {
    words.iter().filter_map(|word| match word.meaning {
        Meaning::Integrity(row) => Some((*word, row)),
        Meaning::Encryption(_)
        | Meaning::Prf(_)
        | Meaning::Group(_)
        | Meaning::Additional(_)
        | Meaning::Esn(_) => None,
    })
}

/// The integrity algorithms of a CBC proposal, which must have one.
pub(super) fn required_integrity(words: &[Word<'_>]) -> Result<Vec<&'static Integrity>, WordError> {
    let rows: Vec<_> = hashes(words).map(|(_, row)| row).collect();
    let last = words
        .iter()
        .rfind(|word| matches!(word.meaning, Meaning::Encryption(_)));
    match last {
        Some(word) if rows.is_empty() => Err(word.error(
            WordErrorKind::MissingIntegrity,
            Some(format!("{}-sha256", word.text)),
        )),
        _ => Ok(rows),
    }
}

pub(super) fn prfs(words: &[Word<'_>]) -> Vec<&'static Prf> {
    let row = |word: &Word<'_>| match word.meaning {
        Meaning::Prf(row) => Some(row),
        Meaning::Encryption(_)
        | Meaning::Integrity(_)
        | Meaning::Group(_)
        | Meaning::Additional(_)
        | Meaning::Esn(_) => None,
    };
    words.iter().filter_map(row).collect()
}

pub(super) fn groups(words: &[Word<'_>]) -> Vec<&'static Group> {
    let row = |word: &Word<'_>| match word.meaning {
        Meaning::Group(row) => Some(row),
        Meaning::Encryption(_)
        | Meaning::Integrity(_)
        | Meaning::Prf(_)
        | Meaning::Additional(_)
        | Meaning::Esn(_) => None,
    };
    words.iter().filter_map(row).collect()
}

/// The methods of the first additional key exchange, which comes on top of one with a group.
pub(super) fn additional(words: &[Word<'_>]) -> Vec<&'static Group> {
    let row = |word: &Word<'_>| match word.meaning {
        Meaning::Additional(row) => Some(row),
        Meaning::Encryption(_)
        | Meaning::Integrity(_)
        | Meaning::Prf(_)
        | Meaning::Group(_)
        | Meaning::Esn(_) => None,
    };
    words.iter().filter_map(row).collect()
}

/// A proposal that needs a group and has none.
pub(super) fn missing_group(words: &[Word<'_>]) -> Option<WordError> {
    // The group stands before an additional key exchange.
    let ordinary = |word: &&Word<'_>| !matches!(word.meaning, Meaning::Additional(_));
    let word = words.iter().rfind(ordinary).or(words.last())?;
    let suggestion = format!("{}-modp2048", word.text);
    Some(word.error(WordErrorKind::MissingGroup, Some(suggestion)))
}

pub(super) fn first_protection(
    encryption: &[&'static Encryption],
    integrity: &[&'static Integrity],
) -> Option<Protection> {
    let encryption = *encryption.first()?;
    let integrity = if encryption.is_aead() {
        None
    } else {
        Some(*integrity.first()?)
    };
    Some(Protection {
        encryption,
        integrity,
    })
}

pub(super) fn statuses(
    encryption: &[&'static Encryption],
    integrity: &[&'static Integrity],
    groups: &[&'static Group],
) -> impl Iterator<Item = (&'static str, Status)> {
    (encryption.iter().map(|row| (row.word, row.status)))
        .chain(integrity.iter().map(|row| (row.word, row.status)))
        .chain(groups.iter().map(|row| (row.word, row.status)))
}

pub(super) fn join(
    f: &mut fmt::Formatter<'_>,
    words: impl Iterator<Item = &'static str>,
) -> fmt::Result {
    for (i, word) in words.enumerate() {
        let hyphen = if i == 0 { "" } else { "-" };
        write!(f, "{hyphen}{word}")?;
    }
    Ok(())
}
