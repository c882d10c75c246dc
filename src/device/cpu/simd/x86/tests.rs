//! Every instruction set that this CPU has, against plain sums in f64, at every type and at awkward shapes.

use super::*;
use crate::device::cpu::simd::quantise::OwnedPlanes;
use crate::quant::testing::{Rng, dequantised, random_row};

/// What a product is made of.
#[derive(Clone)]
struct Case {
    ty: QuantType,
    rows: usize,
    cols: usize,
    tokens: usize,
    /// The rows begin at an odd place.
    weights: Vec<u8>,
    x: Vec<f32>,
    planes: OwnedPlanes,
}

fn sets() -> impl Iterator<Item = Isa> {
    [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.present().is_ok())
}

fn planes(ty: QuantType, x: &[f32]) -> OwnedPlanes {
    if ty.is_quantised() { OwnedPlanes::of(Isa::detect(), x) } else { OwnedPlanes::default() }
}

impl Case {
    fn new(ty: QuantType, [rows, cols, tokens]: [usize; 3]) -> Self {
        let mut rng = Rng::new((rows * 31 + cols * 7 + tokens) as u64 + u64::from(ty.ggml()));
        let mut weights = vec![0x55];
        (0..rows).for_each(|_| weights.extend(random_row(ty, cols, &mut rng)));
        let x = rng.floats(tokens * cols);
        let planes = planes(ty, &x);
        Self { ty, rows, cols, tokens, weights, x, planes }
    }

    fn rows(&self) -> WeightRows<'_> {
        let row_bytes = self.ty.row_bytes(self.cols).expect("whole blocks");
        WeightRows { ty: self.ty, cols: self.cols, row_bytes, bytes: &self.weights[1..] }
    }

    /// The product with `tokens` tokens from `first` on.
    fn product(&self, isa: Isa, first: usize, tokens: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; tokens * self.rows];
        let (start, len) = (first * self.cols, tokens * self.cols);
        let planes = self.planes.view().part(start, len).unwrap_or_default();
        let input = Input { cols: self.cols, float: &self.x[start..], planes };
        matmul(isa, self.rows(), input, &mut Tile::whole(&mut out, tokens, self.rows));
        out
    }

    /// The result in f64, and the largest that it could be.
    fn oracle(&self, t: usize, r: usize) -> (f64, f64) {
        let weights = dequantised(self.ty, self.rows().row(r));
        let start = t * self.cols;
        let planes = self.planes.view().part(start, self.cols).unwrap_or_default();
        let x: Vec<f64> = match self.ty.is_quantised() {
            true => planes.values().collect(),
            false => self.x[start..][..self.cols].iter().map(|&x| f64::from(x)).collect(),
        };
        let products = || weights.iter().zip(&x).map(|(&w, x)| f64::from(w) * x);
        (products().sum(), products().map(f64::abs).sum())
    }
}

/// A few shapes; the first number is rows, the last tokens.
fn shapes(ty: QuantType) -> Vec<[usize; 3]> {
    let block = ty.block_len();
    let wide = if ty.is_quantised() { 256 * 3 + if block < 256 { 96 } else { 0 } } else { 203 };
    vec![[1, block, 1], [3, wide, 2], [17, wide, 5], [33, block * 3, 16], [65, wide, 33], [16, wide, 130]]
}

#[test]
fn products_agree_with_plain_sums() {
    for ty in QuantType::ALL {
        for case in shapes(ty).into_iter().map(|shape| Case::new(ty, shape)) {
            for isa in sets() {
                let out = case.product(isa, 0, case.tokens);
                for (i, &got) in out.iter().enumerate() {
                    let (want, size) = case.oracle(i / case.rows, i % case.rows);
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 2e-6 * size, "{isa}, {}: {got}, {want} of {size}", ty.name());
                }
            }
        }
    }
}

