//! Where all randomness of the program begins (getrandom(2)).

#![allow(unsafe_code, reason = "getrandom")]

use std::io;

/// 32 bytes from the kernel's generator. Early at boot this waits until that has been seeded.
///
/// # Errors
/// What the kernel said; interrupted waits are not told.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    loop {
        // SAFETY: the kernel writes at most as many bytes as the array has.
        let count = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
        if usize::try_from(count) == Ok(seed.len()) {
            return Ok(seed);
        }
        let error = io::Error::last_os_error();
        if count < 0 && error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_seeds_are_equal_and_none_is_empty() {
        let (one, other) = (super::seed().unwrap(), super::seed().unwrap());
        assert!(one != other && one != [0; 32] && other[16..] != [0; 16]);
    }
}
