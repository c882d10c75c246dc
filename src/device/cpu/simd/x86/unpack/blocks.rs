//! Types of blocks of 32: a group is a block.

use super::{Sink, Unpack, bits, nibbles};
use crate::device::cpu::simd::x86::lanes::{Lanes, Rows};
use crate::quant::{IQ4_VALUES, MXFP4_VALUES};

/// Groups in a panel.
const GROUPS: usize = 8;

pub struct Q4_0;
pub struct Q4_1;
pub struct Q5_0;
pub struct Q5_1;
pub struct Q8_0;
pub struct IQ4NL;
pub struct MXFP4;

/// Hands on the codes of a group.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn put<V: Lanes, S: Sink<V>>([first, second]: [[V::Int; 4]; 2], group: usize, sink: &mut S) {
    // SAFETY: the caller vouches for all.
    unsafe {
        sink.codes(2 * group, first);
        sink.codes(2 * group + 1, second);
    }
}

/// Adds to each code of a group its fifth bit, bit j of `fifths` to code j.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn add_fifths<V: Lanes>(mut codes: [[V::Int; 4]; 2], fifths: V::Int) -> [[V::Int; 4]; 2] {
    for (i, codes) in codes.as_flattened_mut().iter_mut().enumerate() {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let copies = V::mul_int(bits::<V>(fifths, 4 * i, 15), V::splat(0x0204_0810));
            *codes = V::or(*codes, V::and(copies, V::splat(0x1010_1010)));
        }
    }
    codes
}

/// What the codes of a group stand for.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub unsafe fn look_up<V: Lanes>(mut codes: [[V::Int; 4]; 2], table: &[i8; 16]) -> [[V::Int; 4]; 2] {
    for codes in codes.as_flattened_mut() {
        // SAFETY: the caller vouches for the instruction set.
        *codes = unsafe { V::lookup(table, *codes) };
    }
    codes
}

/// Codes of eight bits without a sign.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub unsafe fn unsign<V: Lanes>([a, b, c, d]: [V::Int; 4]) -> [V::Int; 4] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { [V::signed(a), V::signed(b), V::signed(c), V::signed(d)] }
}

/// The scale in the first half of the first four bytes of a block; with `MIN`, the minimum in the other.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn scales<V: Lanes, S: Sink<V>, const MIN: bool>(rows: Rows, at: usize, group: usize, sink: &mut S) {
    // SAFETY: the caller vouches for all.
    unsafe {
        let header = V::dwords(rows, at);
        sink.scale(group, V::half_to_float(header));
        if MIN {
            sink.min(group, V::half_to_float(V::shr(header, 16)));
        }
    }
}

/// Implements [`Unpack`] for a type: bytes of a block, and what is done with the one at byte `at`.
macro_rules! blocks {
    ($ty:ident, $bytes:literal, |$rows:ident, $at:ident, $group:ident, $sink:ident| $body:expr) => {
        impl Unpack for $ty {
            const BYTES: usize = GROUPS * $bytes;

            #[inline(always)]
            unsafe fn unpack<V: Lanes, S: Sink<V>>($rows: Rows, at: usize, units: usize, $sink: &mut S) {
                for $group in 0..units {
                    let $at = at + $group * $bytes;
                    // SAFETY: the caller vouches for all.
                    unsafe { $body }
                }
            }
        }
    };
}

blocks!(Q4_0, 18, |rows, at, group, sink| {
    scales::<V, S, false>(rows, at, group, sink);
    put(nibbles::<V>(V::quads(rows, at + 2)), group, sink);
});

blocks!(Q4_1, 20, |rows, at, group, sink| {
    scales::<V, S, true>(rows, at, group, sink);
    put(nibbles::<V>(V::quads(rows, at + 4)), group, sink);
});

blocks!(Q5_0, 22, |rows, at, group, sink| {
    scales::<V, S, false>(rows, at, group, sink);
    put(add_fifths::<V>(nibbles::<V>(V::quads(rows, at + 6)), V::dwords(rows, at + 2)), group, sink);
});

blocks!(Q5_1, 24, |rows, at, group, sink| {
    scales::<V, S, true>(rows, at, group, sink);
    put(add_fifths::<V>(nibbles::<V>(V::quads(rows, at + 8)), V::dwords(rows, at + 4)), group, sink);
});

blocks!(Q8_0, 34, |rows, at, group, sink| {
    scales::<V, S, false>(rows, at, group, sink);
    sink.codes(2 * group, unsign::<V>(V::quads(rows, at + 2)));
    sink.codes(2 * group + 1, unsign::<V>(V::quads(rows, at + 18)));
});

blocks!(IQ4NL, 18, |rows, at, group, sink| {
    scales::<V, S, false>(rows, at, group, sink);
    let [first, second] = look_up::<V>(nibbles::<V>(V::quads(rows, at + 2)), &IQ4_VALUES);
    put([unsign::<V>(first), unsign::<V>(second)], group, sink);
});

/// The values of MXFP4, made positive.
const MXFP4_CODES: [i8; 16] = {
    let mut codes = MXFP4_VALUES;
    let mut i = 0;
    while i < 16 {
        codes[i] += 12;
        i += 1;
    }
    codes
};

/// 2^(e - 64).
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn power<V: Lanes>(e: V::Int) -> V::Float {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { V::as_float(V::shl(V::add_int(e, V::splat(63)), 23)) }
}

blocks!(MXFP4, 17, |rows, at, group, sink| {
    // 2^(e - 128) may be subnormal, so it is the product of two powers that are not.
    let e = bits::<V>(V::dwords(rows, at), 0, 0xff);
    let half = V::shr(e, 1);
    let rest = V::add_int(half, V::and(e, V::splat(1)));
    sink.scale(group, V::mul(power::<V>(half), power::<V>(rest)));
    put(look_up::<V>(nibbles::<V>(V::quads(rows, at + 1)), &MXFP4_CODES), group, sink);
});
