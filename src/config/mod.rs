//! The configuration: from the TOML people write to [`Configuration`] with nothing left open.
//!
//! ```text
//!   groundlink.toml ──file──▶ tables of known keys ─┐
//!   presets/NAME.toml ──preset──▶ the same          ├─scope─▶ values with origins ──resolve, lint──▶ Configuration
//!   defaults ───────────────────────────────────────┘              │                                    │
//!   PSK files ──secret──────────────────────────────────────▶ keys │                                    ▼
//!                                                                  └──────────▶ check --explain      daemon
//! ```
//!
//! Nothing stops at the first error: a [`ConfigReport`] holds everything that is wrong, each with its line, a caret and what to do.

mod amount;
mod diagnostic;
mod duration;
mod endpoints;
mod file;
mod keys;
mod lint;
mod nat_lint;
mod origin;
mod preset;
mod proposals;
mod psk;
mod resolve;
mod scope;
mod secret;
mod settings;
mod show;
mod suggest;
#[cfg(test)]
mod tests;
mod tunnel;
mod value;

use std::fs;
use std::path::{Path, PathBuf};

pub use diagnostic::{ConfigReport, ConfigText, Diagnostic, Severity};
pub use origin::{EffectiveValue, Origin};
pub use settings::default::{CONTROL as DEFAULT_CONTROL, FILE as DEFAULT_FILE};
pub use settings::{
    Configuration, FailClosed, GatewaySettings, InsideAddress, Mtu, OffloadMode, TunnelSettings,
};

use scope::{Output, Scope};

/// What a configuration is read in besides its own text.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts secrets for the service.
    pub credentials: Option<PathBuf>,
    /// Whether secrets must be readable.
    pub secrets: SecretPolicy,
}

/// Whether secrets must be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretPolicy {
    /// The daemon cannot do without them.
    Required,
    /// `check` by someone who may not read them notes it and goes on; their keys are empty then.
    IfReadable,
    /// No file but the configuration is opened, whatever it names; all keys are empty then. For reading texts of strangers.
    Unread,
}

/// A configuration that was read, well or badly.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The settings; `None` when there are errors. Lint errors leave them here: ask [`ConfigReport::is_sound`] before running them.
    pub settings: Option<Configuration>,
    /// Every effective value and where it came from.
    pub values: Vec<EffectiveValue>,
    /// Everything there is to say.
    pub report: ConfigReport,
}

/// The most bytes a configuration may have.
const MOST: u64 = 1 << 20;

/// Reads a configuration file and the secrets it names.
pub fn load(path: &Path, options: &LoadOptions) -> LoadedConfig {
    let name = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new(""));
    match read(path) {
        Ok(text) => load_text(ConfigText::new(name, text), folder, options),
        Err((what, advice)) => {
            let finding = Diagnostic::error(None, what, advice);
            LoadedConfig {
                settings: None,
                values: Vec::new(),
                report: ConfigReport::new(ConfigText::new(name, ""), vec![finding]),
            }
        }
    }
}

/// Reads a configuration from its text; relative paths in it start at `folder`.
pub fn load_text(mut source: ConfigText, folder: &Path, options: &LoadOptions) -> LoadedConfig {
    let mut findings = Vec::new();
    let file = file::parse(&mut source, file::FileKind::Configuration, &mut findings);
    let mut output = Output {
        source: &source,
        rows: Vec::new(),
        findings,
    };
    let settings = resolve::resolve(&file, folder, options, &mut output);
    let Output { rows, findings, .. } = output;
    LoadedConfig {
        settings,
        values: rows,
        report: ConfigReport::new(source, findings),
    }
}

/// Where the daemon of this configuration listens, as far as that can be read; for programs that only want to talk to it.
pub fn control_socket(path: &Path) -> Option<PathBuf> {
    let mut source = ConfigText::new("", read(path).ok()?);
    let file = file::parse(&mut source, file::FileKind::Configuration, &mut Vec::new());
    let mut output = Output {
        source: &source,
        rows: Vec::new(),
        findings: Vec::new(),
    };
    let mut scope = Scope {
        tunnel: None,
        file: &file.gateway,
        preset: None,
        output: &mut output,
    };
    scope
        .read("control", value::socket_path)
        .map(|given| given.value)
}

/// The text of a file, or what is wrong with it and what to do.
fn read(path: &Path) -> Result<String, (String, String)> {
    let metadata = fs::metadata(path).map_err(|error| cannot_read(&error))?;
    if !metadata.is_file() {
        return Err((
            "this is not a regular file".to_owned(),
            "name the configuration file itself".to_owned(),
        ));
    }
    if metadata.len() > MOST {
        return Err((
            "this file has more than a megabyte: it is no configuration of ours".to_owned(),
            String::new(),
        ));
    }
    let bytes = fs::read(path).map_err(|error| cannot_read(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        (
            format!("byte {at} of this file is not UTF-8 text"),
            "save it as UTF-8".to_owned(),
        )
    })
}

fn cannot_read(error: &std::io::Error) -> (String, String) {
    match error.kind() {
        std::io::ErrorKind::NotFound => (
            "there is no such file".to_owned(),
            "write one (config/example.toml is a start) or name another with `--config`".to_owned(),
        ),
        std::io::ErrorKind::PermissionDenied => (
            "this user may not read it".to_owned(),
            "run as root or as the service's user".to_owned(),
        ),
        _ => (format!("it cannot be read: {error}"), String::new()),
    }
}
