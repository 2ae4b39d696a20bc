//! What is wrong with a configuration, said so that a person can mend it: what, where (with a caret under it), what to do.
//!
//! ```text
//! error: unknown key `remot` in tunnel `ali-1`
//!   --> /etc/groundlink/groundlink.toml:9:1
//!    |
//!  9 | remot = ["172.16.1.0/24"]
//!    | ^^^^^
//!    = help: did you mean `remote`?
//! ```
//!
//! A line of the file that holds a secret by mistake (`psk = "…"`) is shown with the secret masked: reports end up in logs.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The file cannot be used: exit status 2.
    Error,
    /// The file can be read but something in it is refused by policy: `check` exits 4, `run` will not start.
    Lint,
    /// It works, and there is something better.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word in front of the sentence.
    fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Lint => "lint error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One finding: what, where, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The bytes of the file it is about; `None` is the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is wrong, one sentence without a full stop.
    pub what: String,
    /// What to do about it; may be empty where `what` already says so.
    pub advice: String,
}

impl Diagnostic {
    /// A finding about these bytes of the file.
    pub fn new(
        severity: Severity,
        span: impl Into<Option<Range<usize>>>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Diagnostic {
            severity,
            span: span.into(),
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// An error about these bytes of the file.
    pub fn error(
        span: impl Into<Option<Range<usize>>>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Diagnostic::new(Severity::Error, span, what, advice)
    }

    /// A warning about these bytes of the file.
    pub fn warning(
        span: impl Into<Option<Range<usize>>>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Diagnostic::new(Severity::Warning, span, what, advice)
    }

    /// A note about these bytes of the file.
    pub fn note(
        span: impl Into<Option<Range<usize>>>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Diagnostic::new(Severity::Note, span, what, advice)
    }
}

/// A text with a name, and the places in it that must never be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigText {
    name: String,
    text: String,
    secrets: Vec<Range<usize>>,
}

impl fmt::Debug for ConfigText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigText")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ConfigText {
    /// A text and the name people know it by, usually its path.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let secrets = suspicious_values(&text);
        ConfigText {
            name: name.into(),
            text,
            secrets,
        }
    }

    /// The name people know the text by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// These bytes are never shown.
    pub fn conceal(&mut self, span: Range<usize>) {
        self.secrets.push(span);
    }

    /// Line and column of a byte, both from 1, the column in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// The line a byte is on, with its byte range.
    fn line(&self, offset: usize) -> Range<usize> {
        let offset = offset.min(self.text.len());
        let start = self
            .text
            .get(..offset)
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |at| at + 1);
        let end = self
            .text
            .get(offset..)
            .and_then(|after| after.find('\n'))
            .map_or(self.text.len(), |at| offset + at);
        start..end
    }

    /// The characters of a line as they may be shown: secrets masked one for one, tabs as one blank so that carets stay aligned.
    fn shown(&self, line: Range<usize>) -> String {
        let text = self.text.get(line.clone()).unwrap_or("");
        let concealed = |at: usize| self.secrets.iter().any(|secret| secret.contains(&at));
        text.char_indices()
            .map(|(at, character)| match character {
                _ if concealed(line.start + at) => '•',
                '\t' => ' ',
                character if character.is_control() => '\u{fffd}',
                character => character,
            })
            .collect()
    }
}

/// Every finding about one file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigReport {
    source: ConfigText,
    findings: Vec<Diagnostic>,
}

impl ConfigReport {
    /// Puts findings into the order of the file; each is said once.
    pub fn new(source: ConfigText, mut findings: Vec<Diagnostic>) -> Self {
        findings.sort_by_key(|finding| {
            (
                finding.span.as_ref().map_or(0, |span| span.start),
                finding.severity,
            )
        });
        let mut seen: Vec<Diagnostic> = Vec::new();
        for finding in findings {
            if !seen.contains(&finding) {
                seen.push(finding);
            }
        }
        ConfigReport {
            source,
            findings: seen,
        }
    }

    /// What was found.
    pub fn findings(&self) -> &[Diagnostic] {
        &self.findings
    }

    /// How many findings are this bad.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }

    /// Whether the configuration may be run: neither errors nor lint errors.
    pub fn is_sound(&self) -> bool {
        self.count(Severity::Error) == 0 && self.count(Severity::Lint) == 0
    }

