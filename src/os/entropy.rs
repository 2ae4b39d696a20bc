//! Seed of all random generators (getrandom(2)).

#![allow(unsafe_code, reason = "getrandom")]

use std::io;

/// Returns 32 bytes of the kernel's generator. Early at boot the call blocks until the generator is seeded.
///
/// # Errors
/// Error of getrandom(2), except interruptions.
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
    fn seeds_differ_and_are_not_zero() {
        let (one, other) = (super::seed().unwrap(), super::seed().unwrap());
        assert!(one != other && one != [0; 32] && other[16..] != [0; 16]);
    }
}
