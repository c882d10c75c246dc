//! Types of blocks of 256: a panel is a block.

use super::{Unpack, bits, high, low};
use crate::device::cpu::simd::x86::lanes::{Lanes, Rows};
use crate::device::cpu::simd::x86::panel::Panel;
use crate::quant::IQ4_VALUES;

pub struct Q2K;
pub struct Q3K;
pub struct Q4K;
pub struct Q5K;
pub struct Q6K;
pub struct IQ4XS;

/// Two bits of each byte, from bit `at` on, as bits 4 and 5 of a byte.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn top<V: Lanes>(a: V::Int, at: usize) -> V::Int {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { V::shl(bits::<V>(a, at, 0x0303_0303), 4) }
}

/// Implements [`Unpack`] for a type: bytes of a block, and what is done with the one at byte `at`.
macro_rules! supers {
    ($ty:ident, $bytes:literal, |$rows:ident, $at:ident, $panel:ident| $body:expr) => {
        impl Unpack for $ty {
            const BYTES: usize = $bytes;

            #[inline(always)]
            unsafe fn unpack<V: Lanes>($rows: Rows, $at: usize, _: usize, $panel: &mut Panel) {
                // SAFETY: the caller vouches for all.
                unsafe { $body }
            }
        }
    };
}

supers!(Q2K, 84, |rows, at, panel| {
    let header = V::dwords(rows, at + 80);
    let (d, dmin) = (V::half_to_float(header), V::half_to_float(V::shr(header, 16)));
    let dmin = V::mul(dmin, V::splat_float(-1.0));
    for (i, packed) in V::quads(rows, at).into_iter().enumerate() {
        for j in 0..4 {
            let (scale, min) = (bits::<V>(packed, 8 * j, 15), bits::<V>(packed, 8 * j + 4, 15));
            panel.set_scale::<V>(4 * i + j, V::mul(d, V::to_float(scale)));
            panel.set_min::<V>(4 * i + j, V::mul(dmin, V::to_float(min)));
        }
    }
    for part in 0..4 {
        for (i, quad) in V::quads(rows, at + 16 + 16 * part).into_iter().enumerate() {
            for group in 0..4 {
                let vector = (part / 2 * 4 + group) * 8 + part % 2 * 4 + i;
                panel.set_codes::<V>(vector, bits::<V>(quad, 2 * group, 0x0303_0303));
            }
        }
    }
});

supers!(Q3K, 110, |rows, at, panel| {
    let d = V::half_to_float(V::shr(V::dwords(rows, at + 106), 16));
    let lows = [V::dwords(rows, at + 96), V::dwords(rows, at + 100)];
    let highs = V::dwords(rows, at + 104);
    for i in 0..4 {
        let four = V::or(bits::<V>(lows[i % 2], i / 2 * 4, 0x0f0f_0f0f), top::<V>(highs, 2 * i));
        for j in 0..4 {
            let scale = V::add_int(bits::<V>(four, 8 * j, 0xff), V::splat(-32));
            panel.set_scale::<V>(4 * i + j, V::mul(d, V::to_float(scale)));
        }
    }
    for part in 0..4 {
        let thirds = V::quads(rows, at + part % 2 * 16);
        for (i, quad) in V::quads(rows, at + 32 + 16 * part).into_iter().enumerate() {
            for group in 0..4 {
                let third = bits::<V>(thirds[i], part / 2 * 4 + group, 0x0101_0101);
                let codes = V::or(bits::<V>(quad, 2 * group, 0x0303_0303), V::shl(third, 2));
                panel.set_codes::<V>((part / 2 * 4 + group) * 8 + part % 2 * 4 + i, codes);
            }
        }
    }
});

