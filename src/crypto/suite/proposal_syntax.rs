//! The syntax of proposals: words joined by hyphens, each the name of an algorithm in the registry.
//!
//! ```text
//!   "aes256-aes128-sha256-modp2048"  ──▶  Tokens { encryption: [aes256, aes128], integrity: [sha256], group: [modp2048], … }
//! ```
//!
//! An error names the word, its position and, where it can, a replacement.

use std::fmt;

use crate::crypto::registry::{
    self, ADDITIONAL, ENCRYPTION, Encryption, Esn, GROUP, Group, INTEGRITY, Integrity, PRF, Prf,
};

/// The word for a Child SA without perfect forward secrecy.
pub(super) const NO_PFS: &str = "nopfs";

/// An invalid word of a proposal, or a word that lacks another one beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalError {
    /// The word, as written.
    pub word: String,
    /// The position of the word in the proposal, in bytes.
    pub offset: usize,
    /// What is wrong.
    pub kind: ProposalErrorKind,
    /// The replacement for `word`, if one is known.
    pub suggestion: Option<String>,
}

/// What is wrong with a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalErrorKind {
    /// An empty word, or an empty proposal.
    Empty,
    /// No algorithm of this name.
    Unknown,
    /// A comma or space: several proposals in one string.
    SeveralProposals,
    /// The same algorithm twice.
    Repeated,
    /// AEAD and CBC in one proposal; RFC 7296 §3.3 requires two proposals.
    MixedEncryption,
    /// No encryption algorithm.
    MissingEncryption,
    /// CBC without an integrity algorithm.
    MissingIntegrity,
    /// AEAD in an IKE proposal without a PRF.
    MissingPrf,
    /// An IKE proposal, or an additional key exchange, without a group.
    MissingGroup,
    /// A PRF in an ESP proposal.
    PrfInEsp,
    /// Extended sequence numbers in an IKE proposal.
    EsnInIke,
    /// A word on perfect forward secrecy in an IKE proposal.
    PfsInIke,
}

impl fmt::Display for ProposalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = &self.word;
        match self.kind {
            ProposalErrorKind::Empty => write!(f, "an algorithm name is missing here")?,
            ProposalErrorKind::Unknown => write!(f, "unknown algorithm \"{word}\"")?,
            ProposalErrorKind::SeveralProposals => write!(
                f,
                "\"{word}\" contains several proposals; write a list with one string for each"
            )?,
            ProposalErrorKind::Repeated => write!(f, "\"{word}\" is repeated")?,
            ProposalErrorKind::MixedEncryption => write!(
                f,
                "\"{word}\" cannot share a proposal with the encryption before it, since only one of them needs an integrity \
                 algorithm; write two proposals"
            )?,
            ProposalErrorKind::MissingEncryption => write!(f, "no encryption algorithm")?,
            ProposalErrorKind::MissingIntegrity => {
                write!(f, "\"{word}\" needs an integrity algorithm beside it")?
            }
            ProposalErrorKind::MissingPrf => write!(f, "\"{word}\" needs a PRF beside it")?,
            ProposalErrorKind::MissingGroup => write!(f, "no key exchange group")?,
            ProposalErrorKind::PrfInEsp => {
                write!(f, "\"{word}\" is a PRF, which ESP does not use")?
            }
            ProposalErrorKind::EsnInIke | ProposalErrorKind::PfsInIke => {
                write!(f, "\"{word}\" is valid in ESP proposals only")?
            }
        }
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean \"{suggestion}\"?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ProposalError {}

/// A word that is accepted but should be written differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A hash beside an AEAD in an IKE proposal is read as the PRF.
    HashNamesPrf {
        /// The hash, as written.
        word: String,
        /// The position of the hash in the proposal, in bytes.
        offset: usize,
        /// The word to write.
        write: &'static str,
    },
    /// A hash beside an AEAD has no effect.
    HashUnused {
        /// The hash, as written.
        word: String,
        /// The position of the hash in the proposal, in bytes.
        offset: usize,
    },
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::HashNamesPrf { word, write, .. } => write!(
                f,
                "\"{word}\" beside an AEAD is read as the PRF; write \"{write}\""
            ),
            Hint::HashUnused { word, .. } => write!(
                f,
                "\"{word}\" has no effect: the AEAD beside it protects integrity itself"
            ),
        }
    }
}

/// One word of a proposal and its position.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub text: &'a str,
    pub offset: usize,
}

