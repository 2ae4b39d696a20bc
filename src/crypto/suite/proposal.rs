//! What IKE and ESP proposals have in common: ciphers of one mode, hints, and how lists of rows print.

use std::fmt;

use super::Protection;
use super::proposal_syntax::{ProposalError, ProposalErrorKind, Token, TokenKind};
use crate::crypto::registry::{AlgorithmStatus, Encryption, Group, Integrity, Prf};

/// Something accepted that is better written differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
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

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::HashNamesPrf { word, write, .. } => {
                write!(
                    f,
                    "\"{word}\" beside an AEAD is taken for the PRF; write \"{write}\""
                )
            }
            Hint::HashUnused { word, .. } => {
                write!(
                    f,
                    "\"{word}\" is not used: the AEAD beside it protects integrity itself"
                )
            }
        }
    }
}

/// The encryption algorithms of a proposal, which are all of one mode.
pub(super) struct CipherRows<'a> {
    pub rows: Vec<&'static Encryption>,
    pub mode: CipherMode,
    pub last: Token<'a>,
}

/// Whether an integrity algorithm stands beside the cipher.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CipherMode {
    Cbc,
    Aead,
}

pub(super) fn encryption<'a>(words: &[Token<'a>]) -> Result<CipherRows<'a>, ProposalError> {
    let mut ciphers: Option<CipherRows<'a>> = None;
    for word in words {
        let TokenKind::Encryption(row) = word.kind else {
            continue;
        };
        let mode = if row.is_aead() {
            CipherMode::Aead
        } else {
            CipherMode::Cbc
        };
        match &mut ciphers {
            None => {
                ciphers = Some(CipherRows {
                    rows: vec![row],
                    mode,
                    last: *word,
                })
            }
            Some(ciphers) if ciphers.mode == mode => {
                ciphers.rows.push(row);
                ciphers.last = *word;
            }
            Some(_) => return Err(word.error(ProposalErrorKind::MixedEncryption, None)),
        }
    }
    ciphers.ok_or_else(|| match words.first() {
        Some(word) => word.error(
            ProposalErrorKind::MissingEncryption,
            Some(format!("aes256-{}", word.text)),
        ),
        None => ProposalError {
            word: String::new(),
            offset: 0,
            kind: ProposalErrorKind::Empty,
            suggestion: None,
        },
    })
}

pub(super) fn hashes<'w, 'a>(
    words: &'w [Token<'a>],
) -> impl Iterator<Item = (Token<'a>, &'static Integrity)> + use<'w, 'a> {
    words.iter().filter_map(|word| match word.kind {
        TokenKind::Integrity(row) => Some((*word, row)),
        TokenKind::Encryption(_)
        | TokenKind::Prf(_)
        | TokenKind::Group(_)
        | TokenKind::Additional(_)
        | TokenKind::Esn(_) => None,
    })
}

/// The integrity algorithms of a CBC proposal, which must have one.
pub(super) fn required_integrity(
    words: &[Token<'_>],
) -> Result<Vec<&'static Integrity>, ProposalError> {
    let rows: Vec<_> = hashes(words).map(|(_, row)| row).collect();
    let last = words
        .iter()
        .rfind(|word| matches!(word.kind, TokenKind::Encryption(_)));
    match last {
        Some(word) if rows.is_empty() => Err(word.error(
            ProposalErrorKind::MissingIntegrity,
            Some(format!("{}-sha256", word.text)),
        )),
        _ => Ok(rows),
    }
}

pub(super) fn prfs(words: &[Token<'_>]) -> Vec<&'static Prf> {
    let row = |word: &Token<'_>| match word.kind {
        TokenKind::Prf(row) => Some(row),
        TokenKind::Encryption(_)
        | TokenKind::Integrity(_)
        | TokenKind::Group(_)
        | TokenKind::Additional(_)
        | TokenKind::Esn(_) => None,
    };
    words.iter().filter_map(row).collect()
}

pub(super) fn groups(words: &[Token<'_>]) -> Vec<&'static Group> {
    let row = |word: &Token<'_>| match word.kind {
        TokenKind::Group(row) => Some(row),
        TokenKind::Encryption(_)
        | TokenKind::Integrity(_)
        | TokenKind::Prf(_)
        | TokenKind::Additional(_)
        | TokenKind::Esn(_) => None,
    };
    words.iter().filter_map(row).collect()
}

/// The methods of the first additional key exchange, which comes on top of one with a group.
pub(super) fn additional(words: &[Token<'_>]) -> Vec<&'static Group> {
    let row = |word: &Token<'_>| match word.kind {
        TokenKind::Additional(row) => Some(row),
        TokenKind::Encryption(_)
        | TokenKind::Integrity(_)
        | TokenKind::Prf(_)
        | TokenKind::Group(_)
        | TokenKind::Esn(_) => None,
    };
    words.iter().filter_map(row).collect()
}

/// A proposal that needs a group and has none.
pub(super) fn missing_group(words: &[Token<'_>]) -> Option<ProposalError> {
    // The group stands before an additional key exchange.
    let ordinary = |word: &&Token<'_>| !matches!(word.kind, TokenKind::Additional(_));
    let word = words.iter().rfind(ordinary).or(words.last())?;
    let suggestion = format!("{}-modp2048", word.text);
    Some(word.error(ProposalErrorKind::MissingGroup, Some(suggestion)))
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
) -> impl Iterator<Item = (&'static str, AlgorithmStatus)> {
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
