//! The kernels of products over repacked weights: which one a launch goes to, its units, and its rings in shared memory, as
//! the heads of kernels/product_*.cu ask for.
//!
//! All of it follows from numbers alone, so that the shared memory of every card can be tried without one.

use super::packed::Packed;
use super::params::PackedProduct;

/// Rows of activations that a block takes, by way.
pub(super) const SMALL_ROWS: usize = 8;
pub(super) const BATCH_ROWS: usize = 64;
pub(super) const PROMPT_ROWS: usize = 128;
/// Blocks of a cluster of product_split.
pub(super) const SPLIT_BLOCKS: usize = 8;
/// Tiles from which on blocks that go through all columns fill the card: of gate alone, and of all matrices.
const MANY_PAIRED_TILES: u32 = 256;
const MANY_TILES: u32 = 2000;
/// Shared memory with which two blocks find room on a Hopper's multiprocessor.
const HALF_SHARED_BYTES: usize = 110 * 1024;
/// Shared memory of a block with which every product of a prompt finds room: Hopper's.
pub(super) const PROMPT_SHARED_BYTES: usize = 227 * 1024;
/// The shared memory of a slot of a prompt's activations, and of the sums of a unit of 8 tiles.
const PROMPT_SLOT_BYTES: usize = 16384;
const PROMPT_SUM_BYTES: usize = 81920;

/// All but the last make the same sums in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Up to 8 rows a block.
    Small,
    /// Up to 64 rows a block.
    Batch,
    /// Up to 64 rows, the columns split over a cluster of blocks: cards from sm_90 on.
    Split,
    /// Hopper's tensor cores, up to 64 rows: launched by many.rs.
    Many,
    /// Hopper's tensor cores, 128 rows a block.
    Prompt,
}

/// One of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub way: Way,
    /// Gate and up together with their activation.
    pub pair: bool,
    /// Twice the rows of weights to a unit.
    pub wide: bool,
}

/// What a launch is over, as far as the choice goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Rows of activations; with items the most that one has.
    pub tokens: usize,
    /// Groups of rows that go through matrices of their own.
    pub items: Option<usize>,
    pub multiprocessors: usize,
}

/// The rings of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rings {
    pub stages: usize,
    /// Of the weights' own ring: for a prompt.
    pub weight_stages: usize,
    pub slot_bytes: usize,
    pub shared_bytes: usize,
}

/// Whether 2 to 64 rows may go through product_rows.cu and product_panels.cu: unless WORKER_ORCD_CUDA_FEW_ROWS is `off`.
pub(super) fn few_rows_wanted() -> bool {
    std::env::var("WORKER_ORCD_CUDA_FEW_ROWS").map_or(true, |v| v != "off")
}

impl Way {
    /// Whether activations are panels, and not records.
    pub(super) fn panels(self) -> bool {
        matches!(self, Way::Many | Way::Prompt)
    }

    pub(super) fn file(self) -> &'static str {
        match self {
            Way::Small => "product_small",
            Way::Batch => "product_batch",
            Way::Split => "product_split",
            Way::Many => "product_many",
            Way::Prompt => "product_prefill",
        }
    }

    /// Of the ways that make the same sums from the same input, the one that was fastest (tests/bench/gpu-products.md). A
    /// cluster for an eighth of the columns pays where there are few rows of weights; up to 16 rows, so do two passes of 8.
    fn fastest(self, args: &PackedProduct, pair: bool, work: Work) -> Way {
        if self != Way::Split {
            return self;
        }
        let matrices = if pair { 1 } else { args.matrices as usize };
        let tiles: u32 = args.matrix.iter().take(matrices).map(|m| m.tiles).sum();
        if tiles >= if pair { MANY_PAIRED_TILES } else { MANY_TILES } {
            Way::Batch
        } else if work.items.is_none() && work.tokens <= 2 * SMALL_ROWS {
            Way::Small
        } else {
            Way::Split
        }
    }

    /// Whether twice the rows to a unit pay: the same sums, made where they fetch activations less often.
    fn wide(self, args: &PackedProduct, work: Work) -> bool {
        match self {
            // As measured: only for the largest matrices.
            Way::Small => work.tokens > 1 && args.matrix[0].tiles >= 4096,
            Way::Batch | Way::Many => false,
            Way::Split => work.tokens > 32 && args.matrix.iter().any(|m| m.tiles >= 128),
            Way::Prompt => {
                let tiles: usize = args.matrix.iter().map(|m| m.tiles as usize).sum();
                let blocks = work.items.map_or(work.tokens, |items| items * PROMPT_ROWS).div_ceil(PROMPT_ROWS);
                tiles / 16 * blocks >= work.multiprocessors
            }
        }
    }
}

