//! Bytes that anybody who knows their seed and their place can make again: what arrives is compared, not believed.

/// An endless supply of pieces, each with a number, that have nothing in common.
#[derive(Debug, Clone, Copy)]
pub struct Content(pub u64);

impl Content {
    /// Fills `piece` with the beginning of piece `number`.
    pub fn fill(self, number: u64, piece: &mut [u8]) {
        let mut state = mixed(self.0 ^ mixed(number));
        for bytes in piece.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            bytes.copy_from_slice(&mixed(state).to_le_bytes()[..bytes.len()]);
        }
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[test]
fn pieces_are_their_own_and_come_again() {
    let piece = |seed, number| {
        let mut piece = [0; 21];
        Content(seed).fill(number, &mut piece);
        piece
    };
    assert_eq!(piece(1, 2), piece(1, 2));
    assert_ne!(piece(1, 2), piece(1, 3));
    assert_ne!(piece(1, 2), piece(2, 2));
    assert_ne!(piece(1, 2)[..8], piece(1, 2)[8..16]);
}
