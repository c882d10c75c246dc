//! The weights of a model: matrices stay in the mapped file, vectors are read into floats at load.

use super::account::Account;
use super::memory::Buffer;
use super::simd::WeightRows;
use crate::device::Weights;
use crate::error::{Error, ErrorCode, Result};
use crate::gguf::Source;
use crate::model::{Linear, Norm, WeightId};
use crate::plan::{Plan, Step};
use crate::quant;
use std::fs;
use std::ops::Range;
use std::sync::Arc;

pub struct ModelWeights {
    plan: Arc<Plan>,
    source: Arc<Source>,
    vectors: Buffer<f32>,
    /// Where in `vectors` each weight is that is used as one.
    spans: Vec<Option<Range<usize>>>,
    held_bytes: u64,
    account: &'static Account,
}

impl ModelWeights {
    /// Counts weights and `working_bytes` as held, for as long as this lives.
    pub fn new(plan: Arc<Plan>, source: Arc<Source>, working_bytes: u64, account: &'static Account) -> Result<Self> {
        for weight in &plan.weights {
            let bytes = weight.row_bytes().checked_mul(weight.rows).and_then(|b| b.checked_mul(weight.experts));
            let found = source.bytes(&weight.data).len();
            if bytes != Some(found) {
                return Err(Error::load(format!(
                    "{}: {found} bytes of data where its shape needs {bytes:?}",
                    weight.name
                )));
            }
        }
        let (spans, len) = spans(&plan);
        let held_bytes = plan.weight_bytes() + working_bytes + (len * size_of::<f32>()) as u64;
        account.take(held_bytes, "weights and working memory")?;
        let vectors = Buffer::zeros(len).inspect_err(|_| account.give_back(held_bytes))?;
        let mut weights = Self { plan, source, vectors, spans, held_bytes, account };
        weights.read_vectors();
        Ok(weights)
    }

    fn read_vectors(&mut self) {
        for (weight, span) in self.plan.weights.iter().zip(&self.spans) {
            if let Some(span) = span {
                let bytes = self.source.bytes(&weight.data);
                quant::dequantise(weight.ty, bytes, &mut self.vectors[span.clone()]);
            }
        }
    }

    /// Rows of a matrix, or of one expert's of a stack.
    pub fn rows(&self, id: WeightId, expert: usize, rows: Range<usize>) -> WeightRows<'_> {
        let weight = self.plan.weight(id);
        let row_bytes = weight.row_bytes();
        let first = expert * weight.rows + rows.start;
        let bytes = &self.source.bytes(&weight.data)[first * row_bytes..][..rows.len() * row_bytes];
        WeightRows { ty: weight.ty, cols: weight.cols, row_bytes, bytes }
    }

    /// A norm's weight, a bias, sinks: as floats.
    pub fn vector(&self, id: WeightId) -> &[f32] {
        self.spans[id.0 as usize].clone().map_or(&[], |span| &self.vectors[span])
    }

    /// The bias of the rows `rows`, counted from the linear's first.
    pub fn bias(&self, linear: &Linear, expert: usize, rows: Range<usize>) -> Option<&[f32]> {
        let id = linear.bias?;
        let weight = self.plan.weight(id);
        let per_expert = weight.rows * weight.cols * weight.experts / self.plan.weight(linear.weight).experts;
        let first = expert * per_expert + linear.rows.start;
        Some(&self.vector(id)[first + rows.start..first + rows.end])
    }
}

impl Drop for ModelWeights {
    fn drop(&mut self) {
        self.account.give_back(self.held_bytes);
    }
}

impl Weights for ModelWeights {
    fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// A page of the file that is not in memory is read again from the file; what must not be is a page in the swap.
    fn check_residency(&self) -> Result<()> {
        let ranges = self.plan.weights.iter().map(|w| {
            let range = self.source.bytes(&w.data).as_ptr_range();
            range.start as usize..range.end as usize
        });
        let whole = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or_default();
        let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        match swapped_kib(&maps, whole) {
            0 => Ok(()),
            kib => Err(Error::new(ErrorCode::VramResidencyFailed, format!("{kib} KiB of the weights are swapped out"))),
        }
    }
}

/// What `maps`, in the format of smaps, says is swapped out of the mappings that meet `range`.
fn swapped_kib(maps: &str, range: Range<usize>) -> u64 {
    let mut inside = false;
    let mut kib = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if let Some((start, end)) = first.split_once('-') {
            let bounds = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
            inside = matches!(bounds, (Ok(start), Ok(end)) if start < range.end && range.start < end);
        } else if inside && first == "Swap:" {
            kib += second.parse::<u64>().unwrap_or(0);
        }
    }
    kib
}

/// Where each weight that is used as a vector goes, and how many elements they are together.
fn spans(plan: &Plan) -> (Vec<Option<Range<usize>>>, usize) {
    let mut used = vec![false; plan.weights.len()];
    for step in &plan.steps {
        for id in vectors_of(step).into_iter().flatten() {
            used[id.0 as usize] = true;
        }
    }
    let mut len = 0;
    let spans = used.iter().zip(&plan.weights).map(|(used, weight)| {
        let elements = weight.cols * weight.rows * weight.experts;
        used.then(|| {
            len += elements;
            len - elements..len
        })
    });
    (spans.collect(), len)
}

fn vectors_of(step: &Step) -> Vec<Option<WeightId>> {
    let norm = |n: &Norm| [Some(n.weight), n.bias];
    let some = |n: &Option<Norm>| n.as_ref().map_or([None; 2], norm);
    match step {
        Step::Embed { .. } => Vec::new(),
        Step::Qkv(s) => {
            let biases = [s.q.bias, s.k.bias, s.v.bias];
            [norm(&s.norm), some(&s.q_norm), some(&s.k_norm)].concat().into_iter().chain(biases).collect()
        }
        Step::Attend { sinks, .. } => vec![*sinks],
        Step::Project { linear, post_norm, .. } => [&some(post_norm)[..], &[linear.bias]].concat(),
        Step::GateUp { norm: n, gate, up, .. } => {
            [&norm(n)[..], &[gate.as_ref().and_then(|g| g.bias), up.bias]].concat()
        }
        Step::Experts(s) => {
            let biases = [s.router.bias, s.gate.bias, s.up.bias, s.down.bias];
            [&norm(&s.norm)[..], &some(&s.post_norm), &biases].concat()
        }
        Step::Head { norm: n, linear } => [&norm(n)[..], &[linear.bias]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_counts_inside_the_range_alone() {
        let maps =
            "1000-3000 r--p 0 08:01 7 /a\nSize: 8 kB\nSwap: 4 kB\n3000-5000 rw-p 0 0 0\nSwap: 16 kB\nSwapPss: 9 kB\n";
        assert_eq!(swapped_kib(maps, 0x1800..0x2000), 4);
        assert_eq!(swapped_kib(maps, 0x2fff..0x3001), 20);
        assert_eq!(swapped_kib(maps, 0x5000..0x9000), 0);
    }
}