impl Kernel {
    /// The kernels for a launch, best first; those that follow make the same sums with less shared memory.
    pub(super) fn candidates(way: Way, args: &PackedProduct, pair: bool, work: Work) -> Vec<Kernel> {
        let way = way.fastest(args, pair, work);
        let wide = !pair && way.wide(args, work);
        let mut kernels = vec![Kernel { way, pair, wide }];
        if wide {
            kernels.push(Kernel { way, pair, wide: false });
        }
        if way == Way::Small || way == Way::Split {
            kernels.push(Kernel { way: Way::Batch, pair, wide: false });
        }
        kernels
    }

    pub(super) fn name(self) -> String {
        let ending = match (self.pair, self.wide) {
            (true, _) => "_pair",
            (false, true) => "_wide",
            (false, false) => "",
        };
        format!("{}{ending}", self.way.file())
    }

    /// Matrices or halves of a unit that a block works on together.
    fn together(self) -> usize {
        1 + usize::from(self.pair || self.wide)
    }

    /// Numbers the units of a launch through its matrices; returns how many there are.
    pub(super) fn number_units(self, args: &mut PackedProduct) -> usize {
        let tiles_per_unit = match self.way {
            Way::Small => 1 << u32::from(self.wide),
            Way::Batch if self.pair => 4,
            Way::Batch => 8,
            Way::Split | Way::Many | Way::Prompt => 8 << u32::from(self.wide),
        };
        let matrices = args.matrices as usize;
        for (i, m) in args.matrix.iter_mut().take(matrices).enumerate() {
            m.first_unit = if self.pair { 0 } else { args.units };
            if !self.pair || i == 0 {
                args.units += m.tiles.div_ceil(tiles_per_unit);
            }
        }
        args.units as usize
    }

    /// Bytes that a piece takes in a ring; F16 goes past it where it can.
    fn slot_bytes(self, packed: &Packed) -> usize {
        match (packed.kind, self.way) {
            (0, Way::Small | Way::Split) => 0,
            (0, Way::Batch) => 4 * packed.piece_bytes,
            _ => packed.piece_bytes,
        }
    }

    /// The rings for weights of these sizes and `tokens` rows where a block may have `room` bytes, besides those that the
    /// kernel declares; None if that is too little.
    pub(super) fn rings(self, sizes: &[Packed], tokens: usize, room: usize) -> Option<Rings> {
        let slot = sizes.iter().map(|p| self.slot_bytes(p)).max().unwrap_or(0);
        let weights = 8 * self.together() * slot;
        let rows = 512 * tokens.next_multiple_of(8).min(BATCH_ROWS);
        let (stage, wanted, least, most) = match self.way {
            Way::Small => (weights + 8 * 512 * tokens.min(SMALL_ROWS), 100 * 1024, 0, 4),
            Way::Batch => (8 * slot + rows, HALF_SHARED_BYTES, 16384, 4),
            Way::Split => (weights + rows, self.together() * HALF_SHARED_BYTES, self.together() * 32768, 4),
            Way::Many | Way::Prompt => return self.prompt_rings(sizes, weights, slot, room),
        };
        // Two stages where they fit, even if no other block then does.
        let stages = (wanted / stage.max(1)).clamp(2, most).min(room / stage.max(1));
        let shared_bytes = (stages * stage).max(least);
        let fits = stages > 0 && shared_bytes <= room;
        fits.then_some(Rings { stages, weight_stages: 0, slot_bytes: slot, shared_bytes })
    }

