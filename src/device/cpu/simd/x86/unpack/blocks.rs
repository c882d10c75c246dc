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

/// Adds to each code of a group its fifth bit, bit j of `fifths` to code j.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn add_fifths<V: Lanes, S: Sink<V>>(mut codes: [[V::Int; 4]; 2], fifths: V::Int) -> [[V::Int; 4]; 2] {
    for (codes, places) in codes.as_flattened_mut().iter_mut().zip(S::BITS.as_flattened()) {
        // SAFETY: the caller vouches for the instruction set.
        *codes = unsafe { V::add_fifths(*codes, fifths, places) };
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
pub unsafe fn unsign<V: Lanes>(mut codes: [[V::Int; 4]; 2]) -> [[V::Int; 4]; 2] {
    for codes in codes.as_flattened_mut() {
        // SAFETY: the caller vouches for the instruction set.
        *codes = unsafe { V::signed(*codes) };
    }
    codes
}

/// The scale that is the first two bytes of a block.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn scale<V: Lanes, S: Sink<V>>(rows: Rows, at: usize, group: usize, sink: &mut S) {
    // SAFETY: the caller vouches for all.
    unsafe { sink.scale(group, V::half_to_float(V::dwords(rows, at))) };
}

/// The scale and the minimum that are the first four bytes of a block.
///
/// # Safety
/// As for [`Unpack::unpack`].
#[inline(always)]
unsafe fn scale_and_min<V: Lanes, S: Sink<V>>(rows: Rows, at: usize, group: usize, sink: &mut S) {
    // SAFETY: the caller vouches for all.
    unsafe {
        let header = V::dwords(rows, at);
        sink.scale(group, V::half_to_float(header));
        sink.min(group, V::half_to_float(V::shr(header, 16)));
    }
}

/// The scales that are the first two bytes of eight blocks of `BYTES`.
///
/// # Safety
/// As for [`Unpack::unpack`]; as for [`Lanes::halves`].
#[inline(always)]
unsafe fn scales<V: Lanes, S: Sink<V>, const BYTES: usize>(rows: Rows, at: usize, sink: &mut S) {
    // SAFETY: the caller vouches for all.
    unsafe {
        for (i, scale) in V::halves::<BYTES>(rows, at).into_iter().enumerate() {
            sink.scale(i, scale);
        }
    }
}

/// Implements [`Unpack`] for a type: bytes of a block, and what is done with the one at byte `at`. The first two bytes are its
/// scale if that is `scaled`; the scales of a panel may come all at once.
macro_rules! blocks {
    ($ty:ident, $bytes:literal, scaled, |$rows:ident, $at:ident, $group:ident, $sink:ident| $body:expr) => {
        impl Unpack for $ty {
            const BYTES: usize = GROUPS * $bytes;

            #[inline(always)]
            unsafe fn unpack<V: Lanes, S: Sink<V>>($rows: Rows, at: usize, units: usize, $sink: &mut S) {
                let together = V::MANY_HALVES && units == GROUPS;
                if together {
                    // SAFETY: the caller vouches for all.
                    unsafe { scales::<V, S, $bytes>($rows, at, $sink) };
                }
                for $group in 0..units {
                    let $at = at + $group * $bytes;
                    // SAFETY: the caller vouches for all.
                    unsafe {
                        if !together {
                            scale::<V, S>($rows, $at, $group, $sink);
                        }
                        $body
                    }
                }
            }
        }
    };
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

blocks!(Q4_0, 18, scaled, |rows, at, group, sink| sink.group(group, nibbles::<V>(S::bytes(rows, at + 2))));

blocks!(Q4_1, 20, |rows, at, group, sink| {
    scale_and_min::<V, S>(rows, at, group, sink);
    sink.group(group, nibbles::<V>(S::bytes(rows, at + 4)));
});

blocks!(Q5_0, 22, |rows, at, group, sink| {
    scale::<V, S>(rows, at, group, sink);
    sink.group(group, add_fifths::<V, S>(nibbles::<V>(S::bytes(rows, at + 6)), V::dwords(rows, at + 2)));
});

blocks!(Q5_1, 24, |rows, at, group, sink| {
    scale_and_min::<V, S>(rows, at, group, sink);
    sink.group(group, add_fifths::<V, S>(nibbles::<V>(S::bytes(rows, at + 8)), V::dwords(rows, at + 4)));
});

blocks!(Q8_0, 34, |rows, at, group, sink| {
    scale::<V, S>(rows, at, group, sink);
    sink.group(group, unsign::<V>([S::bytes(rows, at + 2), S::bytes(rows, at + 18)]));
});

blocks!(IQ4NL, 18, scaled, |rows, at, group, sink| {
    sink.group(group, unsign::<V>(look_up::<V>(nibbles::<V>(S::bytes(rows, at + 2)), &IQ4_VALUES)));
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
    sink.group(group, look_up::<V>(nibbles::<V>(S::bytes(rows, at + 1)), &MXFP4_CODES));
});
