//! What the kernels ask of an instruction set: vectors of one 32-bit lane for each row of weights.
//!
//! Everything above this trait is written once. A lane never looks at another lane, so a row's result is the same bits
//! wherever in a panel it stands, and the two instruction sets agree to the bit as well. The functions are unsafe for one
//! reason: they may only be reached from code that was compiled for the instruction set and runs on a CPU that has it.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Bytes between what the first cache is asked for and what the second is.
const FURTHER: usize = 24 << 10;

/// Rows of weights whose blocks are read together, as many as a vector has lanes.
#[derive(Clone, Copy)]
pub struct Rows {
    pub first: *const u8,
    /// From one row to the next.
    pub stride: usize,
    /// Where as many bytes begin that are read next: each access to these asks the cache for as many of those. Spread like
    /// this, fetching and computing overlap; a burst of requests would stop the core until most are served.
    pub next: *const u8,
}

impl Rows {
    /// Asks for `lines` lines in the place of byte `at` of `lanes` rows: for the nearest cache, and further on for the
    /// second, since those on their way to the first are few.
    #[inline(always)]
    pub fn fetch(self, lanes: usize, lines: usize, at: usize) {
        let next = self.next.wrapping_add(lanes * at);
        for line in 0..lines {
            let line = next.wrapping_add(64 * line);
            // SAFETY: a prefetch reads nothing; any address will do.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(line.cast());
                _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(FURTHER).cast());
            }
        }
    }

    /// Byte `at` of eight rows.
    ///
    /// The compiler must not see where the first address comes from: it would keep a pointer for each row, run out of
    /// registers, and step them all in memory; the processor adds a multiple of the stride for nothing.
    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "there is nothing that could read where it points")]
    pub fn eight(self, at: usize) -> [*const u8; 8] {
        let mut first = self.first.wrapping_add(at);
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {0} */", inout(reg) first, options(pure, nomem, nostack, preserves_flags)) };
        let (one, three) = (self.stride, 3 * self.stride);
        [
            first,
            first.wrapping_add(one),
            first.wrapping_add(2 * one),
            first.wrapping_add(three),
            first.wrapping_add(4 * one),
            first.wrapping_add(5 * one),
            first.wrapping_add(2 * three),
            first.wrapping_add(7 * one),
        ]
    }
}

/// The lanes of the widest instruction set.
pub const MAX_LANES: usize = 16;

/// Where in 16 bytes there is a bit for each byte: in which byte, and under which mask.
#[repr(C)]
pub struct Places {
    pub bytes: [u8; 16],
    pub masks: [u8; 16],
}

impl Places {
    /// Byte j's is bit `j % run` of those from bit `first` on, and of the next four bytes for each `run` further.
    pub const fn new(first: usize, run: usize) -> Self {
        let mut places = Self { bytes: [0; 16], masks: [0; 16] };
        let mut j = 0;
        while j < 16 {
            let bit = first + j % run + j / run * 32;
            places.bytes[j] = (bit / 8) as u8;
            places.masks[j] = 1 << (bit % 8);
            j += 1;
        }
        places
    }
}

/// An instruction set.
pub trait Lanes: Copy {
    /// Lanes of 32-bit integers, or of four times as many bytes.
    type Int: Copy;
    /// Lanes of f32.
    type Float: Copy;

    /// Lanes of a vector: rows of a panel.
    const LANES: usize;
    /// Tokens that an integer kernel works on at once.
    const TOKENS: usize;
    /// What [`Lanes::signed`] adds to codes of eight bits.
    const SIGNED_OFFSET: i32;