impl Token<'_> {
    pub(super) fn error(
        &self,
        kind: ProposalErrorKind,
        suggestion: Option<String>,
    ) -> ProposalError {
        ProposalError {
            word: self.text.to_owned(),
            offset: self.offset,
            kind,
            suggestion,
        }
    }

    pub(super) fn unused_hash(&self) -> Hint {
        Hint::HashUnused {
            word: self.text.to_owned(),
            offset: self.offset,
        }
    }
}

/// The algorithm that a word names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Encryption(&'static Encryption),
    Integrity(&'static Integrity),
    Prf(&'static Prf),
    Group(&'static Group),
    Additional(&'static Group),
    Esn(Esn),
    NoPfs,
}

/// Words of one kind, in order of preference.
pub(super) type Tokens<'a, T> = Vec<(Token<'a>, T)>;

/// The words of a proposal by kind. No algorithm is named twice.
#[derive(Default)]
pub(super) struct ProposalTokens<'a> {
    /// The first word; `None` in no proposal that was read.
    first: Option<Token<'a>>,
    /// The last word that is not an additional key exchange.
    last: Option<Token<'a>>,
    pub encryption: Tokens<'a, &'static Encryption>,
    pub integrity: Tokens<'a, &'static Integrity>,
    pub prf: Tokens<'a, &'static Prf>,
    pub groups: Tokens<'a, &'static Group>,
    pub additional: Tokens<'a, &'static Group>,
    pub esn: Tokens<'a, Esn>,
    /// The word for no perfect forward secrecy.
    pub no_pfs: Option<Token<'a>>,
}

/// Whether an integrity algorithm is negotiated beside the cipher.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CipherMode {
    Cbc,
    Aead,
}

impl<'a> ProposalTokens<'a> {
    /// Splits a proposal at its hyphens and looks up every word.
    pub(super) fn read(proposal: &'a str) -> Result<ProposalTokens<'a>, ProposalError> {
        let mut tokens = ProposalTokens::default();
        let mut seen: Vec<TokenKind> = Vec::new();
        let mut offset = 0_usize;
        for text in proposal.split('-') {
            let token = Token { text, offset };
            if text.is_empty() {
                return Err(token.error(ProposalErrorKind::Empty, None));
            }
            let Some(kind) = token_kind(text) else {
                return Err(match text.contains([',', ' ']) {
                    true => token.error(ProposalErrorKind::SeveralProposals, None),
                    false => token.error(ProposalErrorKind::Unknown, suggestion(text)),
                });
            };
            if seen.contains(&kind) {
                return Err(token.error(ProposalErrorKind::Repeated, None));
            }
            seen.push(kind);
            tokens.push(token, kind);
            offset = offset.saturating_add(text.len()).saturating_add(1);
        }
        Ok(tokens)
    }

    fn push(&mut self, token: Token<'a>, kind: TokenKind) {
        self.first.get_or_insert(token);
        match kind {
            TokenKind::Encryption(row) => self.encryption.push((token, row)),
            TokenKind::Integrity(row) => self.integrity.push((token, row)),
            TokenKind::Prf(row) => self.prf.push((token, row)),
            TokenKind::Group(row) => self.groups.push((token, row)),
            TokenKind::Esn(esn) => self.esn.push((token, esn)),
            TokenKind::NoPfs => self.no_pfs = Some(token),
            TokenKind::Additional(row) => {
                self.additional.push((token, row));
                return;
            }
        }
        self.last = Some(token);
    }

    /// The mode of the encryption algorithms.
    ///
    /// # Errors
    /// No encryption algorithm, algorithms of both modes, or CBC without an integrity algorithm.
    pub(super) fn mode(&self) -> Result<CipherMode, ProposalError> {
        let mode_of = |row: &Encryption| match row.is_aead() {
            true => CipherMode::Aead,
            false => CipherMode::Cbc,
        };
        let (Some((_, first)), Some((last, _))) = (self.encryption.first(), self.encryption.last())
        else {
            let (token, suggestion) = match self.first {
                Some(token) => (token, Some(format!("aes256-{}", token.text))),
                None => (
                    Token {
                        text: "",
                        offset: 0,
                    },
                    None,
                ),
            };
            return Err(token.error(ProposalErrorKind::MissingEncryption, suggestion));
        };
        let mode = mode_of(first);
        match self.encryption.iter().find(|(_, row)| mode_of(row) != mode) {
            Some((token, _)) => Err(token.error(ProposalErrorKind::MixedEncryption, None)),
            None if mode == CipherMode::Cbc && self.integrity.is_empty() => {
                let suggestion = format!("{}-sha256", last.text);
                Err(last.error(ProposalErrorKind::MissingIntegrity, Some(suggestion)))
            }
            None => Ok(mode),
        }
    }

    /// The error of a proposal that needs a group and has none. The group precedes an additional key exchange.
    pub(super) fn missing_group(&self) -> Option<ProposalError> {
        let token = self.last.or(self.first)?;
        let suggestion = format!("{}-modp2048", token.text);
        Some(token.error(ProposalErrorKind::MissingGroup, Some(suggestion)))
    }
}

/// The rows that words of one kind name.
pub(super) fn rows<T: Copy>(tokens: &Tokens<'_, T>) -> Vec<T> {
    tokens.iter().map(|(_, row)| *row).collect()
}

/// Writes words with hyphens between them.
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

/// Every word and what it names, in the order of the registry.
fn vocabulary() -> impl Iterator<Item = (&'static str, TokenKind)> {
    macro_rules! words {
        ($table:expr, $kind:expr) => {
            $table.iter().flat_map(|row| {
                let words = std::iter::once(&row.word).chain(row.aliases);
                words.map(move |word| (*word, $kind(row)))
            })
        };
    }
    words!(ENCRYPTION, TokenKind::Encryption)
        .chain(words!(INTEGRITY, TokenKind::Integrity))
        .chain(words!(PRF, TokenKind::Prf))
        .chain(words!(GROUP, TokenKind::Group))
        .chain(words!(ADDITIONAL, TokenKind::Additional))
        .chain([Esn::Yes, Esn::No].map(|esn| (esn.word(), TokenKind::Esn(esn))))
        .chain([(NO_PFS, TokenKind::NoPfs)])
}

fn token_kind(text: &str) -> Option<TokenKind> {
    vocabulary()
        .find(|(word, _)| *word == text)
        .map(|(_, kind)| kind)
}

/// The word probably meant: a group by its number, or the nearest word by edit distance.
fn suggestion(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let number = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let prefix = text.strip_suffix(number).unwrap_or_default();
    if matches!(prefix, "group" | "grp" | "dh" | "dhgroup")
        && let Some(group) = number.parse().ok().and_then(registry::group)
    {
        return Some(group.word.to_owned());
    }
    // A KEM is named without its prefix.
    let prefixed = format!("ke1_{text}");
    if token_kind(&prefixed).is_some() {
        return Some(prefixed);
    }
    // Beyond a third of the letters, a suggestion would be arbitrary.
    let tolerance = (text.chars().count() / 3).max(1);
    vocabulary()
        .map(|(word, _)| (distance(&text, word), word))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word.to_owned())
}

