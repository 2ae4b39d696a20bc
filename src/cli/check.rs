//! `groundlink check`: validates the configuration and explains its effective values.

use std::env;
use std::fmt::Write as _;

use clap::Args;
use nix::unistd::Uid;
use serde_json::json;

use super::common::{Exit, Failure, GlobalArgs, print};
use crate::config::{self, LoadOptions, LoadedConfig, SecretPolicy, ServiceView, Severity};

/// Validate the configuration without changing the system
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  groundlink check\n  groundlink check --explain --config ./groundlink.toml\n\nExit status: 0 valid, perhaps with warnings · 2 invalid · 4 rejected by a lint, such as a broken algorithm"
)]
pub(crate) struct Check {
    /// Print every effective value and its origin
    #[arg(long)]
    explain: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        let options = LoadOptions {
            credentials: env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
            secrets: secrets(),
        };
        let loaded = config::load(&global.config, &options);
        let file = global.config.display().to_string();
        if self.json {
            print(format!("{:#}\n", object(&loaded, &file, self.explain)).as_bytes())?;
        } else {
            eprint!("{}", loaded.report);
            let explained = if self.explain {
                explain(&loaded, &file)
            } else {
                String::new()
            };
            print(format!("{explained}{}\n", summary(&loaded, &file)).as_bytes())?;
        }
        Ok(exit(&loaded))
    }
}

/// Root can read every file, so the question is what the service can read.
fn secrets() -> SecretPolicy {
    let view = Uid::effective()
        .is_root()
        .then(ServiceView::of_this_machine)
        .flatten();
    view.map_or(SecretPolicy::IfReadable, SecretPolicy::AsService)
}

fn exit(loaded: &LoadedConfig) -> Exit {
    match (
        loaded.report.count(Severity::Error),
        loaded.report.count(Severity::Lint),
    ) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Unhealthy,
        (_, _) => Exit::Usage,
    }
}

/// The last line: "groundlink.toml: valid: 4 tunnels, 1 warning".
fn summary(loaded: &LoadedConfig, file: &str) -> String {
    let counted = |number: usize, word: &str| {
        format!("{number} {word}{}", if number == 1 { "" } else { "s" })
    };
    let mut parts = Vec::new();
    if let Some(settings) = &loaded.settings {
        parts.push(counted(settings.tunnels.len(), "tunnel"));
    }
    for (severity, word) in [
        (Severity::Error, "error"),
        (Severity::Lint, "lint error"),
        (Severity::Warning, "warning"),
        (Severity::Note, "note"),
    ] {
        match loaded.report.count(severity) {
            0 => {}
            number => parts.push(counted(number, word)),
        }
    }
    let result = if loaded.report.is_valid() {
        "valid"
    } else {
        "invalid"
    };
    format!("{file}: {result}: {}", parts.join(", "))
}

/// The effective values, one per line, in a block for the gateway and one for each tunnel.
fn explain(loaded: &LoadedConfig, file: &str) -> String {
    let mut text = String::new();
    let mut block = None;
    let widths = |part: fn(&config::EffectiveValue) -> usize| {
        loaded
            .values
            .iter()
            .map(part)
            .filter(|width| *width <= 44)
            .max()
            .unwrap_or(0)
    };
    let (keys, values) = (
        widths(|row| row.key.len()),
        widths(|row| row.value.chars().count()),
    );
    for row in &loaded.values {
        if block != Some(&row.tunnel) {
            let gap = if block.is_some() { "\n" } else { "" };
            let title = row
                .tunnel
                .as_ref()
                .map_or("gateway".to_owned(), |name| format!("tunnel {name}"));
            let _ = writeln!(text, "{gap}{title}");
            block = Some(&row.tunnel);
        }
        let _ = writeln!(
            text,
            "  {:keys$}  {:values$}  {}",
            row.key,
            row.value,
            row.origin.describe(file)
        );
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn object(loaded: &LoadedConfig, file: &str, explain: bool) -> serde_json::Value {
    let mut object = json!({
        "ok": loaded.report.is_valid(),
        "file": file,
        "tunnels": loaded.settings.as_ref().map_or(0, |settings| settings.tunnels.len()),
        "findings": loaded.report.to_json(),
    });
    if explain {
        let row = |row: &config::EffectiveValue| json!({"tunnel": row.tunnel, "key": row.key, "value": row.value, "origin": row.origin.describe(file)});
        object["values"] = loaded.values.iter().map(row).collect();
    }
    object
}
