//! Proposals as people write them, and the suites that negotiation makes of them.
//!
//! A proposal (`aes256-aes128-sha256-modp2048-curve25519`) offers alternatives of each kind, in order of preference; a suite
//! holds the one of each kind that both sides chose.

mod esp;
mod ike;
mod proposal;
mod proposal_syntax;

use std::fmt;

pub use esp::{Esn, EspProposal, EspSuite};
pub use ike::{IkeProposal, IkeSuite};
pub use proposal::Hint;
pub use proposal_syntax::{ProposalError, ProposalErrorKind};

use super::registry::{Encryption, Integrity};

/// How packets are protected: what an ESP SA and IKE's encrypted payloads have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// The cipher.
    pub encryption: &'static Encryption,
    /// What makes the ICV; `None` where the cipher is an AEAD.
    pub integrity: Option<&'static Integrity>,
}

impl Protection {
    /// Bytes of key material that one direction takes: encryption key, salt, integrity key.
    pub fn key_material_len(self) -> usize {
        self.encryption_key_len()
            .saturating_add(self.integrity_key_len())
    }

    /// Bytes of the encryption key with the salt that follows it.
    pub fn encryption_key_len(self) -> usize {
        self.encryption
            .key_len
            .saturating_add(self.encryption.salt_len)
    }

    /// Bytes of the integrity key; 0 for an AEAD.
    pub fn integrity_key_len(self) -> usize {
        self.integrity.map_or(0, |integrity| integrity.key_len)
    }

    /// Bytes of IV in each packet.
    pub fn iv_len(self) -> usize {
        self.encryption.iv_len
    }

    /// Bytes of ICV in each packet.
    pub fn icv_len(self) -> usize {
        self.integrity
            .map_or(self.encryption.icv_len, |integrity| integrity.icv_len)
    }

    /// What the cipher wants the plaintext to be a multiple of: 16, 8 or 1.
    pub fn block(self) -> usize {
        self.encryption.block
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        match self.integrity {
            Some(integrity) => write!(f, "-{integrity}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ike(text: &str) -> IkeSuite {
        IkeProposal::parse(text).unwrap().0.first().unwrap()
    }

    fn esp(text: &str) -> EspSuite {
        EspProposal::parse(text).unwrap().0.first().unwrap()
    }

    #[test]
    fn a_suite_prints_the_words_it_was_made_of() {
        for text in [
            "aes128-sha1-modp1024",
            "aes256-sha256-prfsha512-modp2048",
            "aes256gcm16-prfsha384-ecp384",
            "chacha20poly1305-prfsha256-curve25519",
            "des-md5-modp768",
        ] {
            assert_eq!(ike(text).to_string(), text);
        }
        for text in [
            "aes128-sha1",
            "aes128-sha1-modp1024",
            "aes256gcm16-modp2048-esn",
            "3des-md5",
        ] {
            assert_eq!(esp(text).to_string(), text);
        }
    }

    #[test]
    fn lengths_of_one_direction() {
        let lengths = |text| {
            let p = esp(text).protection;
            (p.key_material_len(), p.iv_len(), p.icv_len(), p.block())
        };
        assert_eq!(lengths("aes128-sha1"), (16 + 20, 16, 12, 16));
        assert_eq!(lengths("aes256-sha512"), (32 + 64, 16, 32, 16));
        assert_eq!(lengths("aes256gcm16"), (32 + 4, 8, 16, 1));
        assert_eq!(lengths("3des-md5"), (24 + 16, 8, 12, 8));
    }
}
