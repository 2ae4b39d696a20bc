//! Descriptors that the event loop waits for.

#![allow(unsafe_code, reason = "registering a descriptor with the runtime")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Owner of a descriptor, registered with tokio for reading.
#[derive(Debug)]
pub struct AsyncReadable<T> {
    inner: T,
    readiness: AsyncFd<OwnedFd>,
}

impl<T: AsFd> AsyncReadable<T> {
    /// Registers the descriptor with the current runtime.
    ///
    /// # Errors
    /// No descriptor left, or a descriptor that cannot be polled.
    pub fn new(inner: T) -> io::Result<AsyncReadable<T>> {
        // A duplicate, so that the registration does not depend on what `T` does with its descriptor.
        let second = inner.as_fd().try_clone_to_owned()?;
        // SAFETY: the AsyncFd owns the OwnedFd, which stays open and the same descriptor during its lifetime.
        let readiness = unsafe { AsyncFd::register_with_interest(second, Interest::READABLE) }?;
        Ok(AsyncReadable { inner, readiness })
    }

    /// Waits until the descriptor has become readable since the last call. The caller must then read until `WouldBlock`.
    pub async fn ready(&self) {
        match self.readiness.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            // The runtime shuts down.
            Err(_) => std::future::pending().await,
        }
    }

    /// Inner value.
    pub fn get(&self) -> &T {
        &self.inner
    }

    /// Inner value.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::super::poll::Signal;
    use super::*;

    #[tokio::test]
    async fn each_event_makes_it_ready_once() {
        let signal = Signal::new().unwrap();
        let readable = AsyncReadable::new(signal.clone()).unwrap();
        for _ in 0..3 {
            signal.set();
            readable.ready().await;
            assert!(readable.get().clear());
        }
        let pending = tokio::time::timeout(std::time::Duration::ZERO, readable.ready());
        assert!(pending.await.is_err(), "no new event");
    }
}
