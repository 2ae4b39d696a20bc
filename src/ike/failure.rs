//! Failures as the operator sees them: what happened, the peer's values against ours, what to change and where.

use crate::net::Time;

/// One failure of a tunnel, for the log and `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Time of the failure.
    pub at: Time,
    /// A stable code for scripts, such as `no-proposal-chosen`.
    pub code: &'static str,
    /// What happened: the peer's values against ours.
    pub text: String,
    /// What to change, and on which side.
    pub advice: String,
}

impl Failure {
    /// Whether nobody answered: a change of the network can mend that, unlike a refusal.
    pub fn is_silence(&self) -> bool {
        [
            "peer-not-responding",
            "peer-dead",
            "peer-unresolved",
            "name-server-not-responding",
        ]
        .contains(&self.code)
    }
}
