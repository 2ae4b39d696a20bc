//! Shared by the tests of this folder and of `datapath`: a pair of SAs, and packets.

use super::{HEADER, Inbound, Outbound};
use crate::crypto::{Esn, EspProposal, EspSuite, Protection, SaKeys, Sealer, Secret};
use crate::net::{DropReason, Packet, Policy, Prefix};

/// Every encryption and every integrity algorithm at least once.
pub(crate) const SUITES: &[&str] = &[
    "aes128-sha1",
    "aes192-sha384",
    "aes256-sha256",
    "aes256-sha512",
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
    "3des-sha1",
    "des-md5",
];

pub(crate) const SPI: u32 = 0xc0de_0001;

pub(crate) const IV_KEY: [u8; 16] = [0x55; 16];

pub(crate) fn suite(words: &str) -> EspSuite {
    EspProposal::parse(words)
        .expect("known words")
        .0
        .first()
        .expect("one suite")
}

/// Keys of the correct lengths, derived from `seed`.
pub(crate) fn keys(protection: Protection, seed: u8) -> SaKeys {
    let integrity = protection
        .integrity
        .map_or(0, |integrity| integrity.key_len);
    let fill = |length: usize, salt: u8| {
        (0..length)
            .map(|at| (at as u8).wrapping_mul(31) ^ seed ^ salt)
            .collect()
    };
    SaKeys {
        encryption: Secret::new(fill(protection.encryption_key_len(), 0)),
        integrity: Secret::new(fill(integrity, 0xa5)),
    }
}

/// Policy of the receiver: 10.1.0.0/16 and fd01::/16 are local, 10.2.0.0/16 and fd02::/16 remote.
pub(crate) fn policy() -> Policy {
    let prefixes = |v4: &str, v6: &str| {
        [v4, v6]
            .map(|text| text.parse::<Prefix>().expect("a prefix").into())
            .to_vec()
    };
    Policy {
        local: prefixes("10.1.0.0/16", "fd01::/16"),
        remote: prefixes("10.2.0.0/16", "fd02::/16"),
    }
}

/// The policy of the other peer.
pub(crate) fn mirrored(policy: Policy) -> Policy {
    Policy {
        local: policy.remote,
        remote: policy.local,
    }
}

/// An outbound SA and its inbound SA.
pub(crate) fn pair(words: &str) -> (Outbound, Inbound) {
    pair_with_spi(words, SPI)
}

pub(crate) fn pair_with_spi(words: &str, spi: u32) -> (Outbound, Inbound) {
    let suite = suite(words);
    let keys = keys(suite.protection, 7);
    let outbound = Outbound::new(spi, suite, &keys, &IV_KEY.into(), mirrored(policy()))
        .expect("keys that fit");
    let inbound = Inbound::new(spi, suite, &keys, policy(), 64).expect("keys that fit");
    (outbound, inbound)
}

pub(crate) fn seal(sa: &Outbound, packet: &[u8]) -> Vec<u8> {
    let packet = Packet::parse(packet).expect("a packet");
    let mut room = vec![0; sa.sealed_len(packet.len())];
    sa.seal(&packet, &mut room).expect("sealed");
    room
}

/// An ESP packet with any plaintext, trailer included, as only a holder of the keys can create it.
pub(crate) fn craft(words: &str, sequence: u64, plaintext: &[u8]) -> Vec<u8> {
    let suite = suite(words);
    let mut esp = [&SPI.to_be_bytes()[..], &(sequence as u32).to_be_bytes()].concat();
    esp.resize(esp.len() + suite.protection.iv_len(), 0);
    esp.extend_from_slice(plaintext);
    esp.resize(esp.len() + suite.protection.icv_len(), 0);
    let high = (suite.esn == Esn::Yes).then_some((sequence >> 32) as u32);
    Sealer::new(suite.protection, &keys(suite.protection, 7), &IV_KEY.into())
        .unwrap()
        .seal(&mut esp, HEADER, sequence, high)
        .unwrap();
    esp
}

/// `inner` with valid padding and this next header.
pub(crate) fn padded(words: &str, inner: &[u8], next: u8) -> Vec<u8> {
    let align = suite(words).protection.block().max(4);
    let pad = (align - (inner.len() + 2) % align) % align;
    let mut plaintext = inner.to_vec();
    plaintext.extend((1..=pad).map(|count| count as u8));
    plaintext.extend([pad as u8, next]);
    plaintext
}

pub(crate) fn open(inbound: &Inbound, esp: &[u8]) -> Result<Vec<u8>, DropReason> {
    inbound
        .lock()
        .open(&mut esp.to_vec())
        .map(|opened| opened.packet.bytes().to_vec())
}

/// A UDP packet of `len` octets from the sender's network to the receiver's.
pub(crate) fn udp4(len: usize) -> Vec<u8> {
    ipv4([10, 2, 0, 5], [10, 1, 0, 7], len)
}

pub(crate) fn udp6(len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
    packet[6..8].copy_from_slice(&[17, 64]);
    (packet[8], packet[9], packet[23]) = (0xfd, 0x02, 5);
    (packet[24], packet[25], packet[39]) = (0xfd, 0x01, 7);
    udp_header(&mut packet, 40);
    packet
}

/// A UDP packet between any two addresses, from port 1000 to port 2000.
pub(crate) fn ipv4(source: [u8; 4], destination: [u8; 4], len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    udp_header(&mut packet, 20);
    header_checksum(&mut packet);
    packet
}

/// Writes the IPv4 header checksum of a header without options.
pub(crate) fn header_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum: u32 = packet[..20]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

fn udp_header(packet: &mut [u8], at: usize) {
    let udp_len = (packet.len() - at) as u16;
    packet[at..at + 2].copy_from_slice(&1000u16.to_be_bytes());
    packet[at + 2..at + 4].copy_from_slice(&2000u16.to_be_bytes());
    packet[at + 4..at + 6].copy_from_slice(&udp_len.to_be_bytes());
    for (at, octet) in packet.iter_mut().enumerate().skip(at + 8) {
        *octet = at as u8;
    }
}

pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(&digits)
        .expect("hexadecimal")
}
