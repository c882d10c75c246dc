//! Types of blocks of 32: a group is a block.

use super::{Unpack, bits, high, low};
use crate::device::cpu::simd::x86::lanes::{Lanes, Rows};
use crate::device::cpu::simd::x86::panel::{COLS, Panel};
use crate::quant::{IQ4_VALUES, MXFP4_VALUES};

const GROUPS: usize = COLS / 32;

pub struct Q4_0;
pub struct Q4_1;
pub struct Q5_0;
pub struct Q5_1;
pub struct Q8_0;
pub struct IQ4NL;
pub struct MXFP4;

/// 32 nibbles at byte `at`, in the order of the weights.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn nibbles<V: Lanes>(rows: Rows, at: usize) -> [V::Int; 8] {
    // SAFETY: the caller vouches for all.
    unsafe {
        let [a, b, c, d] = V::quads(rows, at);
        [low::<V>(a), low::<V>(b), low::<V>(c), low::<V>(d), high::<V>(a), high::<V>(b), high::<V>(c), high::<V>(d)]
    }
}

/// Writes the codes of a group.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn put<V: Lanes>(codes: [V::Int; 8], group: usize, panel: &mut Panel) {
    for (i, codes) in codes.into_iter().enumerate() {
        // SAFETY: the caller vouches for all.
        unsafe { panel.set_codes::<V>(8 * group + i, codes) };
    }
}

/// Adds to each code of a group its fifth bit, bit j of `fifths` to code j.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn add_fifths<V: Lanes>(mut codes: [V::Int; 8], fifths: V::Int) -> [V::Int; 8] {
    for (i, codes) in codes.iter_mut().enumerate() {
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
unsafe fn look_up<V: Lanes>(mut codes: [V::Int; 8], table: &[i8; 16]) -> [V::Int; 8] {
    for codes in &mut codes {
        // SAFETY: the caller vouches for the instruction set.
        *codes = unsafe { V::lookup(table, *codes) };
    }
    codes
}

/// The scale in the first half of the first four bytes of a block; with `MIN`, the minimum in the other.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn scales<V: Lanes, const MIN: bool>(rows: Rows, at: usize, group: usize, panel: &mut Panel) {
    // SAFETY: the caller vouches for all.
    unsafe {
        let header = V::dwords(rows, at);
        panel.set_scale::<V>(group, V::half_to_float(header));
        if MIN {
            panel.set_min::<V>(group, V::half_to_float(V::shr(header, 16)));
        }
    }
}

/// Implements [`Unpack`] for a type: bytes of a block, and what is done with the one at byte `at`.
macro_rules! blocks {
    ($ty:ident, $bytes:literal, |$rows:ident, $at:ident, $group:ident, $panel:ident| $body:expr) => {
        impl Unpack for $ty {
            const BYTES: usize = GROUPS * $bytes;

            #[inline(always)]
            unsafe fn unpack<V: Lanes>($rows: Rows, at: usize, units: usize, $panel: &mut Panel) {
                for $group in 0..units {
                    let $at = at + $group * $bytes;
                    // SAFETY: the caller vouches for all.
                    unsafe { $body }
                }
            }
        }
    };
}

blocks!(Q4_0, 18, |rows, at, group, panel| {
    scales::<V, false>(rows, at, group, panel);
    put::<V>(nibbles::<V>(rows, at + 2), group, panel);
});

blocks!(Q4_1, 20, |rows, at, group, panel| {
    scales::<V, true>(rows, at, group, panel);
    put::<V>(nibbles::<V>(rows, at + 4), group, panel);
});

blocks!(Q5_0, 22, |rows, at, group, panel| {
    scales::<V, false>(rows, at, group, panel);
    let codes = add_fifths::<V>(nibbles::<V>(rows, at + 6), V::dwords(rows, at + 2));
    put::<V>(codes, group, panel);
});

blocks!(Q5_1, 24, |rows, at, group, panel| {
    scales::<V, true>(rows, at, group, panel);
    let codes = add_fifths::<V>(nibbles::<V>(rows, at + 8), V::dwords(rows, at + 4));
    put::<V>(codes, group, panel);
});

blocks!(Q8_0, 34, |rows, at, group, panel| {
    scales::<V, false>(rows, at, group, panel);
    for half in 0..2 {
        for (i, quad) in V::quads(rows, at + 2 + 16 * half).into_iter().enumerate() {
            panel.set_codes::<V>(8 * group + 4 * half + i, V::signed(quad));
        }
    }
});

blocks!(IQ4NL, 18, |rows, at, group, panel| {
    scales::<V, false>(rows, at, group, panel);
    for (i, codes) in look_up::<V>(nibbles::<V>(rows, at + 2), &IQ4_VALUES).into_iter().enumerate() {
        panel.set_codes::<V>(8 * group + i, V::signed(codes));
    }
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

blocks!(MXFP4, 17, |rows, at, group, panel| {
    // 2^(e - 128) may be subnormal, so it is the product of two powers that are not.
    let e = bits::<V>(V::dwords(rows, at), 0, 0xff);
    let half = V::shr(e, 1);
    let rest = V::add_int(half, V::and(e, V::splat(1)));
    panel.set_scale::<V>(group, V::mul(power::<V>(half), power::<V>(rest)));
    put::<V>(look_up::<V>(nibbles::<V>(rows, at + 1), &MXFP4_CODES), group, panel);
});
