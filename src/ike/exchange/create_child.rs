//! CREATE_CHILD_SA that creates a Child SA (RFC 7296 §1.3.1), and what creating and rekeying one have in common: the messages and the negotiation.
//!
//! ```text
//! HDR, SK { [N(REKEY_SA, old SPI),] SA, Ni, [KEi,] TSi, TSr }  ──▶
//!                              ◀──  HDR, SK { SA, Nr, [KEr,] TSi, TSr }
//!            or                ◀──  HDR, SK { N(INVALID_KE_PAYLOAD, group) }        the request is repeated with that group
//!            or                ◀──  HDR, SK { N(TEMPORARY_FAILURE) }                the request is repeated later
//!            or                ◀──  HDR, SK { N(NO_PROPOSAL_CHOSEN | TS_UNACCEPTABLE | …) }
//! ```
//!
//! Steps of both roles, for a new Child SA and for a rekey:
//!
//! ```text
//! initiator  create_child_request | rekey_child_request ─▶ ChildOffer::{new, payloads} …
//!            on_child_response ─▶ read_response (followup_ke) ─▶ ChildOffer::accept ─▶ AgreedChild::with_keys ─▶ on_child_created (rekey_child)
//! responder  on_create_child ─▶ create_child_for_peer ─▶ choose_child ─▶ AgreedChild::with_keys ─▶ adopt_child (rekey_child)
//! ```

use super::followup_ke::read_response;
use super::informational;
use super::outcome::{Rejection, Step};
use super::payloads::{check_public_value, fresh_nonce, ke_payload, respond_ke};
use crate::crypto::{Generator, Group, IvKey, KeyExchange, Prf, Secret};
use crate::ike::child_sa::{ChildSa, ChildState, rekey_schedule};
use crate::ike::closest_proposal;
use crate::ike::collision::{self, Reply};
use crate::ike::context::Context;
use crate::ike::error::{Error, Incompatible};
use crate::ike::event::{DownReason, Event, Role};
use crate::ike::key_schedule::{ChildSeed, Nonces};
use crate::ike::messages::{ChildRequest, CreateRequest, Renewal};
use crate::ike::negotiate::{self, Pfs};
use crate::ike::offer::{join, selectors};
use crate::ike::retransmit::back_off;
use crate::ike::sa::{AgreedChild, AgreedSa, ChildOffer, IkeSa, Job, Offer, SaOutcome};
use crate::ike::settings::{SelectorMode, Settings};
use crate::net::{Policy, Selector, narrow};
use crate::wire::{ChainError, Notify, NotifyType, Payload, ProtocolId, TrafficSelectors};

/// How often a peer may be too busy for a first Child SA, before a new IKE SA is the faster way to one.
const MAX_CREATE_RETRIES: u32 = 3;

/// A Child SA with keys, and the nonces of its exchange for the collision rules.
#[derive(Debug)]
pub struct CreatedChild {
    /// The Child SA, active.
    pub child: ChildSa,
    /// The nonces.
    pub nonces: Nonces,
}

impl IkeSa {
    /// The request that creates a Child SA with these selectors; `None` if one carries their traffic.
    pub fn create_child_request(
        &self,
        policy: &Policy,
        group: Option<u16>,
        cx: &mut Context<'_>,
    ) -> Option<(Vec<Payload>, Offer)> {
        let is_needed = !self.children.serves(policy);
        is_needed.then(|| self.child_request(None, policy.clone(), group, cx))
    }

    /// The request that creates a Child SA in place of `old`, or of none.
    pub fn child_request(
        &self,
        old: Option<u32>,
        policy: Policy,
        group: Option<u16>,
        cx: &mut Context<'_>,
    ) -> (Vec<Payload>, Offer) {
        let settings = &self.conn.settings;
        let spi_in = self.fresh_child_spi(cx);
        let offer = ChildOffer::new(settings, (old, policy), group, spi_in, cx.rng);
        cx.out.events.push_back(Event::ChildOffered {
            tunnel: self.conn.tunnel,
            spi_in,
        });
        (offer.payloads(settings), Offer::Child(Box::new(offer)))
    }

