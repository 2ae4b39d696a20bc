//! Proposals as configured, and the suites that negotiation selects from them.
//!
//! A proposal (`aes256-aes128-sha256-modp2048-curve25519`) lists alternatives of each kind, in order of preference; a suite has the
//! one of each kind that both sides chose.

mod esp;
mod ike;
mod proposal_syntax;

pub use esp::{EspProposal, EspSuite, PfsDemand};
pub use ike::{IkeProposal, IkeSuite};
pub use proposal_syntax::{Hint, ProposalError, ProposalErrorKind};

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
    fn a_suite_prints_the_words_of_its_proposal() {
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
            (
                p.encryption_key_len(),
                p.integrity_key_len(),
                p.iv_len(),
                p.icv_len(),
                p.block(),
            )
        };
        assert_eq!(lengths("aes128-sha1"), (16, 20, 16, 12, 16));
        assert_eq!(lengths("aes256-sha512"), (32, 64, 16, 32, 16));
        assert_eq!(lengths("aes256gcm16"), (32 + 4, 0, 8, 16, 1));
        assert_eq!(lengths("3des-md5"), (24, 16, 8, 12, 8));
    }
}
