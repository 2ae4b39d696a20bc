//! AES-CBC (RFC 3602) over several texts at once, under one key.
//!
//! ```text
//!   slot 1   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓      ▓ text    │ the shortest ends here: one step of the kernel,
//!   slot 2   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▒▒▒▒▒▒▒        then the next text ▒ of the batch takes its slot
//!   slot 3   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓
//! ```
//!
//! Decryption needs no lanes: the blocks of one text do not wait for each other.

use crate::crypto::cbc as portable;
use crate::crypto::cbc::BlockCipher;
use crate::crypto::registry::{Cipher, Encryption};

use super::{AesUnit, Kernel};

#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
use super::x86::{AesNi, Schedule, Vaes, aesni, slots, vaes};

/// One text to encrypt in place.
#[derive(Default)]
pub struct CbcJob<'a> {
    /// Its IV.
    pub iv: [u8; 16],
    /// A whole number of blocks.
    pub text: &'a mut [u8],
}

/// A text that is not a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not a whole number of blocks")]
pub struct NotBlocks;

/// A key to encrypt with; wiped when dropped.
pub struct CbcEncryptor(Encrypting);

/// A key to decrypt with; wiped when dropped.
pub struct CbcDecryptor(Decrypting);

#[allow(
    clippy::large_enum_variant,
    reason = "one per SA: a box would cost every batch an indirection"
)]
enum Encrypting {
    Portable(portable::Encryptor),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    AesNi(AesNi, Schedule),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Vaes(Vaes, Schedule),
}

#[allow(
    clippy::large_enum_variant,
    reason = "one per SA: a box would cost every packet an indirection"
)]
enum Decrypting {
    Portable(portable::Decryptor),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    AesNi(AesNi, Schedule),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Vaes(Vaes, Schedule),
}

/// The AES that `row` runs CBC over; `None` if it is no AES-CBC.
fn aes_of(row: &Encryption) -> Option<BlockCipher> {
    match row.cipher {
        Cipher::Cbc(cipher @ (BlockCipher::Aes128 | BlockCipher::Aes192 | BlockCipher::Aes256)) => {
            Some(cipher)
        }
        Cipher::Cbc(BlockCipher::TripleDes | BlockCipher::Des) | Cipher::Aead(_) => None,
    }
}

impl CbcEncryptor {
    /// `None` if `row` is no AES-CBC, or `key` does not have its length.
    pub fn new(kernel: Kernel, row: &Encryption, key: &[u8]) -> Option<CbcEncryptor> {
        let reference = portable::Encryptor::new(aes_of(row)?, key)?;
        Some(CbcEncryptor(match kernel.aes {
            AesUnit::Portable => Encrypting::Portable(reference),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::AesNi(unit) => Encrypting::AesNi(unit, aesni::expand(unit, key)?),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::Vaes(unit) => Encrypting::Vaes(unit, aesni::expand(unit.narrow(), key)?),
        }))
    }

    /// Encrypts every lane in place. Where one of them does not fit, none is touched.
    ///
    /// # Errors
    /// [`NotBlocks`] if a text is not a whole number of blocks.
    pub fn encrypt(&self, lanes: &mut [CbcJob<'_>]) -> Result<(), NotBlocks> {
        if lanes.iter().any(|lane| !lane.text.len().is_multiple_of(16)) {
            return Err(NotBlocks);
        }
        match &self.0 {
            Encrypting::Portable(cipher) => lanes.iter_mut().try_for_each(|lane| {
                cipher
                    .encrypt(&lane.iv, lane.text)
                    .map_err(|_: portable::NotBlocks| NotBlocks)
            }),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Encrypting::AesNi(unit, schedule) => {
                slots::encrypt(*unit, schedule, lanes);
                Ok(())
            }
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Encrypting::Vaes(unit, schedule) => {
                slots::encrypt(*unit, schedule, lanes);
                Ok(())
            }
        }
    }
}

impl CbcEncryptor {
    /// Encrypts every block by itself: CBC after an IV of zeros.
    pub(super) fn encrypt_blocks(&self, blocks: &mut [[u8; 16]; 16]) {
        match &self.0 {
            Encrypting::Portable(cipher) => {
                for block in blocks {
                    // One block is whole.
                    let _: Result<(), portable::NotBlocks> = cipher.encrypt(&[0; 16], block);
                }
            }
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Encrypting::AesNi(unit, schedule) => aesni::encrypt_blocks(*unit, schedule, blocks),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Encrypting::Vaes(unit, schedule) => {
                aesni::encrypt_blocks(unit.narrow(), schedule, blocks);
            }
        }
    }
}

impl CbcDecryptor {
    /// `None` if `row` is no AES-CBC, or `key` does not have its length.
    pub fn new(kernel: Kernel, row: &Encryption, key: &[u8]) -> Option<CbcDecryptor> {
        let reference = portable::Decryptor::new(aes_of(row)?, key)?;
        Some(CbcDecryptor(match kernel.aes {
            AesUnit::Portable => Decrypting::Portable(reference),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::AesNi(unit) => {
                Decrypting::AesNi(unit, aesni::expand(unit, key)?.inverse(unit))
            }
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            AesUnit::Vaes(unit) => {
                let narrow = unit.narrow();
                Decrypting::Vaes(unit, aesni::expand(narrow, key)?.inverse(narrow))
            }
        }))
    }

    /// Decrypts one text in place.
    ///
    /// # Errors
    /// [`NotBlocks`] if the text is not a whole number of blocks.
    pub fn decrypt(&self, iv: &[u8; 16], text: &mut [u8]) -> Result<(), NotBlocks> {
        if !text.len().is_multiple_of(16) {
            return Err(NotBlocks);
        }
        match &self.0 {
            Decrypting::Portable(cipher) => cipher
                .decrypt(iv, text)
                .map_err(|_: portable::NotBlocks| NotBlocks)?,
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Decrypting::AesNi(unit, schedule) => {
                aesni::decrypt(*unit, schedule, *iv, text.as_chunks_mut().0);
            }
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Decrypting::Vaes(unit, schedule) => {
                vaes::decrypt(*unit, schedule, *iv, text.as_chunks_mut().0);
            }
        }
        Ok(())
    }
}
