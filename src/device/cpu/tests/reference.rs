//! A model run in double precision in the plainest way: the whole sequence at once, one layer after the other.

use super::fixture::Fixture;
use crate::model::*;
use crate::quant;
use std::cell::RefCell;

pub type Row = Vec<f64>;

pub struct Reference<'a> {
    fixture: &'a Fixture,
    /// The logits of every router, in the order of the layers, then of the tokens.
    routers: RefCell<Vec<Row>>,
}

impl<'a> Reference<'a> {
    pub fn new(fixture: &'a Fixture) -> Self {
        Self { fixture, routers: RefCell::default() }
    }

    /// The routers' logits for all tokens of [`Self::logits`], since they were last asked for: [layers * tokens].
    pub fn routers(&self) -> Vec<Row> {
        self.routers.take()
    }

    /// The logits of every token.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Row> {
        let spec = &self.fixture.spec;
        let e = &spec.embedding;
        let mut hidden: Vec<Row> = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let mut row = self.row(e.table, token as usize);
            row.iter_mut().for_each(|x| *x *= f64::from(e.scale));
            if let Some(positions) = e.positions {
                add(&mut row, &self.row(positions, position));
            }
            hidden.push(row);
        }
        for layer in &spec.layers {
            self.attention(&layer.attention, &mut hidden);
            hidden.iter_mut().for_each(|h| self.feed_forward(&layer.feed_forward, h));
        }
        hidden.iter().map(|h| self.linear(&spec.head.output, 0, &self.norm(&spec.head.norm, h))).collect()
    }

    fn row(&self, id: WeightId, row: usize) -> Row {
        let w = self.fixture.spec.weight(id);
        let bytes = &self.fixture.source.bytes(&w.data)[row * w.row_bytes()..][..w.row_bytes()];
        let mut out = vec![0.0; w.cols];
        quant::dequantise(w.ty, bytes, &mut out);
        out.into_iter().map(f64::from).collect()
    }

    /// One element of a tensor of F32, whatever its shape.
    fn float(&self, id: WeightId, at: usize) -> f64 {
        let bytes = self.fixture.source.bytes(&self.fixture.spec.weight(id).data);
        f32::from_le_bytes(bytes[4 * at..][..4].try_into().expect("four bytes")).into()
    }

    fn linear(&self, l: &Linear, expert: usize, x: &[f64]) -> Row {
        let stride = self.fixture.spec.weight(l.weight).rows;
        let output = |r: usize| {
            let at = expert * stride + r;
            dot(&self.row(l.weight, at), x) + l.bias.map_or(0.0, |id| self.float(id, at))
        };
        l.rows.clone().map(output).collect()
    }

    fn norm(&self, norm: &Norm, x: &[f64]) -> Row {
        let n = x.len() as f64;
        let mean = if norm.kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let centred: Row = x.iter().map(|x| x - mean).collect();
        let scale = 1.0 / (dot(&centred, &centred) / n + f64::from(norm.eps)).sqrt();
        let mut out: Row = centred.iter().zip(self.row(norm.weight, 0)).map(|(x, w)| x * scale * w).collect();
        if let Some(bias) = norm.bias {
            add(&mut out, &self.row(bias, 0));
        }
        out
    }

    fn attention(&self, a: &Attention, hidden: &mut [Row]) {
        let dim = a.heads.dim;
        let mut qkv = Vec::new();
        for (position, h) in hidden.iter().enumerate() {
            let x = self.norm(&a.norm, h);
            let [mut q, mut k, v] = [&a.q, &a.k, &a.v].map(|l| self.linear(l, 0, &x));
            for (x, norm) in [(&mut q, &a.q_norm), (&mut k, &a.k_norm)] {
                for head in x.chunks_mut(dim) {
                    if let Some(norm) = norm {
                        head.copy_from_slice(&self.norm(norm, head));
                    }
                    if let Some(rope) = a.rope {
                        rotate(&self.fixture.spec.ropes[rope.0 as usize], head, position);
                    }
                }
            }
            qkv.push([q, k, v]);
        }
        for (position, h) in hidden.iter_mut().enumerate() {
            let mut mixed = Vec::new();
            for head in 0..a.heads.q {
                mixed.extend(self.mix(a, &qkv[..=position], head));
            }
            let out = self.linear(&a.o, 0, &mixed);
            add(h, &a.post_norm.map_or(out.clone(), |n| self.norm(&n, &out)));
        }
    }

    /// One head of the last row.
    fn mix(&self, a: &Attention, qkv: &[[Row; 3]], head: usize) -> Row {
        let dim = a.heads.dim;
        let kv = head / (a.heads.q / a.heads.kv);
        let position = qkv.len() - 1;
        let first = a.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let q = &qkv[position][0][head * dim..][..dim];
        let scores = qkv[first..].iter().map(|row| dot(q, &row[1][kv * dim..][..dim]) * f64::from(a.scale));
        let scores: Row = scores.collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Row = scores.iter().map(|s| (s - max).exp()).collect();
        let sink = a.sinks.map_or(0.0, |id| (self.row(id, 0)[head] - max).exp());
        let sum = weights.iter().sum::<f64>() + sink;
        let mut out = vec![0.0; dim];
        for (row, weight) in qkv[first..].iter().zip(&weights) {
            out.iter_mut().zip(&row[2][kv * dim..]).for_each(|(o, v)| *o += weight / sum * v);
        }
        out
    }

    fn feed_forward(&self, f: &FeedForward, hidden: &mut Row) {
        let x = self.norm(&f.norm, hidden);
        let out = match &f.ffn {
            Ffn::Dense { gate, up, down } => {
                let gate = gate.as_ref().map(|g| self.linear(g, 0, &x));
                self.linear(down, 0, &activate(f.activation, gate, self.linear(up, 0, &x)))
            }
            Ffn::Experts { router, gate, up, down, used } => {
                let logits = self.linear(router, 0, &x);
                let mut order: Vec<usize> = (0..logits.len()).collect();
                order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
                self.routers.borrow_mut().push(logits.clone());
                let sum: f64 = order[..*used].iter().map(|&e| logits[e].exp()).sum();
                let mut out = vec![0.0; x.len()];
                for &e in &order[..*used] {
                    let gated = activate(f.activation, Some(self.linear(gate, e, &x)), self.linear(up, e, &x));
                    let weight = logits[e].exp() / sum;
                    let down = self.linear(down, e, &gated);
                    out.iter_mut().zip(down).for_each(|(o, d)| *o += weight * d);
                }
                out
            }
        };
        add(hidden, &f.post_norm.map_or(out.clone(), |n| self.norm(&n, &out)));
    }
}

