//! Tests that hold for every tensor type: agreement with the reference, of the three operations
//! among themselves, and calm in the face of any bits.

use super::testing::{Rng, dequantised, random_row};
use super::{Q8Row, Q8View, QuantType, dequantise, dot, dot_q8};

/// Columns of the random rows; a multiple of every block.
const COLS: usize = 1536;

fn checksum(values: &[f32]) -> u64 {
    values.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, value| {
        let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
        (sum ^ u64::from(bits)).wrapping_mul(0x100_0000_01b3)
    })
}

#[test]
fn every_bit_agrees_with_the_reference() {
    let lines: Vec<&str> = include_str!("../../tests/data/quant/checksums.txt").lines().collect();
    assert_eq!(lines.len(), QuantType::ALL.len());
    for (ty, line) in QuantType::ALL.into_iter().zip(lines) {
        let mut fields = line.split(' ');
        assert_eq!(fields.next(), Some(ty.name()));
        let sums: Vec<&str> = fields.collect();
        assert_eq!(sums.len(), 8, "{}", ty.name());
        for (i, want) in sums.into_iter().enumerate() {
            let seed = u64::from(ty.ggml()) * 100 + i as u64 + 1;
            let bytes = Rng::new(seed).bytes(32 * ty.block_bytes());
            let got = format!("{:016x}", checksum(&dequantised(ty, &bytes)));
            assert_eq!(got, want, "{}, column {i}", ty.name());
        }
    }
}

/// Sum of `w * x` and of `|w * x|` in double precision.
fn exact(weights: &[f32], x: &[f32]) -> (f64, f64) {
    weights.iter().zip(x).fold((0.0, 0.0), |(sum, magnitude), (&w, &x)| {
        let product = f64::from(w) * f64::from(x);
        (sum + product, magnitude + product.abs())
    })
}

fn restored(view: Q8View<'_>) -> Vec<f32> {
    let scales = view.scales.iter().flat_map(|&s| std::iter::repeat_n(s, 32));
    scales.zip(view.qs).map(|(scale, &q)| scale * f32::from(q)).collect()
}

#[test]
fn dot_is_the_sum_of_the_products() {
    for ty in QuantType::ALL {
        let mut rng = Rng::new(u64::from(ty.ggml()) + 1);
        for _ in 0..20 {
            let row = random_row(ty, COLS, &mut rng);
            let x = rng.floats(COLS);
            let (want, magnitude) = exact(&dequantised(ty, &row), &x);
            let got = f64::from(dot(ty, &row, &x));
            assert!((got - want).abs() <= 1e-6 * magnitude, "{}: {got}, {want}", ty.name());
        }
    }
}

/// The integer product is exact but for the rounding of its scales: against the same activations,
/// read back as floats, it must agree as closely as a float product does.
#[test]
fn dot_q8_is_exact_for_the_activations_it_is_given() {
    for ty in QuantType::ALL {
        let mut rng = Rng::new(u64::from(ty.ggml()) + 2);
        let mut x8 = Q8Row::try_new(COLS).expect("a few bytes");
        for _ in 0..20 {
            let row = random_row(ty, COLS, &mut rng);
            let x = rng.floats(COLS);
            x8.quantise(&x);
            let weights = dequantised(ty, &row);
            let (want, magnitude) = exact(&weights, &restored(x8.view()));
            let got = f64::from(dot_q8(ty, &row, x8.view()));
            assert!((got - want).abs() <= 2e-6 * magnitude, "{}: {got}, {want}", ty.name());
            let (float, magnitude) = exact(&weights, &x);
            assert!((got - float).abs() <= 5e-3 * magnitude, "{}: {got}, {float}", ty.name());
        }
    }
}

/// Largest codes, scales and activations: the integer sums must not wrap, in any type.
#[test]
fn no_bits_and_no_faults_of_the_activations_stop_it() {
    let mut rng = Rng::new(99);
    for ty in QuantType::ALL {
        let row_bytes = ty.row_bytes(COLS).expect("whole blocks");
        let mut rows = vec![vec![0xff; row_bytes], vec![0; row_bytes], vec![0x80; row_bytes]];
        rows.extend((0..20).map(|_| rng.bytes(row_bytes)));
        for row in rows {
            for fault in [1.0, -3e38, f32::INFINITY, f32::NAN] {
                let x = vec![fault; COLS];
                let mut x8 = Q8Row::default();
                x8.quantise(&x);
                let (float, integer) = (dot(ty, &row, &x), dot_q8(ty, &row, x8.view()));
                assert!(fault.is_finite() || !float.is_finite(), "{}", ty.name());
                assert!(fault.is_finite() || integer.is_nan(), "{}", ty.name());
            }
        }
    }
}

#[test]
fn integer_sums_hold_at_their_largest() {
    let mut x = Q8Row::default();
    x.quantise(&[-1.0; 256]);
    let mut block = [0; 210];
    block[192..208].fill(0x80); // scales -128, codes -32: 32 * 128 * 127 * 256 with d = 1
    block[208..].copy_from_slice(&half::f16::ONE.to_le_bytes());
    let got = dot_q8(QuantType::Q6K, &block, x.view());
    assert!((got + 32.0 * 128.0 * 256.0).abs() < 1.0, "{got}");
}

#[test]
fn a_fault_in_a_scale_shows_in_the_result() {
    let mut row = random_row(QuantType::Q8_0, 64, &mut Rng::new(5));
    row[34..36].copy_from_slice(&half::f16::NAN.to_le_bytes());
    let mut x = Q8Row::default();
    x.quantise(&[1.0; 64]);
    assert!(dot(QuantType::Q8_0, &row, &[1.0; 64]).is_nan());
    assert!(dot_q8(QuantType::Q8_0, &row, x.view()).is_nan());
    let mut weights = [0.0; 64];
    dequantise(QuantType::Q8_0, &row, &mut weights);
    assert!(weights[..32].iter().all(|w| w.is_finite()));
}
