//! The table of configuration keys. Every other key is an unknown key.

/// Whether this version supports a key. A reserved key is rejected by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Supported.
    Supported,
    /// Reserved for a later version.
    Reserved,
}

/// A kind of table in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `[gateway]`: this machine.
    Gateway,
    /// `[[tunnel]]`: one peer.
    Tunnel,
    /// `[preset]`: facts about a cloud; only in the embedded preset files.
    Preset,
}

impl Section {
    /// The header as it is written in a file.
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

/// One key. A dot separates the keys of an inline table: `psk.file` is `psk = { file = … }`.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Name of the key.
    pub name: &'static str,
    /// Whether this version supports the key.
    pub support: Support,
}

const fn key(name: &'static str) -> Key {
    Key {
        name,
        support: Support::Supported,
    }
}

const fn reserved(name: &'static str) -> Key {
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
    reserved("metrics"),
    key("offload"),
    reserved("hook"),
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
    key("psk.encoding"),
    key("ppk.id"),
    key("ppk.file"),
    key("ppk.credential"),
    key("ppk.encoding"),
    key("ppk.required"),
    key("local"),
    key("remote"),
    key("selectors"),
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
    reserved("table"),
    reserved("mark"),
    reserved("bypass"),
    reserved("outer-mtu"),
    reserved("bgp"),
];

/// Keys of `[preset]`: facts about the cloud, beside the preset's tunnel values.
pub static PRESET: &[Key] = &[
    key("summary"),
    key("outer-mtu"),
    key("inner-mtu"),
    key("instead.ike"),
    key("instead.esp"),
];
