//! CREATE_CHILD_SA that makes or rekeys a Child SA (RFC 7296 §1.3.1, §1.3.3).
//!
//! ```text
//! HDR, SK { [N(REKEY_SA, old SPI),] SA, Ni, [KEi,] TSi, TSr }  ──▶
//!                              ◀──  HDR, SK { SA, Nr, [KEr,] TSi, TSr }
//!            or                ◀──  HDR, SK { N(INVALID_KE_PAYLOAD, group) }        the same again with that group
//!            or                ◀──  HDR, SK { N(TEMPORARY_FAILURE) }                later
//!            or                ◀──  HDR, SK { N(NO_PROPOSAL_CHOSEN | TS_UNACCEPTABLE | …) }
//!
//! then, from whoever began:    HDR, SK { D(old SPI) }  ──▶
//! ```
//!
//! Here are the messages; what they do to the SA is in [`sa`](crate::ike::sa).

use crate::crypto::{EspSuite, Generator, Group, IvKey, KeyExchange, Prf, Secret};
use crate::ike::children::{self, ChildSa, Standing};
use crate::ike::closest_proposal;
use crate::ike::error::{Error, Incompatible};
use crate::ike::event::Role;
use crate::ike::exchange::followup;
use crate::ike::exchange::init::{NONCE_LEN, join, public_value, selectors};
use crate::ike::handshake::Context;
use crate::ike::key_schedule::{ChildSeed, Nonces};
use crate::ike::messages::{ChildRequest, Renewal};
use crate::ike::negotiate::{self, Pfs};
use crate::ike::settings::Settings;
use crate::net::{Policy, Selector, narrow};
use crate::wire::{Ke, Notify, NotifyType, Payload, TrafficSelectors};

/// What an exchange takes from the IKE SA it runs under.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// What the tunnel asks for.
    pub settings: &'a Settings,
    /// The PRF of the IKE SA.
    pub prf: &'static Prf,
    /// SK_d of the IKE SA.
    pub derive: &'a Secret,
}

/// Our request, while it is under way.
#[derive(Debug)]
pub struct Asked {
    /// The SPI at our end of the Child SA that it rekeys.
    pub old: Option<u32>,
    /// The SPI at our end of the one it makes.
    pub spi_in: u32,
    /// What the peer made meanwhile, beginning from the same Child SA.
    pub colliding: Option<CollidingChild>,
    /// The group is the peer's wish already.
    obliging: bool,
    /// The additional key exchange that completes it, once that is under way.
    pub followup: Option<Box<followup::Asked<Agreed>>>,
    nonce: Vec<u8>,
    ke: Option<KeyExchange>,
}

/// A Child SA of the peer's exchange that crosses ours.
#[derive(Debug)]
pub struct CollidingChild {
    /// Its SPI at our end.
    pub spi_in: u32,
    /// The nonces of its exchange.
    pub nonces: Nonces,
}

/// A Child SA fresh from its exchange.
#[derive(Debug)]
pub struct Made {
    /// The Child SA, working.
    pub child: ChildSa,
    /// The nonces of the exchange.
    pub nonces: Nonces,
}

impl Asked {
    /// Prepares a request that rekeys the Child SA `old`, or makes another. `group` is the one the peer asks for, if it does.
    pub fn begin(
        settings: &Settings,
        old: Option<u32>,
        group: Option<u16>,
        spi_in: u32,
        rng: &mut Generator,
    ) -> Asked {
        let obliging = group.is_some();
        let group = offered(settings, group).or_else(|| offered(settings, None));
        let ke = group.map(|group| KeyExchange::generate(group, rng));
        let mut nonce = vec![0; NONCE_LEN];
        rng.fill(&mut nonce);
        Asked {
            old,
            spi_in,
            colliding: None,
            obliging,
            followup: None,
            nonce,
            ke,
        }
    }

    /// The payloads of the request.
    pub fn payloads(&self, settings: &Settings) -> Vec<Payload> {
        let mut payloads = Vec::new();
        payloads.extend(
            self.old
                .map(|old| Payload::Notify(Notify::about_esp(NotifyType::REKEY_SA, old))),
        );
        let offer = negotiate::offer_esp(&settings.esp, self.spi_in, Pfs::AsProposed);
        payloads.push(Payload::Sa(offer));
        payloads.push(Payload::Nonce(self.nonce.clone()));
        payloads.extend(self.ke.as_ref().map(public_value));
        payloads.push(Payload::TsI(settings.policy.local.clone().into()));
        payloads.push(Payload::TsR(settings.policy.remote.clone().into()));
        payloads
    }

