//! The configuration: TOML file, preset and defaults resolved to a [`Configuration`].
//!
//! ```text
//!   groundlink.toml ──file──▶ tables of known keys ─┐
//!   presets/NAME.toml ──preset──▶ the same          ├─scope─▶ values with origins ──tunnel, lint──▶ Configuration
//!   defaults ───────────────────────────────────────┘              │                                    │
//!   PSK files ──secret──────────────────────────────────────▶ keys │                                    ▼
//!                                                                  └──────────▶ check --explain      daemon
//! ```
//!
//! Reading continues after an error: a [`ConfigReport`] lists every finding with its line, a caret and advice.

mod diagnostic;
mod endpoints;
mod file;
mod key_text;
mod keys;
mod lint;
mod load;
mod preset;
mod psk;
mod quantity;
mod scope;
mod secret;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod tunnel;
mod value;

pub use crate::paths::FailClosed;
pub use diagnostic::{ConfigReport, ConfigText, Diagnostic, Severity};
pub use load::{LoadedConfig, control_socket, load, load_text};
pub use preset::{check_name as check_preset, names as preset_names};
pub use scope::{EffectiveValue, Origin};
pub use secret::{LoadOptions, MissingSecret, SecretPolicy};
pub use service::ServiceView;
pub use settings::default::{CONTROL as DEFAULT_CONTROL, FILE as DEFAULT_FILE};
pub use settings::{
    Configuration, GatewaySettings, InsideAddress, Mtu, OffloadMode, TunnelSettings,
};
