//! Limits of unauthenticated peers and of IKE SAs, and the failures of peers that do not respond.

use std::net::SocketAddr;
use std::time::Duration;

use super::event::{Datagram, DownReason};
use super::failure::Failure;
use crate::net::{Time, TokenBucket};

/// Maximum of IKE SAs of one tunnel, established or closing. Only a peer that reconnects repeatedly reaches the limit.
pub const MAX_OF_TUNNEL: usize = 16;

/// Maximum of IKE SAs of one tunnel that are being closed or have been replaced.
pub const MAX_ENDING: usize = 8;

/// Maximum of last responses kept of removed SAs.
pub const MAX_LAST_RESPONSES: usize = 256;

/// A repeated failure is reported again after this time.
pub const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// Copies of an unanswered message before the failure is reported, after about six seconds: a slow peer is no fault. The attempt continues.
pub const COPIES_BEFORE_REPORT: u32 = 4;

/// Responses to unauthenticated messages: this many at once, then one every [`REFILL`].
const BURST: u32 = 20;

const REFILL: Duration = Duration::from_millis(100);

/// A rate limit of responses to unauthenticated messages.
pub fn response_limit() -> TokenBucket {
    TokenBucket::new(BURST, REFILL)
}

/// The peer does not answer IKE_SA_INIT.
pub fn no_response_to_init(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!("no response from {remote} to IKE_SA_INIT"),
        advice: format!(
            "Check that {} is the peer's address, that the peer has our public address configured, and that firewalls pass UDP 500 and 4500 in both directions.",
            remote.ip()
        ),
    }
}

/// The peer answers IKE_SA_INIT, but not IKE_INTERMEDIATE.
pub fn no_response_to_intermediate(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!(
            "{} responds to IKE_SA_INIT on UDP 500, but not to IKE_INTERMEDIATE on UDP 4500",
            remote.ip()
        ),
        advice: "Open UDP 4500 in both directions between the gateways. ML-KEM makes this message long: if IP fragments are dropped on the path, lower `fragment-size` on this tunnel."
            .to_owned(),
    }
}

/// The peer answers IKE_SA_INIT, but not IKE_AUTH.
pub fn no_response_to_auth(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!(
            "{} responds to IKE_SA_INIT on UDP 500, but not to IKE_AUTH on UDP 4500",
            remote.ip()
        ),
        advice:
            "Open UDP 4500 in both directions between the gateways; if it is open, see the peer's log."
                .to_owned(),
    }
}

/// The peer initiated IKE_SA_INIT, but sent no IKE_AUTH.
pub fn no_auth_after_init(at: Time, remote: SocketAddr) -> Failure {
    Failure {
        at,
        code: "peer-not-responding",
        text: format!(
            "{} sent IKE_SA_INIT and we responded, but no IKE_AUTH arrived",
            remote.ip()
        ),
        advice:
            "Open UDP 4500 in both directions between the gateways; if it is open, see the peer's log."
                .to_owned(),
    }
}

/// The peer's name has no address.
pub fn unresolved(at: Time, name: &str) -> Failure {
    Failure {
        at,
        code: "peer-unresolved",
        text: format!("the peer's name {name} does not resolve to an address"),
        advice: "Check `peer` on this tunnel and the name servers of this host.".to_owned(),
    }
}

/// No name server has answered.
pub fn name_server_silent(at: Time, name: &str) -> Failure {
    Failure {
        at,
        code: "name-server-not-responding",
        text: format!("no name server answered the lookup of the peer's name {name}"),
        advice: "Check the network and the name servers of this host (/etc/resolv.conf); `peer` can also be an address."
            .to_owned(),
    }
}

/// An IKE_SA_INIT request from an address that belongs to no tunnel.
pub fn unknown_peer(at: Time, datagram: Datagram<'_>) -> Failure {
    let (local, remote) = (datagram.local.ip(), datagram.remote.ip());
    Failure {
        at,
        code: "unknown-peer",
        text: format!("IKE_SA_INIT from {remote} to {local}, but no tunnel has this peer"),
        advice: format!(
            "If this is your peer, set `peer = \"{remote}\"` on its tunnel (and `local-address` to {local} if it is set to another address)."
        ),
    }
}

/// One of our messages exceeds the maximum length.
pub fn too_long(at: Time, message: &str) -> Failure {
    Failure {
        at,
        code: "message-too-long",
        text: format!("our {message} exceeds the maximum message length"),
        advice: "Configure fewer proposals and traffic selectors on this tunnel.".to_owned(),
    }
}

/// The installation of a Child SA failed.
pub fn not_installed(at: Time, why: String) -> Failure {
    Failure {
        at,
        code: "install-failed",
        text: format!("the Child SA could not be installed: {why}"),
        advice: "See the log of this gateway for details.".to_owned(),
    }
}

/// The failure to report when an SA is removed; `None` for a normal removal.
pub fn sa_removed(at: Time, reason: DownReason, remote: SocketAddr) -> Option<Failure> {
    let (code, text, advice) = match reason {
        DownReason::PeerDead => (
            "peer-dead",
            format!("{remote} stopped responding"),
            "Check the path to the peer and whether the peer is running; the tunnel reconnects as configured by `start`.",
        ),
        DownReason::PeerDeleted => (
            "deleted-by-peer",
            format!("{remote} deleted the tunnel"),
            "See the peer's log for the reason.",
        ),
        DownReason::IdentityRejected => (
            "authentication-failed",
            format!("{remote} accepted the pre-shared key but rejected our identity"),
            "Set `id` on this tunnel to the identity that the peer expects.",
        ),
        DownReason::InvalidRequest => (
            "invalid-syntax",
            format!(
                "{remote} sent an invalid request, so this gateway closed the tunnel (RFC 7296 §2.21.3)"
            ),
            "Capture the exchange and report it: one of the two implementations has a bug.",
        ),
        DownReason::RequestRejected => (
            "rejected-as-invalid",
            format!(
                "{remote} rejected a request of this gateway as invalid, which ends the tunnel (RFC 7296 §2.21.3)"
            ),
            "See the peer's log; capture the exchange and report it: one of the two implementations has a bug.",
        ),
        DownReason::Requested
        | DownReason::UnknownToPeer
        | DownReason::NoChildLeft
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
        let mut limit = response_limit();
        let start = Time::from_secs(100);
        let sent = (0..1000).filter(|_| limit.allow(start)).count();
        assert_eq!(sent, 20);
        // One message every 150 ms for 3 s: each interval of 100 ms counts, including the remainders of 50 ms.
        let sent = (1..=20u64)
            .filter(|step| limit.allow(start + Duration::from_millis(step * 150)))
            .count();
        assert_eq!(sent, 20);
        let later = start + Duration::from_secs(3);
        let left = (0..1000).filter(|_| limit.allow(later)).count();
        assert_eq!(left, 10, "30 tokens in 3 s, 20 of them used");
    }
}
