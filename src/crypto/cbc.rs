//! Cipher block chaining (RFC 3602, RFC 2451, RFC 2405) without padding: a text is a whole number of blocks.
//!
//! ```text
//!   encrypt: each block needs the one before           decrypt: blocks are independent, eight at a time
//!
//!        IV     P1           P2                             C1           C2
//!         └────▶ ⊕     ┌────▶ ⊕                             ▼            ▼
//!                ▼     │      ▼                            D(k)         D(k)
//!               E(k)   │     E(k)                      IV ─▶ ⊕     C1 ──▶ ⊕
//!                ▼     │      ▼                              ▼            ▼
//!               C1 ────┘     C2                             P1           P2
//! ```

use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc};
use cbc::cipher::array::Array;
use cbc::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit,
    KeyInit,
};
use des::{Des, TdesEde3};

/// A block cipher under CBC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockCipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
    Des,
}

/// A key schedule for encryption; wiped when dropped.
pub(super) enum Encryptor {
    Aes128(Aes128Enc),
    Aes192(Aes192Enc),
    Aes256(Aes256Enc),
    TripleDes(TdesEde3),
    Des(Des),
}

/// A key schedule for decryption; wiped when dropped.
pub(super) enum Decryptor {
    Aes128(Aes128Dec),
    Aes192(Aes192Dec),
    Aes256(Aes256Dec),
    TripleDes(TdesEde3),
    Des(Des),
}

/// An IV that is not one block, or a text that is not a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not a whole number of blocks")]
pub struct NotBlocks;

impl Encryptor {
    /// `None` if `key` has the wrong length.
    pub(super) fn new(cipher: BlockCipher, key: &[u8]) -> Option<Encryptor> {
        let encryptor = match cipher {
            BlockCipher::Aes128 => Encryptor::Aes128(Aes128Enc::new_from_slice(key).ok()?),
            BlockCipher::Aes192 => Encryptor::Aes192(Aes192Enc::new_from_slice(key).ok()?),
            BlockCipher::Aes256 => Encryptor::Aes256(Aes256Enc::new_from_slice(key).ok()?),
            BlockCipher::TripleDes => Encryptor::TripleDes(TdesEde3::new_from_slice(key).ok()?),
            BlockCipher::Des => Encryptor::Des(Des::new_from_slice(key).ok()?),
        };
        Some(encryptor)
    }

    /// Encrypts `text` in place.
    pub(super) fn encrypt(&self, iv: &[u8], text: &mut [u8]) -> Result<(), NotBlocks> {
        match self {
            Encryptor::Aes128(cipher) => encrypt(cipher, iv, text),
            Encryptor::Aes192(cipher) => encrypt(cipher, iv, text),
            Encryptor::Aes256(cipher) => encrypt(cipher, iv, text),
            Encryptor::TripleDes(cipher) => encrypt(cipher, iv, text),
            Encryptor::Des(cipher) => encrypt(cipher, iv, text),
        }
    }
}

impl Decryptor {
    /// `None` if `key` has the wrong length.
    pub(super) fn new(cipher: BlockCipher, key: &[u8]) -> Option<Decryptor> {
        let decryptor = match cipher {
            BlockCipher::Aes128 => Decryptor::Aes128(Aes128Dec::new_from_slice(key).ok()?),
            BlockCipher::Aes192 => Decryptor::Aes192(Aes192Dec::new_from_slice(key).ok()?),
            BlockCipher::Aes256 => Decryptor::Aes256(Aes256Dec::new_from_slice(key).ok()?),
            BlockCipher::TripleDes => Decryptor::TripleDes(TdesEde3::new_from_slice(key).ok()?),
            BlockCipher::Des => Decryptor::Des(Des::new_from_slice(key).ok()?),
        };
        Some(decryptor)
    }

    /// Decrypts `text` in place.
    pub(super) fn decrypt(&self, iv: &[u8], text: &mut [u8]) -> Result<(), NotBlocks> {
        match self {
            Decryptor::Aes128(cipher) => decrypt(cipher, iv, text),
            Decryptor::Aes192(cipher) => decrypt(cipher, iv, text),
            Decryptor::Aes256(cipher) => decrypt(cipher, iv, text),
            Decryptor::TripleDes(cipher) => decrypt(cipher, iv, text),
            Decryptor::Des(cipher) => decrypt(cipher, iv, text),
        }
    }
}

fn encrypt<C: BlockCipherEncrypt>(cipher: &C, iv: &[u8], text: &mut [u8]) -> Result<(), NotBlocks> {
    let (blocks, rest) = Array::slice_as_chunks_mut(text);
    let mut cbc = cbc::Encryptor::inner_iv_slice_init(cipher, iv).map_err(|_| NotBlocks)?;
    cbc.encrypt_blocks(blocks);
    if rest.is_empty() {
        Ok(())
    } else {
        Err(NotBlocks)
    }
}

fn decrypt<C: BlockCipherDecrypt>(cipher: &C, iv: &[u8], text: &mut [u8]) -> Result<(), NotBlocks> {
    let (blocks, rest) = Array::slice_as_chunks_mut(text);
    let mut cbc = cbc::Decryptor::inner_iv_slice_init(cipher, iv).map_err(|_| NotBlocks)?;
    cbc.decrypt_blocks(blocks);
    if rest.is_empty() {
        Ok(())
    } else {
        Err(NotBlocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::vectors;

    #[test]
    fn aes_cbc_of_rfc_3602() {
        for case in vectors::cases(include_str!("../../tests/vectors/aes-cbc.txt")) {
            let (key, iv) = (case.bytes("key"), case.bytes("iv"));
            let mut text = case.bytes("plaintext");
            Encryptor::new(BlockCipher::Aes128, &key)
                .unwrap()
                .encrypt(&iv, &mut text)
                .unwrap();
            assert_eq!(text, case.bytes("ciphertext"), "{}", case.title);
            Decryptor::new(BlockCipher::Aes128, &key)
                .unwrap()
                .decrypt(&iv, &mut text)
                .unwrap();
            assert_eq!(text, case.bytes("plaintext"), "{}", case.title);
        }
    }

    #[test]
    fn key_schedules_are_wiped_when_dropped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        wiped::<Aes128Enc>();
        wiped::<Aes192Enc>();
        wiped::<Aes256Enc>();
        wiped::<Aes128Dec>();
        wiped::<Aes192Dec>();
        wiped::<Aes256Dec>();
        wiped::<TdesEde3>();
        wiped::<Des>();
    }

    #[test]
    fn a_text_that_is_not_whole_blocks_is_rejected() {
        let encryptor = Encryptor::new(BlockCipher::Aes128, &[1; 16]).unwrap();
        assert!(encryptor.encrypt(&[0; 16], &mut [0; 33]).is_err());
        assert!(encryptor.encrypt(&[0; 15], &mut [0; 32]).is_err());
        assert!(Decryptor::new(BlockCipher::TripleDes, &[1; 16]).is_none());
    }
}
