//! DNS lookups of peers given by name, as tasks beside the loop, so that a slow name server delays nothing else.

use std::collections::BTreeMap;
use std::io;
#[cfg(test)]
use std::net::IpAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::ike::Lookup;
use crate::net::TunnelId;

/// Running lookups, at most one a tunnel.
#[derive(Debug)]
pub(super) struct Lookups {
    running: BTreeMap<TunnelId, JoinHandle<()>>,
    results: mpsc::Sender<LookupResult>,
}

/// Result of a lookup of a tunnel's peer.
pub(super) type LookupResult = (TunnelId, Lookup);

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
    /// Starts the lookup of a peer's name, for its addresses of both families. A lookup that still runs for the tunnel is kept: the
    /// system's resolver has its own deadline.
    pub(super) fn start(&mut self, tunnel: TunnelId, name: String) {
        let running = self.running.get(&tunnel);
        if running.is_some_and(|task| !task.is_finished()) {
            return;
        }
        let results = self.results.clone();
        let task = tokio::spawn(async move {
            let lookup = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => Lookup::Found(found.map(|address| address.ip()).collect()),
                Err(error) => {
                    tracing::debug!(%name, %error, "name resolution failed");
                    failed(&error)
                }
            };
            // The receiver is gone when the daemon shuts down.
            let _ = results.send((tunnel, lookup)).await;
        });
        self.running.insert(tunnel, task);
    }
}

/// What a failed lookup means. `getaddrinfo` says EAI_AGAIN if no name server gave an answer; the standard library passes on its text only.
fn failed(error: &io::Error) -> Lookup {
    if error.to_string().contains("Temporary failure") {
        Lookup::NoAnswer
    } else {
        Lookup::NoAddress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn name_is_resolved() {
        let (mut lookups, mut results) = lookups();
        lookups.start(TunnelId(7), "localhost".to_owned());
        let (tunnel, lookup) = results.recv().await.unwrap();
        let Lookup::Found(found) = lookup else {
            panic!("{lookup:?}");
        };
        assert_eq!(tunnel, TunnelId(7));
        assert!(found.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
    }

    #[test]
    fn a_silent_name_server_differs_from_a_name_without_an_address() {
        let lookup = |text: &str| {
            let text = format!("failed to lookup address information: {text}");
            failed(&io::Error::other(text))
        };
        assert_eq!(
            lookup("Temporary failure in name resolution"),
            Lookup::NoAnswer
        );
        assert_eq!(lookup("Name or service not known"), Lookup::NoAddress);
    }
}
