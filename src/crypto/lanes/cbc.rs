//! AES-CBC (RFC 3602) over several texts at once, under one key.
//!
//! ```text
//!   slot 1   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓      ▓ text    │ the shortest text ends here: one step of the kernel,
//!   slot 2   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▒▒▒▒▒▒▒        then the next text ▒ of the batch takes its slot
//!   slot 3   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓
//! ```
//!
//! Decryption takes one text at a time, since its blocks are independent.

use crate::crypto::cbc::{self as portable, BlockCipher};
use crate::crypto::registry::{Cipher, Encryption};

use super::kernel::{AesUnit, Kernel};

#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
use super::x86::{AesNi, Vaes, aesni, cbc_scheduler, vaes};

pub use super::scheduler::CbcJob;
pub use crate::crypto::cbc::NotBlocks;

/// An encryption key; wiped when dropped.
pub struct CbcEncryptor(Encrypting);

/// A decryption key; wiped when dropped.
pub struct CbcDecryptor(Decrypting);

#[allow(
    clippy::large_enum_variant,
    reason = "one per SA: a box would cost every batch an indirection"
)]
enum Encrypting {
    Portable(portable::Encryptor),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    AesNi(AesNi, aesni::Schedule),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Vaes(Vaes, aesni::Schedule),
}

#[allow(
    clippy::large_enum_variant,
    reason = "one per SA: a box would cost every packet an indirection"
)]
enum Decrypting {
    Portable(portable::Decryptor),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    AesNi(AesNi, aesni::Schedule),
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    Vaes(Vaes, aesni::Schedule),
}

/// The AES cipher of `row`; `None` if `row` is not AES-CBC.
fn aes_of(row: &Encryption) -> Option<BlockCipher> {
    match row.cipher {
        Cipher::Cbc(cipher @ (BlockCipher::Aes128 | BlockCipher::Aes192 | BlockCipher::Aes256)) => {
            Some(cipher)
        }
        Cipher::Cbc(BlockCipher::TripleDes | BlockCipher::Des) | Cipher::Aead(_) => None,
    }
}

impl CbcEncryptor {
    /// Prepares `key`; `None` if `row` is not AES-CBC or `key` has the wrong length.
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

    /// Encrypts every text in place.
    ///
    /// # Errors
    /// [`NotBlocks`] if a text is not a whole number of blocks; then no text is changed.
    pub fn encrypt(&self, jobs: &mut [CbcJob<'_>]) -> Result<(), NotBlocks> {
        if jobs.iter().any(|job| !job.text.len().is_multiple_of(16)) {
            return Err(NotBlocks);
        }
        match &self.0 {
            Encrypting::Portable(cipher) => jobs
                .iter_mut()
                .try_for_each(|job| cipher.encrypt(&job.iv, job.text)),
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Encrypting::AesNi(unit, schedule) => {
                cbc_scheduler::encrypt(*unit, schedule, jobs);
                Ok(())
            }
            #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
            Encrypting::Vaes(unit, schedule) => {
                cbc_scheduler::encrypt(*unit, schedule, jobs);
                Ok(())
            }
        }
    }

    /// Encrypts every block separately: CBC of one block with an IV of zeros.
    pub(super) fn encrypt_blocks(&self, blocks: &mut [[u8; 16]; 16]) {
        match &self.0 {
            Encrypting::Portable(cipher) => {
                for block in blocks {
                    // One block is a whole number of blocks.
                    let _: Result<(), NotBlocks> = cipher.encrypt(&[0; 16], block);
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
    /// Prepares `key`; `None` if `row` is not AES-CBC or `key` has the wrong length.
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
            Decrypting::Portable(cipher) => cipher.decrypt(iv, text)?,
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
