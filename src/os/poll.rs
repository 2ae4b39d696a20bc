//! Sleeping until something happens: a worker waits on its devices and sockets and on being woken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A flag with a descriptor (an eventfd): readable while it is set. Any thread may set it; whoever waits clears it.
/// Clones are the same flag. Its descriptor also fits other pollers, such as tokio's `AsyncFd`.
#[derive(Clone, Debug)]
pub struct Signal(Arc<EventFd>);

impl Signal {
    /// A flag that is not set.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Signal> {
        Ok(Signal(Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?)))
    }

    /// Sets it. Setting it twice is setting it once.
    pub fn set(&self) {
        // Fails only when the counter is at its limit: then it is set.
        let _ = self.0.write(1);
    }

    /// Clears it and says whether it was set.
    pub fn clear(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits on descriptors and on its own wake-up [`Signal`]. One per worker thread.
#[derive(Debug)]
pub struct Waiter {
    epoll: Epoll,
    wake: Signal,
}

/// What a wait has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    tokens: [u32; Ready::MAX],
    len: usize,
    /// Whether the wake-up signal was set; the wait has cleared it.
    pub woken: bool,
}

impl Ready {
    /// The most descriptors one wait reports; the others show on the next.
    pub const MAX: usize = 16;

    /// These descriptors, and no wake-up: what is said instead of the kernel where there is none.
    #[cfg(test)]
    pub(crate) fn of(found: &[u32]) -> Ready {
        let mut tokens = [0; Ready::MAX];
        for (place, token) in tokens.iter_mut().zip(found) {
            *place = *token;
        }
        Ready {
            tokens,
            len: found.len().min(Ready::MAX),
            woken: false,
        }
    }

    /// The tokens of the descriptors that may be read now. A descriptor in error counts as readable: reading it tells the error.
    pub fn tokens(&self) -> &[u32] {
        self.tokens.get(..self.len).unwrap_or_default()
    }
}

impl Waiter {
    const WAKE: u64 = u64::MAX;

    /// A waiter that waits for nothing but its wake-up.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Waiter> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = Signal::new()?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, Self::WAKE))?;
        Ok(Waiter { epoll, wake })
    }

    /// What wakes this waiter, to be given to other threads.
    pub fn waker(&self) -> Signal {
        self.wake.clone()
    }

    /// Also waits for `fd` to become readable; [`Ready::tokens`] then has `token`.
    ///
    /// # Errors
    /// The descriptor is watched already or cannot be waited on.
    pub fn watch(&self, fd: BorrowedFd<'_>, token: u32) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(token)))?)
    }

    /// Stops waiting for `fd`. A descriptor that is closed is forgotten by itself.
    ///
    /// # Errors
    /// It was not watched.
    pub fn forget(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Sleeps until a descriptor is readable, the waiter is woken or `timeout` has passed (`None`: as long as it takes).
    ///
    /// # Errors
    /// Only if the kernel refuses to wait at all. A signal that interrupts is an early, empty return.
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

/// Rounded up, so that a wait never ends just before its time and spins.
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