/// The Levenshtein distance: the least number of insertions, deletions and substitutions from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    // row[j] is the distance from the part of `a` read so far to the first j letters of `b`.
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i.saturating_add(1);
        let mut next = vec![left];
        for (y, &above) in b.chars().zip(row.iter().skip(1)) {
            let replaced = diagonal.saturating_add(usize::from(x != y));
            left = replaced
                .min(above.saturating_add(1))
                .min(left.saturating_add(1));
            diagonal = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("aes129", "aes128"), 1);
    }

    #[test]
    fn a_typing_error_gets_a_suggestion() {
        for (typed, meant) in [
            ("aes129", "aes128"),
            ("AES256", "aes256"),
            ("sha265", "sha256"),
            ("modp204", "modp2048"),
            ("aes256gcm", "aes256gcm16"),
            ("x2519", "x25519"),
            ("curve2551", "curve25519"),
            ("chacha20poly130", "chacha20poly1305"),
            ("group14", "modp2048"),
            ("dh2", "modp1024"),
        ] {
            assert_eq!(suggestion(typed).as_deref(), Some(meant), "{typed}");
        }
        assert_eq!(suggestion("blowfish"), None);
        assert_eq!(suggestion("group99999999"), None);
    }

    #[test]
    fn offsets_point_into_the_proposal() {
        let tokens = ProposalTokens::read("aes128-sha1-modp1024").ok().unwrap();
        let offsets = [
            tokens.encryption[0].0.offset,
            tokens.integrity[0].0.offset,
            tokens.groups[0].0.offset,
        ];
        assert_eq!(offsets, [0, 7, 12]);
    }

    #[test]
    fn synonyms_are_the_same_algorithm() {
        let error = ProposalTokens::read("curve25519-x25519").err().unwrap();
        assert_eq!(
            (error.kind, error.offset),
            (ProposalErrorKind::Repeated, 11)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_rejected_with_an_offset_in_it(text in "[a-z0-9ä,-]{0,40}") {
            if let Err(error) = ProposalTokens::read(&text) {
                prop_assert_eq!(text.get(error.offset..error.offset + error.word.len()), Some(error.word.as_str()));
            }
        }
    }
}
