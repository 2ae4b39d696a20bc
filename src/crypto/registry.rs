//! The table of algorithms: one row each, with IANA number, configuration word, sizes, status and constructor.
//!
//! Proposals, `status`, MTU arithmetic and key lengths all read these rows. A new algorithm is its implementation and one row here.
//! Numbers are those of IANA's "IKEv2 Parameters" (transform types 1 to 5); words are those of swanctl.conf.
//!
//! A row is used as `&'static Encryption` and so on, and equals only itself.

use std::fmt;
use std::hash::{Hash, Hasher};

use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};

use super::cbc::BlockCipher;
use super::kex::x25519::X25519;
use super::kex::{KexMethod, ecp, mlkem, primes};
use super::mac::HashAlgorithm;

/// The status of an algorithm: whether a configuration may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AlgorithmStatus {
    /// No known weakness.
    Secure,
    /// Weak: used only where the configuration names it; `check` warns and names a replacement.
    Weak,
    /// Broken: used only where the configuration names it and the tunnel has `allow-weak = true`.
    Forbidden,
}

/// An encryption algorithm (transform type 1), with one key length.
pub struct Encryption {
    /// ENCR number.
    pub id: u16,
    /// Word in a proposal.
    pub word: &'static str,
    /// Synonyms of the word.
    pub aliases: &'static [&'static str],
    /// The Key Length attribute (RFC 7296 §3.3.5); `None` for ciphers of one key length.
    pub key_bits: Option<u16>,
    /// Key bytes, without the salt.
    pub key_len: usize,
    /// Bytes of salt that follow the key in the key material (RFC 4106 §8.1, RFC 7634 §2).
    pub salt_len: usize,
    /// Bytes of IV in each packet.
    pub iv_len: usize,
    /// The plaintext must be a multiple of this many bytes. (ESP asks for 4 in addition, RFC 4303 §2.4.)
    pub block: usize,
    /// Bytes of ICV; 0 if a separate integrity algorithm makes it.
    pub icv_len: usize,
    /// Security in bits.
    pub strength: u16,
    /// Whether a configuration may use it.
    pub status: AlgorithmStatus,
    pub(super) cipher: Cipher,
}

/// An integrity algorithm (transform type 3).
pub struct Integrity {
    /// AUTH number.
    pub id: u16,
    /// Word in a proposal.
    pub word: &'static str,
    /// Synonyms of the word.
    pub aliases: &'static [&'static str],
    /// Key bytes: the output of the hash (RFC 2404, RFC 4868 §2.1.1).
    pub key_len: usize,
    /// Bytes of ICV after truncation.
    pub icv_len: usize,
    /// Whether a configuration may use it.
    pub status: AlgorithmStatus,
    pub(super) hash: HashAlgorithm,
}

/// A pseudorandom function (transform type 2).
pub struct Prf {
    /// PRF number.
    pub id: u16,
    /// Word in a proposal.
    pub word: &'static str,
    /// Synonyms of the word.
    pub aliases: &'static [&'static str],
    /// Bytes of output.
    pub output_len: usize,
    /// Preferred key bytes: the length of SK_d, SK_pi and SK_pr (RFC 7296 §2.13).
    pub key_len: usize,
    /// Whether a configuration may use it.
    pub status: AlgorithmStatus,
    pub(super) hash: HashAlgorithm,
}

/// A key exchange method (transform type 4, and the additional ones of RFC 9370): a Diffie-Hellman group or a KEM.
pub struct Group {
    /// Method number.
    pub id: u16,
    /// Word in a proposal.
    pub word: &'static str,
    /// Synonyms of the word.
    pub aliases: &'static [&'static str],
    /// Bytes of the initiator's public value; a KE payload of any other length is invalid.
    pub public_len: usize,
    /// Bytes of the responder's public value: the same length in a group, a ciphertext in a KEM.
    pub answer_len: usize,
    /// Security in bits: by SP 800-56A rev. 3 for groups, subgroup size included; by category (FIPS 203 §8) for a KEM.
    pub strength: u16,
    /// Whether a configuration may use it.
    pub status: AlgorithmStatus,
    pub(super) method: &'static dyn KexMethod,
}

