//! Rotary embeddings: sines and cosines once per batch, then a rotation per head.

use super::buffers::{RopeTable, Row};
use crate::model::{Rope, RopeStyle};

impl RopeTable {
    /// Fills the table for the batch's rows, in the single precision that models are trained with.
    pub fn fill(&mut self, rope: &Rope, rows: &[Row]) {
        if self.pairs == 0 {
            return;
        }
        let out = self.cos.chunks_exact_mut(self.pairs).zip(self.sin.chunks_exact_mut(self.pairs));
        for (row, (cos, sin)) in rows.iter().zip(out) {
            for ((&freq, cos), sin) in rope.inv_freq.iter().zip(cos).zip(sin) {
                let angle = row.position as f32 * freq;
                *cos = angle.cos() * rope.magnitude;
                *sin = angle.sin() * rope.magnitude;
            }
        }
    }

    /// Cosines and sines of a row.
    pub fn row(&self, row: usize) -> [&[f32]; 2] {
        [&self.cos, &self.sin].map(|table| &table[row * self.pairs..][..self.pairs])
    }
}

/// Rotates the first 2 * pairs elements of a head.
pub fn rotate(head: &mut [f32], style: RopeStyle, [cos, sin]: [&[f32]; 2]) {
    let pairs = cos.len();
    match style {
        RopeStyle::Pairs => {
            for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * cos - b * sin;
                pair[1] = b * cos + a * sin;
            }
        }
        RopeStyle::Halves => {
            let (first, second) = head[..2 * pairs].split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_members_of_a_pair() {
        let turn: [&[f32]; 2] = [&[0.0, 1.0], &[1.0, 0.0]];
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
        rotate(&mut head, RopeStyle::Pairs, turn);
        assert_eq!(head, [-2.0, 1.0, 3.0, 4.0, 5.0]);
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
        rotate(&mut head, RopeStyle::Halves, turn);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0, 5.0]);
    }
}
