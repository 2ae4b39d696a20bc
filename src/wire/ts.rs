//! Traffic selectors (RFC 7296 §3.13).
//!
//! ```text
//! | count (1) | reserved (3) | selectors …
//! each: | type (1) | protocol (1) | length (2) | start port (2) | end port (2) | first address | last address |
//! ```

use crate::net::Selector;

use super::codec::{Cursor, Malformed, TooLong};
use super::numbers::TsType;

/// What one side of a Child SA may carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct TrafficSelectors {
    /// The ranges of addresses, in the order of the wire.
    pub selectors: Vec<Selector>,
    /// Selectors of types we do not read, such as security labels (RFC 9478): type and body.
    pub unknown: Vec<(TsType, Vec<u8>)>,
}

impl TrafficSelectors {
    pub(super) fn parse(mut body: Cursor<'_>) -> Result<TrafficSelectors, Malformed> {
        todo!()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        todo!()
    }
}

impl From<Vec<Selector>> for TrafficSelectors {
    fn from(selectors: Vec<Selector>) -> TrafficSelectors {
        TrafficSelectors {
            selectors,
            unknown: Vec::new(),
        }
    }
}
