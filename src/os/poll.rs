//! Epoll: worker threads wait for their devices and sockets, and for wake-ups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Eventfd used as a flag: readable while set. Any thread can set it, the waiting thread clears it. Clones share the flag. The
/// descriptor also works with other pollers, such as tokio's `AsyncFd`.
#[derive(Clone, Debug)]
pub struct Signal(Arc<EventFd>);

impl Signal {
    /// Creates a cleared flag.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Signal> {
        Ok(Signal(Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?)))
    }

    /// Sets the flag. Setting a set flag has no effect.
    pub fn set(&self) {
        // Fails only at the maximum of the counter, when the flag is set.
        let _ = self.0.write(1);
    }

    /// Clears the flag and returns whether it was set.
    pub fn clear(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Epoll instance of one worker thread, with a [`Signal`] to wake it.
#[derive(Debug)]
pub struct Waiter {
    epoll: Epoll,
    wake: Signal,
}

/// Result of one wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    tokens: [u32; Ready::MAX],
    len: usize,
    /// Whether the wake-up signal was set. The wait has cleared it.
    pub woken: bool,
}

impl Ready {
    /// Maximum number of descriptors that one wait reports; the others follow with the next wait.
    pub const MAX: usize = 16;

    /// A result with these tokens and without a wake-up, for tests without epoll.
    #[cfg(test)]
    pub(crate) fn of(found: &[u32]) -> Ready {
        let mut tokens = [0; Ready::MAX];
        for (slot, token) in tokens.iter_mut().zip(found) {
            *slot = *token;
        }
        Ready {
            tokens,
            len: found.len().min(Ready::MAX),
            woken: false,
        }
    }

    /// Tokens of the readable descriptors. Descriptors in error count as readable; reading returns the error.
    pub fn tokens(&self) -> &[u32] {
        self.tokens.get(..self.len).unwrap_or_default()
    }
}

impl Waiter {
    const WAKE: u64 = u64::MAX;

    /// Creates a waiter that watches its wake-up signal only.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Waiter> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = Signal::new()?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, Self::WAKE))?;
        Ok(Waiter { epoll, wake })
    }

    /// Wake-up signal, for other threads.
    pub fn waker(&self) -> Signal {
        self.wake.clone()
    }

    /// Watches `fd` for reading; [`Ready::tokens`] reports it by `token`.
    ///
    /// # Errors
    /// The descriptor is already watched or cannot be polled.
    pub fn watch(&self, fd: BorrowedFd<'_>, token: u32) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(token)))?)
    }

    /// Stops watching `fd`. Closed descriptors need no call.
    ///
    /// # Errors
    /// The descriptor is not watched.
    pub fn forget(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Sleeps until a descriptor is readable, the waiter is woken, or `timeout` has passed (`None`: without a limit).
    ///
    /// # Errors
    /// Error of epoll_wait(2). An interrupted wait returns early with an empty result.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Ready> {
        let mut events = [EpollEvent::empty(); Ready::MAX];
        let found = match self.epoll.wait(&mut events, millis(timeout)) {
            Ok(found) => found,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready {
            tokens: [0; Ready::MAX],
            len: 0,
            woken: false,
        };
        for event in events.iter().take(found) {
            match u32::try_from(event.data()) {
                Ok(token) => {
                    ready.tokens[ready.len] = token;
                    ready.len += 1;
                }
                Err(_) => ready.woken = self.wake.clear(),
            }
        }
        Ok(ready)
    }
}

/// Rounds up, so that a wait never ends early and spins.
fn millis(timeout: Option<Duration>) -> EpollTimeout {
    match timeout {
        None => EpollTimeout::NONE,
        Some(timeout) => i32::try_from(timeout.as_nanos().div_ceil(1_000_000))
            .ok()
            .and_then(|ms| EpollTimeout::try_from(ms).ok())
            .unwrap_or(EpollTimeout::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_another_thread_wakes_it() {
        let waiter = Waiter::new().unwrap();
        let waker = waiter.waker();
        let thread = std::thread::spawn(move || waker.set());
        let ready = waiter.wait(None).unwrap();
        thread.join().unwrap();
        assert!(ready.woken && ready.tokens().is_empty());
        assert!(
            !waiter.wait(Some(Duration::ZERO)).unwrap().woken,
            "the wake-up is used up"
        );
    }

    #[test]
    fn a_readable_descriptor_shows_by_its_token_until_it_is_read() {
        let waiter = Waiter::new().unwrap();
        let (quiet, loud) = (Signal::new().unwrap(), Signal::new().unwrap());
        waiter.watch(quiet.as_fd(), 1).unwrap();
        waiter.watch(loud.as_fd(), 2).unwrap();
        loud.set();
        assert_eq!(waiter.wait(None).unwrap().tokens(), [2]);
        assert_eq!(waiter.wait(None).unwrap().tokens(), [2]);
        assert!(loud.clear() && !loud.clear());
        assert!(
            waiter
                .wait(Some(Duration::ZERO))
                .unwrap()
                .tokens()
                .is_empty()
        );
        quiet.set();
        waiter.forget(quiet.as_fd()).unwrap();
        assert!(
            waiter
                .wait(Some(Duration::ZERO))
                .unwrap()
                .tokens()
                .is_empty()
        );
    }

    #[test]
    fn timeouts_round_up_and_never_overflow() {
        assert_eq!(
            millis(Some(Duration::from_micros(1))),
            EpollTimeout::from(1_u8)
        );
        assert_eq!(millis(Some(Duration::MAX)), EpollTimeout::MAX);
        assert_eq!(millis(None), EpollTimeout::NONE);
    }
}
