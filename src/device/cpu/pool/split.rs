//! Buffers cut into parts that threads write at the same time.
//!
//! A [`Split`] is made from an exclusive borrow, and its parts do not overlap, so each can be handed to
//! another thread. [`Chunks`] cuts a slice into equal runs, [`Grid`] a matrix into tiles; tuples and
//! arrays of splits go together, part by part or one after the other.

use std::marker::PhantomData;
use std::ops::Range;

/// Something that falls into parts which share nothing.
///
/// # Safety
/// `part(i)` and `part(j)` for i != j give no access to the same memory.
pub unsafe trait Split: Sync {
    type Part;

    fn parts(&self) -> usize;

    /// # Safety
    /// `index` is below `parts()`, and is asked for once.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// Runs of `size` elements; the last may be shorter.
pub struct Chunks<'a, T> {
    data: *mut T,
    len: usize,
    size: usize,
    owner: PhantomData<&'a mut [T]>,
}

impl<'a, T> Chunks<'a, T> {
    pub fn new(data: &'a mut [T], size: usize) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), size: size.max(1), owner: PhantomData }
    }
}

// SAFETY: it stands for an exclusive borrow of a slice, whose parts go to several threads.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

// SAFETY: the ranges [i * size, (i + 1) * size) are disjoint and clipped to the slice.
unsafe impl<'a, T: Send> Split for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn parts(&self) -> usize {
        self.len.div_ceil(self.size)
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let start = index * self.size;
        let len = self.size.min(self.len - start);
        // SAFETY: start + len <= self.len, and the caller asks for each index once.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

/// A matrix [rows, stride] of which the first `cols` columns are cut into tiles.
pub struct Grid<'a> {
    data: *mut f32,
    stride: usize,
    cols: usize,
    col_block: usize,
    rows: Rows<'a>,
    owner: PhantomData<&'a mut [f32]>,
}

#[derive(Clone, Copy)]
enum Rows<'a> {
    Even { rows: usize, block: usize },
    Listed(&'a [Range<usize>]),
}

impl<'a> Grid<'a> {
    /// Tiles of `block` = [rows, cols]. Rows that `data` does not hold whole are left out.
    pub fn new(data: &'a mut [f32], stride: usize, cols: usize, block: [usize; 2]) -> Self {
        let rows = Rows::Even { rows: data.len() / stride.max(1), block: block[0].max(1) };
        Self::of(data, stride, cols, block[1], rows)
    }

    /// Tiles of the row ranges `rows`, which must ascend without overlap, by `col_block` columns.
    pub fn listed(data: &'a mut [f32], stride: usize, rows: &'a [Range<usize>], col_block: usize) -> Self {
        let ascending = rows.windows(2).all(|r| r[0].end <= r[1].start) && rows.iter().all(|r| r.start <= r.end);
        let inside = rows.last().is_none_or(|r| r.end <= data.len() / stride.max(1));
        assert!(ascending && inside, "tiles that overlap or leave their buffer");
        Self::of(data, stride, stride, col_block, Rows::Listed(rows))
    }

    fn of(data: &'a mut [f32], stride: usize, cols: usize, col_block: usize, rows: Rows<'a>) -> Self {
        let cols = cols.min(stride);
        Self { data: data.as_mut_ptr(), stride, cols, col_block: col_block.max(1), rows, owner: PhantomData }
    }

    fn col_parts(&self) -> usize {
        self.cols.div_ceil(self.col_block)
    }

    fn row_parts(&self) -> usize {
        match self.rows {
            Rows::Even { rows, block } => rows.div_ceil(block),
            Rows::Listed(list) => list.len(),
        }
    }
}

// SAFETY: it stands for an exclusive borrow of a matrix, whose tiles go to several threads.
unsafe impl Sync for Grid<'_> {}

// SAFETY: row ranges are disjoint, and so are the column ranges of one row range.
unsafe impl<'a> Split for Grid<'a> {
    type Part = Tile<'a>;

    fn parts(&self) -> usize {
        self.row_parts() * self.col_parts()
    }

    /// Tiles of the same columns follow each other, so that weights stay in the cache.
    unsafe fn part(&self, index: usize) -> Tile<'a> {
        let (row, col) = (index % self.row_parts(), index / self.row_parts());
        let rows = match self.rows {
            Rows::Even { rows, block } => row * block..((row + 1) * block).min(rows),
            Rows::Listed(list) => list[row].clone(),
        };
        let cols = col * self.col_block..((col + 1) * self.col_block).min(self.cols);
        // SAFETY: `rows` and `cols` lie inside the matrix.
        let data = unsafe { self.data.add(rows.start * self.stride + cols.start) };
        Tile { data, stride: self.stride, block: row, rows, cols, owner: PhantomData }
    }
}

/// A rectangle of a matrix: rows `rows`, columns `cols`.
pub struct Tile<'a> {
    data: *mut f32,
    stride: usize,
    block: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    owner: PhantomData<&'a mut [f32]>,
}