#[test]
fn no_bit_depends_on_the_other_tokens_or_rows_or_on_the_instruction_set() {
    for ty in QuantType::ALL {
        let (rows, cols) = if ty.is_quantised() { (37, 512) } else { (71, 1130) };
        let case = Case::new(ty, [rows, cols, 131]);
        let mut all = sets().map(|isa| case.product(isa, 0, case.tokens));
        let Some(whole) = all.next() else { return };
        assert!(all.all(|other| other == whole), "{}", ty.name());
        for isa in sets() {
            for (first, tokens) in [(0, 1), (1, 2), (3, 7), (10, 64), (5, 25), (127, 3), (130, 1)] {
                let part = case.product(isa, first, tokens);
                assert!(part == whole[first * case.rows..][..part.len()], "{isa}, {}, {first}", ty.name());
            }
            let alone =
                Case { rows: 1, weights: case.weights.clone(), x: case.x.clone(), planes: case.planes.clone(), ..case };
            let column: Vec<f32> = whole.iter().step_by(case.rows).copied().collect();
            assert_eq!(alone.product(isa, 0, case.tokens), column, "{isa}, {}", ty.name());
        }
    }
}

#[test]
fn any_bits_and_faults_give_what_plain_sums_give() {
    for ty in QuantType::ALL {
        let mut case = Case::new(ty, [19, 512, 3]);
        let mut rng = Rng::new(5);
        for bits in [None, Some(0), Some(0x80), Some(0xff)] {
            let len = case.weights.len();
            case.weights = bits.map_or_else(|| rng.bytes(len), |byte| vec![byte; len]);
            for (t, fault) in [1.0, -3e38, f32::NAN].into_iter().enumerate() {
                case.x[t * 512..][..512].fill(fault);
            }
            case.planes = planes(ty, &case.x);
            for isa in sets() {
                let out = case.product(isa, 0, 3);
                assert!(out[2 * 19..].iter().all(|x| x.is_nan()), "{isa}, {}", ty.name());
                for (r, &got) in out[..19].iter().enumerate() {
                    let (want, size) = case.oracle(0, r);
                    let close = (f64::from(got) - want).abs() <= 2e-6 * size;
                    // Integer sums are 256 times too large before they are scaled.
                    let ordinary = size < f64::from(f32::MAX) / 256.0;
                    assert!(close || !ordinary, "{isa}, {}: {got}, {want}", ty.name());
                }
            }
        }
    }
}

/// The largest products there are, with the same sign: nothing may wrap or saturate.
#[test]
fn sums_of_pairs_hold_at_their_largest() {
    for ty in QuantType::ALL.into_iter().filter(|ty| ty.is_quantised()) {
        for byte in [0u8, 0x7f, 0x80, 0xff] {
            for sign in [1.0, -1.0] {
                let mut case = Case::new(ty, [2, 256, 1]);
                let scales = case.weights.clone();
                case.weights[1..].fill(byte);
                let block = ty.block_bytes();
                // Only the scales stay as they were, wherever the type has halves.
                for at in (1..case.weights.len()).step_by(block) {
                    let halves: &[usize] = match ty {
                        QuantType::MXFP4 => &[],
                        QuantType::Q2K => &[80, 82],
                        QuantType::Q3K => &[108],
                        QuantType::Q6K => &[208],
                        QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4K | QuantType::Q5K => &[0, 2],
                        _ => &[0],
                    };
                    for half in halves {
                        case.weights[at + half..][..2].copy_from_slice(&scales[at + half..][..2]);
                    }
                    if ty == QuantType::MXFP4 {
                        case.weights[at] = 120;
                    }
                }
                case.x.fill(sign);
                case.planes = planes(ty, &case.x);
                for isa in sets() {
                    for (r, &got) in case.product(isa, 0, 1).iter().enumerate() {
                        let (want, size) = case.oracle(0, r);
                        assert!((f64::from(got) - want).abs() <= 2e-6 * size, "{isa}, {}: {got}, {want}", ty.name());
                    }
                }
            }
        }
    }
}
