//! IKE proposals, read from words such as `aes128-sha1-modp1024`, and the suite that an IKE SA uses.

use std::fmt;

use super::proposal_syntax::{
    CipherMode, Hint, ProposalError, ProposalErrorKind, ProposalTokens, join, rows,
};
use crate::crypto::protect::Protection;
use crate::crypto::registry::{AlgorithmStatus, Encryption, Group, Integrity, Prf};

/// A proposal for an IKE SA: alternatives of each kind, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    /// Encryption algorithms: all AEAD or all CBC.
    pub encryption: Vec<&'static Encryption>,
    /// Integrity algorithms; empty for AEAD.
    pub integrity: Vec<&'static Integrity>,
    /// Pseudorandom functions; never empty.
    pub prf: Vec<&'static Prf>,
    /// Key exchange groups; never empty.
    pub groups: Vec<&'static Group>,
    /// Methods of an additional key exchange (RFC 9370, ADDKE1); empty for none.
    pub additional: Vec<&'static Group>,
}

impl IkeProposal {
    /// Reads a proposal in the words of swanctl.conf. Without a PRF word the PRF is the one on the integrity hash.
    ///
    /// # Errors
    /// [`ProposalError`] for an unknown, misplaced or missing word.
    pub fn parse(text: &str) -> Result<(IkeProposal, Vec<Hint>), ProposalError> {
        let tokens = ProposalTokens::read(text)?;
        if let Some((token, _)) = tokens.esn.first() {
            return Err(token.error(ProposalErrorKind::EsnInIke, None));
        }
        if let Some(token) = tokens.no_pfs {
            return Err(token.error(ProposalErrorKind::PfsInIke, None));
        }
        let mode = tokens.mode()?;
        let mut prf = rows(&tokens.prf);
        let mut hints = Vec::new();
        let integrity = match mode {
            CipherMode::Cbc => {
                if prf.is_empty() {
                    prf.extend(tokens.integrity.iter().filter_map(|(_, row)| row.prf()));
                }
                rows(&tokens.integrity)
            }
            CipherMode::Aead => {
                for (token, hash) in &tokens.integrity {
                    match hash.prf().filter(|_| tokens.prf.is_empty()) {
                        Some(row) => {
                            prf.push(row);
                            hints.push(Hint::HashNamesPrf {
                                word: token.text.to_owned(),
                                offset: token.offset,
                                write: row.word,
                            });
                        }
                        None => hints.push(token.unused_hash()),
                    }
                }
                Vec::new()
            }
        };
        if prf.is_empty()
            && let Some((token, _)) = tokens.encryption.last()
        {
            let suggestion = format!("{}-prfsha256", token.text);
            return Err(token.error(ProposalErrorKind::MissingPrf, Some(suggestion)));
        }
        match tokens.missing_group() {
            Some(error) if tokens.groups.is_empty() => Err(error),
            Some(_) | None => Ok((
                IkeProposal {
                    encryption: rows(&tokens.encryption),
                    integrity,
                    prf,
                    groups: rows(&tokens.groups),
                    additional: rows(&tokens.additional),
                },
                hints,
            )),
        }
    }

    /// The suite of the first alternative of each kind; `None` only if a list that must not be empty is.
    pub fn first(&self) -> Option<IkeSuite> {
        Some(IkeSuite {
            protection: Protection::first(&self.encryption, &self.integrity)?,
            prf: self.prf.first()?,
            group: self.groups.first()?,
            additional: self.additional.first().copied(),
        })
    }

    /// The algorithms that are weak or forbidden.
    pub fn weak(&self) -> impl Iterator<Item = (&'static str, AlgorithmStatus)> {
        // A PRF that the integrity algorithms imply is not listed a second time.
        let implied = |prf: &Prf| self.integrity.iter().any(|row| row.prf() == Some(prf));
        let prf = self.prf.iter().filter(move |prf| !implied(prf));
        (self.encryption.iter().map(|row| (row.word, row.status)))
            .chain(self.integrity.iter().map(|row| (row.word, row.status)))
            .chain(self.groups.iter().map(|row| (row.word, row.status)))
            .chain(prf.map(|row| (row.word, row.status)))
            .filter(|(_, status)| *status != AlgorithmStatus::Secure)
    }
}

