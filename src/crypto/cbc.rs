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

/// An IV that is not one block, or a text that is not a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not a whole number of blocks")]
pub struct NotBlocks;

/// Defines the key schedules of one direction and CBC with them.
macro_rules! key_schedule {
    ($(#[$doc:meta])* $name:ident, $run:ident, { $($cipher:ident: $schedule:ty,)* }) => {
        $(#[$doc])*
        pub(super) enum $name {
            $($cipher($schedule),)*
        }

        impl $name {
            /// Prepares `key`; `None` if it has the wrong length.
            pub(super) fn new(cipher: BlockCipher, key: &[u8]) -> Option<$name> {
                Some(match cipher {
                    $(BlockCipher::$cipher => $name::$cipher(<$schedule>::new_from_slice(key).ok()?),)*
                })
            }

            /// Runs CBC over `text` in place.
            pub(super) fn $run(&self, iv: &[u8], text: &mut [u8]) -> Result<(), NotBlocks> {
                match self {
                    $($name::$cipher(schedule) => $run(schedule, iv, text),)*
                }
            }
        }
    };
}

key_schedule!(
    /// A key schedule for encryption; wiped when dropped.
    Encryptor, encrypt,
    { Aes128: Aes128Enc, Aes192: Aes192Enc, Aes256: Aes256Enc, TripleDes: TdesEde3, Des: Des, }
);

key_schedule!(
    /// A key schedule for decryption; wiped when dropped.
    Decryptor, decrypt,
    { Aes128: Aes128Dec, Aes192: Aes192Dec, Aes256: Aes256Dec, TripleDes: TdesEde3, Des: Des, }
);

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
