//! A descriptor of ours that an event loop waits on.

#![allow(unsafe_code, reason = "registering a descriptor with the runtime")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Something with a descriptor that is readable when there is something to do.
#[derive(Debug)]
pub struct AsyncReadable<T> {
    inner: T,
    readiness: AsyncFd<OwnedFd>,
}

impl<T: AsFd> AsyncReadable<T> {
    /// Must be called inside a runtime that does IO.
    ///
    /// # Errors
    /// No descriptor left, or one that cannot be waited on.
    pub fn new(inner: T) -> io::Result<AsyncReadable<T>> {
        // A second descriptor of the same thing, so that nothing hangs on what `T` does with its own.
        let second = inner.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd is open and is the same descriptor for as long as it lives, and the AsyncFd owns it.
        let readiness = unsafe { AsyncFd::register_with_interest(second, Interest::READABLE) }?;
        Ok(AsyncReadable { inner, readiness })
    }

    /// Waits until it has become readable since the last time. Whoever is told so must do all there is to do, or come back
    /// without waiting.
    pub async fn ready(&self) {
        match self.readiness.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            // Only while the runtime ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// What is watched.
    pub fn get(&self) -> &T {
        &self.inner
    }

    /// What is watched.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::super::poll::Signal;
    use super::*;

    #[tokio::test]
    async fn it_is_ready_each_time_something_has_come() {
        let signal = Signal::new().unwrap();
        let watched = AsyncReadable::new(signal.clone()).unwrap();
        for _ in 0..3 {
            signal.set();
            watched.ready().await;
            assert!(watched.get().clear());
        }
        let pending = tokio::time::timeout(std::time::Duration::ZERO, watched.ready());
        assert!(pending.await.is_err(), "nothing has come since");
    }
}
