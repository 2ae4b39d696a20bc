//! The values of the file: one [`Format`] for each kind, which reads a value and writes it in TOML syntax.
//!
//! A reader returns `None` if the value is invalid. It may add findings in both cases, and several for a list.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use super::diagnostic::{Diagnostic, nearest};
use super::file::{ConfigValue, SpannedValue};
use super::key_text::KeyEncoding;
use super::settings::{InsideAddress, OffloadMode};
use crate::crypto::{EspProposal, Hint, IkeProposal, ProposalError};
use crate::ike::{Encapsulation, Peer, PeerId, SelectorMode, Start};
use crate::net::{Dscp, Prefix};

/// A reader of one kind of value.
pub type Read<T> = fn(&SpannedValue, &mut Vec<Diagnostic>) -> Option<T>;

/// One kind of value: how it is read, and how `check --explain` writes it.
pub struct Format<T> {
    /// Reads a value.
    pub read: Read<T>,
    /// Writes a value in TOML syntax.
    pub show: fn(&T) -> String,
}

/// Any string but the empty one.
pub const TEXT: Format<String> = format(text, quoted);
/// `true` or `false`.
pub const BOOLEAN: Format<bool> = format(boolean, plain);
/// Name of a tunnel.
pub const NAME: Format<String> = format(name, quoted);
/// Name of a network device.
pub const DEVICE: Format<String> = format(device, quoted);
/// An IP address.
pub const ADDRESS: Format<IpAddr> = format(address, quoted);
/// A unicast IP address.
pub const HOST_ADDRESS: Format<IpAddr> = format(host_address, quoted);
/// Address or host name of a peer.
pub const PEER: Format<Peer> = format(peer, quoted);
/// A list of prefixes.
pub const PREFIXES: Format<Vec<Prefix>> = format(prefixes, |prefixes| list(prefixes));
/// An IKE identity, or any.
pub const PEER_ID: Format<PeerId> = format(peer_id, show_peer_id);
/// Name of a post-quantum pre-shared key.
pub const PPK_ID: Format<String> = format(ppk_id, quoted);
/// Proposals of the IKE SA.
pub const IKE_PROPOSALS: Format<Vec<IkeProposal>> = format(ike_proposals, |it| list(it));
/// Proposals of the Child SA.
pub const ESP_PROPOSALS: Format<Vec<EspProposal>> = format(esp_proposals, |it| list(it));
/// Metric of routes.
pub const METRIC: Format<u32> = format(metric, plain);
/// `"auto"` (`None`) or a number of bytes.
pub const MTU: Format<Option<u16>> = format(mtu, show_mtu);
/// Maximum size of the IP packets of an IKE message.
pub const FRAGMENT_SIZE: Format<u16> = format(fragment_size, plain);
/// Size of the replay window in packets.
pub const REPLAY_WINDOW: Format<u32> = format(replay_window, plain);
/// Address of the tunnel's device.
pub const INSIDE: Format<Vec<InsideAddress>> = format(inside, show_inside);
/// Path of a file; the caller resolves a relative path.
pub const PATH: Format<PathBuf> = format(path, |path| quoted(&path.display()));
/// Path of a unix socket.
pub const SOCKET_PATH: Format<PathBuf> = format(socket_path, |path| quoted(&path.display()));
/// Name of a systemd credential.
pub const CREDENTIAL: Format<String> = format(credential, quoted);

const fn format<T>(read: Read<T>, show: fn(&T) -> String) -> Format<T> {
    Format { read, show }
}

/// A value that is one of a few words.
pub trait Keyword: Copy + PartialEq + 'static {
    /// Each word and its value.
    const WORDS: &'static [(&'static str, Self)];
}

impl Keyword for Start {
    const WORDS: &'static [(&'static str, Start)] = &[
        ("auto", Start::Auto),
        ("trap", Start::Trap),
        ("add", Start::Add),
    ];
}

impl Keyword for SelectorMode {
    const WORDS: &'static [(&'static str, SelectorMode)] = &[
        ("together", SelectorMode::Together),
        ("pairs", SelectorMode::Pairs),
    ];
}

