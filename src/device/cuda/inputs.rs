//! What the host tells the device about a pass: one block, filled in pinned memory and copied whole.
//!
//! The places of the arrays depend on capacities alone, so a captured graph finds them in every batch.

use super::driver::Ptr;
use crate::plan::Draw;

/// Capacities and places of a block's arrays. All elements are 4 bytes but for tiles (16) and draws (24).
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub rows: usize,
    pub tiles: usize,
    pub heads: usize,
}

/// Addresses of a block's arrays on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockAt {
    pub token: Ptr,
    pub slot: Ptr,
    pub position: Ptr,
    /// Which row each row of logits is of.
    pub gather: Ptr,
    pub draws: Ptr,
    pub tiles: Ptr,
}

const DRAW_WORDS: usize = 6;
const TILE_WORDS: usize = 4;
/// No slot, no draw, no token that the host knows.
const NOBODY: u32 = u32::MAX;

impl Block {
    fn words(&self) -> [usize; 6] {
        let even = |n: usize| n.next_multiple_of(4);
        let rows = even(self.rows);
        [rows, rows, rows, even(self.heads), even(self.heads * DRAW_WORDS), self.tiles * TILE_WORDS]
    }

    pub(super) fn bytes(&self) -> usize {
        self.words().iter().sum::<usize>() * 4
    }

    pub(super) fn at(&self, base: Ptr) -> BlockAt {
        let mut at = base;
        let [token, slot, position, gather, draws, tiles] = self.words().map(|words| {
            let here = at;
            at += words as u64 * 4;
            here
        });
        BlockAt { token, slot, position, gather, draws, tiles }
    }
}

/// One row, as the host sees it.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// None: the token drawn last for the slot.
    pub token: Option<u32>,
    pub slot: u32,
    pub position: usize,
}

/// A block being filled. Starts with no rows: slots, draws and tokens all say so.
pub(super) struct Filling<'a> {
    block: Block,
    bytes: &'a mut [u8],
    pub n_rows: usize,
    pub n_tiles: usize,
    pub n_heads: usize,
    /// The highest position.
    pub reach: usize,
}

impl<'a> Filling<'a> {
    /// `bytes` has `block.bytes()` bytes.
    pub(super) fn new(block: Block, bytes: &'a mut [u8]) -> Self {
        let mut filling = Self { block, bytes, n_rows: 0, n_tiles: 0, n_heads: 0, reach: 0 };
        for row in 0..block.rows {
            filling.put(1, row, NOBODY);
            filling.put(0, row, 0);
            filling.put(2, row, 0);
        }
        for head in 0..block.heads {
            filling.put(3, head, 0);
            filling.put(4, head * DRAW_WORDS, NOBODY);
        }
        filling
    }

    fn put(&mut self, array: usize, index: usize, value: u32) {
        let start: usize = self.block.words()[..array].iter().sum();
        let at = (start + index) * 4;
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    pub(super) fn row(&mut self, row: Row) {
        self.put(0, self.n_rows, row.token.unwrap_or(NOBODY));
        self.put(1, self.n_rows, row.slot);
        self.put(2, self.n_rows, row.position as u32);
        self.n_rows += 1;
        self.reach = self.reach.max(row.position);
    }

    /// Logits are wanted of row `row`; returns which row of logits that is.
    pub(super) fn head(&mut self, row: usize) -> usize {
        self.put(3, self.n_heads, row as u32);
        self.n_heads += 1;
        self.n_heads - 1
    }

    /// A token is drawn from a row of logits: for `slot`, at `position`, as output `output`.
    pub(super) fn draw(&mut self, head: usize, draw: Draw, slot: u32, position: usize, output: usize) {
        let seed = [draw.seed as u32, (draw.seed >> 32) as u32];
        let words = [slot, output as u32, draw.temperature.to_bits(), seed[0], seed[1], position as u32];
        for (i, word) in words.into_iter().enumerate() {
            self.put(4, head * DRAW_WORDS + i, word);
        }
    }

    /// Rows `first .. first + rows` are one tile of a segment.
    pub(super) fn tile(&mut self, first: usize, rows: usize, slot: u32, position: usize) {
        for (i, word) in [first as u32, rows as u32, slot, position as u32].into_iter().enumerate() {
            self.put(5, self.n_tiles * TILE_WORDS + i, word);
        }
        self.n_tiles += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_do_not_overlap_and_start_empty() {
        let block = Block { rows: 5, tiles: 2, heads: 3 };
        let mut bytes = vec![0xaa; block.bytes()];
        let at = block.at(1 << 20);
        let word = |bytes: &[u8], place: Ptr, i: usize| {
            let at = (place - (1 << 20)) as usize + 4 * i;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut f = Filling::new(block, &mut bytes);
        f.row(Row { token: Some(7), slot: 2, position: 40 });
        f.row(Row { token: None, slot: 3, position: 9 });
        let head = f.head(1);
        f.draw(head, Draw { temperature: 0.5, seed: 1 << 40 | 6 }, 3, 10, 1);
        f.tile(0, 2, 2, 40);
        assert_eq!((f.n_rows, f.n_heads, f.n_tiles, f.reach), (2, 1, 1, 40));
        assert_eq!([word(&bytes, at.token, 0), word(&bytes, at.token, 1)], [7, NOBODY]);
        assert_eq!((0..5).map(|i| word(&bytes, at.slot, i)).collect::<Vec<_>>(), [2, 3, NOBODY, NOBODY, NOBODY]);
        assert_eq!(word(&bytes, at.gather, 0), 1);
        let draw: Vec<u32> = (0..6).map(|i| word(&bytes, at.draws, i)).collect();
        assert_eq!(draw, [3, 1, 0.5f32.to_bits(), 6, 256, 10]);
        assert_eq!(word(&bytes, at.draws, 6), NOBODY);
        assert_eq!((0..4).map(|i| word(&bytes, at.tiles, i)).collect::<Vec<_>>(), [0, 2, 2, 40]);
        assert_eq!(at.tiles + 2 * 16 - (1 << 20), block.bytes() as u64);
    }
}
