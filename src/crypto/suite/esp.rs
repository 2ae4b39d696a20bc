//! What may protect a Child SA, read from words such as `aes128-sha1` or `aes256gcm16-modp2048-esn`, and what one does use.

use std::fmt;

use super::Protection;
use super::proposal::{self, CipherMode, Hint};
use super::proposal_syntax::{self, ProposalError, ProposalErrorKind, TokenKind};
use crate::crypto::registry::{AlgorithmStatus, Encryption, Group, Integrity};

/// What may protect a Child SA: alternatives of each kind, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspProposal {
    /// All AEAD or all CBC.
    pub encryption: Vec<&'static Encryption>,
    /// Empty for AEAD.
    pub integrity: Vec<&'static Integrity>,
    /// Groups for perfect forward secrecy; empty for none.
    pub groups: Vec<&'static Group>,
    /// Methods of a second key exchange on top of that of the group (RFC 9370, ADDKE1); empty for none, and without groups.
    pub additional: Vec<&'static Group>,
    /// Never empty.
    pub esn: Vec<Esn>,
}

impl EspProposal {
    /// Reads a proposal in the words of swanctl.conf; a group asks for perfect forward secrecy.
    pub fn parse(text: &str) -> Result<(EspProposal, Vec<Hint>), ProposalError> {
        let words = proposal_syntax::read(text)?;
        let encryption = proposal::encryption(&words)?;
        for word in &words {
            if let TokenKind::Prf(row) = word.kind {
                let missing =
                    proposal::hashes(&words).next().is_none() && encryption.mode == CipherMode::Cbc;
                let hash = row
                    .word
                    .strip_prefix("prf")
                    .filter(|_| missing)
                    .map(str::to_owned);
                return Err(word.error(ProposalErrorKind::PrfInEsp, hash));
            }
        }
        let mut hints = Vec::new();
        let integrity = match encryption.mode {
            CipherMode::Cbc => proposal::required_integrity(&words)?,
            CipherMode::Aead => {
                hints.extend(proposal::hashes(&words).map(|(word, _)| Hint::HashUnused {
                    word: word.text.to_owned(),
                    offset: word.offset,
                }));
                Vec::new()
            }
        };
        let mut esn: Vec<Esn> = words
            .iter()
            .filter_map(|word| match word.kind {
                TokenKind::Esn(esn) => Some(esn),
                TokenKind::Encryption(_)
                | TokenKind::Integrity(_)
                | TokenKind::Prf(_)
                | TokenKind::Group(_)
                | TokenKind::Additional(_) => None,
            })
            .collect();
        if esn.is_empty() {
            esn.push(Esn::No);
        }
        let (groups, additional) = (proposal::groups(&words), proposal::additional(&words));
        match proposal::missing_group(&words) {
            Some(error) if groups.is_empty() && !additional.is_empty() => Err(error),
            _ => Ok((
                EspProposal {
                    encryption: encryption.rows,
                    integrity,
                    groups,
                    additional,
                    esn,
                },
                hints,
            )),
        }
    }

    /// The suite of the first alternative of each kind; `None` only for a proposal built by hand with a list left empty.
    pub fn first(&self) -> Option<EspSuite> {
        Some(EspSuite {
            protection: proposal::first_protection(&self.encryption, &self.integrity)?,
            group: self.groups.first().copied(),
            additional: self.additional.first().copied(),
            esn: *self.esn.first()?,
        })
    }

    /// The algorithms that are not sound.
    pub fn weak(&self) -> impl Iterator<Item = (&'static str, AlgorithmStatus)> {
        proposal::statuses(&self.encryption, &self.integrity, &self.groups)
            .filter(|(_, status)| *status != AlgorithmStatus::Secure)
    }
}

/// The canonical words, which [`EspProposal::parse`] reads back.
impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let esn = self.esn.iter().filter(|_| self.esn != [Esn::No]);
        proposal::join(
            f,
            (self.encryption.iter().map(|row| row.word))
                .chain(self.integrity.iter().map(|row| row.word))
                .chain(self.groups.iter().map(|row| row.word))
                .chain(self.additional.iter().map(|row| row.word))
                .chain(esn.map(|esn| esn.word())),
        )
    }
}

