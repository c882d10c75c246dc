//! Which tokens top-k, top-p and min-p leave, without putting a whole vocabulary in order.
//!
//! Tokens fall into buckets by how far their logits are below the largest. Buckets are in or out as a whole; only the tokens of
//! the one where a limit falls are put in order. Of equal logits the lower id counts as the larger.

use super::sampler::Sampling;
use super::softmax::weight;
use std::cmp::Ordering;

/// Buckets, and how many of them one unit of the logit has: the last one is all that is 32 and more below the largest.
const BUCKETS: usize = 4096;
const PER_UNIT: f32 = 128.0;

#[derive(Clone, Copy, Default)]
struct Bucket {
    tokens: usize,
    /// The sum of e^(logit - largest).
    weight: f64,
}

/// Here for its memory.
#[derive(Default)]
pub struct Truncation {
    buckets: Vec<Bucket>,
    /// The tokens of the bucket where a limit falls, in order.
    edge: Vec<u32>,
    kept: Vec<u32>,
}

/// The logits, and the largest of them.
#[derive(Clone, Copy)]
struct Row<'a> {
    logits: &'a [f32],
    most: f32,
}

impl Truncation {
    /// The ids that stay, ascending, always at least one. `most` is the largest logit, which must be finite; none is NaN.
    pub fn keep(&mut self, logits: &[f32], most: f32, sampling: &Sampling) -> &[u32] {
        let row = Row { logits, most };
        let Sampling { top_k, top_p, min_p, .. } = *sampling;
        let last = match (top_k, top_p < 1.0) {
            (0, false) => None,
            (0, true) => self.last_of_share(row, f64::from(top_p)),
            (k, _) => self.last_of_first(row, k as usize),
        };
        self.collect(row, last);
        if top_k > 0 && top_p < 1.0 {
            self.cut_to_share(row, f64::from(top_p));
        }
        if min_p > 0.0 {
            let least = f64::from(min_p).ln();
            self.kept.retain(|&id| f64::from(logits[id as usize]) - f64::from(most) >= least);
        }
        &self.kept
    }

    fn fill(&mut self, row: Row<'_>, weighted: bool) {
        self.buckets.clear();
        self.buckets.resize(BUCKETS, Bucket::default());
        for &logit in row.logits {
            if logit > f32::NEG_INFINITY {
                let bucket = &mut self.buckets[row.bucket(logit)];
                bucket.tokens += 1;
                bucket.weight += if weighted { f64::from(weight(logit, row.most)) } else { 0.0 };
            }
        }
    }

    /// The last of the first `k` tokens; None if there are not more.
    fn last_of_first(&mut self, row: Row<'_>, k: usize) -> Option<u32> {
        self.fill(row, false);
        let mut before = 0;
        let full = self.buckets.iter().take_while(|bucket| {
            let whole = before + bucket.tokens < k;
            before += if whole { bucket.tokens } else { 0 };
            whole
        });
        let at = full.count();
        self.order(row, at);
        self.edge.get(k - before - 1).copied()
    }

    /// The last of the first tokens that together have the share `p`; None where only all have it.
    fn last_of_share(&mut self, row: Row<'_>, p: f64) -> Option<u32> {
        self.fill(row, true);
        let goal = p * self.buckets.iter().map(|bucket| bucket.weight).sum::<f64>();
        let mut before = 0.0;
        let full = self.buckets.iter().take_while(|bucket| {
            let whole = before + bucket.weight < goal;
            before += if whole { bucket.weight } else { 0.0 };
            whole
        });
        let at = full.count();
        self.order(row, at);
        let reached = row.reach(&self.edge, goal - before);
        reached.or(self.edge.len().checked_sub(1)).map(|last| self.edge[last])
    }

    /// Puts the tokens of a bucket in order.
    fn order(&mut self, row: Row<'_>, bucket: usize) {
        self.edge.clear();
        let inside = |l: f32| l > f32::NEG_INFINITY && row.bucket(l) == bucket;
        self.edge.extend((0u32..).zip(row.logits).filter(|&(_, &l)| inside(l)).map(|(id, _)| id));
        row.sort(&mut self.edge);
    }

    /// Keeps everything up to a token.
    fn collect(&mut self, row: Row<'_>, last: Option<u32>) {
        let (least, last) = last.map_or((f32::NEG_INFINITY, None), |id| (row.logits[id as usize], Some(id)));
        let inside = |id: u32, l: f32| l > least || l == least && last.is_some_and(|last| id <= last);
        self.kept.clear();
        self.kept.extend((0u32..).zip(row.logits).filter(|&(id, &l)| inside(id, l)).map(|(id, _)| id));
    }

    /// Keeps of what is kept the first tokens that together have the share `p` of it.
    fn cut_to_share(&mut self, row: Row<'_>, p: f64) {
        row.sort(&mut self.kept);
        let goal = p * self.kept.iter().map(|&id| row.weight(id)).sum::<f64>();
        if let Some(last) = row.reach(&self.kept, goal) {
            self.kept.truncate(last + 1);
        }
        self.kept.sort_unstable();
    }
}

impl Row<'_> {
    /// The bucket of a logit: the larger the logit, the lower the bucket, or the same.
    #[inline(always)]
    fn bucket(&self, logit: f32) -> usize {
        (((self.most - logit) * PER_UNIT) as usize).min(BUCKETS - 1)
    }

    /// The larger logit first, of equals the lower id.
    fn sort(&self, ids: &mut [u32]) {
        let logit = |id: u32| self.logits[id as usize];
        ids.sort_unstable_by(|&a, &b| logit(b).partial_cmp(&logit(a)).unwrap_or(Ordering::Equal).then(a.cmp(&b)));
    }

    /// Where the weights of `ids` together come to `goal`.
    fn reach(&self, ids: &[u32], goal: f64) -> Option<usize> {
        let mut sum = 0.0;
        ids.iter().position(|&id| {
            sum += self.weight(id);
            sum >= goal
        })
    }

    fn weight(&self, id: u32) -> f64 {
        f64::from(weight(self.logits[id as usize], self.most))
    }
}
