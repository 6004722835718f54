//! SM3 (GB/T 32905-2016, ISO/IEC 10118-3): what PCR banks of some TPMs are extended with, and
//! nothing else. Ours because the provider does not have it; replay of public digests alone, so
//! it need not be fast nor constant in time.

/// Bytes of a digest.
const LEN: usize = 32;
/// Bytes that are compressed at once.
const BLOCK: usize = 64;
/// Words before the first block.
const START: [u32; 8] = [
    0x7380_166f,
    0x4914_b2b9,
    0x1724_42d7,
    0xda8a_0600,
    0xa96f_30bc,
    0x1631_38aa,
    0xe38d_ee4d,
    0xb0fb_0e4e,
];

/// Hashes the parts as if they were one.
pub(super) fn digest(parts: &[&[u8]]) -> [u8; LEN] {
    let mut message = parts.concat();
    let bits = u64::try_from(message.len())
        .unwrap_or(u64::MAX)
        .wrapping_mul(8);
    message.push(0x80);
    let filled = (message.len() + 8).next_multiple_of(BLOCK) - 8;
    message.resize(filled, 0);
    message.extend(bits.to_be_bytes());
    let state = message.chunks_exact(BLOCK).fold(START, compress);
    let mut out = [0; LEN];
    for (place, word) in out.chunks_exact_mut(4).zip(state) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    out
}

const fn p0(x: u32) -> u32 {
    x ^ x.rotate_left(9) ^ x.rotate_left(17)
}

const fn p1(x: u32) -> u32 {
    x ^ x.rotate_left(15) ^ x.rotate_left(23)
}

/// The 68 words a block is spread to.
fn expanded(block: &[u8]) -> Vec<u32> {
    let words = block.chunks_exact(4).map(|word| match word {
        [a, b, c, d] => u32::from_be_bytes([*a, *b, *c, *d]),
        _ => 0,
    });
    let mut w: Vec<u32> = words.collect();
    while w.len() < 68 {
        let back = |n: usize| w.iter().rev().nth(n - 1).copied().unwrap_or_default();
        let mixed = p1(back(16) ^ back(9) ^ back(3).rotate_left(15));
        w.push(mixed ^ back(13).rotate_left(7) ^ back(6));
    }
    w
}

fn compress(before: [u32; 8], block: &[u8]) -> [u32; 8] {
    let w = expanded(block);
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = before;
    for (round, (word, later)) in (0_u32..64).zip(w.iter().zip(w.iter().skip(4))) {
        let early = round < 16;
        let constant: u32 = if early { 0x79cc_4519 } else { 0x7a87_9d8a };
        let ff = if early {
            a ^ b ^ c
        } else {
            (a & b) | (a & c) | (b & c)
        };
        let gg = if early { e ^ f ^ g } else { (e & f) | (!e & g) };
        let ss1 = a
            .rotate_left(12)
            .wrapping_add(e)
            .wrapping_add(constant.rotate_left(round % 32))
            .rotate_left(7);
        let ss2 = ss1 ^ a.rotate_left(12);
        let tt1 = ff
            .wrapping_add(d)
            .wrapping_add(ss2)
            .wrapping_add(word ^ later);
        let tt2 = gg.wrapping_add(h).wrapping_add(ss1).wrapping_add(*word);
        (d, c, b, a) = (c, b.rotate_left(9), a, tt1);
        (h, g, f, e) = (g, f.rotate_left(19), e, p0(tt2));
    }
    let [p, q, r, s, t, u, v, x] = before;
    [p ^ a, q ^ b, r ^ c, s ^ d, t ^ e, u ^ f, v ^ g, x ^ h]
}

#[cfg(test)]
mod tests {
    /// The examples of the standard's annex, and lengths at which the filling changes shape.
    #[test]
    fn hashes_as_the_standard_says() {
        let rows: &[(&str, Vec<u8>, &str)] = &[
            (
                "three bytes",
                b"abc".to_vec(),
                "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
            ),
            (
                "one whole block",
                b"abcd".repeat(16),
                "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
            ),
            (
                "nothing",
                vec![],
                "1ab21d8355cfa17f8e61194831e81a8f22bec8c728fefb747ed035eb5082aa2b",
            ),
        ];
        for (name, message, want) in rows {
            assert_eq!(hex::encode(super::digest(&[message])), *want, "{name}");
        }
        for len in [55, 56, 63, 64, 65] {
            let whole = vec![b'x'; len];
            let (head, tail) = whole.split_at(len / 2);
            let parts = super::digest(&[head, tail]);
            assert_eq!(parts, super::digest(&[&whole]), "{len}");
            assert_ne!(parts, super::digest(&[&whole, &[0]]), "{len}");
        }
    }
}
