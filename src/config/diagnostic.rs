//! Findings about a configuration: what is wrong, where (with a caret), and what to do.
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
//! Reports are copied into logs, so a secret that was written into the file by mistake (`psk = "…"`) is masked in the printed line.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The file cannot be used: exit status 2.
    Error,
    /// Policy rejects a valid value, such as a broken algorithm: `check` exits with 4 and `run` does not start.
    Lint,
    /// The configuration works but should be changed.
    Warning,
    /// Information.
    Note,
}

impl Severity {
    /// The label that starts a printed finding.
    fn label(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Lint => "lint error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One finding: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Severity of the finding.
    pub severity: Severity,
    /// The bytes of the file concerned; `None` for the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is wrong: one sentence without a full stop.
    pub what: String,
    /// What to do; empty where `what` says it.
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
            what: printable(what.into()),
            advice: printable(advice.into()),
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

/// Maximum length of a sentence about a file, which may quote a value of it.
const MAX_SENTENCE: usize = 600;

/// A sentence without control characters, which a terminal would execute, and not longer than a person reads.
fn printable(text: String) -> String {
    if text.len() <= MAX_SENTENCE && !text.contains(char::is_control) {
        return text;
    }
    let is_boundary = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=MAX_SENTENCE.min(text.len()))
        .rev()
        .find(is_boundary)
        .unwrap_or(0);
    let (kept, rest) = text.split_at(end);
    let mut shown: String = kept
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if !rest.is_empty() {
        shown.push('…');
    }
    shown
}

/// Words in the name of a key whose value may be a secret.
const SECRET_WORDS: [&str; 5] = ["psk", "ppk", "secret", "pass", "shared-key"];

/// Whether the value of a key of this name may be a secret.
pub fn may_hold_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// Maximum characters of a line that are printed.
const MAX_LINE: usize = 160;

/// Maximum number of printed findings.
const MAX_FINDINGS: usize = 100;

/// The text of a configuration, its name, and the spans that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigText {
    name: String,
    text: String,
    /// Offset of the first byte of each line.
    line_starts: Vec<usize>,
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
    /// A text and the name that reports give it, usually its path.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let secrets = possible_secrets(&text);
        let after_newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        let line_starts = std::iter::once(0).chain(after_newlines).collect();
        ConfigText {
            name: name.into(),
            text,
            line_starts,
            secrets,
        }
    }

    /// The name of the text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Masks these bytes in every report.
    pub fn mask(&mut self, span: Range<usize>) {
        self.secrets.push(span);
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_number(offset);
        let before = self.text.get(self.line(offset).start..offset);
        (line, before.unwrap_or_default().chars().count() + 1)
    }

    /// Number of the line that holds a byte, from 1.
    fn line_number(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// The bytes of the line that holds a byte, without the newline.
    fn line(&self, offset: usize) -> Range<usize> {
        let number = self.line_number(offset);
        let start = self.line_starts.get(number.saturating_sub(1));
        let next = self.line_starts.get(number);
        start.copied().unwrap_or(0)..next.map_or(self.text.len(), |next| next - 1)
    }

    /// The part of a line around a byte that is printed, at most [`MAX_LINE`] characters.
    fn excerpt(&self, offset: usize) -> Range<usize> {
        let line = self.line(offset);
        let (_, column) = self.position(offset);
        let text = self.text.get(line.clone()).unwrap_or("");
        if text.chars().count() <= MAX_LINE {
            return line;
        }
        let skipped = column.saturating_sub(MAX_LINE / 3);
        let byte = |characters: usize| {
            let found = text.char_indices().nth(characters);
            line.start + found.map_or(text.len(), |(byte, _)| byte)
        };
        byte(skipped)..byte(skipped + MAX_LINE)
    }

    /// A line as it is printed: secrets masked character for character, a tab as one blank to keep carets aligned.
    fn printable(&self, line: Range<usize>) -> String {
        let text = self.text.get(line.clone()).unwrap_or("");
        let is_secret = |offset: usize| self.secrets.iter().any(|secret| secret.contains(&offset));
        text.char_indices()
            .map(|(offset, character)| match character {
                _ if is_secret(line.start + offset) => '•',
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
    text: ConfigText,
    findings: Vec<Diagnostic>,
}

impl ConfigReport {
    /// Sorts findings by their position in the file and removes duplicates.
    pub fn new(text: ConfigText, mut findings: Vec<Diagnostic>) -> Self {
        let start = |finding: &Diagnostic| finding.span.as_ref().map_or(0, |span| span.start);
        findings.sort_by_key(|finding| (start(finding), finding.severity));
        let mut unique: Vec<Diagnostic> = Vec::new();
        for finding in findings {
            // A duplicate has the same position, so it stands among the last ones.
            let same_start = unique
                .iter()
                .rev()
                .take_while(|other| start(other) == start(&finding));
            if !same_start.into_iter().any(|other| *other == finding) {
                unique.push(finding);
            }
        }
        ConfigReport {
            text,
            findings: unique,
        }
    }

    /// The findings.
    pub fn findings(&self) -> &[Diagnostic] {
        &self.findings
    }

    /// Number of findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        let matching = self
            .findings
            .iter()
            .filter(|finding| finding.severity == severity);
        matching.count()
    }

    /// Whether the daemon may run the configuration: no errors and no lint errors.
    pub fn is_valid(&self) -> bool {
        self.count(Severity::Error) == 0 && self.count(Severity::Lint) == 0
    }

    /// The findings as JSON objects; lines and columns count from 1.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        let object = |finding: &Diagnostic| {
            let span = finding.span.as_ref();
            let position = span.map(|span| self.text.position(span.start));
            serde_json::json!({
                "severity": finding.severity,
                "file": self.text.name(),
                "line": position.map(|(line, _)| line),
                "column": position.map(|(_, column)| column),
                "what": finding.what,
                "advice": finding.advice,
            })
        };
        self.findings.iter().map(object).collect()
    }

    fn write_finding(&self, f: &mut fmt::Formatter<'_>, finding: &Diagnostic) -> fmt::Result {
        writeln!(f, "{}: {}", finding.severity.label(), finding.what)?;
        let margin = match &finding.span {
            None => {
                writeln!(f, "  --> {}", self.text.name())?;
                2
            }
            Some(span) => {
                let (line, column) = self.text.position(span.start);
                let width = line.to_string().len();
                let line_range = self.text.line(span.start);
                let range = self.text.excerpt(span.start);
                let skipped = self.text.text.get(line_range.start..range.start);
                let skipped = skipped.map_or(0, |text| text.chars().count());
                let [before, after] = [range.start > line_range.start, range.end < line_range.end]
                    .map(|is_cut| if is_cut { "…" } else { "" });
                let marked = self.text.text.get(span.start..span.end.min(range.end));
                let carets = "^".repeat(marked.map_or(1, |text| text.chars().count().max(1)));
                let name = self.text.name();
                writeln!(f, "{:width$} --> {name}:{line}:{column}", "")?;
                writeln!(f, " {:width$} |", "")?;
                let shown = self.text.printable(range);
                writeln!(f, " {line} | {before}{}{after}", shown.trim_end())?;
                let indent = (column - 1).saturating_sub(skipped) + before.chars().count();
                writeln!(f, " {:width$} | {:indent$}{carets}", "", "")?;
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
        for (index, finding) in self.findings.iter().take(MAX_FINDINGS).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.write_finding(f, finding)?;
        }
        match self.findings.len().checked_sub(MAX_FINDINGS) {
            None | Some(0) => Ok(()),
            Some(more) => writeln!(f, "\nand {more} more"),
        }
    }
}

/// Values of lines whose key may hold a secret, found without parsing, so that a file with syntax errors is masked too. A table
/// (`psk = { file = "…" }`) names the location of a secret and stays visible.
fn possible_secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some((key, value)) = line.split_once('=')
            && may_hold_secret(key)
            && !value.trim_start().starts_with('{')
            && !key.trim_start().starts_with('#')
        {
            found.push(start + key.len() + 1..start + line.trim_end().len());
        }
        start += line.len();
    }
    found
}

