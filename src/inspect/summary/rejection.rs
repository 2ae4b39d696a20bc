//! NO_PROPOSAL_CHOSEN explained with the proposals of both sides.
//!
//! The notify has no data. If the rejecting side has sent proposals of its own elsewhere in the capture, the closest pair of
//! proposals shows what would have to change.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::crypto::{EspProposal, IkeProposal};
use crate::ike::{self, ClosestProposal};
use crate::inspect::payload::offered;
use crate::wire::{Payload, Proposal, ProtocolId, Sa};

/// The latest proposals of each address.
#[derive(Debug, Default)]
pub(super) struct OfferTable {
    latest: HashMap<(IpAddr, ProtocolId), Sa>,
}

/// The most proposals that are kept.
const MAX_OFFERS: usize = 256;

impl OfferTable {
    /// Records the proposals of a request.
    pub(super) fn record(&mut self, from: IpAddr, payloads: &[Payload]) {
        for payload in payloads {
            let Payload::Sa(sa) = payload else { continue };
            for protocol in [ProtocolId::IKE, ProtocolId::ESP] {
                let is_for = |proposal: &Proposal| proposal.protocol == protocol;
                let key = (from, protocol);
                if sa.proposals.iter().any(is_for)
                    && (self.latest.len() < MAX_OFFERS || self.latest.contains_key(&key))
                {
                    self.latest.insert(key, sa.clone());
                }
            }
        }
    }
}

/// A rejected offer.
#[derive(Debug)]
pub(super) struct ProposalRejection {
    /// Exchange type and message ID: `IKE_AUTH 1`.
    pub(super) exchange: String,
    /// Rejecting side.
    pub(super) by: IpAddr,
    /// Offering side.
    pub(super) to: IpAddr,
    /// Rejected proposals.
    pub(super) offer: Sa,
    /// Protocol of the SA.
    pub(super) protocol: ProtocolId,
}

impl ProposalRejection {
    /// Describes the rejection and the closest pair of proposals.
    pub(super) fn describe(&self, offers: &OfferTable) -> String {
        let ProposalRejection {
            exchange,
            by,
            to,
            offer,
            protocol,
        } = self;
        let offer_words = offered(offer, *protocol);
        let start = format!(
            "{exchange}: {by} rejected with NO_PROPOSAL_CHOSEN: for {protocol}, {to} offers {offer_words}"
        );
        let Some(own) = offers.latest.get(&(*by, *protocol)) else {
            return format!(
                "{start}; the proposals of {by} are not in this capture: see its configuration or log"
            );
        };
        let own_words = offered(own, *protocol);
        match closest(own, offer, *protocol) {
            Some(closest) => format!(
                "{start}; {by} itself offers {own_words}; the closest pair {closest}: {by} would have to accept {}",
                closest.words
            ),
            None => format!("{start}; {by} itself offers {own_words}"),
        }
    }
}

/// Finds the closest pair; the engine takes its own proposals in configuration syntax.
fn closest(own: &Sa, offer: &Sa, protocol: ProtocolId) -> Option<ClosestProposal> {
    let words = own
        .proposals
        .iter()
        .filter(|proposal| proposal.protocol == protocol)
        .map(ike::words);
    match protocol {
        ProtocolId::IKE => {
            let own: Vec<IkeProposal> = words
                .filter_map(|words| Some(IkeProposal::parse(&words).ok()?.0))
                .collect();
            ike::closest_ike(&own, offer)
        }
        ProtocolId::ESP => {
            let own: Vec<EspProposal> = words
                .filter_map(|words| Some(EspProposal::parse(&words).ok()?.0))
                .collect();
            ike::closest_esp(&own, offer)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(words: &str) -> Sa {
        ike::offer_ike(&[IkeProposal::parse(words).unwrap().0], &[])
    }

    fn rejection() -> ProposalRejection {
        ProposalRejection {
            exchange: "IKE_SA_INIT 0".to_owned(),
            by: "192.0.2.2".parse().unwrap(),
            to: "192.0.2.1".parse().unwrap(),
            offer: offer("aes128-sha1-modp1024"),
            protocol: ProtocolId::IKE,
        }
    }

    #[test]
    fn proposals_of_the_rejecting_side_give_the_closest_pair() {
        let mut offers = OfferTable::default();
        let own = Payload::Sa(offer("aes128-sha1-modp2048"));
        offers.record("192.0.2.2".parse().unwrap(), &[own]);
        assert_eq!(
            rejection().describe(&offers),
            "IKE_SA_INIT 0: 192.0.2.2 rejected with NO_PROPOSAL_CHOSEN: for IKE, 192.0.2.1 offers aes128-sha1-modp1024; \
             192.0.2.2 itself offers aes128-sha1-modp2048; the closest pair differs in group: \
             192.0.2.2 would have to accept aes128-sha1-modp1024"
        );
    }

    #[test]
    fn missing_proposals_of_the_rejecting_side_are_reported() {
        let text = rejection().describe(&OfferTable::default());
        assert!(text.contains("not in this capture"), "{text}");
    }
}
