//! `groundlink psk`: generates a pre-shared key that every supported cloud accepts.

use std::fs::File;
use std::io::{self, Read};

use clap::Args;
use zeroize::Zeroizing;

use super::common::{Exit, Failure, print};

/// Generate a strong pre-shared key that every supported cloud accepts
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  (umask 077; groundlink psk > /etc/groundlink/psk/ali-1)")]
pub(crate) struct PskArgs {}

/// Letters and digits, which every cloud accepts and no shell interprets. 48 of them are 285 bits.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LENGTH: usize = 48;

impl PskArgs {
    pub fn execute(self) -> Result<Exit, Failure> {
        let random = File::open("/dev/urandom").and_then(generate);
        let mut key = random
            .map_err(|error| Failure::failed(format!("cannot read /dev/urandom: {error}"), ""))?;
        key.push('\n');
        print(key.as_bytes())
    }
}

/// Generates a key of equally probable characters: a random byte beyond the last whole multiple of the alphabet is rejected. The
/// first character is a letter, since a key that starts with `0x` or `0s` would be read as hexadecimal or base64.
fn generate(mut random: impl Read) -> io::Result<Zeroizing<String>> {
    let mut key = Zeroizing::new(String::with_capacity(LENGTH + 1));
    while key.len() < LENGTH {
        let choices = if key.is_empty() { 52 } else { ALPHABET.len() };
        let mut byte = [0];
        random.read_exact(&mut byte)?;
        let index = usize::from(byte[0]);
        if index < 256 / choices * choices {
            key.push(char::from(ALPHABET[index % choices]));
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_alphanumeric_and_starts_with_a_letter() {
        for _ in 0..50 {
            let key = generate(File::open("/dev/urandom").unwrap()).unwrap();
            assert_eq!(key.len(), 48);
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric()), "{key:?}");
            assert!(
                key.starts_with(|c: char| c.is_ascii_alphabetic()),
                "{key:?}"
            );
        }
    }

    #[test]
    fn bytes_that_would_bias_the_choice_are_rejected() {
        let mut bytes = vec![255, 208, 0, 248, 255];
        bytes.extend([61; 47]);
        assert_eq!(
            *generate(&bytes[..]).unwrap(),
            format!("A{}", "9".repeat(47))
        );
        assert!(
            generate(&bytes[..10]).is_err(),
            "the source of random bytes ended"
        );
    }
}
