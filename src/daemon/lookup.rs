//! Looking up peers given by name, off the loop: a name server that does not answer costs nobody else anything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::ike::TunnelId;

/// The lookups under way: at most one a tunnel.
#[derive(Debug)]
pub(super) struct Lookups {
    running: BTreeMap<TunnelId, JoinHandle<()>>,
    answers: mpsc::Sender<Answer>,
}

/// What a name stands for, if anything, now.
pub(super) type Answer = (TunnelId, Option<IpAddr>);

/// Lookups, and where their answers come out.
pub(super) fn lookups() -> (Lookups, mpsc::Receiver<Answer>) {
    let (answers, receiver) = mpsc::channel(16);
    let lookups = Lookups {
        running: BTreeMap::new(),
        answers,
    };
    (lookups, receiver)
}

impl Lookups {
    /// Looks a name up for a tunnel that sends from `local`, whose family counts. One that is still under way for that tunnel
    /// will do: the system's resolver has its own deadlines, and the engine does not wait for it for ever.
    pub(super) fn begin(&mut self, tunnel: TunnelId, name: String, local: IpAddr) {
        if self
            .running
            .get(&tunnel)
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let answers = self.answers.clone();
        let task = tokio::spawn(async move {
            let address = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => found
                    .map(|address| address.ip())
                    .find(|address| address.is_ipv4() == local.is_ipv4()),
                Err(error) => {
                    tracing::debug!(%name, %error, "the name cannot be looked up");
                    None
                }
            };
            // The daemon may have ended meanwhile.
            let _ = answers.send((tunnel, address)).await;
        });
        self.running.insert(tunnel, task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_looked_up_in_the_family_of_our_address() {
        let (mut lookups, mut answers) = lookups();
        let local = IpAddr::from([0, 0, 0, 0]);
        lookups.begin(TunnelId(7), "localhost".to_owned(), local);
        let answer = answers.recv().await.unwrap();
        assert_eq!(answer, (TunnelId(7), Some(IpAddr::from([127, 0, 0, 1]))));
    }
}
