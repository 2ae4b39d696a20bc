//! What strangers may cost us, and what we say when somebody is silent.

use std::net::SocketAddr;
use std::time::Duration;

use super::event::{Datagram, DownReason};
use super::failure::Failure;
use crate::net::Time;

/// IKE SAs of one tunnel, established or closing: more come about only by a peer that begins again and again.
pub const MAX_OF_TUNNEL: usize = 16;

/// IKE SAs of one tunnel that are being closed, or have been replaced.
pub const MAX_ENDING: usize = 8;

/// Last answers kept of SAs that are gone.
pub const MAX_LAST_RESPONSES: usize = 256;

/// A failure that repeats is news again after this long.
pub const NEWS_AGAIN: Duration = Duration::from_secs(300);

/// After this many copies of an unanswered message people should know; the attempt goes on.
pub const COPIES_BEFORE_NEWS: u32 = 3;

/// How many answers to unauthenticated messages leave at once at most; one more every [`REFILL`].
const BURST: u32 = 20;

const REFILL: Duration = Duration::from_millis(100);

/// A token bucket for answers to unauthenticated messages.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: u32,
    filled: Time,
}

impl Default for Bucket {
    fn default() -> Bucket {
        Bucket {
            tokens: BURST,
            filled: Time::ZERO,
        }
    }
}

impl Bucket {
    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Time) -> bool {
        let since = now.since(self.filled).as_millis();
        let fresh = since.checked_div(REFILL.as_millis()).unwrap_or(0);
        if fresh > 0 {
            let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(fresh).min(BURST);
            self.filled = now;
        }
        let there = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        there
    }
}

/// The peer has not answered IKE_SA_INIT.
pub fn silent_at_init(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!("no answer from {remote} to IKE_SA_INIT"),
        advice: format!(
            "Check that {} is the peer's address, that the peer expects us at our public address, and that UDP 500 and 4500 pass both ways.",
            remote.ip()
        ),
    }
}

/// The peer has answered IKE_SA_INIT, but not IKE_INTERMEDIATE.
pub fn silent_at_intermediate(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!(
            "{} answers IKE_SA_INIT on UDP 500, but not IKE_INTERMEDIATE on UDP 4500",
            remote.ip()
        ),
        advice: "Open UDP 4500 both ways between the gateways; an ML-KEM key makes this message long, so where fragments of IP are dropped, lower `fragment-size` on this tunnel."
            .to_owned(),
    }
}

/// The peer has answered IKE_SA_INIT, but not IKE_AUTH.
pub fn silent_at_auth(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!(
            "{} answers IKE_SA_INIT on UDP 500, but not IKE_AUTH on UDP 4500",
            remote.ip()
        ),
        advice:
            "Open UDP 4500 both ways between the gateways; if it is open, look into the peer's log."
                .to_owned(),
    }
}

/// The peer has begun a handshake, but not gone on.
pub fn silent_after_init(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!(
            "{} began a handshake and got our answer to IKE_SA_INIT, but no IKE_AUTH came",
            remote.ip()
        ),
        advice:
            "Open UDP 4500 both ways between the gateways; if it is open, look into the peer's log."
                .to_owned(),
    }
}

/// The peer's name has no address.
pub fn unresolved(at: Time, name: &str) -> Failure {
    Failure {
        at,
        code: "peer-unresolved",
        text: format!("the peer's name {name} has no address now"),
        advice: "Check `peer` on this tunnel and this machine's name servers.".to_owned(),
    }
}

/// Somebody knocks who belongs to no tunnel.
pub fn unknown_peer(at: Time, datagram: Datagram<'_>) -> Failure {
    let (local, remote) = (datagram.local.ip(), datagram.remote.ip());
    Failure {
        at,
        code: "unknown-peer",
        text: format!("{remote} wants to connect to {local}, but no tunnel has that peer"),
        advice: format!(
            "If that is your peer, set `peer = \"{remote}\"` on its tunnel (and `local-address` to {local} if it names another)."
        ),
    }
}

/// A message of ours is longer than one may be.
pub fn too_long(at: Time, message: &str) -> Failure {
    Failure {
        at,
        code: "message-too-long",
        text: format!("our {message} does not fit a message"),
        advice: "Name fewer proposals and traffic selectors on this tunnel.".to_owned(),
    }
}

/// A Child SA could not be put to work.
pub fn not_installed(at: Time, why: String) -> Failure {
    Failure {
        at,
        code: "install-failed",
        text: format!("the Child SA could not be installed: {why}"),
        advice: "See the log of this gateway.".to_owned(),
    }
}

/// What people should know about an SA that was up; nothing when it went as it should.
pub fn lost(at: Time, reason: DownReason, remote: SocketAddr) -> Option<Failure> {
    let (code, text, advice) = match reason {
        DownReason::PeerDead => (
            "peer-dead",
            format!("{remote} stopped answering"),
            "Check the path to the peer and whether it runs; we keep trying as `start` says.",
        ),
        DownReason::PeerDeleted => (
            "deleted-by-peer",
            format!("{remote} deleted the tunnel"),
            "Look into the peer's log for its reason.",
        ),
        DownReason::PeerDisbelieves => (
            "authentication-failed",
            format!(
                "{remote} has the right pre-shared key, but does not want to talk to who we say we are"
            ),
            "Check `id` on this tunnel against the identity the peer expects.",
        ),
        DownReason::Asked
        | DownReason::Expired
        | DownReason::PeerRestarted
        | DownReason::Redundant
        | DownReason::Replaced
        | DownReason::Useless => return None,
    };
    Some(Failure {
        at,
        code,
        text,
        advice: advice.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h06_responses_to_unauthenticated_peers_are_rate_limited_and_resume_with_time() {
        let mut bucket = Bucket::default();
        let mut now = Time::from_secs(100);
        let sent = (0..1000).filter(|_| bucket.take(now)).count();
        assert_eq!(sent, 20);
        now += Duration::from_secs(1);
        let sent = (0..1000).filter(|_| bucket.take(now)).count();
        assert_eq!(sent, 10);
    }
}
