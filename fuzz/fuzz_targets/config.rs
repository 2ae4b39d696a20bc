//! No text makes the configuration parser panic, and every finding points inside the text.
//!
//! No file is opened: keys are not read, so the result depends on the input alone. Run on the stable toolchain with
//! `cargo fuzz run -s none config fuzz/corpus/config fuzz/seeds/config`.
#![no_main]

use std::path::Path;

use groundlink::config::{ConfigText, LoadOptions, SecretPolicy, load_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let environment = LoadOptions {
        credentials: None,
        secrets: SecretPolicy::Unread,
    };
    let source = ConfigText::new("fuzz.toml", text);
    let loaded = load_text(source, Path::new("/nowhere"), &environment);
    for finding in loaded.report.findings() {
        assert!(!finding.what.is_empty());
        if let Some(span) = &finding.span {
            assert!(
                text.get(span.clone()).is_some(),
                "{finding:?} is outside the text"
            );
        }
    }
    // Every finding and value can be printed, with existing line numbers.
    let lines = text.matches('\n').count() + 1;
    let shown = loaded.report.to_string();
    assert_eq!(shown.is_empty(), loaded.report.findings().is_empty());
    for row in &loaded.values {
        assert!(!row.to_string().chars().any(char::is_control), "{row:?}");
        if let groundlink::config::Origin::File { line } = row.origin {
            assert!((1..=lines).contains(&line), "{row:?} of {lines} lines");
        }
    }
    assert!(loaded.settings.is_none() || !loaded.values.is_empty());
    if loaded.report.is_valid() {
        let settings = loaded.settings.expect("a valid report has settings");
        for tunnel in &settings.tunnels {
            let explained = |row: &groundlink::config::EffectiveValue| {
                row.tunnel.as_ref() == Some(&tunnel.ike.name)
            };
            assert!(
                loaded.values.iter().any(explained),
                "no effective values of {}",
                tunnel.ike.name
            );
        }
    }
});
