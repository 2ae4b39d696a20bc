//! ESP proposals, read from words such as `aes128-sha1` or `aes256gcm16-modp2048-esn`, and the suite that a Child SA uses.

use std::fmt;

use super::proposal_syntax::{
    CipherMode, Hint, NO_PFS, ProposalError, ProposalErrorKind, ProposalTokens, join, rows,
};
use crate::crypto::protect::Protection;
use crate::crypto::registry::{AlgorithmStatus, Encryption, Esn, Group, Integrity};

/// A proposal for a Child SA: alternatives of each kind, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspProposal {
    /// Encryption algorithms: all AEAD or all CBC.
    pub encryption: Vec<&'static Encryption>,
    /// Integrity algorithms; empty for AEAD.
    pub integrity: Vec<&'static Integrity>,
    /// Groups for perfect forward secrecy; empty for none.
    pub groups: Vec<&'static Group>,
    /// Methods of an additional key exchange (RFC 9370, ADDKE1); empty for none, and empty without groups.
    pub additional: Vec<&'static Group>,
    /// Whether a Child SA without a group is acceptable, if the peer has none of the groups.
    pub pfs: PfsDemand,
    /// Lengths of sequence numbers; never empty.
    pub esn: Vec<Esn>,
}

/// Whether a proposal with groups requires one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PfsDemand {
    /// A group is required, if the proposal has any.
    Required,
    /// A Child SA without a group is acceptable too.
    Optional,
}

impl EspProposal {
    /// Reads a proposal in the words of swanctl.conf. A group requests perfect forward secrecy; `nopfs` beside it makes that optional.
    ///
    /// # Errors
    /// [`ProposalError`] for an unknown, misplaced or missing word.
    pub fn parse(text: &str) -> Result<(EspProposal, Vec<Hint>), ProposalError> {
        let tokens = ProposalTokens::read(text)?;
        let mode = tokens.mode();
        if let Some((token, row)) = tokens.prf.first() {
            // Beside CBC without an integrity algorithm, a PRF word probably stands for the hash.
            let missing = |error: &ProposalError| error.kind == ProposalErrorKind::MissingIntegrity;
            return Err(match mode {
                Err(error) if !missing(&error) => error,
                Err(_) => {
                    let hash = row.word.strip_prefix("prf").map(str::to_owned);
                    token.error(ProposalErrorKind::PrfInEsp, hash)
                }
                Ok(_) => token.error(ProposalErrorKind::PrfInEsp, None),
            });
        }
        let (integrity, hints) = match mode? {
            CipherMode::Cbc => (rows(&tokens.integrity), Vec::new()),
            CipherMode::Aead => {
                let unused = tokens
                    .integrity
                    .iter()
                    .map(|(token, _)| token.unused_hash());
                (Vec::new(), unused.collect())
            }
        };
        let mut esn = rows(&tokens.esn);
        if esn.is_empty() {
            esn.push(Esn::No);
        }
        match tokens.missing_group() {
            Some(error) if tokens.groups.is_empty() && !tokens.additional.is_empty() => Err(error),
            Some(_) | None => Ok((
                EspProposal {
                    encryption: rows(&tokens.encryption),
                    integrity,
                    groups: rows(&tokens.groups),
                    additional: rows(&tokens.additional),
                    pfs: match tokens.no_pfs {
                        Some(_) if !tokens.groups.is_empty() => PfsDemand::Optional,
                        Some(_) | None => PfsDemand::Required,
                    },
                    esn,
                },
                hints,
            )),
        }
    }

    /// The alternative without perfect forward secrecy, if it is acceptable beside the groups.
    pub fn without_pfs(&self) -> Option<EspProposal> {
        match self.pfs {
            PfsDemand::Required => None,
            PfsDemand::Optional => Some(EspProposal {
                groups: Vec::new(),
                additional: Vec::new(),
                pfs: PfsDemand::Required,
                ..self.clone()
            }),
        }
    }

