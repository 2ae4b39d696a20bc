//! What went wrong, told to a person: what happened, theirs against ours, what to change and where.

use crate::net::Time;

/// One failure of a tunnel, as the log and `status` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it happened.
    pub at: Time,
    /// A stable word for scripts, such as `no-proposal-chosen`.
    pub code: &'static str,
    /// What happened, theirs against ours.
    pub text: String,
    /// What to change, and on which side.
    pub advice: String,
}