/// The implementation of an encryption row.
#[derive(Clone, Copy)]
pub(super) enum Cipher {
    Cbc(BlockCipher),
    Aead(&'static ring::aead::Algorithm),
}

use AlgorithmStatus::{Forbidden, Secure, Weak};

/// Every encryption algorithm: RFC 3602, 4106, 7634, 2451, 2405.
#[rustfmt::skip]
pub static ENCRYPTION: &[Encryption] = &[
    Encryption { id: 12, word: "aes128",           aliases: &["aes"],          key_bits: Some(128), key_len: 16, salt_len: 0, iv_len: 16, block: 16, icv_len: 0,  strength: 128, status: Secure,     cipher: Cipher::Cbc(BlockCipher::Aes128) },
    Encryption { id: 12, word: "aes192",           aliases: &[],               key_bits: Some(192), key_len: 24, salt_len: 0, iv_len: 16, block: 16, icv_len: 0,  strength: 192, status: Secure,     cipher: Cipher::Cbc(BlockCipher::Aes192) },
    Encryption { id: 12, word: "aes256",           aliases: &[],               key_bits: Some(256), key_len: 32, salt_len: 0, iv_len: 16, block: 16, icv_len: 0,  strength: 256, status: Secure,     cipher: Cipher::Cbc(BlockCipher::Aes256) },
    Encryption { id: 20, word: "aes128gcm16",      aliases: &["aes128gcm128"], key_bits: Some(128), key_len: 16, salt_len: 4, iv_len: 8,  block: 1,  icv_len: 16, strength: 128, status: Secure,     cipher: Cipher::Aead(&AES_128_GCM) },
    Encryption { id: 20, word: "aes256gcm16",      aliases: &["aes256gcm128"], key_bits: Some(256), key_len: 32, salt_len: 4, iv_len: 8,  block: 1,  icv_len: 16, strength: 256, status: Secure,     cipher: Cipher::Aead(&AES_256_GCM) },
    Encryption { id: 28, word: "chacha20poly1305", aliases: &[],               key_bits: None,      key_len: 32, salt_len: 4, iv_len: 8,  block: 1,  icv_len: 16, strength: 256, status: Secure,     cipher: Cipher::Aead(&CHACHA20_POLY1305) },
    Encryption { id: 3,  word: "3des",             aliases: &[],               key_bits: None,      key_len: 24, salt_len: 0, iv_len: 8,  block: 8,  icv_len: 0,  strength: 112, status: Weak,      cipher: Cipher::Cbc(BlockCipher::TripleDes) },
    Encryption { id: 2,  word: "des",              aliases: &[],               key_bits: None,      key_len: 8,  salt_len: 0, iv_len: 8,  block: 8,  icv_len: 0,  strength: 56,  status: Forbidden, cipher: Cipher::Cbc(BlockCipher::Des) },
];

/// Every integrity algorithm: RFC 2403, 2404, 4868.
#[rustfmt::skip]
pub static INTEGRITY: &[Integrity] = &[
    Integrity { id: 2,  word: "sha1",   aliases: &["sha"],      key_len: 20, icv_len: 12, status: Weak,      hash: HashAlgorithm::Sha1 },
    Integrity { id: 12, word: "sha256", aliases: &["sha2_256"], key_len: 32, icv_len: 16, status: Secure,     hash: HashAlgorithm::Sha256 },
    Integrity { id: 13, word: "sha384", aliases: &["sha2_384"], key_len: 48, icv_len: 24, status: Secure,     hash: HashAlgorithm::Sha384 },
    Integrity { id: 14, word: "sha512", aliases: &["sha2_512"], key_len: 64, icv_len: 32, status: Secure,     hash: HashAlgorithm::Sha512 },
    Integrity { id: 1,  word: "md5",    aliases: &[],           key_len: 16, icv_len: 12, status: Forbidden, hash: HashAlgorithm::Md5 },
];

/// Every pseudorandom function: RFC 2104, 4868.
#[rustfmt::skip]
pub static PRF: &[Prf] = &[
    Prf { id: 2, word: "prfsha1",   aliases: &[], output_len: 20, key_len: 20, status: Weak,      hash: HashAlgorithm::Sha1 },
    Prf { id: 5, word: "prfsha256", aliases: &[], output_len: 32, key_len: 32, status: Secure,     hash: HashAlgorithm::Sha256 },
    Prf { id: 6, word: "prfsha384", aliases: &[], output_len: 48, key_len: 48, status: Secure,     hash: HashAlgorithm::Sha384 },
    Prf { id: 7, word: "prfsha512", aliases: &[], output_len: 64, key_len: 64, status: Secure,     hash: HashAlgorithm::Sha512 },
    Prf { id: 1, word: "prfmd5",    aliases: &[], output_len: 16, key_len: 16, status: Forbidden, hash: HashAlgorithm::Md5 },
];

/// Every key exchange group: RFC 2409 §6, 3526, 5114, 5903, 8031.
#[rustfmt::skip]
pub static GROUP: &[Group] = &[
    Group { id: 1,  word: "modp768",      aliases: &[],         public_len: 96,   answer_len: 96,   strength: 64,  status: Forbidden, method: &primes::MODP_768 },
    Group { id: 2,  word: "modp1024",     aliases: &[],         public_len: 128,  answer_len: 128,  strength: 80,  status: Weak,      method: &primes::MODP_1024 },
    Group { id: 5,  word: "modp1536",     aliases: &[],         public_len: 192,  answer_len: 192,  strength: 96,  status: Weak,      method: &primes::MODP_1536 },
    Group { id: 14, word: "modp2048",     aliases: &[],         public_len: 256,  answer_len: 256,  strength: 112, status: Secure,     method: &primes::MODP_2048 },
    Group { id: 15, word: "modp3072",     aliases: &[],         public_len: 384,  answer_len: 384,  strength: 128, status: Secure,     method: &primes::MODP_3072 },
    Group { id: 16, word: "modp4096",     aliases: &[],         public_len: 512,  answer_len: 512,  strength: 152, status: Secure,     method: &primes::MODP_4096 },
    Group { id: 17, word: "modp6144",     aliases: &[],         public_len: 768,  answer_len: 768,  strength: 176, status: Secure,     method: &primes::MODP_6144 },
    Group { id: 18, word: "modp8192",     aliases: &[],         public_len: 1024, answer_len: 1024, strength: 200, status: Secure,     method: &primes::MODP_8192 },
    Group { id: 22, word: "modp1024s160", aliases: &[],         public_len: 128,  answer_len: 128,  strength: 80,  status: Forbidden, method: &primes::MODP_1024_160 },
    Group { id: 23, word: "modp2048s224", aliases: &[],         public_len: 256,  answer_len: 256,  strength: 112, status: Weak,      method: &primes::MODP_2048_224 },
    Group { id: 24, word: "modp2048s256", aliases: &[],         public_len: 256,  answer_len: 256,  strength: 112, status: Weak,      method: &primes::MODP_2048_256 },
    Group { id: 19, word: "ecp256",       aliases: &[],         public_len: 64,   answer_len: 64,   strength: 128, status: Secure,     method: &ecp::P256 },
    Group { id: 20, word: "ecp384",       aliases: &[],         public_len: 96,   answer_len: 96,   strength: 192, status: Secure,     method: &ecp::P384 },
    Group { id: 21, word: "ecp521",       aliases: &[],         public_len: 132,  answer_len: 132,  strength: 256, status: Secure,     method: &ecp::P521 },
    Group { id: 31, word: "curve25519",   aliases: &["x25519"], public_len: 32,   answer_len: 32,   strength: 128, status: Secure,     method: &X25519 },
];

/// Every method for an additional key exchange (RFC 9370), which follows the first one and adds to it. Their messages are too long
/// for IKE_SA_INIT, so none of them is used alone.
#[rustfmt::skip]
pub static ADDITIONAL: &[Group] = &[
    Group { id: 36, word: "ke1_mlkem768",  aliases: &[], public_len: 1184, answer_len: 1088, strength: 192, status: Secure, method: &mlkem::ML_KEM_768 },
    Group { id: 37, word: "ke1_mlkem1024", aliases: &[], public_len: 1568, answer_len: 1568, strength: 256, status: Secure, method: &mlkem::ML_KEM_1024 },
];

/// Extended sequence numbers (transform type 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Esn {
    /// 32-bit sequence numbers.
    #[default]
    No,
    /// 64-bit sequence numbers, whose low half alone is sent (RFC 4303 §2.2.1).
    Yes,
}

