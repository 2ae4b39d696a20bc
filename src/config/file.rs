//! The TOML file: its tables and known keys, each with the bytes it came from.
//!
//! An unknown key is an error with a suggestion, a reserved key is rejected by name, and one pass finds every error of a file.
//! [`super::value`] interprets the values.
//!
//! ```text
//!   text ──parse──▶ document with spans ──compare with the table of keys──▶ gateway · tunnels, + findings
//! ```

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{ConfigText, Diagnostic, may_hold_secret, nearest};
use super::keys::{Section, Support};

/// A TOML value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigValue {
    /// `"…"`
    Text(String),
    /// An integer of 64 bits.
    Integer(i64),
    /// `true`, `false`
    Boolean(bool),
    /// `[…]`
    List(Vec<SpannedValue>),
    /// A type that no key takes: its name with an article.
    Other(&'static str),
}

impl ConfigValue {
    /// Name of the value's type with an article, for "expected …, found a list".
    pub fn type_name(&self) -> &'static str {
        match self {
            ConfigValue::Text(_) => "a string",
            ConfigValue::Integer(_) => "a number",
            ConfigValue::Boolean(true) => "true",
            ConfigValue::Boolean(false) => "false",
            ConfigValue::List(_) => "a list",
            ConfigValue::Other(name) => name,
        }
    }
}

/// A value and its span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpannedValue {
    /// The bytes of the value.
    pub span: Range<usize>,
    /// The value.
    pub value: ConfigValue,
}

impl SpannedValue {
    fn new(value: &Spanned<DeValue<'_>>) -> SpannedValue {
        let converted = match value.get_ref() {
            DeValue::String(text) => ConfigValue::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(
                    ConfigValue::Other("a number of more than 64 bits"),
                    ConfigValue::Integer,
                ),
            DeValue::Boolean(value) => ConfigValue::Boolean(*value),
            DeValue::Array(items) => {
                ConfigValue::List(items.iter().map(SpannedValue::new).collect())
            }
            DeValue::Float(_) => ConfigValue::Other("a floating-point number"),
            DeValue::Datetime(_) => ConfigValue::Other("a date"),
            DeValue::Table(_) => ConfigValue::Other("a table"),
        };
        SpannedValue {
            span: value.span(),
            value: converted,
        }
    }

    /// Adds an error about the value and returns `None`.
    pub fn reject<T>(
        &self,
        findings: &mut Vec<Diagnostic>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Option<T> {
        findings.push(Diagnostic::error(self.span.clone(), what, advice));
        None
    }

    /// Adds an error about the value's type and returns `None`.
    pub fn reject_type<T>(
        &self,
        findings: &mut Vec<Diagnostic>,
        expected: &str,
        advice: &str,
    ) -> Option<T> {
        let what = format!("expected {expected}, found {}", self.value.type_name());
        self.reject(findings, what, advice)
    }
}

/// One `key = value`.
#[derive(Debug, Clone)]
pub struct ConfigEntry {
    /// The bytes of the key.
    pub key_span: Range<usize>,
    /// The value.
    pub value: SpannedValue,
}

/// The known keys that one table sets.
#[derive(Debug, Clone, Default)]
pub struct ConfigTable {
    /// Span of the header, `[[tunnel]]`; empty if the file has no such table.
    pub header: Range<usize>,
    entries: Vec<(&'static str, ConfigEntry)>,
    /// Keys that are set but were rejected while the file was read.
    rejected: Vec<String>,
}

impl ConfigTable {
    /// Whether a key is set but was rejected while the file was read, and so is not missing.
    pub fn is_rejected(&self, key: &str) -> bool {
        self.rejected.iter().any(|rejected| rejected == key)
    }

    /// The entry of a key, if the table sets it.
    pub fn entry(&self, key: &str) -> Option<&ConfigEntry> {
        let mut entries = self.entries.iter();
        entries.find_map(|(name, entry)| (*name == key).then_some(entry))
    }
}

/// A whole file.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// `[gateway]`.
    pub gateway: ConfigTable,
    /// Each `[[tunnel]]`, in the order of the file.
    pub tunnels: Vec<ConfigTable>,
    /// `[preset]`, only in preset files.
    pub preset: ConfigTable,
    /// Whether part of the text is not TOML, so that a missing table may only be unreadable.
    pub has_syntax_errors: bool,
}

/// A kind of file, which decides its sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A configuration: `[gateway]` and any number of `[[tunnel]]`.
    Configuration,
    /// An embedded preset: `[preset]` and one `[tunnel]` of values.
    Preset,
}