    /// The findings for programs: one object each, lines and columns from 1.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        let object = |finding: &Diagnostic| {
            let position = finding
                .span
                .as_ref()
                .map(|span| self.source.position(span.start));
            serde_json::json!({
                "severity": finding.severity,
                "file": self.source.name(),
                "line": position.map(|(line, _)| line),
                "column": position.map(|(_, column)| column),
                "what": finding.what,
                "advice": finding.advice,
            })
        };
        self.findings.iter().map(object).collect()
    }

    fn write_one(&self, f: &mut fmt::Formatter<'_>, finding: &Diagnostic) -> fmt::Result {
        writeln!(f, "{}: {}", finding.severity.word(), finding.what)?;
        let margin = match &finding.span {
            None => {
                writeln!(f, "  --> {}", self.source.name())?;
                2
            }
            Some(span) => {
                let (line, column) = self.source.position(span.start);
                let width = line.to_string().len();
                let range = self.source.line(span.start);
                let carets = self
                    .source
                    .text
                    .get(span.start..span.end.min(range.end))
                    .map_or(1, |text| text.chars().count().max(1));
                writeln!(
                    f,
                    "{:width$} --> {}:{line}:{column}",
                    "",
                    self.source.name()
                )?;
                writeln!(f, " {:width$} |", "")?;
                writeln!(f, " {line} | {}", self.source.shown(range).trim_end())?;
                writeln!(
                    f,
                    " {:width$} | {:indent$}{}",
                    "",
                    "",
                    "^".repeat(carets),
                    indent = column - 1
                )?;
                width + 1
            }
        };
        if finding.advice.is_empty() {
            Ok(())
        } else {
            writeln!(f, "{:margin$} = help: {}", "", finding.advice)
        }
    }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.write_one(f, finding)?;
        }
        Ok(())
    }
}

/// The values of lines whose key sounds like a secret, found without parsing: a file too broken to parse is reported with its lines too.
/// Tables (`psk = { file = "…" }`) name where a secret is, not the secret, and stay visible.
fn suspicious_values(text: &str) -> Vec<Range<usize>> {
    const SOUNDS_SECRET: [&str; 5] = ["psk", "ppk", "secret", "pass", "shared-key"];
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some((key, value)) = line.split_once('=') {
            let key_is_secret = SOUNDS_SECRET
                .iter()
                .any(|word| key.to_ascii_lowercase().contains(word));
            if key_is_secret
                && !value.trim_start().starts_with('{')
                && !key.trim_start().starts_with('#')
            {
                found.push(start + key.len() + 1..start + line.trim_end().len());
            }
        }
        start += line.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, findings: Vec<Diagnostic>) -> String {
        ConfigReport::new(ConfigText::new("test.toml", text), findings).to_string()
    }

    #[test]
    fn a_finding_shows_line_caret_and_help() {
        let text = "[gateway]\nadress = \"203.0.113.7\"\n";
        let shown = report(
            text,
            vec![Diagnostic::error(
                10..16,
                "unknown key `adress`",
                "did you mean `address`?",
            )],
        );
        let expected = "error: unknown key `adress`\n  --> test.toml:2:1\n   |\n 2 | adress = \"203.0.113.7\"\n   | ^^^^^^\n   = help: did you mean `address`?\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn findings_come_in_the_order_of_the_file_and_once() {
        let text = "a = 1\nb = 2\n";
        let (first, second) = (
            Diagnostic::error(0..1, "first", ""),
            Diagnostic::warning(6..7, "second", ""),
        );
        let made = ConfigReport::new(
            ConfigText::new("t", text),
            vec![second.clone(), first.clone(), second.clone()],
        );
        assert_eq!(made.findings(), [first, second]);
    }

    #[test]
    fn h04_a_secret_written_into_the_file_is_never_shown() {
        let text = "psk = \"hunter2\"\n";
        let shown = report(text, vec![Diagnostic::error(0..3, "not here", "")]);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("psk =•"), "{shown}");
    }

    #[test]
    fn a_concealed_span_is_masked_character_for_character() {
        let mut source = ConfigText::new("t", "key = \"größe\" # x\n");
        source.conceal(6..15);
        let shown = ConfigReport::new(source, vec![Diagnostic::error(0..3, "w", "")]).to_string();
        assert!(shown.contains("key = ••••••• # x"), "{shown}");
    }

    #[test]
    fn spans_outside_the_text_and_inside_a_character_do_not_panic() {
        for (start, end) in [(0, 0), (3, 2), (2, 3), (50, 60)] {
            report("aé\n", vec![Diagnostic::error(start..end, "w", "a")]);
        }
        report("", vec![Diagnostic::error(None, "w", "")]);
    }
}