/// The candidate nearest to a misspelt word, for "did you mean"; `None` if none is near enough.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lowered = typed.to_ascii_lowercase().replace('_', "-");
    let ranked = candidates
        .into_iter()
        .map(|candidate| (edit_distance(&lowered, candidate), candidate));
    let (distance, candidate) = ranked.min_by_key(|&(distance, _)| distance)?;
    // At most a third of the letters may differ; beyond that, a suggestion misleads.
    (distance <= candidate.chars().count().max(3) / 3).then_some(candidate)
}

/// Optimal string alignment distance: an insertion, a deletion, a replacement or a swap of neighbours costs one.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, findings: Vec<Diagnostic>) -> String {
        ConfigReport::new(ConfigText::new("test.toml", text), findings).to_string()
    }

    #[test]
    fn a_finding_prints_line_caret_and_help() {
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
    fn findings_are_sorted_by_position_without_duplicates() {
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
    fn h04_a_secret_written_into_the_file_is_masked() {
        let text = "psk = \"hunter2\"\n";
        let shown = report(text, vec![Diagnostic::error(0..3, "not here", "")]);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("psk =•"), "{shown}");
    }

    #[test]
    fn a_masked_span_is_replaced_character_for_character() {
        let mut source = ConfigText::new("t", "key = \"größe\" # x\n");
        source.mask(6..15);
        let shown = ConfigReport::new(source, vec![Diagnostic::error(0..3, "w", "")]).to_string();
        assert!(shown.contains("key = ••••••• # x"), "{shown}");
    }

    #[test]
    fn spans_outside_the_text_or_inside_a_character_do_not_panic() {
        for (start, end) in [(0, 0), (3, 2), (2, 3), (50, 60)] {
            report("aé\n", vec![Diagnostic::error(start..end, "w", "a")]);
        }
        report("", vec![Diagnostic::error(None, "w", "")]);
    }

    #[test]
    fn h04_a_long_line_is_shown_around_the_error_and_the_caret_stays_below_it() {
        let text = format!(
            "{} = \"{}bad{}\"\n",
            "k".repeat(40),
            "x".repeat(9000),
            "y".repeat(9000)
        );
        let start = text.find("bad").unwrap();
        let shown = report(&text, vec![Diagnostic::error(start..start + 3, "w", "")]);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(shown.len() < 1000, "{} bytes", shown.len());
        assert!(
            lines[1].ends_with(&format!("1:{}", start + 1)),
            "{}",
            lines[1]
        );
        let column = |line: &str, what: &str| line[..line.find(what).unwrap()].chars().count();
        assert_eq!(column(lines[4], "^^^"), column(lines[3], "bad"), "{shown}");
        assert!(
            lines[3].contains("| …xx") && lines[3].ends_with("yy…"),
            "{shown}"
        );
    }

    #[test]
    fn h04_a_sentence_that_quotes_a_file_is_bounded_and_has_no_control_characters() {
        let made = Diagnostic::error(None, format!("`\u{1b}[31m{}`", "é".repeat(9000)), "");
        assert!(made.what.len() < 700 && made.what.ends_with('…'));
        assert!(!made.what.contains(char::is_control));
        let findings = (0..150)
            .map(|n| Diagnostic::error(None, format!("{n}"), ""))
            .collect();
        let shown = report("", findings);
        assert!(shown.ends_with("and 50 more\n"), "{shown}");
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = ConfigText::new("t", "é = 1\n\nb = 2");
        let positions = [0, 3, 6, 7, 8, 12, 99].map(|offset| text.position(offset));
        assert_eq!(
            positions,
            [(1, 1), (1, 3), (1, 6), (2, 1), (3, 1), (3, 5), (3, 1)]
        );
    }

    #[test]
    fn the_nearest_candidate_is_suggested_only_if_near() {
        let keys = ["local", "remote", "local-address", "metric", "esp", "ike"];
        assert_eq!(nearest("remot", keys), Some("remote"));
        assert_eq!(nearest("remtoe", keys), Some("remote"));
        assert_eq!(nearest("local_address", keys), Some("local-address"));
        assert_eq!(nearest("LOCAL", keys), Some("local"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
    }
}
