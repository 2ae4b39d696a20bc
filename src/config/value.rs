//! What the values of the file mean: one reader a type, each saying what is wrong with a value and how to write it.
//!
//! A reader returns `None` when the value cannot be used; it may add findings either way, several for a list.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use super::diagnostic::Diagnostic;
use super::file::{SpannedValue, Value};
use super::settings::{InsideAddress, OffloadMode};
use super::suggest::nearest;
use crate::ike::{Encapsulation, Identity, Peer, PeerId, Start};
use crate::net::{Dscp, Prefix};

/// A reader of one kind of value.
pub type Read<T> = fn(&SpannedValue, &mut Vec<Diagnostic>) -> Option<T>;

/// Any string.
pub fn text(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    match &value.value {
        Value::Text(text) if text.is_empty() => refuse(
            findings,
            value.at.clone(),
            "an empty string says nothing",
            "fill it in or leave the key out",
        ),
        Value::Text(text) => Some(text.clone()),
        other => refuse(
            findings,
            value.at.clone(),
            format!("this takes a string, not {}", other.kind()),
            "put it in quotes",
        ),
    }
}

/// `true` or `false`.
pub fn boolean(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<bool> {
    match &value.value {
        Value::Boolean(it) => Some(*it),
        other => refuse(
            findings,
            value.at.clone(),
            format!("this takes true or false, not {}", other.kind()),
            "write it without quotes",
        ),
    }
}

/// A whole number within bounds.
fn number(value: &SpannedValue, bounds: Range<i64>, findings: &mut Vec<Diagnostic>) -> Option<i64> {
    match &value.value {
        Value::Integer(it) if bounds.contains(it) => Some(*it),
        Value::Integer(it) => refuse(
            findings,
            value.at.clone(),
            format!("{it} is out of range"),
            format!("from {} to {}", bounds.start, bounds.end - 1),
        ),
        other => refuse(
            findings,
            value.at.clone(),
            format!("this takes a number, not {}", other.kind()),
            "write it without quotes",
        ),
    }
}

/// The name of a tunnel: it goes into device names, URLs and log lines, so it is plain.
pub fn name(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let name = text(value, findings)?;
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if !plain || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return refuse(
            findings,
            value.at.clone(),
            "a tunnel's name is letters, digits, `-`, `_` and `.`, a letter or digit first",
            "",
        );
    }
    if name.len() > 64 {
        return refuse(
            findings,
            value.at.clone(),
            format!("this name has {} characters, 64 are the most", name.len()),
            "",
        );
    }
    Some(name)
}

/// The longest device name Linux takes (IFNAMSIZ less its NUL).
pub const DEVICE_NAME_MAX: usize = 15;

/// The name of a network device.
pub fn device(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let device = text(value, findings)?;
    if device.len() > DEVICE_NAME_MAX {
        let what = format!(
            "`{device}` has {} characters; a device name has at most {DEVICE_NAME_MAX}",
            device.len()
        );
        return refuse(findings, value.at.clone(), what, "shorten it");
    }
    let wrong = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%');
    if device.contains(wrong) || device == "." || device == ".." {
        return refuse(
            findings,
            value.at.clone(),
            "this cannot name a network device",
            "use letters, digits, `-`, `_` and `.`",
        );
    }
    Some(device)
}

/// One IP address.
pub fn address(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<IpAddr> {
    let text = text(value, findings)?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            let meant = address.to_canonical();
            refuse(
                findings,
                value.at.clone(),
                format!("`{text}` is an IPv4 address in IPv6 clothes"),
                format!("write \"{meant}\""),
            )
        }
        Ok(address) => Some(address),
        Err(_) if text.contains('/') => refuse(
            findings,
            value.at.clone(),
            format!("`{text}` is a network; this takes one address"),
            "leave out the `/…`",
        ),
        Err(_) => refuse(
            findings,
            value.at.clone(),
            format!("`{text}` is not an IP address"),
            "write it like \"203.0.113.7\" or \"2001:db8::7\", without a port",
        ),
    }
}

