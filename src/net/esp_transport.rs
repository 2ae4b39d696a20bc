//! Transport of ESP packets between gateways.
//!
//! ```text
//!   Udp   │ IP │ UDP 4500 │ ESP …     RFC 3948: passes a NAT, which needs ports
//!   Esp   │ IP │ ESP …                RFC 4303: IP protocol 50
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// Encapsulation of ESP packets between gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EspTransport {
    /// UDP header (RFC 3948).
    #[default]
    Udp,
    /// None: IP protocol 50 (RFC 4303).
    Esp,
}

impl EspTransport {
    /// Octets between the outer IP header and ESP.
    pub const fn overhead(self) -> usize {
        match self {
            EspTransport::Udp => 8,
            EspTransport::Esp => 0,
        }
    }

    /// Word in status reports and logs.
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
