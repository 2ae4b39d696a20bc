//! NO_PROPOSAL_CHOSEN, told as theirs against ours, where the capture shows both.
//!
//! The message itself says nothing. But the side that refuses may have offered something itself, before or afterwards, and then the
//! engine's own search for the nearest pair says what would have to change.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::crypto::{EspProposal, IkeProposal};
use crate::ike::{self, ClosestProposal};
use crate::inspect::payload::offered;
use crate::wire::{Payload, Proposal, ProtocolId, Sa};

/// What each address has offered by itself.
#[derive(Debug, Default)]
pub(super) struct Offers {
    latest: HashMap<(IpAddr, ProtocolId), Sa>,
}

/// Offers that are remembered.
const MAX_OFFERS: usize = 256;

impl Offers {
    /// Takes note of a request.
    pub(super) fn note(&mut self, from: IpAddr, payloads: &[Payload]) {
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

/// Somebody found nothing acceptable in an offer.
#[derive(Debug)]
pub(super) struct ProposalRejection {
    /// In which exchange: `IKE_AUTH 1`.
    pub(super) exchange: String,
    /// Who refused.
    pub(super) by: IpAddr,
    /// Who had offered.
    pub(super) to: IpAddr,
    /// What.
    pub(super) offer: Sa,
    /// For which kind of SA.
    pub(super) protocol: ProtocolId,
}

impl ProposalRejection {
    /// In words.
    pub(super) fn told(&self, offers: &Offers) -> String {
        let ProposalRejection {
            exchange,
            by,
            to,
            offer,
            protocol,
        } = self;
        let offer_words = offered(offer, *protocol);
        let start = format!(
            "{exchange}: {by} refused with NO_PROPOSAL_CHOSEN: for {protocol}, {to} offers {offer_words}"
        );
        let Some(own) = offers.latest.get(&(*by, *protocol)) else {
            return format!(
                "{start}; what {by} would accept is not in this capture, its configuration or log has it"
            );
        };
        let own_words = offered(own, *protocol);
        match nearest(own, offer, *protocol) {
            Some(nearest) => format!(
                "{start}; {by} itself offers {own_words}; the nearest pair {nearest}: {by} would have to accept {}",
                nearest.words
            ),
            None => format!("{start}; {by} itself offers {own_words}"),
        }
    }
}

/// The engine takes proposals of its own in the words of the configuration.
fn nearest(own: &Sa, offer: &Sa, protocol: ProtocolId) -> Option<ClosestProposal> {
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

    fn refusal() -> ProposalRejection {
        ProposalRejection {
            exchange: "IKE_SA_INIT 0".to_owned(),
            by: "192.0.2.2".parse().unwrap(),
            to: "192.0.2.1".parse().unwrap(),
            offer: offer("aes128-sha1-modp1024"),
            protocol: ProtocolId::IKE,
        }
    }

    #[test]
    fn what_the_refusing_side_offers_itself_makes_the_nearest_pair() {
        let mut offers = Offers::default();
        let own = Payload::Sa(offer("aes128-sha1-modp2048"));
        offers.note("192.0.2.2".parse().unwrap(), &[own]);
        assert_eq!(
            refusal().told(&offers),
            "IKE_SA_INIT 0: 192.0.2.2 refused with NO_PROPOSAL_CHOSEN: for IKE, 192.0.2.1 offers aes128-sha1-modp1024; \
             192.0.2.2 itself offers aes128-sha1-modp2048; the nearest pair differs in group: \
             192.0.2.2 would have to accept aes128-sha1-modp1024"
        );
    }

    #[test]
    fn without_that_the_capture_does_not_tell() {
        let told = refusal().told(&Offers::default());
        assert!(told.contains("not in this capture"), "{told}");
    }
}
