//! `groundlink psk`: a strong pre-shared key that every supported cloud accepts.

use std::fs::File;
use std::io::{self, Read};

use clap::Args;

use super::outcome::{Exit, Failure, print};

/// A strong pre-shared key every supported cloud accepts, on stdout
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  (umask 077; groundlink psk > /etc/groundlink/psk/ali-1)")]
pub(crate) struct PskArgs {}

/// Letters and digits pass every cloud's rules and every shell's quoting. 48 of them are 285 bits.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LENGTH: usize = 48;

impl PskArgs {
    pub fn execute(self) -> Result<Exit, Failure> {
        let random = File::open("/dev/urandom").and_then(make);
        let mut key = random.map_err(|error| {
            Failure::failed(format!("no random bytes from /dev/urandom: {error}"), "")
        })?;
        key.push('\n');
        print(key.as_bytes())
    }
}

/// Draws characters evenly: a byte past the last whole multiple of the alphabet is drawn again. The first is a letter, because a key
/// that starts with `0x` or `0s` would be read as hex or base64.
fn make(mut random: impl Read) -> io::Result<String> {
    let mut key = String::with_capacity(LENGTH + 1);
    while key.len() < LENGTH {
        let choices = if key.is_empty() { 52 } else { ALPHABET.len() };
        let mut byte = [0];
        random.read_exact(&mut byte)?;
        let drawn = usize::from(byte[0]);
        if drawn < 256 / choices * choices {
            key.push(char::from(ALPHABET[drawn % choices]));
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_long_plain_and_starts_with_a_letter() {
        for _ in 0..50 {
            let key = make(File::open("/dev/urandom").unwrap()).unwrap();
            assert_eq!(key.len(), 48);
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric()), "{key}");
            assert!(key.starts_with(|c: char| c.is_ascii_alphabetic()), "{key}");
        }
    }

    #[test]
    fn bytes_that_would_favour_some_characters_are_drawn_again() {
        let mut bytes = vec![255, 208, 0, 248, 255];
        bytes.extend([61; 47]);
        assert_eq!(make(&bytes[..]).unwrap(), format!("A{}", "9".repeat(47)));
        assert!(
            make(&bytes[..10]).is_err(),
            "a source that ends is no source"
        );
    }
}