    /// 16 bytes of each row, from byte `at` of it, as they lie: part j of vector i, of 16 bytes, holds those of row 4j + i.
    ///
    /// # Safety
    /// The CPU has the instruction set, and the rows have these bytes.
    unsafe fn pieces(rows: Rows, at: usize) -> [Self::Int; 4];
    /// 4 bytes of each row, in the row's lane.
    ///
    /// # Safety
    /// As for `pieces`.
    unsafe fn dwords(rows: Rows, at: usize) -> Self::Int;
    /// Whether [`Lanes::halves`] is faster than one by one.
    const MANY_HALVES: bool;
    /// Whether a panel's codes have 16 bits, to be multiplied with both planes of activations at once.
    const WIDE: bool;
    /// The binary16 at byte `at` of each row, and at each `BYTES` further, eight in all: `BYTES` is 16 or 18.
    ///
    /// # Safety
    /// As for `pieces`; the rows have eight times `BYTES` from there, and `MANY_HALVES` is true.
    unsafe fn halves<const BYTES: usize>(rows: Rows, at: usize) -> [Self::Float; 8];
    /// Pieces with each row's bytes in the row's lane: vector j holds bytes 4j to 4j + 3.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn turn(pieces: [Self::Int; 4]) -> [Self::Int; 4];
    /// The sum of each row's lanes in vectors that came of pieces, in the row's lane.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn fold(sums: [Self::Int; 4]) -> Self::Int;
    /// Codes of four bits with 16 added to those whose bit is set: in each part of 16 bytes, byte j has that of `bits`' part
    /// which `places[j]` says.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn add_fifths(codes: Self::Int, bits: Self::Int, places: &Places) -> Self::Int;
    /// 16 bytes of each row with its bytes in its lane.
    ///
    /// # Safety
    /// As for `pieces`.
    #[inline(always)]
    unsafe fn quads(rows: Rows, at: usize) -> [Self::Int; 4] {
        // SAFETY: the caller vouches for all.
        unsafe { Self::turn(Self::pieces(rows, at)) }
    }

    /// # Safety
    /// The CPU has the instruction set; so for all below.
    unsafe fn splat(value: i32) -> Self::Int;
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Shifts each 32-bit lane, filling with zeros.
    unsafe fn shl(a: Self::Int, bits: usize) -> Self::Int;
    unsafe fn shr(a: Self::Int, bits: usize) -> Self::Int;
    /// The same, filling with the sign.
    unsafe fn shr_signed(a: Self::Int, bits: usize) -> Self::Int;
    unsafe fn add_int(a: Self::Int, b: Self::Int) -> Self::Int;
    /// The entry of the table that the low 4 bits of each byte name; the high bits are 0.
    unsafe fn lookup(table: &[i8; 16], index: Self::Int) -> Self::Int;
    /// Signed bytes as [`Lanes::dot`] with `BITS` = 8 wants them.
    unsafe fn signed(a: Self::Int) -> Self::Int;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    /// The bits of each lane as an f32.
    unsafe fn as_float(a: Self::Int) -> Self::Float;
    /// The binary16 in the low half of each lane; the high half is not looked at.
    unsafe fn half_to_float(a: Self::Int) -> Self::Float;

    /// Four bytes at `at`, in every lane.
    unsafe fn spread(at: *const i8) -> Self::Int;
    /// 16 bytes at `at`, in every part of 16 bytes.
    unsafe fn spread_piece(at: *const i8) -> Self::Int;
    /// Stores the codes of half a group in a panel; those of 8 bits are what `signed` gives, others have no sign.
    ///
    /// # Safety
    /// The CPU has the instruction set; there is room for 16 codes of each lane.
    unsafe fn store_codes<const BITS: u32>(to: *mut u8, codes: [Self::Int; 4]);
    /// Adds the products of the codes in a lane of `w`, as a panel has them, with as many activations.
    unsafe fn dot(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int;
    /// The sum of the products of 4 bytes of each lane for `N` vectors, at most two: of the coarse plane of activations, times
    /// `1 << FINE_BITS`, and of the fine one. Codes have `BITS` bits and no sign; with 8 bits they are what `signed` gives.
    unsafe fn dot_both<const BITS: u32, const N: usize>(
        w: [Self::Int; N],
        coarse: [Self::Int; N],
        fine: [Self::Int; N],
    ) -> Self::Int;

    unsafe fn splat_float(value: f32) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// a * b + c, rounded once.
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;

    unsafe fn load(at: *const u8) -> Self::Int;
    unsafe fn load_float(at: *const f32) -> Self::Float;
    unsafe fn store_float(at: *mut f32, value: Self::Float);
}
