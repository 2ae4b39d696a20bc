//! One table of the file on top of its preset on top of the defaults: values are asked for by key, and each remembers where it
//! came from.

use std::ops::Range;

use super::diagnostic::{ConfigText, Diagnostic};
use super::file::Table;
use super::origin::{EffectiveValue, Origin};
use super::preset::Preset;
use super::value::Read;

/// A value, where it came from, and where to point when something is wrong with it.
#[derive(Debug, Clone)]
pub struct Provided<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
    /// The bytes of the file that made it so.
    pub at: Range<usize>,
}

/// What all scopes of a file share.
pub struct Output<'a> {
    /// The file.
    pub source: &'a ConfigText,
    /// Every effective value.
    pub rows: Vec<EffectiveValue>,
    /// Everything wrong.
    pub findings: Vec<Diagnostic>,
}

/// One table of the file.
pub struct Scope<'a, 'b> {
    /// The tunnel; `None` is the gateway.
    pub tunnel: Option<String>,
    /// What the file says.
    pub file: &'a Table,
    /// What the preset says, and where the file names it.
    pub preset: Option<(&'static Preset, Range<usize>)>,
    /// Where findings and values go.
    pub output: &'a mut Output<'b>,
}

impl Scope<'_, '_> {
    /// Whether the file or the preset sets a key, usable or not.
    pub fn sets(&self, key: &str) -> bool {
        self.file.entry(key).is_some()
            || self
                .preset
                .as_ref()
                .is_some_and(|(preset, _)| preset.tunnel.entry(key).is_some())
    }

    /// Where to point when something is wrong with the table as a whole.
    pub fn header(&self) -> Range<usize> {
        self.file.header.clone()
    }

    /// Reads a key without explaining it; `None` when nobody sets it or what it is set to cannot be used.
    pub fn read<T>(&mut self, key: &'static str, read: Read<T>) -> Option<Provided<T>> {
        if let Some(entry) = self.file.entry(key) {
            let value = read(&entry.value, &mut self.output.findings)?;
            let (line, _) = self.output.source.position(entry.at.start);
            return Some(Provided {
                value,
                origin: Origin::File { line },
                at: entry.value.at.clone(),
            });
        }
        let (preset, at) = self.preset.clone()?;
        let entry = preset.tunnel.entry(key)?;
        let mut findings = Vec::new();
        let value = read(&entry.value, &mut findings);
        // What is said about a preset's value points at the place that chose the preset.
        self.output
            .findings
            .extend(findings.into_iter().map(|finding| Diagnostic {
                span: Some(at.clone()),
                ..finding
            }));
        Some(Provided {
            value: value?,
            origin: Origin::Preset(preset.name),
            at,
        })
    }

    /// Reads a key; `None` as in [`Scope::read`].
    pub fn value<T>(
        &mut self,
        key: &'static str,
        read: Read<T>,
        show: fn(&T) -> String,
    ) -> Option<Provided<T>> {
        let given = self.read(key, read)?;
        self.explain(key, show(&given.value), given.origin);
        Some(given)
    }

    /// Reads a key that has a default.
    pub fn value_or<T>(
        &mut self,
        key: &'static str,
        read: Read<T>,
        show: fn(&T) -> String,
        default: T,
    ) -> Provided<T> {
        if let Some(given) = self.value(key, read, show) {
            return given;
        }
        if !self.sets(key) {
            self.explain(key, show(&default), Origin::Default);
        }
        Provided {
            value: default,
            origin: Origin::Default,
            at: self.header(),
        }
    }

    /// Reads a key that must be set; says so where it is not.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        read: Read<T>,
        show: fn(&T) -> String,
        advice: &str,
    ) -> Option<Provided<T>> {
        if !self.sets(key) {
            let of = self.tunnel.as_ref().map_or_else(
                || "the gateway".to_owned(),
                |name| format!("tunnel `{name}`"),
            );
            self.output.findings.push(Diagnostic::error(
                self.header(),
                format!("{of} has no `{key}`"),
                advice,
            ));
        }
        self.value(key, read, show)
    }

    /// Notes an effective value.
    pub fn explain(&mut self, key: &'static str, value: impl Into<String>, origin: Origin) {
        self.output.rows.push(EffectiveValue {
            tunnel: self.tunnel.clone(),
            key,
            value: value.into(),
            origin,
        });
    }

    /// Adds a finding.
    pub fn find(&mut self, finding: Diagnostic) {
        self.output.findings.push(finding);
    }
}
