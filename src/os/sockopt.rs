//! Socket options that neither `nix` nor `socket2` has a type for.

#![allow(unsafe_code, reason = "setsockopt")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets an option with an `int` value.
pub(super) fn set_int(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is an int of the length given, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