    /// The selectors to offer for a rekey: all that the tunnel allows (RFC 7296 §2.9.2), but where several Child SAs share that, those in use.
    pub fn rekey_selectors(&self, old: &ChildSa) -> Policy {
        let shares = self.children.traffics().len() > 1;
        match self.conn.settings.selectors {
            SelectorMode::Together if !shares => self.conn.settings.policy.clone(),
            SelectorMode::Together | SelectorMode::Pairs => old.policy.clone(),
        }
    }

    /// Handles the response to our request that creates or rekeys a Child SA.
    pub fn on_child_response(
        &mut self,
        job: &Job,
        mut offer: ChildOffer,
        payloads: Result<Vec<Payload>, ChainError>,
        cx: &mut Context<'_>,
    ) {
        if !self.is_open() {
            return;
        }
        let followup = offer.followup.take();
        let step = read_response(followup, payloads, cx, |renewal, selectors| {
            let in_use = offer.old.and_then(|old| self.children.by_spi_in(old));
            let in_use = in_use.map(|child| &child.policy);
            let agreed = offer.accept(renewal, selectors, in_use, &self.conn.settings)?;
            let additional = agreed.suite.additional;
            Ok((agreed, additional))
        });
        match step {
            Ok(Step::Agreed(agreed, additional)) => {
                let created = agreed.with_keys(additional.as_ref(), self.parent(), cx);
                self.on_child_created(&offer, created, cx);
            }
            Ok(Step::Followup(followup)) => {
                return self.follow_up_child(job.clone(), offer, followup, cx);
            }
            Ok(Step::OtherGroup(group)) => self.on_other_child_group(&offer, group, cx),
            Ok(Step::Rejected(notify)) => self.on_child_rejected(&offer, &notify, cx),
            Err(error) => self.on_child_unusable(&offer, &error, cx),
        }
        // An IKE SA whose only request for a Child SA has failed is of no use.
        let creates = |job: &Job| matches!(job, Job::CreateChild { .. });
        let retries = self.jobs.iter().any(creates) || self.create_child_at.is_some();
        if creates(job) && !retries && !self.children.any_usable() {
            self.close(DownReason::Useless, None, cx);
        }
    }

