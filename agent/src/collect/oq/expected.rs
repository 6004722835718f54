//! What the kernels have to answer, computed here: `kernels.ptx` says the same in a GPU's words.

/// Odd, and of no meaning: steps of the patterns.
const K: u64 = 0x9E37_79B9_7F4A_7C15;
const S: u64 = 0xD134_2543_DE82_EF95;

/// Elements that are computed: every multiprocessor of the largest GPU gets some.
pub(super) const ELEMENTS: u64 = 1 << 19;
/// What all of them make: sum and exclusive or of the integers, sum of the bits of the floats.
pub(super) const MIXED: [u64; 3] = [
    0x254c_2b83_5ee8_f7f3,
    0x9a01_787b_4d40_4c43,
    0x0001_fde0_3cb0_a600,
];

/// What `bailiwick_mix` makes of `count` elements.
#[cfg(test)]
fn mixed(count: u64) -> [u64; 3] {
    let mut out = [0_u64; 3];
    let [sum, xor, floats] = &mut out;
    for index in 0..count {
        let mut x = index.wrapping_add(1).wrapping_mul(K);
        let low = u16::try_from(index & 0xffff).unwrap_or_default();
        let mut f = f32::from(low).mul_add(f32::from_bits(0x3780_0000), 1.0);
        for round in 0..64 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x = x.wrapping_mul(S).wrapping_add(round);
            f = f.mul_add(f32::from_bits(0x3F7F_BE77), f32::from_bits(0x3A83_126F));
        }
        *sum = sum.wrapping_add(x);
        *xor ^= x;
        *floats = floats.wrapping_add(f.to_bits().into());
    }
    out
}

/// What stands in the word at `index`, all bits turned over or not.
pub(super) fn word(index: u64, flipped: bool) -> u64 {
    let word = index.wrapping_mul(K).wrapping_add(S);
    if flipped { !word } else { word }
}

/// The sum of the first `count` words.
pub(super) fn sum(count: u64, flipped: bool) -> u64 {
    // Of 0 to count - 1; one of the two factors is even, and is halved before it can overflow.
    let before = count.wrapping_sub(1);
    let indices = match count % 2 {
        0 => (count / 2).wrapping_mul(before),
        _ => count.wrapping_mul(before / 2),
    };
    let sum = indices.wrapping_mul(K).wrapping_add(count.wrapping_mul(S));
    // !w = -1 - w
    match flipped {
        true => sum.wrapping_add(count).wrapping_neg(),
        false => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_and_this_agree() {
        // As an interpreter of the text found it, written in another language.
        for (count, want) in [
            (
                1,
                [0xba84_5234_09f1_ee1b, 0xba84_5234_09f1_ee1b, 0x3f80_0000],
            ),
            (
                100,
                [0xd7a4_8f3a_8829_8d1a, 0x451b_aecb_9f4c_baf2, 0x18_ce09_1476],
            ),
            (
                1000,
                [0xd630_c7c9_7ede_1135, 0x7e6a_84c2_894a_c52b, 0xf8_0f93_2e7b],
            ),
        ] {
            assert_eq!(mixed(count), want, "{count}");
        }
        assert_eq!(sum(100, false), 0xfd0a_3746_3560_d442);
        assert_eq!(sum(100, true), 0x02f5_c8b9_ca9f_2b5a);
    }

    #[test]
    fn the_constant_is_what_all_elements_make() {
        assert_eq!(mixed(ELEMENTS), MIXED);
    }

    #[test]
    fn a_sum_is_that_of_its_words() {
        for count in [0, 1, 2, 7, 8, 1000] {
            for flipped in [false, true] {
                let all = (0..count).map(|index| word(index, flipped));
                let want = all.fold(0, u64::wrapping_add);
                assert_eq!(sum(count, flipped), want, "{count}, {flipped}");
            }
        }
    }
}
