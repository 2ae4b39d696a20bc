//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// Ones' complement sum, not folded.
///
/// The sum uses the byte order of the machine, which only swaps the octets of the result (RFC 1071 §2 (B)), and words longer than
/// 16 bits, whose carries are added at the end (§2 (C)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

/// Octets added in one step.
const BLOCK: usize = 32;

/// Independent sums, one for each word of a block, so that additions need not wait for each other. A word and its carry are two
/// instructions.
#[derive(Default)]
struct BlockSums([u128; BLOCK / 8]);

impl BlockSums {
    #[inline]
    fn add(&mut self, block: &[u8; BLOCK]) {
        let (words, _) = block.as_chunks::<8>();
        for (sum, word) in self.0.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u128::from(u64::from_ne_bytes(*word)));
        }
    }

    /// Sum of all words, with the carries folded in.
    fn total(&self) -> u64 {
        let sum = self
            .0
            .iter()
            .fold(0, |sum: u128, word| sum.wrapping_add(*word));
        let (carries, low) = ((sum >> 64) as u64, sum as u64);
        carries
            .wrapping_add(low >> 32)
            .wrapping_add(low & 0xffff_ffff)
    }
}

impl Sum {
    /// Sum over the pseudo-header of TCP and UDP (RFC 9293 §3.1, RFC 8200 §8.1). `None` for addresses of different families.
    #[must_use]
    pub fn pseudo_header(
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        length: u32,
    ) -> Option<Sum> {
        let sum = Sum::default()
            .plus_few(&length.to_be_bytes())
            .plus_word(u16::from(protocol));
        match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => Some(sum.plus_few(&s.octets()).plus_few(&d.octets())),
            (IpAddr::V6(s), IpAddr::V6(d)) => Some(sum.plus_few(&s.octets()).plus_few(&d.octets())),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Adds octets. Only the last call may add an odd number.
    #[must_use]
    pub fn plus(self, bytes: &[u8]) -> Sum {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut sums = BlockSums::default();
        for block in blocks {
            sums.add(block);
        }
        Sum(self.0.wrapping_add(sums.total())).plus_few(rest)
    }

    /// Adds a 16-bit number. Adding its complement (`!word`) subtracts it.
    #[must_use]
    pub const fn plus_word(self, word: u16) -> Sum {
        Sum(self.0.wrapping_add(word.to_be() as u64))
    }

    /// Folds the sum to 16 bits.
    #[must_use]
    pub const fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16).wrapping_add(sum & 0xffff);
        }
        u16::from_be(sum as u16)
    }

    /// Checksum: the complement of the folded sum.
    #[must_use]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// Adds less than a block.
    #[inline]
    fn plus_few(self, bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut tail = [0; 4];
        for (slot, octet) in tail.iter_mut().zip(rest) {
            *slot = *octet;
        }
        Sum(words.iter().chain([&tail]).fold(self.0, |sum, word| {
            sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)))
        }))
    }
}

/// Checksum of `bytes`, as in IPv4 headers and ICMP. Zero if `bytes` contain a correct checksum.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    Sum::default().plus(bytes).finish()
}

/// Checksum after a 16-bit word changed from `old` to `new` (RFC 1624 §3, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default()
        .plus_word(!checksum)
        .plus_word(!old)
        .plus_word(new)
        .finish()
}

/// Completes a partial transport checksum (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): sums from `start` to the end of the packet, where the
/// field at `offset` already contains the pseudo-header sum, and writes the result there. Returns false and writes nothing if the
/// field lies outside the packet.
#[must_use]
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = packet.get_mut(start..) else {
        return false;
    };
    let checksum = match of(covered) {
        // Checksum zero means no checksum in UDP (RFC 768); elsewhere both zeros are equivalent.
        0 => 0xffff,
        checksum => checksum,
    };
    let Some(field) = covered
        .get_mut(offset..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    else {
        return false;
    };
    *field = checksum.to_be_bytes();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::default().plus(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.finish(), 0x220d);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn a_pseudo_header_of_two_families_is_none() {
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        assert!(Sum::pseudo_header(v4, v6, 6, 20).is_none());
    }

    #[test]
    fn a_partial_checksum_is_completed_as_etherparse_computes_it() {
        let (source, destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut whole = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4(source, destination, 64).udp(1000, 2000);
        builder.write(&mut whole, b"an odd payload!").unwrap();
        let mut partial = whole.clone();
        let length = u32::try_from(whole.len() - 20).unwrap();
        let pseudo = Sum::pseudo_header(source.into(), destination.into(), 17, length).unwrap();
        partial[26..28].copy_from_slice(&pseudo.fold().to_be_bytes());
        assert!(complete(&mut partial, 20, 6));
        assert_eq!(partial, whole);
        assert!(!complete(&mut partial, whole.len() + 1, 6));
        assert!(!complete(&mut partial, 20, whole.len() - 21));
        assert_eq!(partial, whole);
    }

    /// RFC 1071 §4.1, word by word.
    fn reference_sum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|word| {
            u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or_default())
        });
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn blocks_and_words_sum_like_the_reference(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..150) {
            let (first, second) = bytes.split_at((cut * 2).min(bytes.len()));
            let sum = Sum::default().plus(first).plus(second);
            prop_assert_eq!(sum.fold(), reference_sum(&bytes));
            prop_assert_eq!(Sum::default().plus(&bytes).fold(), reference_sum(&bytes));
            let words = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
            let whole = &bytes[..bytes.len() & !1];
            prop_assert_eq!(words.fold(Sum::default(), Sum::plus_word).fold(), reference_sum(whole));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 4..64), new: u16) {
            bytes.truncate(bytes.len() & !1);
            let before = of(&bytes);
            let old = u16::from_be_bytes([bytes[2], bytes[3]]);
            bytes[2..4].copy_from_slice(&new.to_be_bytes());
            let updated = update(before, old, new);
            // Both zeros of ones' complement arithmetic represent the same sum.
            prop_assert_eq!(updated % 0xffff, of(&bytes) % 0xffff);
        }
    }
}