impl Esn {
    /// The transform IDs: 0 and 1 (RFC 7296 §3.3.2).
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

    /// The word in an ESP proposal.
    pub fn word(self) -> &'static str {
        match self {
            Esn::No => "noesn",
            Esn::Yes => "esn",
        }
    }
}

/// The encryption algorithm with this number and Key Length attribute.
pub fn encryption(id: u16, key_bits: Option<u16>) -> Option<&'static Encryption> {
    ENCRYPTION
        .iter()
        .find(|row| row.id == id && row.key_bits == key_bits)
}

/// The integrity algorithm with this number.
pub fn integrity(id: u16) -> Option<&'static Integrity> {
    INTEGRITY.iter().find(|row| row.id == id)
}

/// The pseudorandom function with this number.
pub fn prf(id: u16) -> Option<&'static Prf> {
    PRF.iter().find(|row| row.id == id)
}

/// The key exchange group with this number.
pub fn group(id: u16) -> Option<&'static Group> {
    GROUP.iter().find(|row| row.id == id)
}

/// The method for additional key exchanges with this number.
pub fn additional(id: u16) -> Option<&'static Group> {
    ADDITIONAL.iter().find(|row| row.id == id)
}

impl Encryption {
    /// True for an AEAD, beside which no integrity algorithm is negotiated.
    pub fn is_aead(&self) -> bool {
        self.icv_len > 0
    }
}

