//! The working memory of a model: one allocation, cut up once, so that no step allocates.

use super::driver::Ptr;
use super::packed::RECORD_COLS;
use super::ways::PROMPT_ROWS;
use crate::error::{Error, Result};
use crate::plan::{Limits, PAGE_TOKENS, Plan, Step};

/// Rows of one pass of decoding; more are run in several passes.
pub(super) const DECODE_ROWS: usize = 64;
/// Splits of attention's rows: as kernels/attend_split.cuh has them.
const MIN_SPLIT: usize = 256;
const MAX_SPLITS: usize = 32;
/// Floats of a split's part of a head beside its elements.
pub(super) const PART_TAIL: usize = 4;
/// Rows of one tile of a prompt's attention, as in kernels/attend_prefill.cu.
pub(super) const TILE_ROWS: usize = 64;
/// Blocks that search one row of logits.
pub(super) const SAMPLE_PARTS: usize = 64;
/// Rows of one expert begin at a multiple of this among the rows sorted by expert.
pub(super) const PLACE_ALIGNMENT: usize = 8;
const ALIGNMENT: u64 = 256;

/// What the sizes follow from.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub batch_tokens: usize,
    pub sequences: usize,
    /// Most rows of a decode pass.
    pub decode_rows: usize,
    /// Rows of logits.
    pub logit_rows: usize,
    /// Splits of a row, at the most.
    pub max_splits: usize,
    /// Page table of one slot, in words: a length per group, then each group's pages.
    pub table_stride: usize,
    /// Where each group's pages begin in it.
    pub table_offsets: Vec<usize>,
}

/// Splits, a power of two, that do for every row below `positions`: a split grows once there would be too many.
pub(super) fn splits(positions: usize) -> usize {
    positions.div_ceil(MIN_SPLIT).next_power_of_two().min(MAX_SPLITS)
}

impl Sizes {
    pub(super) fn new(plan: &Plan, limits: &Limits) -> Self {
        let sequences = limits.sequences.max(1);
        let decode_rows = sequences.next_power_of_two().min(DECODE_ROWS);
        let pages = plan.context.div_ceil(PAGE_TOKENS) + 1;
        let groups = plan.kv_groups.len();
        Self {
            batch_tokens: limits.batch_tokens.max(1),
            sequences,
            decode_rows,
            logit_rows: limits.logit_rows.max(sequences).max(decode_rows),
            max_splits: splits(plan.context),
            table_stride: groups + groups * pages,
            table_offsets: (0..groups).map(|g| groups + g * pages).collect(),
        }
    }

    pub(super) fn pages_per_group(&self) -> usize {
        match self.table_offsets.len() {
            0 => 0,
            groups => (self.table_stride - groups) / groups,
        }
    }
}

/// Addresses of the buffers, and of nothing else; in elements of 4 bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scratch {
    /// The residual [rows, n_embd].
    pub hidden: Ptr,
    /// A normed input [rows, n_embd].
    pub normed: Ptr,
    /// [rows, q width]
    pub q: Ptr,
    /// [rows, kv width]
    pub k: Ptr,
    pub v: Ptr,
    /// Attention's output [rows, q width].
    pub mixed: Ptr,
    /// [rows * experts used, ffn width]; the gate's place becomes the activation.
    pub gate: Ptr,
    pub up: Ptr,
    /// A branch before its norm [rows, n_embd].
    pub branch: Ptr,
    /// [rows, experts]
    pub router: Ptr,
    /// [rows, experts used]
    pub chosen: Ptr,
    pub chosen_weights: Ptr,
    /// Where each choice lies among the rows sorted by expert, and the pieces that the products take.
    pub places: Ptr,
    pub items: Ptr,
    pub item_count: Ptr,
    /// [choices, n_embd]
    pub expert_outputs: Ptr,
    /// f16 inputs of products over repacked weights: a normed residual or attention's output; a feed-forward's activation.
    pub packed_input: Ptr,
    pub packed_ffn: Ptr,
    /// The rows that want logits, normed [logit rows, n_embd], and their logits [logit rows, n_vocab].
    pub head_input: Ptr,
    pub logits: Ptr,
    /// Parts of attention's splits, and a counter per row and head.
    pub partial: Ptr,
    pub attend_finished: Ptr,
    /// [logit rows, SAMPLE_PARTS] of 8 bytes, and a counter per row.
    pub best: Ptr,
    pub sample_finished: Ptr,
    /// The last token drawn for each slot.
    pub drawn: Ptr,
    /// What a batch drew, by segment.
    pub outputs: Ptr,
    /// A bit per id that must not be drawn.
    pub never: Ptr,
    /// Page tables [slots, table stride].
    pub tables: Ptr,
    /// What the host says of a pass: `inputs::Block`.
    pub decode_block: Ptr,
    pub prefill_block: Ptr,
    /// Each rope's frequencies, one after the other, each at a multiple of the alignment.
    pub ropes: Ptr,
}

