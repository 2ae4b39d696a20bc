//! Removal of what a stopped daemon has left in the kernel: the fail-closed routes, the routes to the peers that those cover, and the rules
//! and tables of sources.

use super::start_error::StartError;
use crate::os::namespace_lock::{LockError, NamespaceLock};
use crate::os::netlink::Netlink;

/// Removes everything that daemons have left in this network namespace, and returns one line for each thing removed.
///
/// # Errors
/// A daemon runs in this namespace, or the kernel rejects a request. What was removed before the error stays removed.
pub fn cleanup() -> Result<Vec<String>, StartError> {
    let _lock = NamespaceLock::acquire().map_err(|error| match error {
        LockError::Held(_) => StartError::start(
            error.to_string(),
            "stop it first (`systemctl stop groundlink`): it needs its routes",
        ),
        LockError::Foreign { .. } | LockError::Io(_) => error.into(),
    })?;
    let mut netlink = Netlink::open()?;
    let mut removed = Vec::new();
    for rule in netlink.own_rules()? {
        netlink.remove_rule(&rule)?;
        removed.push(rule.to_string());
    }
    let routes = netlink.withdraw_all()?;
    removed.extend(routes.iter().map(ToString::to_string));
    Ok(removed)
}
