//! Cookies (RFC 7296 §2.6): under load, an initiator must return a cookie sent to its source address before any state is kept.
//!
//! ```text
//! HDR(A, 0), SAi1, KEi, Ni               ──▶
//!                                        ◀──  HDR(A, 0), N(COOKIE)          no state is kept
//! HDR(A, 0), N(COOKIE), SAi1, KEi, Ni    ──▶                                key exchange
//!
//! cookie = version (1) | HMAC-SHA-256(secret of that version, SPIi | address | port | Ni), 16 octets of it
//! ```
//!
//! The cookie covers the port, though §2.6 requires only the address: one cookie admits one handshake, not one for each of 65535
//! ports. A NAT that changes its mapping between two messages would be the only obstacle. The cookie does not cover SAi1 and KEi,
//! so it stays valid when the peer repeats its request with another group after INVALID_KE_PAYLOAD (§2.6.1). A request without
//! the cookie gets the same cookie again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::crypto::{Generator, Secret, equal, hmac_sha256};
use crate::net::Time;
use crate::wire::IkeSpi;

/// How long a secret generates cookies.
const ROTATION: Duration = Duration::from_secs(30);

/// How long a cookie secret is accepted.
const LIFE: Duration = Duration::from_secs(60);

/// Octets of the HMAC in a cookie: 128 bits cannot be guessed within a minute.
const TAG_LEN: usize = 16;

/// The secrets of the cookies.
#[derive(Debug, Default)]
pub struct Cookies {
    /// Generated when the first cookie is needed.
    current: Option<Generation>,
    previous: Option<Generation>,
}

#[derive(Debug)]
struct Generation {
    version: u8,
    secret: Secret,
    born: Time,
}

/// The data that a cookie is bound to.
#[derive(Clone, Copy, Debug)]
pub struct CookieInput<'a> {
    /// Source of the request.
    pub remote: SocketAddr,
    /// SPI of the initiator.
    pub spi_i: IkeSpi,
    /// Nonce of the initiator (Ni).
    pub nonce: &'a [u8],
}

impl Cookies {
    /// Generates the cookie for an initiator.
    pub fn generate(&mut self, now: Time, input: CookieInput<'_>, rng: &mut Generator) -> Vec<u8> {
        self.age(now);
        let current = self.current.take().unwrap_or_else(|| Generation {
            version: self
                .previous
                .as_ref()
                .map_or(0, |previous| previous.version.wrapping_add(1)),
            secret: Secret::random(32, rng),
            born: now,
        });
        let cookie = current.cookie(input);
        self.current = Some(current);
        cookie
    }

    /// Whether the cookie was generated for this initiator and has not expired.
    pub fn is_valid(&mut self, now: Time, cookie: &[u8], input: CookieInput<'_>) -> bool {
        self.age(now);
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .filter(|generation| cookie.first() == Some(&generation.version))
            .any(|generation| equal(&generation.cookie(input), cookie))
    }

    /// Removes expired secrets.
    fn age(&mut self, now: Time) {
        if let Some(current) = self
            .current
            .take_if(|current| now.since(current.born) >= ROTATION)
        {
            self.previous = Some(current);
        }
        self.previous
            .take_if(|previous| now.since(previous.born) >= LIFE);
    }
}

impl Generation {
    fn cookie(&self, input: CookieInput<'_>) -> Vec<u8> {
        let CookieInput {
            remote,
            spi_i,
            nonce,
        } = input;
        let spi_i = spi_i.0.to_be_bytes();
        let port = remote.port().to_be_bytes();
        // The address family determines the length of the address, so only Ni has a variable length; it comes last.
        let tag = match remote.ip() {
            IpAddr::V4(address) => hmac_sha256(
                &self.secret,
                &[&spi_i, b"4", &address.octets(), &port, nonce],
            ),
            IpAddr::V6(address) => hmac_sha256(
                &self.secret,
                &[&spi_i, b"6", &address.octets(), &port, nonce],
            ),
        };
        let mut cookie = vec![self.version];
        cookie.extend(tag.iter().take(TAG_LEN));
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &[u8] = &[9; 32];

    fn input(remote: &str) -> CookieInput<'static> {
        CookieInput {
            remote: remote.parse().unwrap(),
            spi_i: IkeSpi(7),
            nonce: NONCE,
        }
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn n10_a_cookie_is_valid_for_its_initiator_only() {
        let (mut cookies, mut rng) = (Cookies::default(), Generator::from_seed([1; 32]));
        let alice = input("192.0.2.1:500");
        let cookie = cookies.generate(at(1), alice, &mut rng);
        assert!((1..=64).contains(&cookie.len()));
        assert!(cookies.is_valid(at(1), &cookie, alice));
        for other in [
            input("192.0.2.2:500"),
            input("192.0.2.1:501"),
            input("[2001:db8::1]:500"),
            CookieInput {
                spi_i: IkeSpi(8),
                ..alice
            },
            CookieInput {
                nonce: &[9; 31],
                ..alice
            },
        ] {
            assert!(!cookies.is_valid(at(1), &cookie, other), "{other:?}");
        }
        for index in 0..cookie.len() {
            let mut changed = cookie.clone();
            changed[index] ^= 1;
            assert!(!cookies.is_valid(at(1), &changed, alice), "{index}");
        }
        for len in 0..cookie.len() {
            assert!(!cookies.is_valid(at(1), &cookie[..len], alice), "{len}");
        }
        assert!(!cookies.is_valid(at(1), &[cookie.as_slice(), &[0]].concat(), alice));
        assert!(!Cookies::default().is_valid(at(1), &cookie, alice));
    }

    #[test]
    fn n10_a_cookie_expires_with_its_secret_whether_or_not_others_are_generated() {
        for busy in [false, true] {
            let (mut cookies, mut rng) = (Cookies::default(), Generator::from_seed([2; 32]));
            let alice = input("192.0.2.1:500");
            let cookie = cookies.generate(at(100), alice, &mut rng);
            let mut is_valid = |seconds| {
                if busy {
                    cookies.generate(at(seconds), input("192.0.2.9:500"), &mut rng);
                }
                cookies.is_valid(at(seconds), &cookie, alice)
            };
            assert!(is_valid(129) && is_valid(131) && is_valid(159));
            assert!(!is_valid(160) && !is_valid(10_000));
        }
    }

    #[test]
    fn the_same_request_gets_the_same_cookie_for_a_while_and_then_another() {
        let (mut cookies, mut rng) = (Cookies::default(), Generator::from_seed([3; 32]));
        let alice = input("192.0.2.1:500");
        let first = cookies.generate(at(100), alice, &mut rng);
        assert_eq!(cookies.generate(at(129), alice, &mut rng), first);
        let second = cookies.generate(at(130), alice, &mut rng);
        assert_ne!(second, first);
        assert!(cookies.is_valid(at(130), &first, alice));
        assert!(cookies.is_valid(at(130), &second, alice));
        assert!(!format!("{cookies:?}").contains(&format!("{:?}", first)));
    }
}