impl<'a> Tile<'a> {
    /// The whole of `data` as a tile of [rows, cols]; it must hold so many elements.
    pub fn whole(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert!(rows * cols <= data.len(), "a tile of {rows} x {cols} in {} elements", data.len());
        Self { data: data.as_mut_ptr(), stride: cols, block: 0, rows: 0..rows, cols: 0..cols, owner: PhantomData }
    }

    /// A tile of the same place and size as `other`, whose elements are the first of `data`.
    pub fn like(data: &'a mut [f32], other: &Tile<'_>) -> Self {
        let mut tile = Self::whole(data, other.rows.len(), other.cols.len());
        (tile.rows, tile.cols, tile.block) = (other.rows(), other.cols(), other.block);
        tile
    }

    /// Where the rows are in the matrix.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Where the columns are in the matrix.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// Which of the grid's row ranges this is.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The `i`-th row of the tile.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows.len(), "row {i} of a tile of {}", self.rows.len());
        // SAFETY: the row is inside the tile, which is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols.len()) }
    }
}

// SAFETY: a tile is an exclusive borrow.
unsafe impl Send for Tile<'_> {}

macro_rules! together {
    ($($name:ident $at:tt),*) => {
        // SAFETY: the parts of each member are disjoint, and members are separate borrows.
        unsafe impl<$($name: Split),*> Split for ($($name,)*) {
            type Part = ($($name::Part,)*);

            fn parts(&self) -> usize {
                [$(self.$at.parts()),*].into_iter().fold(usize::MAX, usize::min)
            }

            unsafe fn part(&self, index: usize) -> Self::Part {
                // SAFETY: the index is below the smallest count, and asked for once.
                unsafe { ($(self.$at.part(index),)*) }
            }
        }
    };
}

together!(A 0, B 1);
together!(A 0, B 1, C 2);
together!(A 0, B 1, C 2, D 3);
together!(A 0, B 1, C 2, D 3, E 4);

// SAFETY: the parts are those of the member, if there is one.
unsafe impl<S: Split> Split for Option<S> {
    type Part = Option<S::Part>;

    /// What is not there has as many parts as those that it goes together with.
    fn parts(&self) -> usize {
        self.as_ref().map_or(usize::MAX, S::parts)
    }

    unsafe fn part(&self, index: usize) -> Option<S::Part> {
        // SAFETY: the index is below the member's count, and asked for once.
        self.as_ref().map(|s| unsafe { s.part(index) })
    }
}

// SAFETY: members are separate borrows, and each index belongs to one part of one member.
unsafe impl<S: Split, const N: usize> Split for [S; N] {
    type Part = (usize, S::Part);

    fn parts(&self) -> usize {
        self.iter().map(S::parts).sum()
    }

    unsafe fn part(&self, mut index: usize) -> (usize, S::Part) {
        let mut member = 0;
        while index >= self[member].parts() {
            index -= self[member].parts();
            member += 1;
        }
        // SAFETY: the index is one of this member, and asked for once.
        (member, unsafe { self[member].part(index) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pool;
    use super::*;

    #[test]
    fn tiles_cover_a_matrix_once() {
        let pool = Pool::new(2);
        for (rows, cols, block) in [(1, 1, [1, 1]), (5, 7, [2, 3]), (4, 8, [9, 9]), (3, 5, [1, 2])] {
            let stride = cols + 2;
            let mut data = vec![0.0; rows * stride];
            pool.each(Grid::new(&mut data, stride, cols, block), |_, _, mut tile| {
                for i in 0..tile.rows().len() {
                    tile.row(i).iter_mut().for_each(|x| *x += 1.0);
                }
            });
            for row in data.chunks(stride) {
                assert!(row[..cols].iter().all(|&x| x == 1.0) && row[cols..].iter().all(|&x| x == 0.0));
            }
        }
    }

    #[test]
    fn splits_go_together_and_one_after_the_other() {
        let pool = Pool::new(2);
        let (mut a, mut b) = ([0u8; 6], [0u16; 4]);
        pool.each((Chunks::new(&mut a, 2), Chunks::new(&mut b, 1)), |_, i, (a, b)| {
            a.fill(i as u8 + 1);
            b.fill(i as u16 + 1);
        });
        assert_eq!((a, b), ([1, 1, 2, 2, 3, 3], [1, 2, 3, 0]));
        pool.each((Chunks::new(&mut a, 2), None::<Chunks<u8>>), |_, _, (a, none)| {
            assert!(none.is_none());
            a.fill(7);
        });
        assert_eq!(a, [7; 6]);
        let (mut a, mut b) = ([0u8; 2], [0u8; 3]);
        pool.each([Chunks::new(&mut a, 1), Chunks::new(&mut b, 1)], |_, i, (member, part)| {
            part[0] = (10 * member + i) as u8;
        });
        assert_eq!((a, b), ([0, 1], [12, 13, 14]));
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_rows_are_refused() {
        let mut data = [0.0; 8];
        Grid::listed(&mut data, 2, &[0..2, 1..3], 1);
    }
}
