//! SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), for values that must be the
//! same at each start: addresses, interface names, id ranges. Own code: the hasher of the standard library
//! with this algorithm is deprecated, and its successor does not guarantee an algorithm.

/// Returns the SipHash-2-4 of the joined parts. The bytes of `key` are those of its big-endian form.
pub(crate) fn siphash(key: u128, parts: &[&[u8]]) -> u64 {
    let key = key.to_be_bytes().map(u64::from);
    let half = |from: usize| key.iter().skip(from).take(8).rev().fold(0, |sum, byte| sum << 8 | byte);
    let (low, high) = (half(0), half(8));
    let mut state = State([
        low ^ 0x736f_6d65_7073_6575,
        high ^ 0x646f_7261_6e64_6f6d,
        low ^ 0x6c79_6765_6e65_7261,
        high ^ 0x7465_6462_7974_6573,
    ]);
    let input = parts.concat();
    let words = input.chunks_exact(8);
    let rest = words.remainder().iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    words.filter_map(|word| word.first_chunk()).for_each(|word| state.absorb(u64::from_le_bytes(*word)));
    // The last word has the length in its highest byte.
    state.absorb((input.len() as u64) << 56 | rest);
    state.finish()
}

/// The internal state v0, v1, v2, v3 of the paper.
struct State([u64; 4]);

impl State {
    /// Adds a word of input: two rounds.
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        (0..2).for_each(|_| self.round());
        self.0[0] ^= word;
    }

    /// Finalisation: four rounds.
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        (0..4).for_each(|_| self.round());
        self.0.iter().fold(0, |sum, word| sum ^ word)
    }

    /// SipRound of the paper.
    fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v1 = v1.rotate_left(13) ^ v0;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v3);
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.wrapping_add(v3);
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.wrapping_add(v1);
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;

    #[test]
    fn hash_is_siphash_2_4() {
        // The vector of the paper, appendix A: key 00..0f, input 00..0e.
        let input: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(KEY, &[&input]), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(KEY, &[&input[..3], &[], &input[3..]]), 0xa129_ca61_49be_45e5);
        // Vectors of the reference implementation: no input, 00, and 00..07.
        assert_eq!(siphash(KEY, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash(KEY, &[&input[..1]]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(siphash(KEY, &[&input[..8]]), 0x93f5_f579_9a93_2462);
    }
}