    fn prompt_rings(self, sizes: &[Packed], weights: usize, slot_bytes: usize, room: usize) -> Option<Rings> {
        let weight_stages = if sizes.iter().any(|p| p.kind == 0) { 4 } else { 2 };
        // Kept as it was measured: a block has the multiprocessor for itself.
        let room = room.min(226 * 1024).checked_sub(1024 + weight_stages * weights)?;
        let stages = (room / PROMPT_SLOT_BYTES).min(8);
        let rings = stages * PROMPT_SLOT_BYTES + weight_stages * weights;
        let shared_bytes = 1024 + rings.max(self.together() * PROMPT_SUM_BYTES);
        (stages >= 2).then_some(Rings { stages, weight_stages, slot_bytes, shared_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;

    /// Shared memory of a block on cards of sm_86, sm_80 and sm_90.
    const ROOMS: [usize; 3] = [99 << 10, 163 << 10, 227 << 10];

    /// What a kernel declares by itself: its barriers, and the sums of product_small.
    fn declared(kernel: Kernel) -> usize {
        if kernel.way == Way::Small { 512 + 8192 * kernel.together() } else { 256 }
    }

    fn launch(tiles: u32) -> PackedProduct {
        let mut args = PackedProduct { matrices: 1, ..PackedProduct::default() };
        args.matrix[0].tiles = tiles;
        args
    }

    /// The first candidate with room for its rings.
    fn chosen(way: Way, pair: bool, (tiles, tokens): (u32, usize), packed: Packed, room: usize) -> (Kernel, Rings) {
        let work = Work { tokens, items: None, multiprocessors: 132 };
        let candidates = Kernel::candidates(way, &launch(tiles), pair, work);
        let fitting = candidates.iter().find_map(|k| Some((*k, k.rings(&[packed], tokens, room - declared(*k))?)));
        fitting.unwrap_or_else(|| panic!("{way:?}, {tokens} rows of kind {} in {room}: no kernel", packed.kind))
    }

    #[test]
    fn every_card_has_a_kernel_for_every_product() {
        for ty in QuantType::ALL {
            let Some(packed) = Packed::new(ty, 4096) else { continue };
            for (room, way) in ROOMS.into_iter().flat_map(|r| [(r, Way::Small), (r, Way::Batch), (r, Way::Split)]) {
                for (tiles, tokens) in [(1, 1), (5000, 3), (200, 8), (300, 16), (130, 40), (4096, 64)] {
                    for pair in [false, true] {
                        let (kernel, rings) = chosen(way, pair, (tiles, tokens), packed, room);
                        assert!(
                            rings.shared_bytes + declared(kernel) <= room && rings.stages >= 1,
                            "{ty:?} {kernel:?} {rings:?}"
                        );
                        assert_ne!(kernel.way, Way::Prompt);
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_card_takes_fewer_stages_and_then_another_kernel() {
        let packed = Packed::new(QuantType::Q8_0, 4096).expect("a kind");
        let rings = |room| chosen(Way::Small, true, (300, 8), packed, room);
        let (kernel, large) = rings(ROOMS[2]);
        assert_eq!((kernel.name().as_str(), large.stages), ("product_small_pair", 2));
        let (kernel, middle) = rings(ROOMS[1]);
        assert_eq!((kernel.name().as_str(), middle.stages), ("product_small_pair", 1));
        assert_eq!(rings(ROOMS[0]).0.name(), "product_batch_pair");
    }

    #[test]
    fn a_prompt_on_hopper_takes_what_its_multiprocessors_have() {
        for packed in QuantType::ALL.into_iter().filter_map(|ty| Packed::new(ty, 4096)) {
            for pair in [false, true] {
                let kernel = Kernel { way: Way::Prompt, pair, wide: !pair };
                let rings = kernel.rings(&[packed], 512, PROMPT_SHARED_BYTES - declared(kernel)).expect("room");
                assert!(rings.shared_bytes + declared(kernel) <= PROMPT_SHARED_BYTES && rings.stages >= 2, "{rings:?}");
            }
        }
        let packed = Packed::new(QuantType::Q4K, 4096).expect("a kind");
        let kernel = Kernel { way: Way::Prompt, pair: true, wide: false };
        let rings = kernel.rings(&[packed], 512, 227 << 10).expect("room");
        assert_eq!((rings.stages, rings.weight_stages), (8, 2));
        assert!(rings.shared_bytes <= 227 << 10);
        assert_eq!(kernel.rings(&[packed], 512, 99 << 10), None);
    }
}
