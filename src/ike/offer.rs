//! Queries on a peer's proposals, and proposals in words.

use crate::crypto::{self, Encryption, Esn, Group, Integrity, Prf, Protection};
use crate::wire::{Proposal, ProtocolId, Sa, Transform, TransformType};

/// The transform ID for no integrity algorithm.
pub const INTEG_NONE: u16 = 0;

/// The transform ID for no key exchange.
pub const METHOD_NONE: u16 = 0;

/// The usable proposals for a protocol. A transform of a type that is unknown, or that the protocol does not have (a PRF for ESP), makes its proposal unusable:
/// a response could not contain one transform of each type (RFC 7296 §2.7, §3.3.3, §3.3.6).
pub fn usable(sa: &Sa, protocol: ProtocolId) -> impl Iterator<Item = &Proposal> {
    sa.proposals.iter().filter(move |proposal| {
        proposal.protocol == protocol
            && proposal.invalid.is_none()
            && proposal
                .transforms
                .iter()
                .all(|transform| is_of_protocol(transform.kind, protocol))
    })
}

/// Whether proposals for a protocol have transforms of this type (RFC 7296 §3.3.3, RFC 9370 §2.1).
fn is_of_protocol(kind: TransformType, protocol: ProtocolId) -> bool {
    let shared = [TransformType::ENCR, TransformType::INTEG, TransformType::KE];
    shared.contains(&kind)
        || ADDITIONAL.contains(&kind)
        || kind == TransformType::PRF && protocol == ProtocolId::IKE
        || kind == TransformType::ESN && protocol == ProtocolId::ESP
}

/// The transform types of additional key exchanges, in order. We support at most one.
pub const ADDITIONAL: [TransformType; 7] = [
    TransformType::ADDKE1,
    TransformType::ADDKE2,
    TransformType::ADDKE3,
    TransformType::ADDKE4,
    TransformType::ADDKE5,
    TransformType::ADDKE6,
    TransformType::ADDKE7,
];

/// The proposals that do not require an additional key exchange, for a peer that has not announced IKE_INTERMEDIATE (RFC 9370
/// §2.2.2).
pub fn without_additional(theirs: &Sa) -> Sa {
    let lenient = |proposal: &&Proposal| {
        let offer = Offer(proposal);
        ADDITIONAL
            .iter()
            .all(|kind| offer.method(*kind, &[]).is_some())
    };
    Sa {
        proposals: theirs.proposals.iter().filter(lenient).cloned().collect(),
    }
}

/// A proposal of the peer.
pub struct Offer<'a>(pub &'a Proposal);

