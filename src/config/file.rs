//! The TOML file as it is written: tables of known keys, each with the bytes it came from.
//!
//! Strict and patient: an unknown key is an error with a suggestion, a key of a later version is refused by name, and everything
//! wrong with a file is found in one pass instead of one error a run. What a value *means* is [`super::value`]'s business.
//!
//! ```text
//!   text ──parse──▶ document with spans ──walk by the table of keys──▶ gateway · tunnels, + findings
//! ```

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{ConfigText, Diagnostic};
use super::keys::{Section, Support};
use super::suggest::nearest;

/// A value as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `"…"`
    Text(String),
    /// A whole number; one that fits no 64 bits is no value we know.
    Integer(i64),
    /// `true`, `false`
    Boolean(bool),
    /// `[…]`
    List(Vec<SpannedValue>),
    /// A kind of value no key takes; holds its name with an article.
    Other(&'static str),
}

impl Value {
    /// What kind of value it is, for "…, not a list".
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Boolean(true) => "true",
            Value::Boolean(false) => "false",
            Value::List(_) => "a list",
            Value::Other(kind) => kind,
        }
    }
}

/// A value and the bytes it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpannedValue {
    /// Where it stands.
    pub at: Range<usize>,
    /// What it is.
    pub value: Value,
}

impl SpannedValue {
    fn read(value: &Spanned<DeValue<'_>>) -> SpannedValue {
        let read = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other("a number this large"), Value::Integer),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Array(items) => Value::List(items.iter().map(SpannedValue::read).collect()),
            DeValue::Float(_) => Value::Other("a number with a point"),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Table(_) => Value::Other("a table"),
        };
        SpannedValue {
            at: value.span(),
            value: read,
        }
    }
}

/// One `key = value`.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key's own bytes.
    pub at: Range<usize>,
    /// What it is set to.
    pub value: SpannedValue,
}

/// The known keys of one table that were set.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The header, `[[tunnel]]`; empty for a table that is not there.
    pub header: Range<usize>,
    entries: Vec<(&'static str, Entry)>,
    /// Keys that are there but were refused already.
    refused: Vec<String>,
}

impl Table {
    /// Whether a key is there and was refused while the file was read: it is not missing.
    pub fn refused(&self, key: &str) -> bool {
        self.refused.iter().any(|refused| refused == key)
    }

    /// What a key is set to, if it is set.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, entry)| entry)
    }
}

/// A whole file.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// `[gateway]`.
    pub gateway: Table,
    /// Each `[[tunnel]]`, in order.
    pub tunnels: Vec<Table>,
    /// `[preset]`, only in preset files.
    pub preset: Table,
    /// Whether part of the text is not TOML: what seems to be missing may only be unreadable.
    pub broken: bool,
}

/// Which sections a file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// What people write: `[gateway]` and `[[tunnel]]`s.
    Configuration,
    /// What we embed: `[preset]` and one `[tunnel]` of values.
    Preset,
}

/// Reads a file. Findings are added in no particular order; secrets found in wrong places are concealed in `source`.
pub fn parse(
    source: &mut ConfigText,
    dialect: FileKind,
    findings: &mut Vec<Diagnostic>,
) -> ConfigFile {
    let text = source.text().to_owned();
    let (document, errors) = DeTable::parse_recoverable(&text);
    let broken = !errors.is_empty();
    for error in errors {
        findings.push(Diagnostic::error(
            error.span(),
            syntax_sentence(error.message()),
            "",
        ));
    }
    let mut file = ConfigFile {
        broken,
        ..ConfigFile::default()
    };
    for (key, value) in document.get_ref().iter() {
        let walk = DocumentReader {
            source,
            findings,
            text: &text,
        };
        walk.section(key.get_ref(), key.span(), value, dialect, &mut file);
    }
    file.tunnels.sort_by_key(|tunnel| tunnel.header.start);
    file
}

/// What is needed on the way through the document.
struct DocumentReader<'a> {
    source: &'a mut ConfigText,
    findings: &'a mut Vec<Diagnostic>,
    text: &'a str,
}

