//! What carries an ESP packet from one gateway to the other.
//!
//! ```text
//!   Udp   │ IP │ UDP 4500 │ ESP …     RFC 3948: passes a NAT, which needs ports
//!   Esp   │ IP │ ESP …                RFC 4303: IP protocol 50
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// What stands between the outer IP header and ESP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EspTransport {
    /// A UDP header (RFC 3948).
    #[default]
    Udp,
    /// Nothing: IP protocol 50.
    Esp,
}

impl EspTransport {
    /// Octets it puts between the outer IP header and ESP.
    pub const fn overhead(self) -> usize {
        match self {
            EspTransport::Udp => 8,
            EspTransport::Esp => 0,
        }
    }

    /// The word of status reports and logs.
    pub const fn word(self) -> &'static str {
        match self {
            EspTransport::Udp => "udp",
            EspTransport::Esp => "esp",
        }
    }
}

impl fmt::Display for EspTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