/// What a Child SA uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EspSuite {
    /// Of its packets.
    pub protection: Protection,
    /// Of its own key exchange, where it had one (PFS).
    pub group: Option<&'static Group>,
    /// Of the second key exchange, where it had one.
    pub additional: Option<&'static Group>,
    /// How long its sequence numbers are.
    pub esn: Esn,
}

/// `aes128-sha1`, then the key exchanges and `esn` where they apply.
impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protection)?;
        if let Some(group) = self.group {
            write!(f, "-{group}")?;
        }
        if let Some(additional) = self.additional {
            write!(f, "-{additional}")?;
        }
        match self.esn {
            Esn::No => Ok(()),
            Esn::Yes => write!(f, "-{}", Esn::Yes.word()),
        }
    }
}

/// Extended sequence numbers (transform type 5): its values are 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Esn {
    /// 32-bit sequence numbers.
    #[default]
    No,
    /// 64-bit sequence numbers, of which the low half is sent (RFC 4303 §2.2.1).
    Yes,
}

impl Esn {
    /// Its transform ID.
    pub fn id(self) -> u16 {
        match self {
            Esn::No => 0,
            Esn::Yes => 1,
        }
    }

    /// The value with this transform ID.
    pub fn from_id(id: u16) -> Option<Esn> {
        [Esn::No, Esn::Yes].into_iter().find(|esn| esn.id() == id)
    }

    /// Its word in an ESP proposal.
    pub fn word(self) -> &'static str {
        match self {
            Esn::No => "noesn",
            Esn::Yes => "esn",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn esp_takes_groups_for_pfs_and_esn() {
        let (proposal, _) = EspProposal::parse("aes128-sha1").unwrap();
        assert!(proposal.groups.is_empty());
        assert_eq!(proposal.esn, [Esn::No]);
        let text = "aes256gcm16-modp2048-esn-noesn";
        let (proposal, _) = EspProposal::parse(text).unwrap();
        assert_eq!(proposal.esn, [Esn::Yes, Esn::No]);
        assert_eq!(proposal.to_string(), text);
    }

    #[test]
    fn a_kem_stands_behind_the_group_of_pfs() {
        let text = "aes256gcm16-ecp384-ke1_mlkem768-esn";
        let (proposal, _) = EspProposal::parse(text).unwrap();
        assert_eq!(proposal.additional[0].id, 36);
        assert_eq!(proposal.to_string(), text);
        assert_eq!(proposal.first().unwrap().to_string(), text);
        let error = EspProposal::parse("aes256gcm16-ke1_mlkem768").unwrap_err();
        assert_eq!(error.kind, ProposalErrorKind::MissingGroup);
        assert_eq!(error.suggestion.as_deref(), Some("aes256gcm16-modp2048"));
    }

    #[test]
    fn a_hash_beside_an_aead_does_nothing_and_is_noted() {
        let (proposal, hints) = EspProposal::parse("aes128gcm16-sha256").unwrap();
        assert!(proposal.integrity.is_empty());
        assert!(matches!(&hints[..], [Hint::HashUnused { offset: 12, .. }]));
    }

    #[test]
    fn a_prf_is_refused_with_the_hash_that_was_meant() {
        let error = EspProposal::parse("aes128-prfsha256").unwrap_err();
        assert_eq!((error.kind, error.offset), (ProposalErrorKind::PrfInEsp, 7));
        assert_eq!(
            error.to_string(),
            "\"prfsha256\" is a PRF, which ESP does not use; did you mean \"sha256\"?"
        );
        assert_eq!(
            EspProposal::parse("aes128gcm16-prfsha256")
                .unwrap_err()
                .suggestion,
            None
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,60}") {
            let _ = EspProposal::parse(&text);
        }
    }

    #[test]
    fn esn_has_the_numbers_of_rfc_7296() {
        assert_eq!(Esn::from_id(0), Some(Esn::No));
        assert_eq!(Esn::from_id(1), Some(Esn::Yes));
        assert_eq!(Esn::from_id(2), None);
    }
}