    /// Whether another group than the one tried is worth trying: one that we offered. The peer may ask for another once.
    pub fn may_use(&self, settings: &Settings, group: u16) -> bool {
        let tried = self.ke.as_ref().map(|ke| ke.group().id);
        !self.obliging && tried != Some(group) && offered(settings, Some(group)).is_some()
    }

    /// Reads the Child SA out of the peer's answer. `in_use` is what the one it rekeys carries, which must not become less (RFC 7296 §2.9.2).
    ///
    /// # Errors
    /// The answer is not one to what was asked.
    pub fn conclude(
        &self,
        renewal: &Renewal,
        selectors: Option<(TrafficSelectors, TrafficSelectors)>,
        in_use: Option<&Policy>,
        settings: &Settings,
    ) -> Result<Agreed, Error> {
        let (suite, spi_out) = negotiate::accept_esp(&settings.esp, &renewal.sa, Pfs::AsProposed)
            .ok_or(Error::Misbehaved(
            "it chose an ESP suite that we did not offer",
        ))?;
        let shared = match (&self.ke, &renewal.ke, suite.group) {
            (_, None, None) => None,
            (Some(ours), Some(theirs), Some(group))
                if theirs.group == group.id && ours.group() == group =>
            {
                Some(invalid(ours.agree(&theirs.data))?)
            }
            _ => {
                return Err(Error::Misbehaved(
                    "its key exchange is not the one it chose",
                ));
            }
        };
        let policy = selectors
            .and_then(|(ts_i, ts_r)| {
                Some(Policy {
                    local: part_of(&ts_i, &settings.policy.local)?,
                    remote: part_of(&ts_r, &settings.policy.remote)?,
                })
            })
            .ok_or(Error::Misbehaved(
                "it answered with a Child SA that we did not offer",
            ))?;
        if in_use.is_some_and(|in_use| !covers(&policy, in_use)) {
            return Err(Error::Misbehaved(
                "it allows less for the Child SA that it rekeyed than before",
            ));
        }
        let nonces = Nonces {
            initiator: self.nonce.clone(),
            responder: renewal.nonce.clone(),
        };
        Ok(Agreed {
            role: Role::Initiator,
            spis: (self.spi_in, spi_out),
            suite,
            policy,
            shared,
            nonces,
        })
    }
}

/// Answers the peer's request: what comes of it and the payloads of the answer. `in_use` as in [`Asked::conclude`].
///
/// # Errors
/// We want something else.
pub fn respond(
    request: &ChildRequest,
    in_use: Option<&Policy>,
    spi_in: u32,
    settings: &Settings,
    rng: &mut Generator,
) -> Result<(Agreed, Vec<Payload>), Error> {
    let theirs = &request.renewal;
    let chosen = negotiate::choose_esp(&settings.esp, &theirs.sa, Pfs::AsProposed)
        .ok_or_else(|| no_proposal(settings, theirs))?;
    let suite = chosen.suite;
    let spi_out = negotiate::esp_spi(&chosen.spi).ok_or_else(|| no_proposal(settings, theirs))?;
    let policy = Policy {
        local: narrow(&request.ts_r.selectors, &settings.policy.local),
        remote: narrow(&request.ts_i.selectors, &settings.policy.remote),
    };
    let too_little = in_use.is_some_and(|in_use| !covers(&policy, in_use));
    if policy.local.is_empty() || policy.remote.is_empty() || too_little {
        return Err(Error::Incompatible(Incompatible::Selectors {
            theirs: selectors(&request.ts_r.selectors, &request.ts_i.selectors),
            ours: match in_use {
                Some(in_use) => selectors(&in_use.local, &in_use.remote),
                None => selectors(&settings.policy.local, &settings.policy.remote),
            },
        }));
    }
    let mut nonce = vec![0; NONCE_LEN];
    rng.fill(&mut nonce);
    let mut payloads = vec![
        Payload::Sa(negotiate::answer_esp(&chosen, spi_in)),
        Payload::Nonce(nonce.clone()),
    ];
    let shared = match suite.group {
        None => None,
        Some(group) => {
            let (shared, answer) = answer_ke(group, theirs.ke.as_ref(), rng)?;
            payloads.push(answer);
            Some(shared)
        }
    };
    payloads.push(Payload::TsI(policy.remote.clone().into()));
    payloads.push(Payload::TsR(policy.local.clone().into()));
    let nonces = Nonces {
        initiator: theirs.nonce.clone(),
        responder: nonce,
    };
    let agreed = Agreed {
        role: Role::Responder,
        spis: (spi_in, spi_out),
        suite,
        policy,
        shared,
        nonces,
    };
    Ok((agreed, payloads))
}

