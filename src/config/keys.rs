//! THE table of configuration keys: what may be written where. Everything else is an unknown key.

/// Whether this version does what a key asks for. A key of the contract that is not built is refused by name, never ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Supported,
    /// The key is reserved for a later version.
    Reserved,
}

/// A kind of table in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `[gateway]`: this machine.
    Gateway,
    /// `[[tunnel]]`: one peer.
    Tunnel,
    /// `[preset]`: what a preset says about its cloud; only in the embedded preset files.
    Preset,
}

impl Section {
    /// How the header is written.
    pub fn header(self) -> &'static str {
        match self {
            Section::Gateway => "[gateway]",
            Section::Tunnel => "[[tunnel]]",
            Section::Preset => "[preset]",
        }
    }

    /// The keys of this kind of table.
    pub fn keys(self) -> &'static [Key] {
        match self {
            Section::Gateway => GATEWAY,
            Section::Tunnel => TUNNEL,
            Section::Preset => PRESET,
        }
    }
}

/// One key. A dot means a key of an inline table: `psk.file` is `psk = { file = … }`.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// Whether this version does what it asks for.
    pub support: Support,
}

const fn key(name: &'static str) -> Key {
    Key {
        name,
        support: Support::Supported,
    }
}

const fn later(name: &'static str) -> Key {
    Key {
        name,
        support: Support::Reserved,
    }
}

/// Keys of `[gateway]`.
pub static GATEWAY: &[Key] = &[
    key("address"),
    key("listen"),
    key("control"),
    later("metrics"),
    key("offload"),
];

/// Keys of `[[tunnel]]`, in the order `check --explain` prints them.
pub static TUNNEL: &[Key] = &[
    key("name"),
    key("device"),
    key("preset"),
    key("peer"),
    key("local-address"),
    key("address"),
    key("id"),
    key("peer-id"),
    key("psk.file"),
    key("psk.credential"),
    key("ppk.id"),
    key("ppk.file"),
    key("ppk.credential"),
    key("ppk.required"),
    key("local"),
    key("remote"),
    key("routes"),
    key("metric"),
    key("fail-closed"),
    key("ike"),
    key("esp"),
    key("allow-weak"),
    key("ike-lifetime"),
    key("child-lifetime"),
    key("child-bytes"),
    key("child-packets"),
    key("rekey-check"),
    key("start"),
    key("dpd.delay"),
    key("dpd.timeout"),
    key("encapsulation"),
    key("fragment-size"),
    key("mtu"),
    key("inside"),
    key("replay-window"),
    key("dscp"),
];

/// Keys of `[preset]`: what is known about the cloud, beside the tunnel values the preset gives.
pub static PRESET: &[Key] = &[
    key("summary"),
    key("outer-mtu"),
    key("inner-mtu"),
    key("instead.ike"),
    key("instead.esp"),
];
