//! What comes after the whole blocks of a message: its rest, the padding, the length (FIPS 180-4 §5.1.1).

use super::hmac::{HashBlock, HashState, HmacJob};

/// The last blocks of a hash of HMAC, which begins with the block of the key.
#[derive(Clone, Copy)]
pub(super) struct FinalBlocks([HashBlock; 2]);

impl Default for FinalBlocks {
    fn default() -> FinalBlocks {
        FinalBlocks([[0; 64]; 2])
    }
}

impl FinalBlocks {
    /// The end of the inner hash: what `message` has after its whole blocks, and its tail. `self` is still all zeros.
    pub(super) fn of_message(&mut self, message: &HmacJob<'_>) -> &[HashBlock] {
        let (_, rest) = message.bytes.as_chunks::<64>();
        let bytes = self.0.as_flattened_mut();
        fill(bytes, rest);
        let mut marked = rest.len();
        let mut hashed = message.bytes.len() as u64;
        if let Some(tail) = message.tail {
            fill(bytes.get_mut(marked..).unwrap_or_default(), &tail);
            marked = marked.saturating_add(tail.len());
            hashed = hashed.saturating_add(tail.len() as u64);
        }
        self.finish(marked, hashed)
    }

    /// The end of the outer hash: the digest that the inner one came to. `self` is still all zeros.
    pub(super) fn of_digest(&mut self, digest: &HashState, len: usize) -> &[HashBlock] {
        write(self.0.as_flattened_mut(), digest, len);
        self.finish(len, len as u64)
    }

    /// Pads what ends at `marked`. `hashed` is how many bytes there were in all but for the key, which counts as well.
    fn finish(&mut self, marked: usize, hashed: u64) -> &[HashBlock] {
        let used = if marked < 64 - 8 { 1 } else { 2 };
        let blocks = self.0.get_mut(..used).unwrap_or_default();
        let bytes = blocks.as_flattened_mut();
        if let Some(mark) = bytes.get_mut(marked) {
            *mark = 0x80;
        }
        if let Some(length) = bytes.last_chunk_mut() {
            let bits = hashed.saturating_add(64).saturating_mul(8);
            *length = bits.to_be_bytes();
        }
        blocks
    }
}

/// Writes the first `len` bytes of a digest.
pub(super) fn write(to: &mut [u8], digest: &HashState, len: usize) {
    let words = digest.iter().take(len / 4);
    for (bytes, word) in to.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
}

/// Copies `from` to the beginning of `to`.
pub(super) fn fill(to: &mut [u8], from: &[u8]) {
    if let Some(to) = to.get_mut(..from.len()) {
        to.copy_from_slice(from);
    }
}