    /// Repeats the request with the group that the peer has asked for.
    fn on_other_child_group(&mut self, offer: &ChildOffer, group: u16, cx: &mut Context<'_>) {
        if !offer.may_use(&self.conn.settings, group) || offer.colliding.is_some() {
            let wanted = group.to_be_bytes().to_vec();
            let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted);
            return self.on_child_rejected(offer, &notify, cx);
        }
        let group = Some(group);
        let job = match offer.old {
            Some(spi_in) => Job::RekeyChild { spi_in, group },
            None => Job::CreateChild {
                policy: offer.policy.clone(),
                group,
            },
        };
        self.queue_request(job, cx);
    }

    /// Schedules the creation of a Child SA again after TEMPORARY_FAILURE.
    pub fn retry_create_child(&mut self, jitter: u8, cx: &Context<'_>) {
        if self.create_child_retries < MAX_CREATE_RETRIES {
            self.create_child_retries = self.create_child_retries.saturating_add(1);
            self.create_child_at = Some(cx.now + back_off(self.create_child_retries, jitter));
        }
    }

    /// Handles the peer's CREATE_CHILD_SA request, of any of the three kinds.
    pub fn on_create_child(
        &mut self,
        payloads: Vec<Payload>,
        cx: &mut Context<'_>,
    ) -> (Vec<Payload>, SaOutcome) {
        let response = match CreateRequest::read(payloads) {
            Ok(CreateRequest::Ike(renewal)) => self.rekey_ike_for_peer(&renewal, cx),
            Ok(CreateRequest::Child(request)) => self.create_child_for_peer(&request, cx),
            Err(error) => return informational::reject(&error),
        };
        (self.response_payloads(response, cx), SaOutcome::Open)
    }

    /// The payloads of a response. A rejection for an error is reported.
    pub fn response_payloads(
        &mut self,
        response: Result<Vec<Payload>, Rejection>,
        cx: &mut Context<'_>,
    ) -> Vec<Payload> {
        response.unwrap_or_else(|rejection| {
            vec![Payload::Notify(match rejection {
                Rejection::Notify(notify) => notify,
                Rejection::Error(error) => {
                    // INVALID_KE_PAYLOAD is an ordinary first answer (RFC 7296 §1.3): nothing to report.
                    if !matches!(error, Error::Incompatible(Incompatible::Group { .. })) {
                        self.output.failures.push(error.failure(cx.now));
                    }
                    rejection_notify(&error)
                }
            })]
        })
    }

    /// Creates or rekeys a Child SA for the peer.
    fn create_child_for_peer(
        &mut self,
        request: &ChildRequest,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Payload>, Rejection> {
        let old = match &request.rekeys {
            Some(rekeys) => Some(self.rekeyed_child(rekeys)?),
            None => match collision::on_create(self.busy()) {
                Reply::Execute => None,
                Reply::TemporaryFailure | Reply::ChildNotFound => {
                    return Err(Rejection::notify(NotifyType::TEMPORARY_FAILURE));
                }
            },
        };
        let spi_in = self.fresh_child_spi(cx);
        let in_use = old.and_then(|old| self.children.by_spi_in(old));
        let in_use = in_use.map(|child| &child.policy);
        let (agreed, mut payloads) =
            choose_child(request, in_use, spi_in, &self.conn.settings, cx.rng)?;
        if !self.children.has_room(old, &agreed.policy) {
            return Err(Rejection::notify(NotifyType::NO_ADDITIONAL_SAS));
        }
        match agreed.suite.additional {
            None => {
                let created = agreed.with_keys(None, self.parent(), cx);
                self.adopt_child(old, created, cx);
            }
            Some(method) => {
                let agreed = Box::new(agreed);
                payloads.push(self.await_followup(AgreedSa::Child { old, agreed }, method, cx));
            }
        }
        Ok(payloads)
    }

    /// The inbound SPI of the Child SA that REKEY_SA names, if the peer may rekey it now.
    fn rekeyed_child(&self, rekeys: &Notify) -> Result<u32, Rejection> {
        let named = <[u8; 4]>::try_from(rekeys.spi.as_slice()).ok();
        let child = named
            .and_then(|spi| self.children.by_spi_out(u32::from_be_bytes(spi)))
            .filter(|_| rekeys.protocol == ProtocolId::ESP);
        let reply = collision::on_rekey_child(self.busy(), child.map(|child| child.state));
        match (reply, child) {
            (Reply::Execute, Some(child)) => Ok(child.spi_in),
            (Reply::TemporaryFailure, _) => Err(Rejection::notify(NotifyType::TEMPORARY_FAILURE)),
            // The notification names the SPI that the peer named.
            (Reply::ChildNotFound, _) | (Reply::Execute, None) => Err(Rejection::Notify(Notify {
                kind: NotifyType::CHILD_SA_NOT_FOUND,
                data: Vec::new(),
                ..rekeys.clone()
            })),
        }
    }
}

impl ChildOffer {
    /// Prepares a request that rekeys the Child SA `old`, or creates another, with these selectors. `group` is the one that the peer has asked for.
    fn new(
        settings: &Settings,
        (old, policy): (Option<u32>, Policy),
        group: Option<u16>,
        spi_in: u32,
        rng: &mut Generator,
    ) -> ChildOffer {
        let group_forced = group.is_some();
        let group = offered_group(settings, group).or_else(|| offered_group(settings, None));
        let ke = group.map(|group| KeyExchange::generate(group, rng));
        ChildOffer {
            old,
            spi_in,
            policy,
            colliding: None,
            group_forced,
            followup: None,
            nonce: fresh_nonce(rng),
            ke,
        }
    }

    /// The payloads of the request.
    fn payloads(&self, settings: &Settings) -> Vec<Payload> {
        let mut payloads = Vec::new();
        payloads.extend(
            self.old
                .map(|old| Payload::Notify(Notify::about_esp(NotifyType::REKEY_SA, old))),
        );
        let proposals = negotiate::offer_esp(&settings.esp, self.spi_in, Pfs::AsProposed);
        payloads.push(Payload::Sa(proposals));
        payloads.push(Payload::Nonce(self.nonce.clone()));
        payloads.extend(self.ke.as_ref().map(ke_payload));
        payloads.push(Payload::TsI(self.policy.local.clone().into()));
        payloads.push(Payload::TsR(self.policy.remote.clone().into()));
        payloads
    }

