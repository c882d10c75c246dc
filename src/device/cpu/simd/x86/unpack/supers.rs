//! Types of blocks of 256: a sink is a block.

use super::blocks::{look_up, unsign};
use super::{Sink, Unpack, bits, bits_of, high, low, nibbles, with};
use crate::device::cpu::simd::x86::lanes::{Lanes, Rows};
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
    ($ty:ident, $bytes:literal, |$rows:ident, $at:ident, $sink:ident| $body:expr) => {
        impl Unpack for $ty {
            const BYTES: usize = $bytes;

            #[inline(always)]
            unsafe fn unpack<V: Lanes, S: Sink<V>>($rows: Rows, $at: usize, _: usize, $sink: &mut S) {
                // SAFETY: the caller vouches for all.
                unsafe { $body }
            }
        }
    };
}

supers!(Q2K, 84, |rows, at, sink| {
    let header = V::dwords(rows, at + 80);
    let (d, dmin) = (V::half_to_float(header), V::half_to_float(V::shr(header, 16)));
    let dmin = V::mul(dmin, V::splat_float(-1.0));
    for (i, packed) in V::quads(rows, at).into_iter().enumerate() {
        for j in 0..4 {
            let (scale, min) = (bits::<V>(packed, 8 * j, 15), bits::<V>(packed, 8 * j + 4, 15));
            sink.scale(4 * i + j, V::mul(d, V::to_float(scale)));
            sink.min(4 * i + j, V::mul(dmin, V::to_float(min)));
        }
    }
    for part in 0..4 {
        let quads = S::bytes(rows, at + 16 + 16 * part);
        for group in 0..4 {
            sink.codes((part / 2 * 4 + group) * 2 + part % 2, bits_of::<V>(quads, 2 * group, 0x0303_0303));
        }
    }
});

supers!(Q3K, 110, |rows, at, sink| {
    let d = V::half_to_float(V::shr(V::dwords(rows, at + 106), 16));
    let lows = [V::dwords(rows, at + 96), V::dwords(rows, at + 100)];
    let highs = V::dwords(rows, at + 104);
    for i in 0..4 {
        let four = V::or(bits::<V>(lows[i % 2], i / 2 * 4, 0x0f0f_0f0f), top::<V>(highs, 2 * i));
        for j in 0..4 {
            let scale = V::add_int(bits::<V>(four, 8 * j, 0xff), V::splat(-32));
            sink.scale(4 * i + j, V::mul(d, V::to_float(scale)));
        }
    }
    for part in 0..4 {
        let thirds = S::bytes(rows, at + part % 2 * 16);
        let quads = S::bytes(rows, at + 32 + 16 * part);
        for group in 0..4 {
            let thirds = bits_of::<V>(thirds, part / 2 * 4 + group, 0x0101_0101);
            let codes = with::<V>(bits_of::<V>(quads, 2 * group, 0x0303_0303), thirds, 2);
            sink.codes((part / 2 * 4 + group) * 2 + part % 2, codes);
        }
    }
});

/// The scales and minima of Q4_K and Q5_K, which have the same first 16 bytes.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn scales_and_mins<V: Lanes, S: Sink<V>>(rows: Rows, at: usize, sink: &mut S) {
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
            sink.scale(i, V::mul(d, V::to_float(scale)));
            sink.min(i, V::mul(dmin, V::to_float(min)));
        }
    }
}

supers!(Q4K, 144, |rows, at, sink| {
    scales_and_mins::<V, S>(rows, at, sink);
    for pair in 0..4 {
        let first = nibbles::<V>(S::bytes(rows, at + 16 + 32 * pair));
        let second = nibbles::<V>(S::bytes(rows, at + 32 + 32 * pair));
        sink.group(2 * pair, [first[0], second[0]]);
        sink.group(2 * pair + 1, [first[1], second[1]]);
    }
});

supers!(Q5K, 176, |rows, at, sink| {
    scales_and_mins::<V, S>(rows, at, sink);
    let fifths = [S::bytes(rows, at + 16), S::bytes(rows, at + 32)];
    for pair in 0..4 {
        let first = nibbles::<V>(S::bytes(rows, at + 48 + 32 * pair));
        let second = nibbles::<V>(S::bytes(rows, at + 64 + 32 * pair));
        for (i, mut codes) in [[first[0], second[0]], [first[1], second[1]]].into_iter().enumerate() {
            for (codes, fifths) in codes.iter_mut().zip(fifths) {
                *codes = with::<V>(*codes, bits_of::<V>(fifths, 2 * pair + i, 0x0101_0101), 4);
            }
            sink.group(2 * pair + i, codes);
        }
    }
});

supers!(Q6K, 210, |rows, at, sink| {
    let d = V::half_to_float(V::shr(V::dwords(rows, at + 206), 16));
    for (i, four) in V::quads(rows, at + 192).into_iter().enumerate() {
        for j in 0..4 {
            let scale = V::shr_signed(V::shl(four, 24 - 8 * j), 24);
            sink.scale(4 * i + j, V::mul(d, V::to_float(scale)));
        }
    }
    for part in 0..4 {
        let (eighth, part) = (part / 2 * 8, part % 2);
        let tops = S::bytes(rows, at + 128 + 4 * eighth + 16 * part);
        for second in 0..2 {
            let [low, high] = nibbles::<V>(S::bytes(rows, at + 8 * eighth + 32 * second + 16 * part));
            let half = eighth + 2 * second + part;
            sink.codes(half, with::<V>(low, bits_of::<V>(tops, 2 * second, 0x0303_0303), 4));
            sink.codes(half + 4, with::<V>(high, bits_of::<V>(tops, 2 * second + 4, 0x0303_0303), 4));
        }
    }
});

supers!(IQ4XS, 136, |rows, at, sink| {
    let (header, lows) = (V::dwords(rows, at), V::dwords(rows, at + 4));
    let d = V::half_to_float(header);
    for group in 0..8 {
        let top = V::shl(bits::<V>(header, 16 + 2 * group, 3), 4);
        let scale = V::add_int(V::or(bits::<V>(lows, 4 * group, 15), top), V::splat(-32));
        sink.scale(group, V::mul(d, V::to_float(scale)));
        let quads = S::bytes(rows, at + 8 + 16 * group);
        sink.group(group, unsign::<V>(look_up::<V>(nibbles::<V>(quads), &IQ4_VALUES)));
    }
});