impl Offer<'_> {
    fn of_kind(&self, kind: TransformType) -> impl Iterator<Item = &Transform> {
        // A transform with an unknown attribute is not the algorithm of its ID (RFC 7296 §3.3.6).
        self.0.transforms.iter().filter(move |transform| {
            transform.kind == kind && transform.unknown_attributes.is_empty()
        })
    }

    pub fn has(&self, kind: TransformType, id: u16) -> bool {
        self.of_kind(kind)
            .any(|transform| transform.id == id && transform.key_bits.is_none())
    }

    pub fn has_encryption(&self, row: &Encryption) -> bool {
        self.of_kind(TransformType::ENCR).any(|transform| {
            // Some peers send a key length for ciphers that have only one.
            let length_fits = transform.key_bits == row.key_bits
                || (row.key_bits.is_none()
                    && transform.key_bits.map(usize::from) == row.key_len.checked_mul(8));
            transform.id == row.id && length_fits
        })
    }

    pub fn has_esn(&self, esn: Esn) -> bool {
        let mut named = self.of_kind(TransformType::ESN).peekable();
        if named.peek().is_none() {
            return esn == Esn::No;
        }
        named.any(|transform| transform.id == esn.id())
    }

    /// The first key exchange method of ours in the proposal, or `Some(None)` if neither side proposes one; `None` if only one
    /// side requires one.
    pub fn method(
        &self,
        kind: TransformType,
        ours: &[&'static Group],
    ) -> Option<Option<&'static Group>> {
        if ours.is_empty() {
            let mut named = self.0.transforms.iter().filter(|row| row.kind == kind);
            let none = named.all(|row| row.id == METHOD_NONE) || self.has(kind, METHOD_NONE);
            return none.then_some(None);
        }
        ours.iter()
            .find(|row| self.has(kind, row.id))
            .map(|row| Some(*row))
    }

    /// The same for the additional key exchanges: the first one as negotiated, none of the others.
    pub fn additional(&self, ours: &[&'static Group]) -> Option<Option<&'static Group>> {
        let [first, others @ ..] = ADDITIONAL;
        others
            .into_iter()
            .all(|kind| self.method(kind, &[]).is_some())
            .then(|| self.method(first, ours))?
    }

    /// The additional key exchanges of the proposal that are not performed.
    pub fn declined(&self, chosen: Option<&Group>) -> Vec<TransformType> {
        let takes_place = |kind: &TransformType| *kind == TransformType::ADDKE1 && chosen.is_some();
        ADDITIONAL
            .into_iter()
            .filter(|kind| !takes_place(kind) && self.of_kind(*kind).next().is_some())
            .collect()
    }

    /// The first cipher of ours in the proposal, and for a cipher without authentication the first integrity algorithm. A
    /// proposal of an AEAD cipher with an integrity algorithm is invalid (RFC 5282 §8), as is CBC without one.
    pub fn protection(
        &self,
        encryption: &[&'static Encryption],
        integrity: &[&'static Integrity],
    ) -> Option<Protection> {
        let cipher = *encryption.iter().find(|row| self.has_encryption(row))?;
        if cipher.is_aead() {
            let alone = self
                .of_kind(TransformType::INTEG)
                .all(|transform| transform.id == INTEG_NONE);
            return alone.then_some(Protection {
                encryption: cipher,
                integrity: None,
            });
        }
        let integrity = *integrity
            .iter()
            .find(|row| self.has(TransformType::INTEG, row.id))?;
        Some(Protection {
            encryption: cipher,
            integrity: Some(integrity),
        })
    }
}

/// A proposal in configuration words, which parse back to the same proposal; an unknown transform is shown as `encr(23)`.
pub fn words(proposal: &Proposal) -> String {
    let of_kind = |kind: TransformType| {
        proposal
            .transforms
            .iter()
            .filter(move |transform| transform.kind == kind)
    };
    let mut words: Vec<String> = Vec::new();
    for transform in of_kind(TransformType::ENCR) {
        words.push(match crypto::encryption(transform.id, transform.key_bits) {
            Some(row) => row.word.to_owned(),
            None => format!("encr({})", transform.id),
        });
    }
    let integrity: Vec<u16> = of_kind(TransformType::INTEG)
        .map(|transform| transform.id)
        .filter(|id| *id != INTEG_NONE)
        .collect();
    for id in &integrity {
        words.push(word(
            crypto::integrity(*id).map(|row: &Integrity| row.word),
            "integ",
            *id,
        ));
    }
    // A PRF list is written unless it is the one that the integrity algorithms imply.
    let implied = integrity
        .iter()
        .map(|id| crypto::integrity(*id).and_then(Integrity::prf));
    let prfs = || of_kind(TransformType::PRF).map(|transform| transform.id);
    if !prfs().map(crypto::prf).eq(implied) {
        words.extend(prfs().map(|id| word(crypto::prf(id).map(|row: &Prf| row.word), "prf", id)));
    }
    let (none, groups): (Vec<u16>, Vec<u16>) = of_kind(TransformType::KE)
        .map(|transform| transform.id)
        .partition(|id| *id == METHOD_NONE);
    words.extend(groups.iter().map(|id| {
        let row = crypto::group(*id);
        word(row.map(|row: &Group| row.word), "group", *id)
    }));
    for (number, kind) in (1u8..).zip(ADDITIONAL) {
        for transform in of_kind(kind) {
            let word = match crypto::additional(transform.id) {
                Some(row) => row.word.trim_start_matches("ke1_").to_owned(),
                None if transform.id == METHOD_NONE => "none".to_owned(),
                None => word(
                    crypto::group(transform.id).map(|row: &Group| row.word),
                    "group",
                    transform.id,
                ),
            };
            words.push(format!("ke{number}_{word}"));
        }
    }
    words.extend(none.first().map(|_| match proposal.protocol {
        ProtocolId::ESP => "nopfs".to_owned(),
        _ => word(None, "group", METHOD_NONE),
    }));
    let esn: Vec<u16> = of_kind(TransformType::ESN)
        .map(|transform| transform.id)
        .collect();
    if esn != [Esn::No.id()] {
        words.extend(esn.iter().map(|id| {
            let row = Esn::from_id(*id);
            word(row.map(Esn::word), "esn", *id)
        }));
    }
    words.join("-")
}

fn word(known: Option<&'static str>, kind: &str, id: u16) -> String {
    known.map_or_else(|| format!("{kind}({id})"), str::to_owned)
}

/// The proposals in words, at most `most` of them.
pub fn words_of_all(sa: &Sa, most: usize) -> String {
    let mut shown: Vec<String> = sa.proposals.iter().take(most).map(words).collect();
    if sa.proposals.len() > most {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

/// The values, separated by commas.
pub fn join(values: impl Iterator<Item = impl std::fmt::Display>) -> String {
    values
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Traffic selectors as `local === remote`.
pub fn selectors(local: &[crate::net::Selector], remote: &[crate::net::Selector]) -> String {
    format!(
        "{} === {}",
        join(local.iter().take(30)),
        join(remote.iter().take(30))
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{SizeRange, subsequence};

    use super::*;
    use crate::crypto::{ENCRYPTION, EspProposal, GROUP, INTEGRITY, IkeProposal, PRF, PfsDemand};
    use crate::ike::negotiate::{Pfs, offer_esp, offer_ike};

    /// Some rows of a table, in any order.
    fn some<R>(
        table: &'static [R],
        count: impl Into<SizeRange>,
    ) -> impl Strategy<Value = Vec<&'static R>>
    where
        &'static R: std::fmt::Debug,
    {
        subsequence(table.iter().collect::<Vec<_>>(), count).prop_shuffle()
    }

    /// Encryption and integrity of a valid proposal.
    fn protections() -> impl Strategy<Value = (Vec<&'static Encryption>, Vec<&'static Integrity>)> {
        let ciphers = |aead: bool| {
            let rows: Vec<&'static Encryption> = ENCRYPTION
                .iter()
                .filter(|row| row.is_aead() == aead)
                .collect();
            let count = 1..=rows.len();
            subsequence(rows, count).prop_shuffle()
        };
        prop_oneof![
            (ciphers(true), Just(Vec::new())),
            (ciphers(false), some(INTEGRITY, 1..=INTEGRITY.len())),
        ]
    }

    prop_compose! {
        fn ike_proposals()(
            (encryption, integrity) in protections(),
            prf in some(PRF, 1..=PRF.len()),
            groups in some(GROUP, 1..=4),
            additional in some(crypto::ADDITIONAL, 0..=2),
        ) -> IkeProposal {
            IkeProposal { encryption, integrity, prf, groups, additional }
        }
    }

    prop_compose! {
        fn esp_proposals()(
            (encryption, integrity) in protections(),
            groups in some(GROUP, 0..=4),
            additional in some(crypto::ADDITIONAL, 0..=2),
            optional in any::<bool>(),
            esn in prop_oneof![
                Just(vec![Esn::No]),
                Just(vec![Esn::Yes]),
                Just(vec![Esn::No, Esn::Yes]),
                Just(vec![Esn::Yes, Esn::No]),
            ],
        ) -> EspProposal {
            let additional = if groups.is_empty() { Vec::new() } else { additional };
            let pfs = if optional && !groups.is_empty() { PfsDemand::Optional } else { PfsDemand::Required };
            EspProposal { encryption, integrity, groups, additional, pfs, esn }
        }
    }

    proptest! {
        #[test]
        fn the_words_of_an_ike_proposal_parse_back_to_it(proposal in ike_proposals()) {
            let sa = offer_ike(std::slice::from_ref(&proposal), &[]);
            let (read, hints) = IkeProposal::parse(&words(&sa.proposals[0])).unwrap();
            prop_assert_eq!(&read, &proposal);
            prop_assert!(hints.is_empty());
            prop_assert_eq!(words(&sa.proposals[0]), proposal.to_string());
        }

        #[test]
        fn the_words_of_an_esp_proposal_parse_back_to_it(proposal in esp_proposals()) {
            let sa = offer_esp(std::slice::from_ref(&proposal), 0x1000, Pfs::AsProposed);
            let read: Vec<EspProposal> = sa
                .proposals
                .iter()
                .map(|proposal| EspProposal::parse(&words(proposal)).unwrap().0)
                .collect();
            let without = proposal.without_pfs();
            let with = EspProposal { pfs: PfsDemand::Required, ..proposal };
            let offered: Vec<EspProposal> = std::iter::once(with).chain(without).collect();
            prop_assert_eq!(read, offered);
        }
    }

    #[test]
    fn of_an_ike_proposal_no_key_exchange_is_not_called_nopfs() {
        let ike = IkeProposal::parse("aes128-sha256-modp2048").unwrap().0;
        let mut sa = offer_ike(&[ike], &[]);
        let none = Transform::new(TransformType::KE, METHOD_NONE, None);
        sa.proposals[0].transforms.push(none);
        assert_eq!(words(&sa.proposals[0]), "aes128-sha256-modp2048-group(0)");
    }
}
