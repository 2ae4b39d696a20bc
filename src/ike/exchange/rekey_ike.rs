//! CREATE_CHILD_SA that rekeys the IKE SA (RFC 7296 §1.3.2, §2.18).
//!
//! ```text
//! HDR, SK { SA (new SPIi), Ni, KEi }  ──▶
//!         ◀──  HDR, SK { SA (new SPIr), Nr, KEr }
//!
//! then the new IKE SA has all Child SAs, its message ids begin at 0, and whoever began closes the old one:
//!
//! HDR, SK { D(IKE) }  ──▶      ◀──  HDR, SK { }
//! ```
//!
//! Here are the messages; what they do to the SA is in [`sa`](crate::ike::sa).

use crate::crypto::{Generator, IkeSuite, KeyExchange, Secret};
use crate::ike::closest_proposal;
use crate::ike::error::{Error, Incompatible};
use crate::ike::event::Role;
use crate::ike::exchange::create_child::{Parent, answer_ke, invalid};
use crate::ike::exchange::followup;
use crate::ike::exchange::init::{NONCE_LEN, join, public_value};
use crate::ike::key_schedule::{IkeKeys, Nonces};
use crate::ike::messages::Renewal;
use crate::ike::negotiate;
use crate::ike::sa::IkeSa;
use crate::ike::settings::Settings;
use crate::wire::{IkeSpi, Payload};

/// Our request, while it is under way.
#[derive(Debug)]
pub struct Asked {
    /// The IKE SA that the peer's crossing exchange made. It takes no part until it is settled which one stays.
    pub colliding: Option<Box<IkeSa>>,
    /// The additional key exchange that completes it, once that is under way.
    pub followup: Option<Box<followup::Asked<Agreed>>>,
    spi: IkeSpi,
    /// The group is the peer's wish already.
    obliging: bool,
    nonce: Vec<u8>,
    ke: KeyExchange,
}

/// What an IKE SA is made of that takes the place of another.
#[derive(Debug)]
pub struct Made {
    /// The initiator's SPI.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// Which side we were in the exchange, and are in the new SA.
    pub role: Role,
    /// What was negotiated.
    pub suite: IkeSuite,
    /// The nonces of the exchange.
    pub nonces: Nonces,
    /// The keys.
    pub keys: IkeKeys,
}

impl Asked {
    /// Prepares a request; `None` without a proposal, which no configuration gives. `group` is the one the peer asks for, if it does.
    pub fn begin(settings: &Settings, group: Option<u16>, rng: &mut Generator) -> Option<Asked> {
        let obliging = group.is_some();
        let groups = || settings.ike.iter().flat_map(|proposal| &proposal.groups);
        let group = groups()
            .find(|offered| Some(offered.id) == group)
            .or_else(|| groups().next())?;
        let ke = KeyExchange::generate(group, rng);
        let mut nonce = vec![0; NONCE_LEN];
        rng.fill(&mut nonce);
        Some(Asked {
            colliding: None,
            obliging,
            followup: None,
            spi: fresh_spi(rng),
            nonce,
            ke,
        })
    }

    /// The payloads of the request.
    pub fn payloads(&self, settings: &Settings) -> Vec<Payload> {
        let spi = self.spi.0.to_be_bytes();
        vec![
            Payload::Sa(negotiate::offer_ike(&settings.ike, &spi)),
            Payload::Nonce(self.nonce.clone()),
            public_value(&self.ke),
        ]
    }

    /// Whether another group than the one tried is worth trying: one that we offered. The peer may ask for another once.
    pub fn may_use(&self, settings: &Settings, group: u16) -> bool {
        let mut groups = settings.ike.iter().flat_map(|proposal| &proposal.groups);
        !self.obliging && self.ke.group().id != group && groups.any(|offered| offered.id == group)
    }

