//! The scope of one table: its keys over those of its preset over the defaults. Each value keeps its origin.

use std::fmt::{self, Display};
use std::ops::Range;

use super::diagnostic::{ConfigText, Diagnostic};
use super::file::ConfigTable;
use super::preset::Preset;
use super::value::Format;

/// Origin of an effective value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// A default derived from another key.
    DerivedFrom(&'static str),
    /// The tunnel's preset.
    Preset(&'static str),
    /// A line of the file.
    File {
        /// Line number, from 1.
        line: usize,
    },
}

impl Origin {
    /// The origin as `check --explain` prints it; `file` is the name of the configuration.
    pub fn describe(self, file: &str) -> String {
        match self {
            Origin::Default => "default".to_owned(),
            Origin::DerivedFrom(key) => format!("default, from `{key}`"),
            Origin::Preset(name) => format!("preset {name}"),
            Origin::File { line } => format!("{file}:{line}"),
        }
    }
}

/// One effective value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveValue {
    /// Name of the tunnel; `None` for the gateway.
    pub tunnel: Option<String>,
    /// The key.
    pub key: &'static str,
    /// The value in TOML syntax; never a secret.
    pub value: String,
    /// Origin of the value.
    pub origin: Origin,
}

impl Display for EffectiveValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.value)
    }
}

/// A value, its origin, and the span that findings about it point at.
#[derive(Debug, Clone)]
pub struct Provided<T> {
    /// The value.
    pub value: T,
    /// Origin of the value.
    pub origin: Origin,
    /// The bytes of the file that set the value.
    pub span: Range<usize>,
}

/// Output shared by all scopes of a file.
pub struct Output<'a> {
    /// The file.
    pub text: &'a ConfigText,
    /// Every effective value.
    pub values: Vec<EffectiveValue>,
    /// Every finding.
    pub findings: Vec<Diagnostic>,
}

/// One table of the file, with its preset.
pub struct Scope<'a, 'b> {
    /// Name of the tunnel; `None` for the gateway.
    pub tunnel: Option<String>,
    /// The table.
    pub table: &'a ConfigTable,
    /// The preset, and the span that selects it.
    pub preset: Option<(&'static Preset, Range<usize>)>,
    /// Destination of values and findings.
    pub output: &'a mut Output<'b>,
}

impl Scope<'_, '_> {
    /// Whether the file or the preset sets a key, to a valid value or not.
    pub fn sets(&self, key: &str) -> bool {
        let in_preset = |(preset, _): &(&'static Preset, _)| preset.tunnel.entry(key).is_some();
        self.table.entry(key).is_some() || self.preset.as_ref().is_some_and(in_preset)
    }

    /// Span of the table's header, for findings about the table as a whole.
    pub fn header(&self) -> Range<usize> {
        self.table.header.clone()
    }

    /// Reads a key without recording it; `None` if the key is not set or its value is invalid.
    pub fn read<T>(&mut self, key: &'static str, format: &Format<T>) -> Option<Provided<T>> {
        if let Some(entry) = self.table.entry(key) {
            let value = (format.read)(&entry.value, &mut self.output.findings)?;
            let (line, _) = self.output.text.position(entry.key_span.start);
            return Some(Provided {
                value,
                origin: Origin::File { line },
                span: entry.value.span.clone(),
            });
        }
        let (preset, span) = self.preset.clone()?;
        let entry = preset.tunnel.entry(key)?;
        let mut findings = Vec::new();
        let value = (format.read)(&entry.value, &mut findings);
        // Findings about a value of a preset point at the key that selects the preset.
        let moved = findings.into_iter().map(|finding| Diagnostic {
            span: Some(span.clone()),
            ..finding
        });
        self.output.findings.extend(moved);
        Some(Provided {
            value: value?,
            origin: Origin::Preset(preset.name),
            span,
        })
    }

    /// Reads and records a key; `None` as in [`Scope::read`].
    pub fn value<T>(&mut self, key: &'static str, format: &Format<T>) -> Option<Provided<T>> {
        let provided = self.read(key, format)?;
        self.record(key, (format.show)(&provided.value), provided.origin);
        Some(provided)
    }

    /// Reads and records a key that has a default.
    pub fn value_or<T>(
        &mut self,
        key: &'static str,
        format: &Format<T>,
        default: T,
    ) -> Provided<T> {
        if let Some(provided) = self.value(key, format) {
            return provided;
        }
        if !self.sets(key) {
            self.record(key, (format.show)(&default), Origin::Default);
        }
        Provided {
            value: default,
            origin: Origin::Default,
            span: self.header(),
        }
    }

    /// Reads and records a required key; an error if it is not set.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        format: &Format<T>,
        advice: &str,
    ) -> Option<Provided<T>> {
        if !self.sets(key) {
            let what = format!("{} has no `{key}`", self.subject());
            self.report(Diagnostic::error(self.header(), what, advice));
        }
        self.value(key, format)
    }

    /// The table as findings call it.
    pub fn subject(&self) -> String {
        match &self.tunnel {
            Some(name) => format!("tunnel `{name}`"),
            None => "the gateway".to_owned(),
        }
    }

    /// Records an effective value.
    pub fn record(&mut self, key: &'static str, value: impl Into<String>, origin: Origin) {
        self.output.values.push(EffectiveValue {
            tunnel: self.tunnel.clone(),
            key,
            value: value.into(),
            origin,
        });
    }

    /// Adds a finding.
    pub fn report(&mut self, finding: Diagnostic) {
        self.output.findings.push(finding);
    }
}