/// The scales and minima of Q4_K and Q5_K, which have the same first 16 bytes.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn scales_and_mins<V: Lanes>(rows: Rows, at: usize, panel: &mut Panel) {
    // SAFETY: the caller vouches for all.
    unsafe {
        let [header, scales, mins, rest] = V::quads(rows, at);
        let (d, dmin) = (V::half_to_float(header), V::half_to_float(V::shr(header, 16)));
        let dmin = V::mul(dmin, V::splat_float(-1.0));
        let first = 0x3f3f_3f3f;
        let scales = [bits::<V>(scales, 0, first), V::or(low::<V>(rest), top::<V>(scales, 6))];
        let mins = [bits::<V>(mins, 0, first), V::or(high::<V>(rest), top::<V>(mins, 6))];
        for i in 0..8 {
            let (scale, min) = (bits::<V>(scales[i / 4], i % 4 * 8, 0xff), bits::<V>(mins[i / 4], i % 4 * 8, 0xff));
            panel.set_scale::<V>(i, V::mul(d, V::to_float(scale)));
            panel.set_min::<V>(i, V::mul(dmin, V::to_float(min)));
        }
    }
}

supers!(Q4K, 144, |rows, at, panel| {
    scales_and_mins::<V>(rows, at, panel);
    for part in 0..8 {
        for (i, quad) in V::quads(rows, at + 16 + 16 * part).into_iter().enumerate() {
            let vector = part / 2 * 16 + part % 2 * 4 + i;
            panel.set_codes::<V>(vector, low::<V>(quad));
            panel.set_codes::<V>(vector + 8, high::<V>(quad));
        }
    }
});

supers!(Q5K, 176, |rows, at, panel| {
    scales_and_mins::<V>(rows, at, panel);
    for half in 0..2 {
        let fifths = V::quads(rows, at + 16 + 16 * half);
        for pair in 0..4 {
            for (i, quad) in V::quads(rows, at + 48 + 32 * pair + 16 * half).into_iter().enumerate() {
                let fifths = [
                    V::shl(bits::<V>(fifths[i], 2 * pair, 0x0101_0101), 4),
                    V::shl(bits::<V>(fifths[i], 2 * pair + 1, 0x0101_0101), 4),
                ];
                let vector = pair * 16 + half * 4 + i;
                panel.set_codes::<V>(vector, V::or(low::<V>(quad), fifths[0]));
                panel.set_codes::<V>(vector + 8, V::or(high::<V>(quad), fifths[1]));
            }
        }
    }
});

supers!(Q6K, 210, |rows, at, panel| {
    let d = V::half_to_float(V::shr(V::dwords(rows, at + 206), 16));
    for (i, four) in V::quads(rows, at + 192).into_iter().enumerate() {
        for j in 0..4 {
            let scale = V::shr_signed(V::shl(four, 24 - 8 * j), 24);
            panel.set_scale::<V>(4 * i + j, V::mul(d, V::to_float(scale)));
        }
    }
    for part in 0..4 {
        let (half, part) = (part / 2, part % 2);
        let tops = V::quads(rows, at + 128 + 32 * half + 16 * part);
        for second in 0..2 {
            let quads = V::quads(rows, at + 64 * half + 32 * second + 16 * part);
            for i in 0..4 {
                let vector = half * 32 + second * 8 + part * 4 + i;
                panel.set_codes::<V>(vector, V::or(low::<V>(quads[i]), top::<V>(tops[i], 2 * second)));
                panel.set_codes::<V>(vector + 16, V::or(high::<V>(quads[i]), top::<V>(tops[i], 2 * second + 4)));
            }
        }
    }
});

supers!(IQ4XS, 136, |rows, at, panel| {
    let (header, lows) = (V::dwords(rows, at), V::dwords(rows, at + 4));
    let d = V::half_to_float(header);
    for group in 0..8 {
        let top = V::shl(bits::<V>(header, 16 + 2 * group, 3), 4);
        let scale = V::add_int(V::or(bits::<V>(lows, 4 * group, 15), top), V::splat(-32));
        panel.set_scale::<V>(group, V::mul(d, V::to_float(scale)));
        for (i, quad) in V::quads(rows, at + 8 + 16 * group).into_iter().enumerate() {
            panel.set_codes::<V>(8 * group + i, V::signed(V::lookup(&IQ4_VALUES, low::<V>(quad))));
            panel.set_codes::<V>(8 * group + 4 + i, V::signed(V::lookup(&IQ4_VALUES, high::<V>(quad))));
        }
    }
});