/// Cuts pieces off an address range.
struct Cutter {
    at: u64,
    overflow: bool,
}

impl Cutter {
    /// `count` elements of `bytes` bytes.
    fn cut(&mut self, counts: &[usize], bytes: usize) -> Ptr {
        let here = self.at;
        let size = counts.iter().try_fold(bytes as u64, |n, &c| n.checked_mul(c as u64));
        let end = size.and_then(|s| here.checked_add(s)?.checked_next_multiple_of(ALIGNMENT));
        match end {
            Some(end) => self.at = end,
            None => self.overflow = true,
        }
        here
    }
}

/// Bytes of one rope's frequencies, in their place.
pub(super) fn rope_bytes(pairs: usize) -> u64 {
    (pairs as u64 * 4).next_multiple_of(ALIGNMENT)
}

/// The buffers at `base`, and their bytes in all.
pub(super) fn cut(plan: &Plan, sizes: &Sizes, blocks: [u64; 2], base: Ptr) -> Result<(Scratch, u64)> {
    let mut c = Cutter { at: base, overflow: false };
    let rows = sizes.batch_tokens.max(sizes.decode_rows);
    let used = plan.experts_used.max(1);
    let places = rows * used + PLACE_ALIGNMENT * plan.experts;
    let packed_rows = (places + PROMPT_ROWS).next_multiple_of(PROMPT_ROWS);
    let packed_cols = |cols: usize| cols.next_multiple_of(RECORD_COLS);
    let heads = plan.steps.iter().filter_map(|s| match s {
        Step::Attend { heads, .. } => Some((heads.q * (heads.dim + PART_TAIL), heads.q)),
        _ => None,
    });
    let (partial_floats, counters) = heads.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    let scratch = Scratch {
        hidden: c.cut(&[rows, plan.n_embd], 4),
        normed: c.cut(&[rows, plan.n_embd], 4),
        q: c.cut(&[rows, plan.q_width], 4),
        k: c.cut(&[rows, plan.kv_width], 4),
        v: c.cut(&[rows, plan.kv_width], 4),
        mixed: c.cut(&[rows, plan.q_width], 4),
        gate: c.cut(&[rows, used, plan.ffn_width], 4),
        up: c.cut(&[rows, used, plan.ffn_width], 4),
        branch: c.cut(&[rows, plan.n_embd], 4),
        router: c.cut(&[rows, plan.experts], 4),
        chosen: c.cut(&[rows, plan.experts_used], 4),
        chosen_weights: c.cut(&[rows, plan.experts_used], 4),
        places: c.cut(&[rows, plan.experts_used], 4),
        items: c.cut(&[plan.experts + rows * plan.experts_used / 8 + 1], 16),
        item_count: c.cut(&[1], 4),
        expert_outputs: c.cut(&[if plan.experts > 0 { packed_rows } else { 0 }, plan.n_embd], 4),
        packed_input: c.cut(&[packed_rows.max(sizes.logit_rows), packed_cols(plan.n_embd.max(plan.q_width))], 2),
        packed_ffn: c.cut(&[packed_rows, packed_cols(plan.ffn_width)], 2),
        head_input: c.cut(&[sizes.logit_rows, plan.n_embd], 4),
        logits: c.cut(&[sizes.logit_rows, plan.n_vocab], 4),
        partial: c.cut(&[sizes.decode_rows, sizes.max_splits, partial_floats], 4),
        attend_finished: c.cut(&[sizes.decode_rows, counters], 4),
        best: c.cut(&[sizes.logit_rows, SAMPLE_PARTS], 8),
        sample_finished: c.cut(&[sizes.logit_rows], 4),
        drawn: c.cut(&[sizes.sequences], 4),
        outputs: c.cut(&[sizes.sequences], 4),
        never: c.cut(&[plan.n_vocab.div_ceil(32)], 4),
        tables: c.cut(&[sizes.sequences, sizes.table_stride], 4),
        decode_block: c.cut(&[blocks[0] as usize], 1),
        prefill_block: c.cut(&[blocks[1] as usize], 1),
        ropes: c.cut(&[plan.ropes.iter().map(|r| rope_bytes(r.inv_freq.len()) as usize).sum()], 1),
    };
    if c.overflow {
        return Err(Error::memory("the working memory of this model exceeds any device"));
    }
    Ok((scratch, c.at - base))
}
