//! Where a value came from: what `check --explain` shows.

use std::fmt;

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// Nobody said anything, and it takes after another key.
    Follows(&'static str),
    /// The tunnel's preset.
    Preset(&'static str),
    /// A line of the file.
    File {
        /// From 1.
        line: usize,
    },
}

/// One effective value, as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveValue {
    /// The tunnel; `None` is the gateway.
    pub tunnel: Option<String>,
    /// The key.
    pub key: &'static str,
    /// The value, written as in a file; never a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Origin {
    /// As people read it; `file` is the configuration's name.
    pub fn describe(self, file: &str) -> String {
        match self {
            Origin::Default => "default".to_owned(),
            Origin::Follows(key) => format!("default, from `{key}`"),
            Origin::Preset(name) => format!("preset {name}"),
            Origin::File { line } => format!("{file}:{line}"),
        }
    }
}

impl fmt::Display for EffectiveValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.value)
    }
}
