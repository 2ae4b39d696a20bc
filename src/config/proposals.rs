//! Proposals: the words people know from swanctl.conf, one string or a list in order of preference.

use super::diagnostic::Diagnostic;
use super::file::{SpannedValue, Value};
use super::value::{part, refuse, text};
use crate::crypto::{EspProposal, IkeProposal, Note, WordError};

/// Proposals of the IKE SA.
pub fn ike(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Vec<IkeProposal>> {
    list(value, findings, IkeProposal::parse)
}

/// Proposals of the Child SA.
pub fn esp(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Vec<EspProposal>> {
    list(value, findings, EspProposal::parse)
}

fn list<T>(
    value: &SpannedValue,
    findings: &mut Vec<Diagnostic>,
    parse: impl Fn(&str) -> Result<(T, Vec<Note>), WordError>,
) -> Option<Vec<T>> {
    let one = std::slice::from_ref(value);
    let items = match &value.value {
        Value::List(items) if items.is_empty() => {
            return refuse(
                findings,
                value.at.clone(),
                "an empty list proposes nothing",
                "write a proposal such as \"aes256gcm16-prfsha256-curve25519\"",
            );
        }
        Value::List(items) => items.as_slice(),
        _ => one,
    };
    let proposals: Vec<Option<T>> = items
        .iter()
        .map(|item| proposal(item, findings, &parse))
        .collect();
    proposals.into_iter().collect()
}

fn proposal<T>(
    value: &SpannedValue,
    findings: &mut Vec<Diagnostic>,
    parse: impl Fn(&str) -> Result<(T, Vec<Note>), WordError>,
) -> Option<T> {
    let text = text(value, findings)?;
    match parse(&text) {
        Ok((proposal, notes)) => {
            for note in notes {
                let at = match &note {
                    Note::HashNamesPrf { word, offset, .. } | Note::HashUnused { word, offset } => {
                        part(value, &text, *offset, word.len())
                    }
                };
                findings.push(Diagnostic::note(at, note.to_string(), ""));
            }
            Some(proposal)
        }
        Err(error) => refuse(
            findings,
            part(value, &text, error.offset, error.word.len()),
            error.to_string(),
            "",
        ),
    }
}