    /// The suite of the first alternative of each kind; `None` only if a list that must not be empty is.
    pub fn first(&self) -> Option<EspSuite> {
        Some(EspSuite {
            protection: Protection::first(&self.encryption, &self.integrity)?,
            group: self.groups.first().copied(),
            additional: self.additional.first().copied(),
            esn: *self.esn.first()?,
        })
    }

    /// The algorithms that are weak or forbidden.
    pub fn weak(&self) -> impl Iterator<Item = (&'static str, AlgorithmStatus)> {
        (self.encryption.iter().map(|row| (row.word, row.status)))
            .chain(self.integrity.iter().map(|row| (row.word, row.status)))
            .chain(self.groups.iter().map(|row| (row.word, row.status)))
            .filter(|(_, status)| *status != AlgorithmStatus::Secure)
    }
}

/// The canonical words, which [`EspProposal::parse`] reads back.
impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let esn = self.esn.iter().filter(|_| self.esn != [Esn::No]);
        let no_pfs = match self.pfs {
            PfsDemand::Required => None,
            PfsDemand::Optional => Some(NO_PFS),
        };
        join(
            f,
            (self.encryption.iter().map(|row| row.word))
                .chain(self.integrity.iter().map(|row| row.word))
                .chain(self.groups.iter().map(|row| row.word))
                .chain(self.additional.iter().map(|row| row.word))
                .chain(no_pfs)
                .chain(esn.map(|esn| esn.word())),
        )
    }
}

/// The algorithms of a Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EspSuite {
    /// Protection of the packets.
    pub protection: Protection,
    /// Group of a key exchange for perfect forward secrecy, if there was one.
    pub group: Option<&'static Group>,
    /// Method of the additional key exchange, if there was one.
    pub additional: Option<&'static Group>,
    /// Length of the sequence numbers.
    pub esn: Esn,
}

/// Writes `aes128-sha1`, followed by the key exchanges and `esn` if there are any.
impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protection)?;
        for group in [self.group, self.additional].into_iter().flatten() {
            write!(f, "-{group}")?;
        }
        match self.esn {
            Esn::No => Ok(()),
            Esn::Yes => write!(f, "-{}", Esn::Yes.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_and_esn_are_read() {
        let (proposal, _) = EspProposal::parse("aes128-sha1").unwrap();
        assert!(proposal.groups.is_empty());
        assert_eq!(proposal.esn, [Esn::No]);
        let text = "aes256gcm16-modp2048-esn-noesn";
        let (proposal, _) = EspProposal::parse(text).unwrap();
        assert_eq!(proposal.esn, [Esn::Yes, Esn::No]);
        assert_eq!(proposal.to_string(), text);
    }

    #[test]
    fn nopfs_beside_a_group_makes_it_optional_and_alone_means_none() {
        let text = "aes256gcm16-curve25519-nopfs";
        let (proposal, _) = EspProposal::parse(text).unwrap();
        assert_eq!(proposal.pfs, PfsDemand::Optional);
        assert_eq!(proposal.to_string(), text);
        let without = proposal.without_pfs().unwrap();
        assert_eq!(without.to_string(), "aes256gcm16");
        let (alone, _) = EspProposal::parse("aes256gcm16-nopfs").unwrap();
        assert_eq!((alone.without_pfs(), alone), (None, without));
    }

    #[test]
    fn a_kem_needs_a_group_beside_it() {
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
    fn a_hash_beside_an_aead_gets_a_hint() {
        let (proposal, hints) = EspProposal::parse("aes128gcm16-sha256").unwrap();
        assert!(proposal.integrity.is_empty());
        assert!(matches!(&hints[..], [Hint::HashUnused { offset: 12, .. }]));
    }

    #[test]
    fn a_prf_is_rejected_with_the_probable_hash() {
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
        fn any_text_is_parsed_or_rejected(text in "\\PC{0,60}") {
            let _ = EspProposal::parse(&text);
        }
    }
}
