//! Loading: from a path or a text to a resolved [`Configuration`] and its report.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::diagnostic::{ConfigReport, ConfigText, Diagnostic, Severity};
use super::file::{self, ConfigFile, FileKind};
use super::lint;
use super::scope::{EffectiveValue, Origin, Output, Scope};
use super::secret::LoadOptions;
use super::settings::{Configuration, GatewaySettings, OffloadMode, default};
use super::tunnel::{ResolvedTunnel, TunnelReader};
use super::value;

/// The result of reading a configuration, valid or not.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The resolved configuration; `None` after an error. A lint error leaves it set: check [`ConfigReport::is_valid`] before use.
    pub settings: Option<Configuration>,
    /// Every effective value and its origin.
    pub values: Vec<EffectiveValue>,
    /// Every finding.
    pub report: ConfigReport,
}

/// Maximum size of a configuration file in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Reads a configuration file and the key files that it names.
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

/// Reads a configuration from its text; relative paths in the text are relative to `folder`.
pub fn load_text(mut text: ConfigText, folder: &Path, options: &LoadOptions) -> LoadedConfig {
    let mut findings = Vec::new();
    let file = file::parse(&mut text, FileKind::Configuration, &mut findings);
    let mut output = Output {
        text: &text,
        values: Vec::new(),
        findings,
    };
    let settings = resolve(&file, folder, options, &mut output);
    let Output {
        values, findings, ..
    } = output;
    LoadedConfig {
        settings,
        values,
        report: ConfigReport::new(text, findings),
    }
}

/// The control socket that a configuration file names, valid or not otherwise; for clients of the daemon.
pub fn control_socket(path: &Path) -> Option<PathBuf> {
    let mut text = ConfigText::new("", read(path).ok()?);
    let file = file::parse(&mut text, FileKind::Configuration, &mut Vec::new());
    let entry = file.gateway.entry("control")?;
    value::socket_path(&entry.value, &mut Vec::new())
}

/// The text of a file; the error is what is wrong, and advice.
fn read(path: &Path) -> Result<String, (String, String)> {
    let metadata = fs::metadata(path).map_err(|error| cannot_read(&error))?;
    let error = |what: &str, advice: &str| Err((what.to_owned(), advice.to_owned()));
    if !metadata.is_file() {
        return error("not a regular file", "name a configuration file");
    }
    if metadata.len() > MAX_FILE_SIZE {
        return error(
            "the file is larger than 1 MiB, the maximum for a configuration",
            "name a configuration file",
        );
    }
    let bytes = fs::read(path).map_err(|error| cannot_read(&error))?;
    // TOML forbids control characters; a file with a NUL is none that a person wrote.
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        let what = format!("the file is not text: it has a NUL byte at offset {offset}");
        return Err((what, "name a configuration file, saved as UTF-8".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        (
            format!("the file is not UTF-8 text: invalid byte at offset {offset}"),
            "save the file as UTF-8".to_owned(),
        )
    })
}

fn cannot_read(error: &io::Error) -> (String, String) {
    let (what, advice) = match error.kind() {
        io::ErrorKind::NotFound => (
            "no such file",
            "create it (start from config/example.toml) or name another file with `--config`",
        ),
        io::ErrorKind::PermissionDenied => (
            "permission denied",
            "run as root or as the user of the service",
        ),
        _ => return (format!("cannot read the file: {error}"), String::new()),
    };
    (what.to_owned(), advice.to_owned())
}

/// Resolves a whole file; `None` after an error.
fn resolve(
    file: &ConfigFile,
    folder: &Path,
    options: &LoadOptions,
    output: &mut Output<'_>,
) -> Option<Configuration> {
    let gateway = gateway(&mut Scope {
        tunnel: None,
        table: &file.gateway,
        preset: None,
        output,
    });
    if file.tunnels.is_empty() && !file.has_syntax_errors {
        output.findings.push(Diagnostic::error(
            None,
            "the configuration has no tunnel",
            "add a `[[tunnel]]` with `name`, `peer`, `preset`, `psk`, `local` and `remote`",
        ));
    }
    let reader = TunnelReader {
        gateway: &gateway,
        gateway_table: &file.gateway,
        folder,
        options,
    };
    let tunnels: Vec<ResolvedTunnel> = file
        .tunnels
        .iter()
        .enumerate()
        .filter_map(|(index, table)| reader.read(index, table, output))
        .collect();
    lint::duplicate_names(&file.tunnels, &mut output.findings);
    lint::lint(&tunnels, &gateway, &mut output.findings);
    let is_error = |finding: &Diagnostic| finding.severity == Severity::Error;
    if output.findings.iter().any(is_error) {
        return None;
    }
    let tunnels = tunnels.into_iter().map(|tunnel| tunnel.settings).collect();
    Some(Configuration { gateway, tunnels })
}

fn gateway(scope: &mut Scope<'_, '_>) -> GatewaySettings {
    let address = scope.value("address", &value::HOST_ADDRESS);
    let listen = scope.value("listen", &value::ADDRESS);
    if !scope.sets("listen") {
        let any = "any address of the peer's family";
        scope.record("listen", any, Origin::Default);
    }
    let control = scope.value_or("control", &value::SOCKET_PATH, default::CONTROL.into());
    let offload = scope.value_or("offload", &value::keyword(), OffloadMode::Auto);
    GatewaySettings {
        address: address.map(|provided| provided.value),
        listen: listen.map(|provided| provided.value),
        control: control.value,
        offload: offload.value,
    }
}