    /// Whether the group that the peer asks for is worth a second request: one that we offer and have not tried. The peer may ask once.
    fn may_use(&self, settings: &Settings, group: u16) -> bool {
        let tried = self.ke.as_ref().map(|ke| ke.group().id);
        !self.group_forced && tried != Some(group) && offered_group(settings, Some(group)).is_some()
    }

    /// Checks the response and takes the Child SA from it. `in_use` is the traffic of the one that it rekeys, which must not shrink (RFC 7296 §2.9.2).
    fn accept(
        &self,
        response: &Renewal,
        selectors: Option<(TrafficSelectors, TrafficSelectors)>,
        in_use: Option<&Policy>,
        settings: &Settings,
    ) -> Result<AgreedChild, Error> {
        let (suite, spi_out) = negotiate::accept_esp(&settings.esp, &response.sa, Pfs::AsProposed)
            .ok_or(Error::Misbehaved(
                "it chose an ESP suite that we did not offer",
            ))?;
        let shared = match (&self.ke, &response.ke, suite.group) {
            (_, None, None) => None,
            (Some(ours), Some(theirs), Some(group))
                if theirs.group == group.id && ours.group() == group =>
            {
                Some(check_public_value(ours.agree(&theirs.data))?)
            }
            _ => {
                return Err(Error::Misbehaved(
                    "its key exchange is not the one it chose",
                ));
            }
        };
        let policy = selectors
            .and_then(|(ts_i, ts_r)| accept_selectors(&ts_i, &ts_r, &self.policy))
            .ok_or(Error::Misbehaved(
                "it responded with a Child SA that we did not offer",
            ))?;
        if in_use.is_some_and(|in_use| !policy.covers(in_use)) {
            return Err(Error::Misbehaved(
                "it allows less for the Child SA that it rekeyed than before",
            ));
        }
        Ok(AgreedChild {
            role: Role::Initiator,
            spi_in: self.spi_in,
            spi_out,
            suite,
            policy,
            shared,
            nonces: Nonces {
                initiator: self.nonce.clone(),
                responder: response.nonce.clone(),
            },
        })
    }
}

/// Chooses a Child SA from the peer's request. Returns it with the payloads of the response. `in_use` as in [`ChildOffer::accept`].
fn choose_child(
    request: &ChildRequest,
    in_use: Option<&Policy>,
    spi_in: u32,
    settings: &Settings,
    rng: &mut Generator,
) -> Result<(AgreedChild, Vec<Payload>), Error> {
    let theirs = &request.renewal;
    let chosen = negotiate::choose_esp(&settings.esp, &theirs.sa, Pfs::AsProposed)
        .ok_or_else(|| no_proposal(settings, theirs))?;
    let suite = chosen.suite;
    let spi_out = negotiate::esp_spi(&chosen.spi)?;
    let policy = Policy {
        local: narrow(&request.ts_r.selectors, &settings.policy.local),
        remote: narrow(&request.ts_i.selectors, &settings.policy.remote),
    };
    let too_narrow = in_use.is_some_and(|in_use| !policy.covers(in_use));
    if policy.local.is_empty() || policy.remote.is_empty() || too_narrow {
        if request.transport_mode {
            return Err(Error::Incompatible(Incompatible::TransportMode));
        }
        let ours = in_use.unwrap_or(&settings.policy);
        return Err(Error::Incompatible(Incompatible::Selectors {
            theirs: selectors(&request.ts_r.selectors, &request.ts_i.selectors),
            ours: selectors(&ours.local, &ours.remote),
        }));
    }
    let nonce = fresh_nonce(rng);
    let mut payloads = vec![
        Payload::Sa(negotiate::esp_response(&chosen, spi_in)),
        Payload::Nonce(nonce.clone()),
    ];
    let shared = match suite.group {
        None => None,
        Some(group) => {
            let (shared, ke) = respond_ke(group, theirs.ke.as_ref(), rng)?;
            payloads.push(ke);
            Some(shared)
        }
    };
    payloads.push(Payload::TsI(policy.remote.clone().into()));
    payloads.push(Payload::TsR(policy.local.clone().into()));
    let agreed = AgreedChild {
        role: Role::Responder,
        spi_in,
        spi_out,
        suite,
        policy,
        shared,
        nonces: Nonces {
            initiator: theirs.nonce.clone(),
            responder: nonce,
        },
    };
    Ok((agreed, payloads))
}