    /// Reads the new IKE SA out of the peer's answer.
    ///
    /// # Errors
    /// The answer is not one to what was asked.
    pub fn conclude(&self, renewal: &Renewal, settings: &Settings) -> Result<Agreed, Error> {
        let chosen = negotiate::accept_ike(&settings.ike, &renewal.sa).ok_or(Error::Misbehaved(
            "it chose an IKE suite that we did not offer",
        ))?;
        let spi_r = ike_spi(&chosen.spi).ok_or(Error::Misbehaved(
            "its answer has no SPI for the new IKE SA",
        ))?;
        let theirs = renewal
            .ke
            .as_ref()
            .filter(|ke| ke.group == chosen.suite.group.id && chosen.suite.group == self.ke.group())
            .ok_or(Error::Misbehaved(
                "its key exchange is not the one it chose",
            ))?;
        let shared = invalid(self.ke.agree(&theirs.data))?;
        let nonces = Nonces {
            initiator: self.nonce.clone(),
            responder: renewal.nonce.clone(),
        };
        Ok(Agreed {
            spi_i: self.spi,
            spi_r,
            role: Role::Initiator,
            suite: chosen.suite,
            nonces,
            shared,
        })
    }
}

/// What two sides agreed on: all of an IKE SA but its keys, for which an additional key exchange may still be to come.
#[derive(Debug)]
pub struct Agreed {
    /// What was chosen.
    pub suite: IkeSuite,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    role: Role,
    nonces: Nonces,
    shared: Secret,
}

impl Agreed {
    /// What the IKE SA is made of; `additional` is the secret of the additional key exchange, if there was one.
    pub fn make(self, additional: Option<&Secret>, parent: Parent<'_>) -> Made {
        let keys = IkeKeys::rekeyed(
            (parent.prf, parent.derive),
            self.suite,
            (&self.shared, additional),
            &self.nonces,
            self.spi_i,
            self.spi_r,
        );
        Made {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            role: self.role,
            suite: self.suite,
            nonces: self.nonces,
            keys,
        }
    }
}

/// Answers the peer's request: what comes of it and the payloads of the answer.
///
/// # Errors
/// We want something else.
pub fn respond(
    renewal: &Renewal,
    settings: &Settings,
    rng: &mut Generator,
) -> Result<(Agreed, Vec<Payload>), Error> {
    let ours = &settings.ike;
    let no_proposal = || {
        Error::Incompatible(Incompatible::Ike {
            theirs: negotiate::words_of_all(&renewal.sa, 8),
            ours: join(ours.iter()),
            closest: closest_proposal::ike(ours, &renewal.sa),
        })
    };
    let chosen = negotiate::choose_ike(ours, &renewal.sa).ok_or_else(no_proposal)?;
    let spi_i = ike_spi(&chosen.spi).ok_or_else(no_proposal)?;
    let suite = chosen.suite;
    let (shared, answer) = answer_ke(suite.group, renewal.ke.as_ref(), rng)?;
    let spi_r = fresh_spi(rng);
    let mut nonce = vec![0; NONCE_LEN];
    rng.fill(&mut nonce);
    let payloads = vec![
        Payload::Sa(negotiate::answer_ike(&chosen, &spi_r.0.to_be_bytes())),
        Payload::Nonce(nonce.clone()),
        answer,
    ];
    let nonces = Nonces {
        initiator: renewal.nonce.clone(),
        responder: nonce,
    };
    let agreed = Agreed {
        spi_i,
        spi_r,
        role: Role::Responder,
        suite,
        nonces,
        shared,
    };
    Ok((agreed, payloads))
}

/// An SPI of eight octets that is not zero.
fn ike_spi(bytes: &[u8]) -> Option<IkeSpi> {
    let spi = IkeSpi(u64::from_be_bytes(bytes.try_into().ok()?));
    (!spi.is_zero()).then_some(spi)
}

/// A new SPI. Among 2^64 it is another than any in use, and one that is not would only be refused a place in the endpoint's table.
fn fresh_spi(rng: &mut Generator) -> IkeSpi {
    loop {
        let spi = IkeSpi(rng.u64());
        if !spi.is_zero() {
            return spi;
        }
    }
}