impl Integrity {
    /// The PRF on the same hash: the default of a proposal without a PRF word.
    pub fn prf(&self) -> Option<&'static Prf> {
        PRF.iter().find(|row| row.hash == self.hash)
    }
}

/// Rows compare by number (and key length), and print as their word.
macro_rules! row {
    ($row:ident, |$self:ident| $identity:expr) => {
        impl $row {
            fn identity(&self) -> impl Eq + Hash + use<> {
                let $self = self;
                $identity
            }
        }
        impl PartialEq for $row {
            fn eq(&self, other: &$row) -> bool {
                self.identity() == other.identity()
            }
        }
        impl Eq for $row {}
        impl Hash for $row {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.identity().hash(state);
            }
        }
        impl fmt::Display for $row {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word)
            }
        }
        impl fmt::Debug for $row {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word)
            }
        }
    };
}

row!(Encryption, |row| (row.id, row.key_bits));
row!(Integrity, |row| row.id);
row!(Prf, |row| row.id);
row!(Group, |row| row.id);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_is_found_by_its_number() {
        assert!(
            ENCRYPTION
                .iter()
                .all(|row| encryption(row.id, row.key_bits) == Some(row))
        );
        assert!(INTEGRITY.iter().all(|row| integrity(row.id) == Some(row)));
        assert!(PRF.iter().all(|row| prf(row.id) == Some(row)));
        assert!(GROUP.iter().all(|row| group(row.id) == Some(row)));
        assert!(ADDITIONAL.iter().all(|row| additional(row.id) == Some(row)));
    }

    #[test]
    fn numbers_are_unique_and_unknown_ones_are_not_found() {
        assert_eq!(
            ENCRYPTION.iter().collect::<HashSet<_>>().len(),
            ENCRYPTION.len()
        );
        assert_eq!(
            INTEGRITY.iter().collect::<HashSet<_>>().len(),
            INTEGRITY.len()
        );
        assert_eq!(PRF.iter().collect::<HashSet<_>>().len(), PRF.len());
        assert_eq!(GROUP.iter().collect::<HashSet<_>>().len(), GROUP.len());
        assert_eq!(
            encryption(12, None),
            None,
            "AES without a key length (RFC 7296 §3.3.5)"
        );
        assert_eq!(encryption(12, Some(129)), None);
        assert_eq!(encryption(3, Some(192)), None, "3DES takes no key length");
        assert_eq!(integrity(0), None);
        assert_eq!(prf(0), None);
        assert_eq!(group(0), None);
        assert!(ADDITIONAL.iter().all(|row| group(row.id).is_none()));
    }

    #[test]
    fn every_word_names_one_algorithm() {
        let words = ENCRYPTION
            .iter()
            .flat_map(|row| row.aliases.iter().chain([&row.word]));
        let words = words.chain(
            INTEGRITY
                .iter()
                .flat_map(|row| row.aliases.iter().chain([&row.word])),
        );
        let words = words.chain(
            PRF.iter()
                .flat_map(|row| row.aliases.iter().chain([&row.word])),
        );
        let words = words.chain(
            GROUP
                .iter()
                .chain(ADDITIONAL)
                .flat_map(|row| row.aliases.iter().chain([&row.word])),
        );
        let mut seen = HashSet::new();
        for word in words {
            assert!(seen.insert(*word), "{word} is a duplicate");
            assert!(
                !word.contains('-'),
                "{word}: a proposal is split at hyphens"
            );
        }
    }

    #[test]
    fn key_lengths_agree_with_the_key_length_attribute() {
        for row in ENCRYPTION {
            assert_eq!(
                row.key_bits.unwrap_or(row.key_len as u16 * 8),
                row.key_len as u16 * 8,
                "{row}"
            );
            assert_eq!(row.is_aead(), row.salt_len > 0, "{row}");
        }
    }

    #[test]
    fn every_integrity_algorithm_names_a_prf_of_its_hash() {
        for row in INTEGRITY {
            let prf = row.prf().unwrap();
            assert_eq!(prf.word, format!("prf{}", row.word));
            assert_eq!(prf.key_len, row.key_len);
        }
    }

    #[test]
    fn weak_and_forbidden_algorithms_are_those_that_the_documentation_lists() {
        fn words<'a>(
            status: AlgorithmStatus,
            rows: impl Iterator<Item = (&'a str, AlgorithmStatus)>,
        ) -> Vec<&'a str> {
            rows.filter(|row| row.1 == status)
                .map(|row| row.0)
                .collect()
        }
        let all = || {
            let encryption = ENCRYPTION.iter().map(|row| (row.word, row.status));
            let integrity = INTEGRITY.iter().map(|row| (row.word, row.status));
            encryption
                .chain(integrity)
                .chain(GROUP.iter().map(|row| (row.word, row.status)))
        };
        assert_eq!(
            words(Weak, all()),
            [
                "3des",
                "sha1",
                "modp1024",
                "modp1536",
                "modp2048s224",
                "modp2048s256"
            ]
        );
        assert_eq!(
            words(Forbidden, all()),
            ["des", "md5", "modp768", "modp1024s160"]
        );
    }

    #[test]
    fn rows_print_as_their_words() {
        assert_eq!(format!("{}", ENCRYPTION[0]), "aes128");
        assert_eq!(format!("{:?}", GROUP[0]), "modp768");
    }

    #[test]
    fn esn_has_the_numbers_of_rfc_7296() {
        assert_eq!(Esn::from_id(0), Some(Esn::No));
        assert_eq!(Esn::from_id(1), Some(Esn::Yes));
        assert_eq!(Esn::from_id(2), None);
    }
}
