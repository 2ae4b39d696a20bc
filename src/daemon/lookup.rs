//! DNS lookups of peers given by name, as tasks beside the loop, so that a slow name server delays nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::net::TunnelId;

/// Running lookups, at most one a tunnel.
#[derive(Debug)]
pub(super) struct Lookups {
    running: BTreeMap<TunnelId, JoinHandle<()>>,
    results: mpsc::Sender<LookupResult>,
}

/// Result of a lookup: the tunnel and its peer's address, if the name has one.
pub(super) type LookupResult = (TunnelId, Option<IpAddr>);

/// Lookups and the receiver of their results.
pub(super) fn lookups() -> (Lookups, mpsc::Receiver<LookupResult>) {
    let (results, receiver) = mpsc::channel(16);
    let lookups = Lookups {
        running: BTreeMap::new(),
        results,
    };
    (lookups, receiver)
}

impl Lookups {
    /// Starts the lookup of a peer's name, for an address in the family of `local`. A lookup that still runs for the tunnel is kept: the
    /// system's resolver has its own deadline.
    pub(super) fn start(&mut self, tunnel: TunnelId, name: String, local: IpAddr) {
        let running = self.running.get(&tunnel);
        if running.is_some_and(|task| !task.is_finished()) {
            return;
        }
        let results = self.results.clone();
        let task = tokio::spawn(async move {
            let address = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => found
                    .map(|address| address.ip())
                    .find(|address| address.is_ipv4() == local.is_ipv4()),
                Err(error) => {
                    tracing::debug!(%name, %error, "name resolution failed");
                    None
                }
            };
            // The receiver is gone when the daemon shuts down.
            let _ = results.send((tunnel, address)).await;
        });
        self.running.insert(tunnel, task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn name_is_resolved_in_the_family_of_the_local_address() {
        let (mut lookups, mut results) = lookups();
        let local = IpAddr::from([0, 0, 0, 0]);
        lookups.start(TunnelId(7), "localhost".to_owned(), local);
        let result = results.recv().await.unwrap();
        assert_eq!(result, (TunnelId(7), Some(IpAddr::from([127, 0, 0, 1]))));
    }
}