/// Parses a file. Findings are added unsorted; a possible secret in a wrong place is masked in `text`.
pub fn parse(text: &mut ConfigText, kind: FileKind, findings: &mut Vec<Diagnostic>) -> ConfigFile {
    let toml = text.text().to_owned();
    let (document, errors) = DeTable::parse_recoverable(&toml);
    let mut file = ConfigFile {
        has_syntax_errors: !errors.is_empty(),
        ..ConfigFile::default()
    };
    for error in errors {
        let message = error.message().trim_end().replace('\n', ", ");
        findings.push(Diagnostic::error(
            error.span(),
            format!("not TOML: {message}"),
            "",
        ));
    }
    let mut parser = FileParser { text, findings };
    for (key, value) in document.get_ref().iter() {
        parser.section(key.get_ref(), key.span(), value, kind, &mut file);
    }
    file.tunnels.sort_by_key(|tunnel| tunnel.header.start);
    file
}

struct FileParser<'a> {
    text: &'a mut ConfigText,
    findings: &'a mut Vec<Diagnostic>,
}

impl FileParser<'_> {
    /// Reads one entry of the top level.
    fn section(
        &mut self,
        key: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        kind: FileKind,
        file: &mut ConfigFile,
    ) {
        match (key, value.get_ref(), kind) {
            ("gateway", DeValue::Table(table), FileKind::Configuration) => {
                file.gateway = self.table(Section::Gateway, span, table);
            }
            ("tunnel", DeValue::Array(tables), FileKind::Configuration) => {
                file.tunnels
                    .extend(tables.iter().filter_map(|element| self.tunnel(element)));
            }
            ("tunnel", DeValue::Table(table), FileKind::Configuration) => {
                self.error(
                    span.clone(),
                    "`[tunnel]` is a single table; tunnels are an array of tables",
                    "write `[[tunnel]]`",
                );
                // Read it nevertheless, to report its other errors too.
                file.tunnels.push(self.table(Section::Tunnel, span, table));
            }
            ("group", DeValue::Array(_) | DeValue::Table(_), FileKind::Configuration) => {
                self.error(
                    span,
                    "`[[group]]` is not in this version",
                    "set `metric` in each tunnel: equal metrics share traffic, a higher metric is a standby",
                );
            }
            ("preset", DeValue::Table(table), FileKind::Preset) => {
                file.preset = self.table(Section::Preset, span, table);
            }
            ("tunnel", DeValue::Table(table), FileKind::Preset) => {
                file.tunnels.push(self.table(Section::Tunnel, span, table));
            }
            ("gateway", _, _) => {
                let found = SpannedValue::new(value);
                let what = format!("`gateway` is a table, not {}", found.value.type_name());
                self.error(span, what, "write `[gateway]` on a line of its own");
            }
            (unknown, _, _) => self.unknown_section(unknown, span, value),
        }
    }

    /// Reads one element of the array of tunnels.
    fn tunnel(&mut self, element: &Spanned<DeValue<'_>>) -> Option<ConfigTable> {
        if let DeValue::Table(table) = element.get_ref() {
            let header = self.header(element.span());
            return Some(self.table(Section::Tunnel, header, table));
        }
        let found = SpannedValue::new(element);
        let what = format!("a tunnel is a table, not {}", found.value.type_name());
        found.reject(self.findings, what, "start each tunnel with `[[tunnel]]`")
    }

    fn unknown_section(&mut self, unknown: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        self.mask_if_secret(unknown, value);
        let has_key = |section: &Section| first_parts(*section, "").any(|key| key == unknown);
        let home = [Section::Gateway, Section::Tunnel]
            .into_iter()
            .find(has_key);
        let advice = match (home, nearest(unknown, ["gateway", "tunnel", "group"])) {
            (Some(section), _) => format!("move it under `{}`", section.header()),
            (None, Some("gateway")) => "did you mean `[gateway]`?".to_owned(),
            (None, Some(name)) => format!("did you mean `[[{name}]]`?"),
            (None, None) => "the sections are `[gateway]` and `[[tunnel]]`".to_owned(),
        };
        self.error(span, format!("unknown key `{}`", escaped(unknown)), advice);
    }

    /// Reads the entries of one table, with inline tables flattened to dotted keys.
    fn table(
        &mut self,
        section: Section,
        header: Range<usize>,
        table: &DeTable<'_>,
    ) -> ConfigTable {
        let mut read = ConfigTable {
            header,
            ..ConfigTable::default()
        };
        for (key, value) in table.iter() {
            self.entry(section, "", key.get_ref(), key.span(), value, &mut read);
        }
        read
    }

    fn entry(
        &mut self,
        section: Section,
        prefix: &str,
        key: &str,
        key_span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        read: &mut ConfigTable,
    ) {
        let name = format!("{prefix}{key}");
        let inner = format!("{name}.");
        let known = section.keys().iter().find(|known| known.name == name);
        let mut inner_keys = section
            .keys()
            .iter()
            .filter(|known| known.name.starts_with(&inner));
        match (known, inner_keys.next(), value.get_ref()) {
            (Some(known), _, _) if known.support == Support::Reserved => {
                let what = format!("`{name}` is not in this version");
                self.error(key_span, what, "remove it");
            }
            (Some(known), _, _) => {
                let value = SpannedValue::new(value);
                read.entries
                    .push((known.name, ConfigEntry { key_span, value }));
            }
            (None, Some(_), DeValue::Table(table)) => {
                for (key, value) in table.iter() {
                    self.entry(section, &inner, key.get_ref(), key.span(), value, read);
                }
            }
            (None, Some(_), _) => {
                self.mask_if_secret(&name, value);
                let (what, advice) = not_a_table(&name, &SpannedValue::new(value).value);
                self.error(key_span, what, advice);
                read.rejected.push(name);
            }
            (None, None, _) => {
                self.mask_if_secret(&name, value);
                let table = prefix.strip_suffix('.');
                read.rejected.extend(table.map(str::to_owned));
                self.unknown_key(section, prefix, key, key_span);
            }
        }
    }

    fn unknown_key(&mut self, section: Section, prefix: &str, key: &str, span: Range<usize>) {
        let elsewhere = [Section::Gateway, Section::Tunnel]
            .into_iter()
            .find(|other| {
                let in_other = || first_parts(*other, "").any(|known| known == key);
                *other != section && prefix.is_empty() && in_other()
            });
        let advice = match (elsewhere, nearest(key, first_parts(section, prefix))) {
            (Some(section), _) => format!("`{key}` belongs under `{}`", section.header()),
            (None, Some(candidate)) => format!("did you mean `{candidate}`?"),
            (None, None) => {
                let mut all: Vec<&str> = first_parts(section, prefix).collect();
                all.dedup();
                format!("the keys here are {}", all.join(", "))
            }
        };
        let table = prefix.strip_suffix('.').unwrap_or(section.header());
        let what = format!("unknown key `{}` in `{table}`", escaped(key));
        self.error(span, what, advice);
    }

    fn error(&mut self, span: Range<usize>, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Diagnostic::error(span, what, advice));
    }

    /// Masks a value that may be a secret in the wrong place, also below an unknown key of `psk` or `ppk`.
    fn mask_if_secret(&mut self, name: &str, value: &Spanned<DeValue<'_>>) {
        if may_hold_secret(name) {
            self.text.mask(value.span());
        }
    }

    /// The bytes of the `[[tunnel]]` header in the span of a table.
    fn header(&self, span: Range<usize>) -> Range<usize> {
        let from = self.text.text().get(span.start..).unwrap_or("");
        let length = from.find('\n').unwrap_or(from.len());
        span.start..span.end.min(span.start + length)
    }
}

