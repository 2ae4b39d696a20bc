//! A Rust source file as tokens and the paths they spell, without types and macro expansion.

/// An identifier or punctuation mark and its position.
#[derive(Debug, Clone)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path such as `crate::net::Prefix`.
pub struct PathSeen {
    pub segments: Vec<String>,
    pub line: usize,
}

/// Every path in the tokens, groups spelled out.
pub fn paths(tokens: &[Token]) -> Vec<PathSeen> {
    let mut seen = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = is_name(&tokens[at].text)
            && text(tokens, at + 1) == "::"
            && (at == 0 || tokens[at - 1].text != "::");
        // `use std;` and `use tokio;` have no `::` and are paths too.
        let alone = at > 0 && tokens[at - 1].text == "use" && is_name(&tokens[at].text) && !starts;
        // In `use {std::fs, tokio}` the group itself is handled name by name, since each of them starts here.
        if starts || alone {
            at = tree(tokens, at, &mut Vec::new(), &mut seen);
        } else {
            at += 1;
        }
    }
    seen
}

/// Reads one use tree (or plain path) from `at`, under `prefix`; returns where it ends.
fn tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    seen: &mut Vec<PathSeen>,
) -> usize {
    let depth = prefix.len();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match text(tokens, at) {
            "{" if depth > 0 || !prefix.is_empty() => {
                at += 1;
                while !matches!(text(tokens, at), "}" | "") {
                    at = tree(tokens, at, prefix, seen);
                    if text(tokens, at) == "," {
                        at += 1;
                    }
                }
                prefix.truncate(depth);
                return at + 1;
            }
            name if is_name(name) => {
                prefix.push(name.to_owned());
                at += 1;
            }
            "*" => at += 1,
            "" => return at + 1,
            _ => {
                // A turbofish, a macro's odd token: the path ends here.
                seen.push(PathSeen {
                    segments: prefix.clone(),
                    line,
                });
                prefix.truncate(depth);
                return at + 1;
            }
        }
        if text(tokens, at) == "::" {
            at += 1;
            continue;
        }
        if text(tokens, at) == "as" {
            at += 2;
        }
        seen.push(PathSeen {
            segments: prefix.clone(),
            line,
        });
        prefix.truncate(depth);
        return at;
    }
}

pub fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// `#[cfg(test)]`.
pub static TEST_MARK: &[&str] = &["#", "[", "cfg", "(", "test", ")", "]"];

/// Drops each item that `#[cfg(test)]` stands before.
pub fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let marked = TEST_MARK
            .iter()
            .enumerate()
            .all(|(i, want)| text(&tokens, at + i) == *want);
        if !marked {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += TEST_MARK.len();
        // An item ends at its semicolon or its last brace; a field, at a comma or with the braces around it.
        let (mut depth, mut angles) = (0usize, 0usize);
        let is_field = text(&tokens, at + 1) == ":" || text(&tokens, at + 2) == ":";
        while at < tokens.len() {
            if depth == 0 && text(&tokens, at) == "}" {
                break;
            }
            match text(&tokens, at) {
                "<" => angles += 1,
                ">" => angles = angles.saturating_sub(1),
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            let done = depth == 0
                && match text(&tokens, at) {
                    "}" => !is_field,
                    ";" => true,
                    "," => is_field && angles == 0,
                    _ => false,
                };
            at += 1;
            if done {
                break;
            }
        }
    }
    kept
}

/// Rust's tokens as far as the import rules need them: names, `::` and single marks; no comments, no literals.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        match chars[i] {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = quoted(&chars, i),
            'r' | 'b' | 'c' if raw_string(&chars, i).is_some() => {
                i = raw_string(&chars, i).unwrap()
            }
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => i += 1,
            ':' if at(i + 1) == ':' => {
                out.push(Token {
                    text: "::".to_owned(),
                    line,
                });
                i += 2;
            }
            c if c.is_alphabetic() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                out.push(Token {
                    text: chars[start..i].iter().collect(),
                    line,
                });
            }
            c => {
                if !c.is_whitespace() {
                    out.push(Token {
                        text: c.to_string(),
                        line,
                    });
                }
                i += 1;
            }
        }
        line += chars[start..i.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    out
}

/// The end of the string literal that opens at `i`.
fn quoted(chars: &[char], mut i: usize) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of a raw string literal (`r"…"`, `br#"…"#`), if one opens at `i`.
fn raw_string(chars: &[char], mut i: usize) -> Option<usize> {
    while matches!(chars.get(i), Some('b' | 'c')) {
        i += 1;
    }
    if chars.get(i) != Some(&'r') {
        return None;
    }
    i += 1;
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    i += hashes;
    if chars.get(i) != Some(&'"') {
        return None;
    }
    i += 1;
    while i < chars.len() {
        if chars[i] == '"'
            && chars[i + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
        {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(i)
}