fn rotate(rope: &Rope, head: &mut [f64], position: usize) {
    let n = rope.inv_freq.len();
    for (i, &freq) in rope.inv_freq.iter().enumerate() {
        let (sin, cos) = (position as f64 * f64::from(freq)).sin_cos();
        let (a, b) = match rope.style {
            RopeStyle::Pairs => (2 * i, 2 * i + 1),
            RopeStyle::Halves => (i, i + n),
        };
        let magnitude = f64::from(rope.magnitude);
        let turned = ((head[a] * cos - head[b] * sin) * magnitude, (head[b] * cos + head[a] * sin) * magnitude);
        (head[a], head[b]) = turned;
    }
}

fn activate(activation: Activation, gate: Option<Row>, up: Row) -> Row {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    let Some(gate) = gate else {
        return up.into_iter().map(gelu).collect();
    };
    let pairs = gate.into_iter().zip(up);
    let joined = pairs.map(|(gate, up)| match activation {
        Activation::Silu => gate * sigmoid(gate) * up,
        Activation::Gelu => gelu(gate) * up,
        Activation::ClampedSwiglu { alpha, limit } => {
            let (gate, limit) = (gate.min(f64::from(limit)), f64::from(limit));
            gate * sigmoid(f64::from(alpha) * gate) * (up.clamp(-limit, limit) + 1.0)
        }
    });
    joined.collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}
