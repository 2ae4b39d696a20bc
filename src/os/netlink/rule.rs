//! Rules of policy routing (`ip rule`): packets from a source prefix look into a table of their own before the main table.
//!
//! ```text
//!   from 10.1.0.0/24 lookup 171000      own rules, priorities from 17100
//!   from 10.9.0.0/24 lookup 171001      ahead of the main table (32766), behind the local one (0)
//! ```
//!
//! Own rules carry [`ROUTE_PROTOCOL`], as own routes do; rules of other programs are never removed.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route::{ROUTE_PROTOCOL, family_of};
use super::{Netlink, NetlinkError, ignore_missing};
use crate::net::Prefix;

/// Lowest priority number of own rules.
pub const FIRST_RULE: u32 = 17_100;
/// Number of the first own table.
pub const FIRST_TABLE: u32 = 171_000;

/// An own rule: packets from a prefix look into a table first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Priority: rules of lower numbers come first.
    pub priority: u32,
    /// Source addresses.
    pub from: Prefix,
    /// Number of the table.
    pub table: u32,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule {
            priority,
            from,
            table,
        } = self;
        write!(f, "the rule {priority} from {from} lookup {table}")
    }
}

impl Netlink {
    /// Adds a rule; one that exists is no error.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRule(encode(rule));
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match self.change(|| format!("adding {rule}"), message, flags) {
            Err(error) if error.is_exists() => Ok(()),
            result => result,
        }
    }

    /// Removes an own rule; one that is gone already is no error.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn remove_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRule(encode(rule));
        ignore_missing(self.change(|| format!("removing {rule}"), message, 0))
    }

    /// Own rules of both families.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn own_rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            let found = self.dump(
                || "listing the rules".to_owned(),
                &RouteNetlinkMessage::GetRule(request),
                |answer| match answer {
                    RouteNetlinkMessage::NewRule(message) if is_own(&message) => decode(&message),
                    _ => None,
                },
            );
            match found {
                // A kernel without policy routing, or without this family.
                Err(error)
                    if matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
                found => rules.extend(found?),
            }
        }
        Ok(rules)
    }
}

/// Whether a rule is an own one.
pub(super) fn is_own(message: &RuleMessage) -> bool {
    let own = RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL));
    message.attributes.contains(&own)
}

fn encode(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(rule.from.address());
    message.header.src_len = rule.from.length();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(rule.from.address()),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
    ];
    message
}

fn decode(message: &RuleMessage) -> Option<Rule> {
    let (mut from, mut priority, mut table) = (None, 0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => from = Some(*address),
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let any = match message.header.family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let from = Prefix::containing(from.unwrap_or(any), message.header.src_len);
    Some(Rule {
        priority,
        from,
        table,
    })
}
