//! Bits that several block layouts share: half floats, powers of two, nibbles, packed scales.
//!
//! Everything here is free of branches on data, so that the compiler can turn the loops around it
//! into vector code; the conversions are exact for every bit pattern, NaN and subnormal included.

/// The value of an IEEE binary16.
///
/// Integer arithmetic plus one subtraction of normal numbers: no table, no CPU feature to ask for,
/// and no dependence on whether the thread flushes subnormals to zero.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    const REBIAS: u32 = 112 << 23; // the exponent biases differ by 127 - 15
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff) << 13;
    let exponent = half & 0x7c00;
    let smallest_normal = REBIAS + (1 << 23);
    let subnormal = f32::from_bits(magnitude + smallest_normal) - f32::from_bits(smallest_normal);
    let bits = if exponent == 0 {
        subnormal.to_bits()
    } else if exponent == 0x7c00 {
        magnitude + 2 * REBIAS
    } else {
        magnitude + REBIAS
    };
    f32::from_bits(sign | bits)
}

/// Half of the power of two that an E8M0 byte means: `2^(e - 128)`.
///
/// Half, because the four-bit values that it scales are stored doubled, as integers. Byte 255, a
/// NaN to the standard, is `2^127` here, as in every program that writes these files.
#[inline(always)]
pub fn e8m0_half_to_f32(e: u8) -> f32 {
    if e < 2 { f32::from_bits(0x0020_0000 << e) } else { f32::from_bits((u32::from(e) - 1) << 23) }
}

/// The binary16 at byte `at` of a block.
#[inline(always)]
pub fn f16_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// `M` bytes of a block from byte `at`. Callers pass constants, so the check costs nothing.
#[inline(always)]
pub fn part<const N: usize, const M: usize>(block: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&block[at..at + M]);
    out
}

/// The low nibbles of 16 bytes, then their high nibbles: the order of all 32-weight types.
#[inline(always)]
pub fn nibbles(qs: &[u8; 16]) -> [i8; 32] {
    let mut out = [0; 32];
    for j in 0..16 {
        out[j] = (qs[j] & 15) as i8;
        out[j + 16] = (qs[j] >> 4) as i8;
    }
    out
}

/// 32 nibbles with a fifth bit each, bit `j` of `qh` for weight `j`.
#[inline(always)]
pub fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [i8; 32] {
    let qh = u32::from_le_bytes(qh);
    let mut out = nibbles(qs);
    for (j, code) in out.iter_mut().enumerate() {
        *code |= ((qh >> j & 1) << 4) as i8;
    }
    out
}

/// The eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K pack into 12 bytes.
///
/// The first four of each are the low 6 bits of bytes 0-3 and 4-7; the others have their low 4 bits
/// in bytes 8-11 and their high 2 bits on top of the first four.
#[inline(always)]
pub fn scales_and_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        mins[j] = packed[j + 4] & 63;
        scales[j + 4] = packed[j + 8] & 15 | packed[j] >> 6 << 4;
        mins[j + 4] = packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4;
    }
    (scales, mins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary16_converts_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same, "{bits:#06x}: {got} is not {want}");
        }
    }

    #[test]
    fn e8m0_is_a_power_of_two_at_both_ends() {
        assert_eq!(e8m0_half_to_f32(0), 2f32.powi(-128));
        assert_eq!(e8m0_half_to_f32(1), 2f32.powi(-127));
        assert_eq!(e8m0_half_to_f32(2), 2f32.powi(-126));
        assert_eq!(e8m0_half_to_f32(128), 1.0);
        assert_eq!(e8m0_half_to_f32(255), 2f32.powi(127));
    }

    #[test]
    fn packed_scales_come_apart() {
        let mut packed = [0u8; 12];
        packed[1] = 0b10_000011; // scale 1 is 3; scale 5 has 2 as its high bits
        packed[5] = 0b01_111111; // minimum 1 is 63; minimum 5 has 1 as its high bits
        packed[9] = 0b1001_0101; // low bits: 5 of scale 5, 9 of minimum 5
        let (scales, mins) = scales_and_mins(&packed);
        assert_eq!(scales, [0, 3, 0, 0, 0, 37, 0, 0]);
        assert_eq!(mins, [0, 63, 0, 0, 0, 25, 0, 0]);
    }

    #[test]
    fn fifth_bits_follow_the_order_of_the_weights() {
        let codes = five_bits(&[0x21; 16], [1, 0, 0, 0x80]);
        assert_eq!((codes[0], codes[1], codes[16], codes[31]), (17, 1, 2, 18));
    }
}
