//! The words of a proposal: splitting at hyphens, finding rows, and saying what is wrong with a word that has none.

use std::fmt;

use super::Esn;
use crate::crypto::registry::{
    self, ADDITIONAL, ENCRYPTION, Encryption, GROUP, Group, INTEGRITY, Integrity, PRF, Prf,
};

/// A word that cannot stand where it stands, or one that is missing beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalError {
    /// The word complained about, as written.
    pub word: String,
    /// Where it begins in the proposal, in bytes.
    pub offset: usize,
    /// What is wrong.
    pub kind: ProposalErrorKind,
    /// What to write in place of `word`, where that is clear.
    pub suggestion: Option<String>,
}

/// What is wrong with a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalErrorKind {
    /// Nothing between two hyphens, or nothing at all.
    Empty,
    /// No algorithm has this name.
    Unknown,
    /// A comma or space: several proposals in one string.
    SeveralProposals,
    /// The same algorithm twice.
    Repeated,
    /// AEAD and CBC in one proposal, which RFC 7296 §3.3 asks to be two.
    MixedEncryption,
    /// No encryption algorithm.
    MissingEncryption,
    /// CBC without an integrity algorithm.
    MissingIntegrity,
    /// AEAD in an IKE proposal without a PRF.
    MissingPrf,
    /// An IKE proposal without a group.
    MissingGroup,
    /// A PRF in an ESP proposal.
    PrfInEsp,
    /// Extended sequence numbers in an IKE proposal.
    EsnInIke,
}

impl fmt::Display for ProposalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = &self.word;
        match self.kind {
            ProposalErrorKind::Empty => write!(f, "a word is missing here")?,
            ProposalErrorKind::Unknown => write!(f, "there is no algorithm \"{word}\"")?,
            ProposalErrorKind::SeveralProposals => write!(
                f,
                "\"{word}\" holds more than one proposal; write a list, one string each"
            )?,
            ProposalErrorKind::Repeated => write!(f, "\"{word}\" is there twice")?,
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
            ProposalErrorKind::EsnInIke => write!(f, "\"{word}\" belongs to ESP proposals")?,
        }
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean \"{suggestion}\"?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ProposalError {}

/// A word of a proposal, where it stands and what it names.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub text: &'a str,
    pub offset: usize,
    pub kind: TokenKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Encryption(&'static Encryption),
    Integrity(&'static Integrity),
    Prf(&'static Prf),
    Group(&'static Group),
    Additional(&'static Group),
    Esn(Esn),
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
}

/// Splits a proposal into words that each name an algorithm, none twice.
pub(super) fn read(proposal: &str) -> Result<Vec<Token<'_>>, ProposalError> {
    let mut words: Vec<Token<'_>> = Vec::new();
    let mut offset = 0_usize;
    for text in proposal.split('-') {
        let fault = |kind, suggestion| ProposalError {
            word: text.to_owned(),
            offset,
            kind,
            suggestion,
        };
        if text.is_empty() {
            return Err(fault(ProposalErrorKind::Empty, None));
        }
        let Some(kind) = token_kind(text) else {
            return Err(match text.contains([',', ' ']) {
                true => fault(ProposalErrorKind::SeveralProposals, None),
                false => fault(ProposalErrorKind::Unknown, suggestion(text)),
            });
        };
        if words.iter().any(|word| word.kind == kind) {
            return Err(fault(ProposalErrorKind::Repeated, None));
        }
        words.push(Token { text, offset, kind });
        offset = offset.saturating_add(text.len()).saturating_add(1);
    }
    Ok(words)
}

/// Every word with its meaning, in the order of the table.
fn vocabulary() -> impl Iterator<Item = (&'static str, TokenKind)> {
    fn named<T>(
        word: &'static str,
        also: &'static [&'static str],
        row: &'static T,
        kind: fn(&'static T) -> TokenKind,
    ) -> impl Iterator<Item = (&'static str, TokenKind)> {
        std::iter::once(word)
            .chain(also.iter().copied())
            .map(move |word| (word, kind(row)))
    }
    let encryption = ENCRYPTION
        .iter()
        .flat_map(|row| named(row.word, row.also, row, TokenKind::Encryption));
    let integrity = INTEGRITY
        .iter()
        .flat_map(|row| named(row.word, row.also, row, TokenKind::Integrity));
    let prf = PRF
        .iter()
        .flat_map(|row| named(row.word, row.also, row, TokenKind::Prf));
    let group = GROUP
        .iter()
        .flat_map(|row| named(row.word, row.also, row, TokenKind::Group));
    let additional = ADDITIONAL
        .iter()
        .flat_map(|row| named(row.word, row.also, row, TokenKind::Additional));
    let esn = [Esn::Yes, Esn::No].map(|esn| (esn.word(), TokenKind::Esn(esn)));
    encryption
        .chain(integrity)
        .chain(prf)
        .chain(group)
        .chain(additional)
        .chain(esn)
}

fn token_kind(text: &str) -> Option<TokenKind> {
    vocabulary()
        .find(|(word, _)| *word == text)
        .map(|(_, kind)| kind)
}

/// The word that was probably meant: a group by its number, or the nearest word by edit distance.
fn suggestion(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let number = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let prefix = text.strip_suffix(number).unwrap_or_default();
    if matches!(prefix, "group" | "grp" | "dh" | "dhgroup")
        && let Some(group) = number.parse().ok().and_then(registry::group)
    {
        return Some(group.word.to_owned());
    }
    // A KEM is known by its own name, but stands only behind a group.
    let behind = format!("ke1_{text}");
    if token_kind(&behind).is_some() {
        return Some(behind);
    }
    // A third of the letters may be wrong; more, and the guess would be noise.
    let tolerance = (text.chars().count() / 3).max(1);
    vocabulary()
        .map(|(word, _)| (distance(&text, word), word))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word.to_owned())
}

/// Levenshtein's distance: the least number of insertions, deletions and substitutions from `a` to `b`.
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
    fn a_slip_of_the_finger_finds_the_word() {
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
        let words = read("aes128-sha1-modp1024").ok().unwrap();
        let places: Vec<_> = words.iter().map(|word| (word.offset, word.text)).collect();
        assert_eq!(places, [(0, "aes128"), (7, "sha1"), (12, "modp1024")]);
    }

    #[test]
    fn synonyms_are_the_same_algorithm() {
        let error = read("curve25519-x25519").err().unwrap();
        assert_eq!(
            (error.kind, error.offset),
            (ProposalErrorKind::Repeated, 11)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_place_in_it(text in "[a-z0-9ä,-]{0,40}") {
            if let Err(error) = read(&text) {
                prop_assert_eq!(text.get(error.offset..error.offset + error.word.len()), Some(error.word.as_str()));
            }
        }
    }
}
