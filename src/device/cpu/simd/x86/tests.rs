//! Every instruction set that this CPU has, against the scalar code, at every type and at awkward shapes.

use super::*;
use crate::quant::testing::{Rng, dequantised, random_row};
use crate::quant::{self, Q8Row};

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
    q8: Q8Row,
}

fn sets() -> impl Iterator<Item = Isa> {
    [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.present().is_ok())
}

impl Case {
    fn new(ty: QuantType, [rows, cols, tokens]: [usize; 3]) -> Self {
        let mut rng = Rng::new((rows * 31 + cols * 7 + tokens) as u64 + u64::from(ty.ggml()));
        let mut weights = vec![0x55];
        (0..rows).for_each(|_| weights.extend(random_row(ty, cols, &mut rng)));
        let x = rng.floats(tokens * cols);
        let mut q8 = Q8Row::default();
        if ty.is_quantised() {
            q8.quantise(&x);
        }
        Self { ty, rows, cols, tokens, weights, x, q8 }
    }

    fn rows(&self) -> WeightRows<'_> {
        let row_bytes = self.ty.row_bytes(self.cols).expect("whole blocks");
        WeightRows { ty: self.ty, cols: self.cols, row_bytes, bytes: &self.weights[1..] }
    }

    /// The product with `tokens` tokens from `first` on.
    fn product(&self, isa: Isa, first: usize, tokens: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; tokens * self.rows];
        let q8 = match self.ty.is_quantised() {
            true => self.q8.view().part(first * self.cols, tokens * self.cols).expect("inside"),
            false => self.q8.view(),
        };
        let input = Input { cols: self.cols, float: &self.x[first * self.cols..], q8, fine: None };
        matmul(isa, self.rows(), input, &mut Tile::whole(&mut out, tokens, self.rows));
        out
    }

    /// The scalar result, and the largest that it could be.
    fn oracle(&self, t: usize, r: usize) -> (f64, f64) {
        let row = self.rows().row(r);
        let x = &self.x[t * self.cols..][..self.cols];
        let result = match self.ty.is_quantised() {
            true => quant::dot_q8(self.ty, row, self.q8.view().part(t * self.cols, self.cols).expect("inside")),
            false => quant::dot(self.ty, row, x),
        };
        let size = dequantised(self.ty, row).iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum();
        (f64::from(result), size)
    }
}

/// A few shapes; the first number is rows, the last tokens.
fn shapes(ty: QuantType) -> Vec<[usize; 3]> {
    let block = ty.block_len();
    let wide = if ty.is_quantised() { 256 * 3 + if block < 256 { 96 } else { 0 } } else { 203 };
    vec![[1, block, 1], [3, wide, 2], [17, wide, 5], [33, block * 3, 16], [65, wide, 33], [16, wide, 130]]
}

#[test]
fn products_agree_with_the_scalar_code() {
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
        let cols = if ty.is_quantised() { 512 } else { 130 };
        let case = Case::new(ty, [37, cols, 131]);
        let mut all = sets().map(|isa| case.product(isa, 0, case.tokens));
        let Some(whole) = all.next() else { return };
        assert!(all.all(|other| other == whole), "{}", ty.name());
        for isa in sets() {
            for (first, tokens) in [(0, 1), (1, 2), (3, 7), (10, 64), (127, 3), (130, 1)] {
                let part = case.product(isa, first, tokens);
                assert!(part == whole[first * case.rows..][..part.len()], "{isa}, {}, {first}", ty.name());
            }
            let alone = Case { rows: 1, weights: case.weights.clone(), x: case.x.clone(), q8: case.q8.clone(), ..case };
            let column: Vec<f32> = whole.iter().step_by(case.rows).copied().collect();
            assert_eq!(alone.product(isa, 0, case.tokens), column, "{isa}, {}", ty.name());
        }
    }
}

#[test]
fn any_bits_and_faults_give_what_the_scalar_code_gives() {
    for ty in QuantType::ALL {
        let mut case = Case::new(ty, [19, 512, 3]);
        let mut rng = Rng::new(5);
        for bits in [None, Some(0), Some(0x80), Some(0xff)] {
            let len = case.weights.len();
            case.weights = bits.map_or_else(|| rng.bytes(len), |byte| vec![byte; len]);
            for (t, fault) in [1.0, -3e38, f32::NAN].into_iter().enumerate() {
                case.x[t * 512..][..512].fill(fault);
            }
            if ty.is_quantised() {
                case.q8.quantise(&case.x);
            }
            for isa in sets() {
                let out = case.product(isa, 0, 3);
                assert!(out[2 * 19..].iter().all(|x| x.is_nan()), "{isa}, {}", ty.name());
                for (r, &got) in out[..19].iter().enumerate() {
                    let (want, size) = case.oracle(0, r);
                    let close = (f64::from(got) - want).abs() <= 2e-6 * size;
                    assert!(close || !want.is_finite() || !size.is_finite(), "{isa}, {}: {got}, {want}", ty.name());
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
                case.q8.quantise(&case.x);
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

/// The product of two planes is the sum of the products.
#[test]
fn what_the_first_plane_leaves_over_is_added() {
    for ty in QuantType::ALL.into_iter().filter(|ty| ty.is_quantised()) {
        let (case, other) = (Case::new(ty, [35, 512, 5]), Case::new(ty, [36, 512, 5]));
        for isa in sets() {
            let mut out = vec![0.0; 5 * 35];
            let input = Input { cols: 512, float: &[], q8: case.q8.view(), fine: Some(other.q8.view()) };
            matmul(isa, case.rows(), input, &mut Tile::whole(&mut out, 5, 35));
            let rest = Case { weights: case.weights.clone(), rows: 35, ..other.clone() }.product(isa, 0, 5);
            for (i, (both, (a, b))) in out.iter().zip(case.product(isa, 0, 5).iter().zip(rest)).enumerate() {
                let (_, size) = case.oracle(i / 35, i % 35);
                assert!(f64::from(both - (a + b)).abs() <= 4e-6 * size, "{isa}, {}: {both}, {a} + {b}", ty.name());
            }
        }
    }
}