/// The first parts of a section's keys below a prefix: `dpd` of `dpd.delay`, `delay` below `dpd.`.
fn first_parts<'a>(section: Section, prefix: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let below = section
        .keys()
        .iter()
        .filter_map(move |key| key.name.strip_prefix(prefix));
    below.map(|rest| rest.split('.').next().unwrap_or(rest))
}

/// What is wrong with a value that has to be a table, and advice.
fn not_a_table(name: &str, value: &ConfigValue) -> (String, &'static str) {
    match name {
        "psk" => (
            "a pre-shared key must not be written into the configuration".to_owned(),
            "store it in a file of mode 0600 and write `psk = { file = \"/etc/groundlink/psk/NAME\" }`",
        ),
        "dpd" => (
            format!("`dpd` is a table, not {}", value.type_name()),
            "write `dpd = { delay = \"10s\", timeout = \"30s\" }`",
        ),
        "ppk" => (
            "a post-quantum pre-shared key must not be written into the configuration".to_owned(),
            "store it in a file of mode 0600 and write `ppk = { id = \"NAME\", file = \"/etc/groundlink/ppk/NAME\" }`",
        ),
        other => (
            format!("`{other}` is a table, not {}", value.type_name()),
            "write `{ … }`",
        ),
    }
}

/// A key of the file for printing: escaped, and truncated to 60 characters.
fn escaped(key: &str) -> String {
    key.chars().take(60).flat_map(char::escape_debug).collect()
}