impl Keyword for Encapsulation {
    const WORDS: &'static [(&'static str, Encapsulation)] = &[
        ("udp", Encapsulation::Udp),
        ("auto", Encapsulation::Auto),
        ("esp", Encapsulation::Esp),
    ];
}

impl Keyword for OffloadMode {
    const WORDS: &'static [(&'static str, OffloadMode)] =
        &[("auto", OffloadMode::Auto), ("off", OffloadMode::Off)];
}

impl Keyword for Dscp {
    const WORDS: &'static [(&'static str, Dscp)] =
        &[("copy", Dscp::Copied), ("clear", Dscp::Cleared)];
}

impl Keyword for KeyEncoding {
    const WORDS: &'static [(&'static str, KeyEncoding)] = &[
        ("text", KeyEncoding::Text),
        ("hex", KeyEncoding::Hex),
        ("base64", KeyEncoding::Base64),
    ];
}

/// The format of a keyword.
pub const fn keyword<T: Keyword>() -> Format<T> {
    format(read_keyword, show_keyword)
}

fn read_keyword<T: Keyword>(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<T> {
    let text = text(value, findings)?;
    if let Some((_, meaning)) = T::WORDS.iter().find(|(word, _)| *word == text) {
        return Some(*meaning);
    }
    let words = || T::WORDS.iter().map(|(word, _)| *word);
    let advice = match nearest(&text, words()) {
        Some(candidate) => format!("did you mean \"{candidate}\"?"),
        None => {
            let all: Vec<String> = words().map(|word| quoted(&word)).collect();
            format!("write one of {}", all.join(", "))
        }
    };
    value.reject(
        findings,
        format!("`{text}` is not a value of this key"),
        advice,
    )
}

fn show_keyword<T: Keyword>(value: &T) -> String {
    let word = T::WORDS.iter().find(|(_, meaning)| meaning == value);
    word.map_or_else(String::new, |(word, _)| quoted(word))
}

/// A value that TOML writes without quotes.
fn plain<T: Display>(value: &T) -> String {
    value.to_string()
}

/// A TOML string. Control characters are escaped, since a terminal would execute them.
pub fn quoted<T: Display>(value: &T) -> String {
    let mut shown = String::from("\"");
    for character in value.to_string().chars() {
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            control if control.is_control() => {
                shown.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            other => shown.push(other),
        }
    }
    shown.push('"');
    shown
}

/// A TOML list of strings.
pub fn list<T: Display>(values: &[T]) -> String {
    let items: Vec<String> = values.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// Reads any string but the empty one.
pub fn text(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    match &value.value {
        ConfigValue::Text(text) if text.is_empty() => value.reject(
            findings,
            "the string is empty",
            "write a value or remove the key",
        ),
        ConfigValue::Text(text) => Some(text.clone()),
        _ => value.reject_type(findings, "a string", "write it in quotes"),
    }
}

fn boolean(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<bool> {
    match &value.value {
        ConfigValue::Boolean(it) => Some(*it),
        _ => value.reject_type(findings, "true or false", "write it without quotes"),
    }
}

/// Reads an integer within bounds.
fn number<T: TryFrom<i64>>(
    value: &SpannedValue,
    bounds: Range<i64>,
    findings: &mut Vec<Diagnostic>,
) -> Option<T> {
    let ConfigValue::Integer(number) = value.value else {
        return value.reject_type(findings, "a number", "write it without quotes");
    };
    let in_bounds = Some(number).filter(|number| bounds.contains(number));
    in_bounds
        .and_then(|number| T::try_from(number).ok())
        .or_else(|| {
            let advice = format!("write a number from {} to {}", bounds.start, bounds.end - 1);
            value.reject(findings, format!("{number} is out of range"), advice)
        })
}

/// Reads the name of a tunnel, which becomes part of device names, URLs and log lines.
fn name(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let name = text(value, findings)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(plain) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        let what = "a tunnel name consists of letters, digits, `-`, `_` and `.`, and starts with a letter or digit";
        return value.reject(findings, what, "");
    }
    if name.len() > 64 {
        let what = format!("the name has {} characters; the maximum is 64", name.len());
        return value.reject(findings, what, "shorten it");
    }
    Some(name)
}

/// Maximum length of a device name (IFNAMSIZ without the NUL).
pub const DEVICE_NAME_MAX: usize = 15;

fn device(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let device = text(value, findings)?;
    if device.len() > DEVICE_NAME_MAX {
        let length = device.len();
        let what = format!(
            "`{device}` has {length} characters; a device name has at most {DEVICE_NAME_MAX}"
        );
        return value.reject(findings, what, "shorten it");
    }
    let invalid = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%');
    if device.contains(invalid) || device == "." || device == ".." {
        let what = "Linux does not accept this device name";
        return value.reject(findings, what, "use letters, digits, `-`, `_` and `.`");
    }
    Some(device)
}

fn address(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<IpAddr> {
    let text = text(value, findings)?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            let what = format!("`{text}` is an IPv4-mapped IPv6 address");
            value.reject(
                findings,
                what,
                format!("write \"{}\"", address.to_canonical()),
            )
        }
        Ok(address) => Some(address),
        Err(_) if text.contains('/') => {
            let what = format!("`{text}` is a network; this key takes one address");
            value.reject(findings, what, "remove the `/` and the prefix length")
        }
        Err(_) => {
            let advice = "write it like \"203.0.113.7\" or \"2001:db8::7\", without a port";
            value.reject(findings, format!("`{text}` is not an IP address"), advice)
        }
    }
}

fn host_address(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<IpAddr> {
    let address = address(value, findings)?;
    if address.is_unspecified() || address.is_multicast() {
        let what = format!("{address} is not a unicast address");
        return value.reject(findings, what, "write the address of one machine");
    }
    Some(address)
}

fn peer(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Peer> {
    let text = text(value, findings)?;
    if text.parse::<IpAddr>().is_ok() {
        return host_address(value, findings).map(Peer::Address);
    }
    if matches!(text.as_str(), "any" | "%any" | "*") {
        let what = "a tunnel has one peer with a known address or name";
        let advice = "write it, even if only the peer initiates (then set `start = \"add\"`)";
        return value.reject(findings, what, advice);
    }
    let is_label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && !label.starts_with('-') && label.chars().all(allowed)
    };
    let looks_numeric = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let mut labels = text.strip_suffix('.').unwrap_or(&text).split('.');
    if text.len() <= 253 && !looks_numeric && labels.all(is_label) {
        return Some(Peer::Name(text));
    }
    let advice = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.contains(':') => {
            format!("remove the port: \"{host}\" (IKE always uses UDP 500 and 4500)")
        }
        _ => "write an address (\"203.0.113.7\") or a name (\"vpn.example.org\")".to_owned(),
    };
    let what = format!("`{text}` is neither an IP address nor a host name");
    value.reject(findings, what, advice)
}

/// The items of a list; a single value stands for a list of one.
fn items(value: &SpannedValue) -> &[SpannedValue] {
    match &value.value {
        ConfigValue::List(items) => items,
        _ => std::slice::from_ref(value),
    }
}

/// Reads a list of prefixes, empty or not.
fn prefixes(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Vec<Prefix>> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    let mut valid = true;
    for item in items(value) {
        let parsed = text(item, findings).map(|text| text.parse::<Prefix>());
        match parsed {
            Some(Ok(prefix)) if prefixes.contains(&prefix) => {
                let what = format!("{prefix} is listed twice");
                item.reject::<()>(findings, what, "remove one of the two");
            }
            Some(Ok(prefix)) => prefixes.push(prefix),
            Some(Err(error)) => {
                item.reject::<()>(findings, error.to_string(), "");
                valid = false;
            }
            None => valid = false,
        }
    }
    // RFC 7296 §3.13: the number of selectors of one side is one octet.
    let maximum = usize::from(u8::MAX);
    if prefixes.len() > maximum {
        let what = format!(
            "{} prefixes; a Child SA has at most {maximum}",
            prefixes.len()
        );
        return value.reject(findings, what, "combine them into larger prefixes");
    }
    valid.then_some(prefixes)
}

fn ike_proposals(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Vec<IkeProposal>> {
    proposals(value, findings, IkeProposal::parse)
}

fn esp_proposals(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Vec<EspProposal>> {
    proposals(value, findings, EspProposal::parse)
}

fn proposals<T>(
    value: &SpannedValue,
    findings: &mut Vec<Diagnostic>,
    parse: impl Fn(&str) -> Result<(T, Vec<Hint>), ProposalError>,
) -> Option<Vec<T>> {
    let items = items(value);
    if items.is_empty() {
        let advice = "write a proposal such as \"aes256gcm16-prfsha256-curve25519\"";
        return value.reject(findings, "the list of proposals is empty", advice);
    }
    let mut proposal = |item: &SpannedValue| {
        let text = text(item, findings)?;
        match parse(&text) {
            Ok((proposal, notes)) => {
                for note in notes {
                    let (Hint::HashNamesPrf { word, offset, .. }
                    | Hint::HashUnused { word, offset }) = &note;
                    let span = part(item, &text, *offset, word.len());
                    findings.push(Diagnostic::note(span, note.to_string(), ""));
                }
                Some(proposal)
            }
            Err(error) => {
                let span = part(item, &text, error.offset, error.word.len());
                findings.push(Diagnostic::error(span, error.to_string(), ""));
                None
            }
        }
    };
    let proposals: Vec<Option<T>> = items.iter().map(&mut proposal).collect();
    proposals.into_iter().collect()
}

/// The bytes of a part of a string; the whole string if it has escapes, which hide the position of its parts.
fn part(value: &SpannedValue, text: &str, offset: usize, length: usize) -> Range<usize> {
    if value.span.len() == text.len() + 2 && length > 0 {
        let start = value.span.start + 1 + offset;
        start..(start + length).min(value.span.end - 1)
    } else {
        value.span.clone()
    }
}

fn peer_id(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<PeerId> {
    let text = text(value, findings)?;
    match text.parse() {
        Ok(identity) => Some(identity),
        Err(error) => {
            let advice = "write an address, a name (\"gw.example.org\"), an e-mail address (\"ops@example.org\") or an opaque identity (\"keyid:site-7\"); \"fqdn:…\" and \"email:…\" set the type";
            value.reject(findings, format!("`{text}`: {error}"), advice)
        }
    }
}

fn show_peer_id(peer_id: &PeerId) -> String {
    match peer_id {
        PeerId::Any => quoted(&"any"),
        PeerId::Exactly(identity) => quoted(identity),
    }
}

/// Maximum length of a PPK's name in bytes.
const PPK_ID_MAX: usize = 255;

fn ppk_id(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let text = text(value, findings)?;
    if text.len() > PPK_ID_MAX || text.chars().any(char::is_control) {
        let what = "the name of a PPK has at most 255 bytes and no control characters";
        return value.reject(findings, what, "");
    }
    Some(text)
}

/// Reads a metric: at least 1, since the kernel reads 0 on an IPv6 route as 1024, with room above for the fail-closed route.
fn metric(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u32> {
    number(value, 1..1_000_000_001, findings)
}

/// Minimum MTU, inside and outside: the size that every IPv4 host must accept (RFC 1122 §3.3.2).
const MIN_MTU: i64 = crate::net::MIN_MTU_IPV4 as i64;

fn mtu(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Option<u16>> {
    match &value.value {
        ConfigValue::Text(text) if text == "auto" => Some(None),
        ConfigValue::Text(_) => value.reject_type(findings, "\"auto\" or a number of bytes", ""),
        _ => fixed_mtu(value, findings).map(Some),
    }
}

fn show_mtu(mtu: &Option<u16>) -> String {
    mtu.map_or_else(|| quoted(&"auto"), |mtu| mtu.to_string())
}

/// Reads the size of a packet in bytes.
pub fn fixed_mtu(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u16> {
    number(value, MIN_MTU..65_001, findings)
}

fn fragment_size(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u16> {
    number(value, MIN_MTU..65_536, findings)
}

/// Reads the size of the replay window and rounds it up to a power of two, as the datapath needs it.
fn replay_window(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u32> {
    let size: u32 = number(value, 1..65_537, findings)?;
    let rounded = size.max(64).next_power_of_two();
    if rounded != size {
        let what = format!("the replay window of {size} is rounded up to {rounded}");
        let advice = "write a power of two from 64 to 65536";
        findings.push(Diagnostic::note(value.span.clone(), what, advice));
    }
    Some(rounded)
}

/// Upper bound on the addresses of a device.
const MAX_INSIDE: usize = 64;

/// Reads the addresses of a device: one, or a list.
fn inside(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Vec<InsideAddress>> {
    let mut addresses: Vec<InsideAddress> = Vec::new();
    let mut valid = true;
    for item in items(value) {
        match inside_address(item, findings) {
            Some(new) if addresses.iter().any(|old| old.address == new.address) => {
                let what = format!("{} is listed twice", new.address);
                item.reject::<()>(findings, what, "remove one of the two");
            }
            Some(new) => addresses.push(new),
            None => valid = false,
        }
    }
    if addresses.len() > MAX_INSIDE {
        let what = format!(
            "{} addresses; a device has at most {MAX_INSIDE}",
            addresses.len()
        );
        return value.reject(findings, what, "remove some of them");
    }
    valid.then_some(addresses)
}

/// Reads an address of a device with its prefix length: `"169.254.10.2/30"`.
fn inside_address(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<InsideAddress> {
    let text = text(value, findings)?;
    let Some((host, length)) = text.split_once('/') else {
        let advice = format!("write it like \"{text}/30\"");
        return value.reject(findings, "the prefix length is missing", advice);
    };
    let (host, length) = (host.parse::<IpAddr>().ok(), length.parse::<u8>().ok());
    let is_ipv6 = host.is_some_and(|host| host.is_ipv6());
    let width = if is_ipv6 { 128 } else { 32 };
    let (Some(address), Some(length)) =
        (host, length.filter(|length| (1..=width).contains(length)))
    else {
        let what = format!("`{text}` is not an address with a prefix length");
        return value.reject(findings, what, "write it like \"169.254.10.2/30\"");
    };
    let network = Prefix::containing(address, length);
    let point_to_point = width - length <= 1;
    let is_broadcast = address.is_ipv4() && network.last() == address;
    if !point_to_point && (network.first() == address || is_broadcast) {
        let what = format!("{address} is not a host address of {network}");
        return value.reject(
            findings,
            what,
            "write this machine's address in that network",
        );
    }
    Some(InsideAddress { address, length })
}

fn show_inside(inside: &Vec<InsideAddress>) -> String {
    let words = |inside: &InsideAddress| format!("\"{}/{}\"", inside.address, inside.length);
    match inside.as_slice() {
        [one] => words(one),
        several => {
            let words: Vec<String> = several.iter().map(words).collect();
            format!("[{}]", words.join(", "))
        }
    }
}

fn path(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<PathBuf> {
    let text = text(value, findings)?;
    if text.contains('\0') {
        return value.reject(findings, "the path contains a NUL byte", "");
    }
    Some(PathBuf::from(text))
}

fn credential(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let name = text(value, findings)?;
    if name.contains(['/', '\0']) || name == "." || name == ".." {
        let what = "a credential is a name, not a path";
        return value.reject(findings, what, "write it like \"psk_ali-1\"");
    }
    Some(name)
}

/// Maximum length of a unix socket's path (`sun_path` without the NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Reads the path of a unix socket.
pub fn socket_path(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<PathBuf> {
    let path = path(value, findings)?;
    if !path.is_absolute() {
        let advice = "write it like \"/run/groundlink/control.sock\"";
        return value.reject(
            findings,
            "the path of the control socket must be absolute",
            advice,
        );
    }
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let what =
            format!("the path has {length} bytes; a unix socket's has at most {SOCKET_PATH_MAX}");
        return value.reject(findings, what, "shorten it");
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h04_strings_are_shown_as_valid_toml_without_control_characters() {
        let text = "a\"b\\c\u{1b}[31m\u{9b}\u{7f}é";
        let shown = quoted(&text);
        assert_eq!(shown, r#""a\"b\\c\u001B[31m\u009B\u007Fé""#);
        let table = toml::from_str::<toml::Table>(&format!("v = {shown}")).unwrap();
        assert_eq!(table["v"].as_str(), Some(text));
    }
}