/// The canonical words, which [`IkeProposal::parse`] reads back.
impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hashes = self.integrity.iter().filter_map(|row| row.prf());
        let implied = self.prf.iter().copied().eq(hashes);
        let prf = self.prf.iter().filter(|_| !implied).map(|row| row.word);
        join(
            f,
            (self.encryption.iter().map(|row| row.word))
                .chain(self.integrity.iter().map(|row| row.word))
                .chain(prf)
                .chain(self.groups.iter().map(|row| row.word))
                .chain(self.additional.iter().map(|row| row.word)),
        )
    }
}

/// The algorithms of an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeSuite {
    /// Protection of the encrypted payload.
    pub protection: Protection,
    /// Pseudorandom function of key derivation and authentication.
    pub prf: &'static Prf,
    /// Group of the key exchange.
    pub group: &'static Group,
    /// Method of the additional key exchange, if there is one.
    pub additional: Option<&'static Group>,
}

/// Writes `aes128-sha1-modp1024[-ke1_mlkem768]`, with a PRF word only if the integrity algorithm does not imply the PRF.
impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.protection)?;
        if self.protection.integrity.and_then(Integrity::prf) != Some(self.prf) {
            write!(f, "{}-", self.prf)?;
        }
        write!(f, "{}", self.group)?;
        match self.additional {
            Some(additional) => write!(f, "-{additional}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::registry::{ENCRYPTION, GROUP, INTEGRITY, PRF};

    #[test]
    fn a_proposal_without_a_prf_takes_the_prf_of_its_hash() {
        let (proposal, hints) = IkeProposal::parse("aes128-sha1-modp1024").unwrap();
        assert_eq!(proposal.encryption[0].word, "aes128");
        assert_eq!(proposal.integrity[0].word, "sha1");
        assert_eq!(proposal.prf[0].word, "prfsha1");
        assert_eq!(proposal.groups[0].id, 2);
        assert!(hints.is_empty());
    }

    #[test]
    fn words_of_one_kind_are_alternatives_in_order() {
        let text = "aes256-aes128-sha512-sha256-modp2048-ecp256";
        let (proposal, _) = IkeProposal::parse(text).unwrap();
        assert_eq!(
            proposal
                .encryption
                .iter()
                .map(|row| row.key_len)
                .collect::<Vec<_>>(),
            [32, 16]
        );
        assert_eq!(
            proposal.prf.iter().map(|row| row.word).collect::<Vec<_>>(),
            ["prfsha512", "prfsha256"]
        );
        assert_eq!(
            proposal.groups.iter().map(|row| row.id).collect::<Vec<_>>(),
            [14, 19]
        );
        assert_eq!(proposal.to_string(), text);
    }

    #[test]
    fn a_kem_needs_a_group_beside_it() {
        let text = "aes256gcm16-prfsha384-ecp384-ke1_mlkem1024-ke1_mlkem768";
        let (proposal, _) = IkeProposal::parse(text).unwrap();
        let ids = |rows: &[&Group]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        assert_eq!(ids(&proposal.groups), [20]);
        assert_eq!(ids(&proposal.additional), [37, 36]);
        assert_eq!(proposal.to_string(), text);
        assert_eq!(
            proposal.first().unwrap().to_string(),
            "aes256gcm16-prfsha384-ecp384-ke1_mlkem1024"
        );
        for (text, kind, suggestion) in [
            (
                "aes256gcm16-prfsha384-ke1_mlkem768",
                ProposalErrorKind::MissingGroup,
                "prfsha384-modp2048",
            ),
            (
                "aes256gcm16-prfsha384-mlkem768",
                ProposalErrorKind::Unknown,
                "ke1_mlkem768",
            ),
            (
                "aes256gcm16-prfsha384-ecp384-ke2_mlkem768",
                ProposalErrorKind::Unknown,
                "ke1_mlkem768",
            ),
        ] {
            let error = IkeProposal::parse(text).unwrap_err();
            assert_eq!(error.kind, kind, "{text}");
            assert_eq!(error.suggestion.as_deref(), Some(suggestion), "{text}");
        }
    }

    #[test]
    fn a_hash_beside_an_aead_is_read_as_the_prf_with_a_hint() {
        let (proposal, hints) = IkeProposal::parse("aes256gcm16-sha512-modp4096").unwrap();
        assert_eq!(proposal.prf[0].word, "prfsha512");
        assert!(proposal.integrity.is_empty());
        assert_eq!(
            hints[0].to_string(),
            "\"sha512\" beside an AEAD is read as the PRF; write \"prfsha512\""
        );
        assert_eq!(proposal.to_string(), "aes256gcm16-prfsha512-modp4096");
    }

    #[test]
    fn an_unused_hash_gets_a_hint() {
        let (proposal, hints) = IkeProposal::parse("aes128gcm16-sha256-prfsha384-ecp256").unwrap();
        assert_eq!(proposal.prf[0].word, "prfsha384");
        assert!(matches!(&hints[..], [Hint::HashUnused { offset: 12, .. }]));
    }

    #[test]
    fn each_error_has_its_word_and_a_suggestion() {
        use ProposalErrorKind::*;
        for (text, kind, offset, suggestion) in [
            ("", Empty, 0, None),
            ("aes128--modp1024", Empty, 7, None),
            ("aes129-sha1-modp1024", Unknown, 0, Some("aes128")),
            ("aes128-sha1-modp1024!", Unknown, 12, Some("modp1024")),
            (
                "aes128-sha1-modp1024,aes256-sha1-modp1024",
                SeveralProposals,
                12,
                None,
            ),
            ("aes128-sha1-sha1-modp1024", Repeated, 12, None),
            ("aes128-aes128gcm16-sha1-modp1024", MixedEncryption, 7, None),
            ("sha1-modp1024", MissingEncryption, 0, Some("aes256-sha1")),
            (
                "aes128-modp1024",
                MissingIntegrity,
                0,
                Some("aes128-sha256"),
            ),
            (
                "aes128gcm16-modp1024",
                MissingPrf,
                0,
                Some("aes128gcm16-prfsha256"),
            ),
            ("aes128-sha1", MissingGroup, 7, Some("sha1-modp2048")),
            ("aes128-sha1-modp1024-esn", EsnInIke, 21, None),
            ("aes128-sha1-modp1024-nopfs", PfsInIke, 21, None),
        ] {
            let error = IkeProposal::parse(text).unwrap_err();
            assert_eq!((error.kind, error.offset), (kind, offset), "{text}");
            assert_eq!(error.suggestion.as_deref(), suggestion, "{text}");
        }
    }

    #[test]
    fn weak_lists_weak_and_forbidden_algorithms() {
        let weak = |text| {
            IkeProposal::parse(text)
                .unwrap()
                .0
                .weak()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            weak("aes128-sha1-modp1024"),
            [
                ("sha1", AlgorithmStatus::Weak),
                ("modp1024", AlgorithmStatus::Weak)
            ]
        );
        assert_eq!(
            weak("des-md5-modp768"),
            [
                ("des", AlgorithmStatus::Forbidden),
                ("md5", AlgorithmStatus::Forbidden),
                ("modp768", AlgorithmStatus::Forbidden)
            ]
        );
        assert_eq!(
            weak("aes256gcm16-prfsha1-curve25519"),
            [("prfsha1", AlgorithmStatus::Weak)]
        );
        assert_eq!(weak("aes256gcm16-prfsha256-curve25519"), []);
    }

    proptest! {
        #[test]
        fn canonical_words_read_back_as_the_same_proposal(
            cbc in proptest::bool::ANY,
            a in 0..3_usize, b in 0..5_usize, c in 0..5_usize, d in 0..15_usize, e in 0..14_usize,
        ) {
            let cipher = &ENCRYPTION[if cbc { a } else { a + 3 }];
            let hash = if cbc { format!("-{}", INTEGRITY[b]) } else { String::new() };
            let second = &GROUP[(d + e + 1) % GROUP.len()];
            let text = format!("{cipher}{hash}-{}-{}-{second}", PRF[c], GROUP[d]);
            let (proposal, _) = IkeProposal::parse(&text).unwrap();
            let again = IkeProposal::parse(&proposal.to_string()).unwrap();
            prop_assert_eq!((proposal, vec![]), again);
        }

        #[test]
        fn any_text_is_parsed_or_rejected(text in "\\PC{0,60}") {
            let _ = IkeProposal::parse(&text);
        }
    }
}