impl DocumentReader<'_> {
    /// One entry of the top level.
    fn section(
        mut self,
        key: &str,
        at: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        dialect: FileKind,
        file: &mut ConfigFile,
    ) {
        match (key, value.get_ref(), dialect) {
            ("gateway", DeValue::Table(table), FileKind::Configuration) => {
                file.gateway = self.table(Section::Gateway, at, table)
            }
            ("tunnel", DeValue::Array(tables), FileKind::Configuration) => {
                for element in tables.iter() {
                    match element.get_ref() {
                        DeValue::Table(table) => {
                            let header = self.header(element.span());
                            let table = self.table(Section::Tunnel, header, table);
                            file.tunnels.push(table);
                        }
                        _ => self.error(
                            element.span(),
                            format!(
                                "a tunnel is a table, not {}",
                                SpannedValue::read(element).value.kind()
                            ),
                            "start it with `[[tunnel]]`",
                        ),
                    }
                }
            }
            ("tunnel", DeValue::Table(table), FileKind::Configuration) => {
                self.error(
                    at.clone(),
                    "`[tunnel]` makes a single table; there may be several tunnels",
                    "write `[[tunnel]]`",
                );
                // Read it all the same: what else is wrong with it is said in the same run.
                let table = self.table(Section::Tunnel, at, table);
                file.tunnels.push(table);
            }
            ("group", DeValue::Array(_) | DeValue::Table(_), FileKind::Configuration) => {
                self.error(at, "`[[group]]` is not in this version", "give the tunnels a `metric`: equal metrics share traffic, a higher one stands by");
            }
            ("preset", DeValue::Table(table), FileKind::Preset) => {
                file.preset = self.table(Section::Preset, at, table)
            }
            ("tunnel", DeValue::Table(table), FileKind::Preset) => {
                let table = self.table(Section::Tunnel, at, table);
                file.tunnels.push(table);
            }
            ("gateway", _, _) => self.error(
                at,
                format!(
                    "`gateway` is a table, not {}",
                    SpannedValue::read(value).value.kind()
                ),
                "write `[gateway]` on a line of its own",
            ),
            (unknown, _, _) => self.unknown_section(unknown, at, value),
        }
    }

    fn unknown_section(&mut self, unknown: &str, at: Range<usize>, value: &Spanned<DeValue<'_>>) {
        self.conceal_if_secret(unknown, value);
        let home = [Section::Gateway, Section::Tunnel]
            .into_iter()
            .find(|section| {
                section
                    .keys()
                    .iter()
                    .any(|key| key.name.split('.').next() == Some(unknown))
            });
        let advice = match (home, nearest(unknown, ["gateway", "tunnel", "group"])) {
            (Some(section), _) => format!("it belongs under `{}`", section.header()),
            (None, Some("gateway")) => "did you mean `[gateway]`?".to_owned(),
            (None, Some(name)) => format!("did you mean `[[{name}]]`?"),
            (None, None) => "the sections are `[gateway]` and `[[tunnel]]`".to_owned(),
        };
        self.error(at, format!("unknown key `{}`", printable(unknown)), advice);
    }

    /// The entries of one table, inner tables flattened to dotted keys.
    fn table(&mut self, section: Section, header: Range<usize>, table: &DeTable<'_>) -> Table {
        let mut read = Table {
            header,
            ..Table::default()
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
        at: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        read: &mut Table,
    ) {
        let name = format!("{prefix}{key}");
        let inner = format!("{name}.");
        let is_table_key = section
            .keys()
            .iter()
            .any(|known| known.name.starts_with(&inner));
        match (
            section.keys().iter().find(|known| known.name == name),
            value.get_ref(),
        ) {
            (Some(known), _) if known.support == Support::Reserved => self.not_yet(&name, at),
            (Some(known), _) => {
                read.entries.push((
                    known.name,
                    Entry {
                        at,
                        value: SpannedValue::read(value),
                    },
                ));
            }
            (None, DeValue::Table(_))
                if is_table_key
                    && section.keys().iter().all(|known| {
                        !known.name.starts_with(&inner) || known.support == Support::Reserved
                    }) =>
            {
                self.not_yet(&name, at);
            }
            (None, DeValue::Table(table)) if is_table_key => {
                for (key, value) in table.iter() {
                    self.entry(section, &inner, key.get_ref(), key.span(), value, read);
                }
            }
            (None, _) if is_table_key => {
                self.conceal_if_secret(&name, value);
                read.refused.push(name.clone());
                let (what, advice) = not_a_table(&name, &SpannedValue::read(value).value);
                self.error(at, what, advice);
            }
            (None, _) => {
                self.conceal_if_secret(&name, value);
                read.refused
                    .extend(prefix.strip_suffix('.').map(str::to_owned));
                self.unknown_key(section, prefix, key, at);
            }
        }
    }

    fn unknown_key(&mut self, section: Section, prefix: &str, key: &str, at: Range<usize>) {
        let of = |section: Section| {
            section
                .keys()
                .iter()
                .filter_map(|known| known.name.strip_prefix(prefix))
                .map(|rest| rest.split('.').next().unwrap_or(rest))
        };
        let elsewhere = [Section::Gateway, Section::Tunnel]
            .into_iter()
            .find(|other| {
                *other != section && prefix.is_empty() && of(*other).any(|known| known == key)
            });
        let advice = match (elsewhere, nearest(key, of(section))) {
            (Some(section), _) => format!("`{key}` belongs under `{}`", section.header()),
            (None, Some(meant)) => format!("did you mean `{meant}`?"),
            (None, None) => {
                let mut all: Vec<&str> = of(section).collect();
                all.dedup();
                format!("the keys here are {}", all.join(", "))
            }
        };
        let place = match prefix.strip_suffix('.') {
            Some(table) => format!("`{table}`"),
            None => format!("`{}`", section.header()),
        };
        self.error(
            at,
            format!("unknown key `{}` in {place}", printable(key)),
            advice,
        );
    }

    fn not_yet(&mut self, name: &str, at: Range<usize>) {
        self.error(
            at,
            format!("`{name}` is not in this version"),
            "leave it out",
        );
    }

    fn error(&mut self, at: Range<usize>, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Diagnostic::error(at, what, advice));
    }

    /// A value that may be a secret in the wrong place is not shown, nor is anything under an unknown key of `psk` or `ppk`.
    fn conceal_if_secret(&mut self, name: &str, value: &Spanned<DeValue<'_>>) {
        if ["psk", "ppk", "secret", "pass", "shared-key"]
            .iter()
            .any(|word| name.to_ascii_lowercase().contains(word))
        {
            self.source.conceal(value.span());
        }
    }

    /// The bytes of the `[[tunnel]]` header of a table.
    fn header(&self, span: Range<usize>) -> Range<usize> {
        let line_end = self
            .text
            .get(span.start..)
            .and_then(|rest| rest.find('\n'))
            .map_or(self.text.len(), |at| span.start + at);
        span.start..span.end.min(line_end)
    }
}

/// Why something that must be a table is not one, and how to write it.
fn not_a_table(name: &str, value: &Value) -> (String, &'static str) {
    match name {
        "psk" => (
            "the pre-shared key does not belong in this file".to_owned(),
            "put it into a file of its own (mode 0600) and write `psk = { file = \"/etc/groundlink/psk/NAME\" }`",
        ),
        "dpd" => (
            format!("`dpd` is a table, not {}", value.kind()),
            "write `dpd = { delay = \"10s\", timeout = \"30s\" }`",
        ),
        "ppk" => (
            "the post-quantum pre-shared key does not belong in this file".to_owned(),
            "put it into a file of its own (mode 0600) and write `ppk = { id = \"NAME\", file = \"/etc/groundlink/ppk/NAME\" }`",
        ),
        other => (
            format!("`{other}` is a table, not {}", value.kind()),
            "write `{ … }`",
        ),
    }
}

/// Keys come from the file: what is not printable is escaped, what is long is cut.
fn printable(key: &str) -> String {
    key.chars().take(60).flat_map(char::escape_debug).collect()
}

/// The parser's message as the start of our sentence.
fn syntax_sentence(message: &str) -> String {
    format!("not TOML: {}", message.trim_end().replace('\n', ", "))
}