/// The responder's half of a key exchange.
///
/// # Errors
/// The peer used another group, or none, or sent a value that no honest peer sends.
pub fn answer_ke(
    group: &'static Group,
    theirs: Option<&Ke>,
    rng: &mut Generator,
) -> Result<(Secret, Payload), Error> {
    let theirs = theirs
        .filter(|ke| ke.group == group.id)
        .ok_or(Error::Incompatible(Incompatible::Group {
            wanted: group.id,
        }))?;
    let answer = invalid(KeyExchange::respond(group, &theirs.data, rng))?;
    let payload = Payload::Ke(Ke {
        group: group.id,
        data: answer.public,
    });
    Ok((answer.shared, payload))
}

/// A public value that no honest peer sends ends the exchange, and no more than that.
pub fn invalid<T>(outcome: Result<T, crate::crypto::InvalidPublicValue>) -> Result<T, Error> {
    outcome.map_err(|_| Error::Misbehaved("its public value is not valid"))
}

/// What two sides agreed on: all of a Child SA but its keys, for which an additional key exchange may still be to come.
#[derive(Debug)]
pub struct Agreed {
    /// What was chosen.
    pub suite: EspSuite,
    role: Role,
    /// Ours, then theirs.
    spis: (u32, u32),
    policy: Policy,
    shared: Option<Secret>,
    nonces: Nonces,
}

impl Agreed {
    /// The SPI at our end.
    pub fn spi_in(&self) -> u32 {
        self.spis.0
    }

    /// The Child SA; `additional` is the secret of the additional key exchange, if there was one.
    pub fn make(
        self,
        additional: Option<&Secret>,
        parent: Parent<'_>,
        cx: &mut Context<'_>,
    ) -> Made {
        let seed = ChildSeed {
            prf: parent.prf,
            derive: parent.derive,
            shared: self.shared.as_ref(),
            additional,
            nonces: &self.nonces,
        };
        let (keys_out, keys_in) = seed.keys(self.suite, self.role);
        let lifetime = parent.settings.child_lifetime;
        let (soft_expiry, renew_at) = children::rekey_schedule(cx.now, lifetime, cx.jitter());
        let (spi_in, spi_out) = self.spis;
        Made {
            child: ChildSa {
                spi_in,
                spi_out,
                suite: self.suite,
                policy: self.policy,
                role: self.role,
                soft_expiry,
                rekey_at: Some(soft_expiry),
                renew_at,
                hard_expiry: cx.now + lifetime,
                refusals: 0,
                keys_in,
                keys_out,
                iv_key: IvKey::random(cx.rng),
                standing: Standing::Working,
                known: self.role == Role::Initiator,
            },
            nonces: self.nonces,
        }
    }
}

/// The group of our proposals with this number, or the first.
fn offered(settings: &Settings, id: Option<u16>) -> Option<&'static Group> {
    settings
        .esp
        .iter()
        .flat_map(|proposal| proposal.groups.iter())
        .find(|group| id.is_none_or(|id| group.id == id))
        .copied()
}

/// The selectors of an answer, if they are what we offered or part of it (RFC 7296 §2.9).
pub fn part_of(theirs: &TrafficSelectors, ours: &[Selector]) -> Option<Vec<Selector>> {
    let within = |selector: &Selector| ours.iter().any(|offered| offered.contains(selector));
    (!theirs.selectors.is_empty()
        && theirs.unknown.is_empty()
        && theirs.selectors.iter().all(within))
    .then(|| theirs.selectors.clone())
}

/// Whether one Child SA carries all that another does.
fn covers(policy: &Policy, in_use: &Policy) -> bool {
    let all = |these: &[Selector], those: &[Selector]| {
        those
            .iter()
            .all(|that| these.iter().any(|this| this.contains(that)))
    };
    all(&policy.local, &in_use.local) && all(&policy.remote, &in_use.remote)
}

/// Nothing in common. If the rest fits, it is the group of PFS that differs, the classic mistake that shows at the first rekey.
fn no_proposal(settings: &Settings, theirs: &Renewal) -> Error {
    let (words, ours) = (
        negotiate::words_of_all(&theirs.sa, 8),
        join(settings.esp.iter()),
    );
    let but_for_pfs = negotiate::choose_esp(&settings.esp, &theirs.sa, Pfs::Unnamed).is_some();
    Error::Incompatible(if but_for_pfs {
        Incompatible::Pfs {
            theirs: words,
            ours,
        }
    } else {
        Incompatible::Esp {
            theirs: words,
            ours,
            closest: closest_proposal::esp(&settings.esp, &theirs.sa),
        }
    })
}