/// What a Child SA takes from its IKE SA.
#[derive(Clone, Copy)]
pub struct Parent<'a> {
    /// The PRF.
    pub prf: &'static Prf,
    /// SK_d.
    pub sk_d: &'a Secret,
    /// The settings of the tunnel.
    pub settings: &'a Settings,
}

impl IkeSa {
    /// What its Child SAs take from it.
    pub fn parent(&self) -> Parent<'_> {
        Parent {
            prf: self.suite.prf,
            sk_d: &self.sk_d,
            settings: &self.conn.settings,
        }
    }
}

impl AgreedChild {
    /// Derives the keys from SK_d. `additional` is the secret of the additional key exchange.
    pub fn with_keys(
        self,
        additional: Option<&Secret>,
        parent: Parent<'_>,
        cx: &mut Context<'_>,
    ) -> CreatedChild {
        let seed = ChildSeed {
            prf: parent.prf,
            derive: parent.sk_d,
            shared: self.shared.as_ref(),
            additional,
            nonces: &self.nonces,
        };
        let (keys_out, keys_in) = seed.keys(self.suite, self.role);
        let lifetime = parent.settings.child_lifetime;
        let (soft_expiry, renew_at) = rekey_schedule(cx.now, lifetime, cx.jitter());
        CreatedChild {
            child: ChildSa {
                spi_in: self.spi_in,
                spi_out: self.spi_out,
                suite: self.suite,
                policy: self.policy,
                traffic: 0,
                role: self.role,
                soft_expiry,
                rekey_at: Some(soft_expiry),
                renew_at,
                hard_expiry: cx.now + lifetime,
                rejections: 0,
                keys_in,
                keys_out,
                iv_key: IvKey::random(cx.rng),
                state: ChildState::Active,
                confirmed: self.role == Role::Initiator,
            },
            nonces: self.nonces,
        }
    }
}

/// The group of our proposals with this number, or the first.
fn offered_group(settings: &Settings, id: Option<u16>) -> Option<&'static Group> {
    settings
        .esp
        .iter()
        .flat_map(|proposal| proposal.groups.iter())
        .find(|group| id.is_none_or(|id| group.id == id))
        .copied()
}

/// The selectors of a response to our request, if they are within what we offered (RFC 7296 §2.9).
pub fn accept_selectors(
    ts_i: &TrafficSelectors,
    ts_r: &TrafficSelectors,
    offered: &Policy,
) -> Option<Policy> {
    let within = |theirs: &TrafficSelectors, ours: &[Selector]| {
        let is_offered = |selector: &Selector| ours.iter().any(|ours| ours.contains(selector));
        (!theirs.selectors.is_empty()
            && theirs.unknown.is_empty()
            && theirs.selectors.iter().all(is_offered))
        .then(|| theirs.selectors.clone())
    };
    Some(Policy {
        local: within(ts_i, &offered.local)?,
        remote: within(ts_r, &offered.remote)?,
    })
}

/// The error for proposals without a common one. If only the PFS group differs, the error says so: it does not show before the first rekey.
fn no_proposal(settings: &Settings, theirs: &Renewal) -> Error {
    let words = negotiate::words_of_all(&theirs.sa, 8);
    let ours = join(settings.esp.iter());
    let only_pfs_differs = negotiate::choose_esp(&settings.esp, &theirs.sa, Pfs::Unnamed).is_some();
    Error::Incompatible(if only_pfs_differs {
        Incompatible::Pfs {
            theirs: words,
            ours,
            matching: closest_proposal::pfs(&settings.esp, &theirs.sa),
        }
    } else {
        Incompatible::Esp {
            theirs: words,
            ours,
            closest: closest_proposal::esp(&settings.esp, &theirs.sa),
        }
    })
}

/// The notification that rejects a request.
fn rejection_notify(error: &Error) -> Notify {
    match error {
        // INVALID_SYNTAX would end the IKE SA at the peer (RFC 7296 §2.21.3), over an exchange that harms nothing else.
        Error::Misbehaved(_) => Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()),
        Error::Malformed(_)
        | Error::UnsupportedCritical(_)
        | Error::Incompatible(_)
        | Error::Denied(_) => error.notify(),
    }
}