/// An address that can be that of one machine.
pub fn host_address(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<IpAddr> {
    let address = address(value, findings)?;
    if address.is_unspecified() || address.is_multicast() {
        return refuse(
            findings,
            value.at.clone(),
            format!("{address} is not the address of one machine"),
            "write the address the cloud knows",
        );
    }
    Some(address)
}

/// The peer: an address or a host name.
pub fn peer(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Peer> {
    let text = text(value, findings)?;
    if text.parse::<IpAddr>().is_ok() {
        return host_address(value, findings).map(Peer::Address);
    }
    if matches!(text.as_str(), "any" | "%any" | "*") {
        return refuse(
            findings,
            value.at.clone(),
            "a tunnel has one peer, whose address or name is known",
            "write it, also where the peer starts (`start = \"add\"` waits for it)",
        );
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let dotted_digits = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if text.len() <= 253
        && !dotted_digits
        && text
            .strip_suffix('.')
            .unwrap_or(&text)
            .split('.')
            .all(label)
    {
        return Some(Peer::Name(text));
    }
    let advice = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.contains(':') => {
            format!("leave out the port: \"{host}\" (it is always UDP 500 and 4500)")
        }
        _ => "write an address (\"203.0.113.7\") or a name (\"vpn.example.org\")".to_owned(),
    };
    refuse(
        findings,
        value.at.clone(),
        format!("`{text}` is neither an IP address nor a host name"),
        advice,
    )
}

/// A list of prefixes; one string stands for a list of one. An empty list is for the key to judge.
pub fn prefixes(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Vec<Prefix>> {
    let one = std::slice::from_ref(value);
    let items = match &value.value {
        Value::List(items) => items.as_slice(),
        _ => one,
    };
    let mut prefixes: Vec<Prefix> = Vec::new();
    let mut sound = true;
    for item in items {
        match prefix(item, findings) {
            Some(prefix) if prefixes.contains(&prefix) => {
                findings.push(Diagnostic::error(
                    item.at.clone(),
                    format!("{prefix} is there twice"),
                    "leave one out",
                ));
            }
            Some(prefix) => prefixes.push(prefix),
            None => sound = false,
        }
    }
    // RFC 7296 §3.13: the number of selectors of one side is one octet.
    if prefixes.len() > usize::from(u8::MAX) {
        return refuse(
            findings,
            value.at.clone(),
            "more than 255 prefixes do not fit one Child SA",
            "summarise them",
        );
    }
    sound.then_some(prefixes)
}

fn prefix(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Prefix> {
    match text(value, findings)?.parse::<Prefix>() {
        Ok(prefix) => Some(prefix),
        Err(error) => refuse(findings, value.at.clone(), error.to_string(), ""),
    }
}

/// One of a few words.
fn word<T: Copy>(
    value: &SpannedValue,
    words: &[(&str, T)],
    findings: &mut Vec<Diagnostic>,
) -> Option<T> {
    let text = text(value, findings)?;
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*meaning);
    }
    let all = || {
        words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let advice = match nearest(&text, words.iter().map(|(word, _)| *word)) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("one of {}", all()),
    };
    refuse(
        findings,
        value.at.clone(),
        format!("`{text}` is not a value of this key"),
        advice,
    )
}

/// When to connect.
pub fn start(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Start> {
    word(
        value,
        &[
            ("auto", Start::Auto),
            ("trap", Start::Trap),
            ("add", Start::Add),
        ],
        findings,
    )
}

/// How ESP travels.
pub fn encapsulation(
    value: &SpannedValue,
    findings: &mut Vec<Diagnostic>,
) -> Option<Encapsulation> {
    word(
        value,
        &[
            ("udp", Encapsulation::Udp),
            ("auto", Encapsulation::Auto),
            ("esp", Encapsulation::Esp),
        ],
        findings,
    )
}

/// Segmentation offload.
pub fn offload(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<OffloadMode> {
    word(
        value,
        &[("auto", OffloadMode::Auto), ("off", OffloadMode::Off)],
        findings,
    )
}

/// An identity of IKE.
pub fn identity(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Identity> {
    let text = text(value, findings)?;
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') && text.parse::<IpAddr>().is_err() {
        return refuse(
            findings,
            value.at.clone(),
            format!("`{text}` is not an IP address"),
            "an IPv4 address has four parts",
        );
    }
    match text.parse::<Identity>() {
        Ok(identity) => Some(identity),
        Err(error) => refuse(
            findings,
            value.at.clone(),
            error.to_string(),
            "write an address, a name (\"gw.example.org\"), an e-mail address, or \"key-id:\" and hex digits",
        ),
    }
}

/// Who the peer must say it is.
pub fn peer_id(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<PeerId> {
    match &value.value {
        Value::Text(text) if text == "any" || text == "%any" => Some(PeerId::Any),
        _ => identity(value, findings).map(PeerId::Exactly),
    }
}

/// Metrics start at 1 (the kernel reads 0 on an IPv6 route as 1024) and leave room above for the fail-closed route.
pub fn metric(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u32> {
    number(value, 1..1_000_000_001, findings).and_then(|it| u32::try_from(it).ok())
}

/// The smallest MTU, inside or outside: what every IPv4 host must take (RFC 1122 §3.3.2).
const LEAST_MTU: i64 = 576;

/// `"auto"` (`None`) or a number of bytes.
pub fn mtu(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Option<u16>> {
    match &value.value {
        Value::Text(text) if text == "auto" => Some(None),
        Value::Text(_) => refuse(
            findings,
            value.at.clone(),
            "this takes \"auto\" or a number of bytes",
            "",
        ),
        _ => fixed_mtu(value, findings).map(Some),
    }
}

/// A number of bytes a packet may have.
pub fn fixed_mtu(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u16> {
    number(value, LEAST_MTU..65_001, findings).and_then(|it| u16::try_from(it).ok())
}

/// The largest IP packet that may carry a part of an IKE message.
pub fn fragment_size(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u16> {
    number(value, LEAST_MTU..65_536, findings).and_then(|it| u16::try_from(it).ok())
}

/// The size of the replay window, as the datapath makes it: a power of two.
pub fn replay_window(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<u32> {
    let asked = number(value, 1..65_537, findings).and_then(|it| u32::try_from(it).ok())?;
    let made = asked.max(64).next_power_of_two();
    if made != asked {
        findings.push(Diagnostic::note(
            value.at.clone(),
            format!("a replay window of {asked} becomes {made}"),
            "windows are powers of two from 64 to 65536",
        ));
    }
    Some(made)
}

/// What outer headers say about the class of service of what is inside.
pub fn dscp(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<Dscp> {
    let words = [("copy", Dscp::Copied), ("clear", Dscp::Cleared)];
    word(value, &words, findings)
}

/// An address on the device, with the length of its network: `"169.254.10.2/30"`.
pub fn inside(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<InsideAddress> {
    let text = text(value, findings)?;
    let (host, length) = match text.split_once('/') {
        Some((host, length)) => (host.parse::<IpAddr>().ok(), length.parse::<u8>().ok()),
        None => {
            return refuse(
                findings,
                value.at.clone(),
                "the length of the network is missing",
                format!("write it like \"{text}/30\""),
            );
        }
    };
    let most = if host.is_some_and(|host| host.is_ipv6()) {
        128
    } else {
        32
    };
    let (Some(address), Some(length)) = (host, length.filter(|length| (1..=most).contains(length)))
    else {
        return refuse(
            findings,
            value.at.clone(),
            format!("`{text}` is not an address with a length"),
            "write it like \"169.254.10.2/30\"",
        );
    };
    let network = Prefix::containing(address, length);
    let point_to_point = most - length <= 1;
    if !point_to_point
        && (network.first() == address || (address.is_ipv4() && network.last() == address))
    {
        return refuse(
            findings,
            value.at.clone(),
            format!("{address} is no host of {network}"),
            "write the address this end uses inside the network",
        );
    }
    Some(InsideAddress { address, length })
}

/// A path; relative ones are for the caller to anchor.
pub fn path(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<PathBuf> {
    let text = text(value, findings)?;
    if text.contains('\0') {
        return refuse(
            findings,
            value.at.clone(),
            "a path cannot hold a zero byte",
            "",
        );
    }
    Some(PathBuf::from(text))
}

/// The name of a systemd credential.
pub fn credential(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let name = text(value, findings)?;
    if name.contains('/') || name.contains('\0') || name == "." || name == ".." {
        return refuse(
            findings,
            value.at.clone(),
            "a credential is a name, not a path",
            "write it like \"psk_ali-1\"",
        );
    }
    Some(name)
}

/// The path of a unix socket: absolute, and short enough for `sun_path`.
pub fn socket_path(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<PathBuf> {
    let path = path(value, findings)?;
    if !path.is_absolute() {
        return refuse(
            findings,
            value.at.clone(),
            "the control socket needs an absolute path",
            "write it like \"/run/groundlink/control.sock\"",
        );
    }
    if path.as_os_str().len() > 107 {
        return refuse(
            findings,
            value.at.clone(),
            "a unix socket's path has at most 107 bytes",
            "shorten it",
        );
    }
    Some(path)
}

/// The bytes of a part of a string value; the whole value where escapes make the parts unknowable.
pub fn part(value: &SpannedValue, text: &str, offset: usize, length: usize) -> Range<usize> {
    if value.at.len() == text.len() + 2 && length > 0 {
        let start = value.at.start + 1 + offset;
        start..(start + length).min(value.at.end - 1)
    } else {
        value.at.clone()
    }
}

/// Adds an error; the value is not usable.
pub(super) fn refuse<T>(
    findings: &mut Vec<Diagnostic>,
    at: Range<usize>,
    what: impl Into<String>,
    advice: impl Into<String>,
) -> Option<T> {
    findings.push(Diagnostic::error(at, what, advice));
    None
}
