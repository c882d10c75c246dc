//! Which pages a sequence needs of each group of layers, and which places of its table they serve.
//!
//! A place is a page's worth of positions. A group that looks back over all positions has a page for each place. One that looks back
//! over a window needs those of the window alone, so places there take a few pages in turn; but a place that others are to
//! begin behind keeps a page of its own, like a place of the other groups. Whoever begins at some place looks back at the pages
//! of the places just before it, and at nothing before those.

use super::prefix::Block;
use crate::plan::{KvGroup, Limits, PAGE_TOKENS, Plan};
use std::sync::Arc;

/// So many tokens of a prompt's beginning keep their pages in windowed groups, too.
const KEPT_TOKENS: usize = 8192;

/// What all sequences of a model have in common.
pub struct Rules {
    groups: Vec<KvGroup>,
    /// Tokens of one sequence that are computed at once, at most.
    chunk_tokens: usize,
    /// Places before the one that a sequence begins at which a windowed group may look at.
    look_back: usize,
}

impl Rules {
    pub fn new(plan: &Plan, limits: &Limits) -> Self {
        let windows = plan.kv_groups.iter().filter_map(|g| g.window);
        let look_back = windows.map(|w| w.saturating_sub(1).div_ceil(PAGE_TOKENS).max(1)).max().unwrap_or(0);
        Self { groups: plan.kv_groups.clone(), chunk_tokens: limits.batch_tokens, look_back }
    }

    /// How many of these blocks of a prompt's beginning can serve another sequence. Behind the last of them it finds what it looks back
    /// at; and the same holds wherever it has to go on with a block that is not ready, if whoever computes that gives up.
    pub fn usable(&self, blocks: &[Arc<Block>]) -> usize {
        let (mut usable, mut run) = (0, 0);
        for (place, block) in blocks.iter().enumerate() {
            let whole = block.is_whole();
            let can_be_computed = whole && run >= self.look_back.min(place);
            if !(block.is_ready() || can_be_computed) {
                break;
            }
            run = if whole { run + 1 } else { 0 };
            if run >= self.look_back.min(place + 1) {
                usable = place + 1;
            }
        }
        usable
    }

    /// Which of the places `held..blocks` of a prompt keep their pages: its beginning, and what those look back at who begin behind its
    /// last block, or behind the `known` ones that another prompt has, too.
    pub fn kept(&self, held: usize, known: usize, blocks: usize) -> Vec<bool> {
        let before = |place: usize, end: usize| place < end && place + self.look_back >= end;
        let kept = |place| place < KEPT_TOKENS / PAGE_TOKENS || before(place, known) || before(place, blocks);
        (held..blocks).map(kept).collect()
    }
}

/// The places of one sequence: first those of blocks that it holds already, then those of its own blocks, then those that are
/// nobody else's.
pub struct Layout<'a> {
    rules: &'a Rules,
    held: usize,
    /// For each of its own blocks, whether windowed groups keep its page.
    kept: Vec<bool>,
    prompt_tokens: usize,
    tokens: usize,
}

impl<'a> Layout<'a> {
    /// For `tokens` in all that begin with a prompt of `prompt_tokens`.
    pub fn new(rules: &'a Rules, (prompt_tokens, tokens): (usize, usize), held: usize, kept: Vec<bool>) -> Self {
        Self { rules, held, kept, prompt_tokens, tokens }
    }

    /// Pages to be taken of each group.
    pub fn wanted(&self) -> Vec<usize> {
        self.rules.groups.iter().map(|g| self.of_blocks(g) + self.of_turns(g)).collect()
    }

    /// Whether nothing is kept for others.
    pub fn is_frugal(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many blocks of its own the sequence has.
    pub fn own_blocks(&self) -> usize {
        self.kept.len()
    }

    /// The groups that have a page for a block of the sequence's own, the n-th of them.
    pub fn keepers(&self, n: usize) -> impl Iterator<Item = bool> {
        let kept = self.kept.get(n).copied().unwrap_or(false);
        self.rules.groups.iter().map(move |g| kept || g.window.is_none())
    }

    /// The table of a group: the pages of `blocks`, which are the held and the own ones, and between and behind them `turns` in turn.
    pub fn table(&self, group: usize, blocks: &[Arc<Block>], turns: &[u32]) -> Vec<u32> {
        let mut turns = turns.iter().copied().cycle();
        let page = |place: usize| blocks.get(place).and_then(|b| b.pages.get(group).copied().flatten());
        // What stands for a page that is never looked at.
        let any = self.held.checked_sub(1).and_then(page);
        let places = 0..self.tokens.div_ceil(PAGE_TOKENS);
        let pages = places.map(|place| match page(place) {
            None if place < self.held => any.unwrap_or(0),
            None => turns.next().unwrap_or(0),
            Some(page) => page,
        });
        pages.collect()
    }

    fn of_blocks(&self, group: &KvGroup) -> usize {
        match group.window {
            None => self.kept.len(),
            Some(_) => self.kept.iter().filter(|&&kept| kept).count(),
        }
    }

    fn of_turns(&self, group: &KvGroup) -> usize {
        let places = self.tokens.div_ceil(PAGE_TOKENS) - self.held - self.of_blocks(group);
        let first = self.held + self.kept.iter().position(|&kept| !kept).unwrap_or(self.kept.len());
        let chunk = self.prompt_tokens.saturating_sub(first * PAGE_TOKENS).clamp(1, self.rules.chunk_tokens.max(1));
        places.min(group.pages_for(self.tokens, chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::super::prefix::Prefixes;
    use super::*;
    use crate::engine::fake;
    use crate::model::Heads;
    use crate::plan::KvType;

    fn rules(windows: &[Option<usize>], batch_tokens: usize) -> Rules {
        let heads = Heads { q: 1, kv: 1, dim: 1 };
        let groups = windows.iter().map(|&window| KvGroup { heads, window, layers: 1 }).collect();
        let limits = Limits { batch_tokens, sequences: 1, logit_rows: 1, kv_type: KvType::F32 };
        Rules::new(&fake::plan(groups, 4096), &limits)
    }

    /// Blocks of which some keep their page, a letter each: W and w with one, ready and not, N and n without.
    fn blocks(which: &str) -> Vec<Arc<Block>> {
        let mut chain = Vec::new();
        let prompt = vec![0; PAGE_TOKENS * which.len() + 1];
        let page = &mut |n: usize| vec![which.as_bytes()[n].eq_ignore_ascii_case(&b'w').then_some(n as u32)];
        Prefixes::default().add_new(&prompt, &mut chain, which.len(), page);
        let ready = which.bytes().zip(&chain).filter(|(letter, _)| letter.is_ascii_uppercase());
        ready.for_each(|(_, block)| block.set_ready());
        chain
    }

    #[test]
    fn blocks_serve_where_what_is_looked_back_at_is_kept() {
        // Looks back at 64 positions: two blocks.
        let rules = rules(&[Some(65)], 64);
        for (which, usable) in [
            ("", 0),
            ("WWW", 3),
            ("WNW", 1),
            ("NWWN", 3),
            ("WWNNWWNW", 6),
            ("Wwww", 4),
            // Who takes over at the fourth block needs the second and the third.
            ("WWNw", 2),
            ("WWNWWw", 6),
            ("WWNWw", 2),
            ("WWn", 2),
            ("wwnww", 2),
        ] {
            assert_eq!(rules.usable(&blocks(which)), usable, "{which}");
        }
        assert_eq!(self::rules(&[None], 64).usable(&blocks("WwwW")), 4);
    }

    #[test]
    fn a_beginning_an_end_and_a_branch_are_kept() {
        let rules = rules(&[Some(65)], 64);
        assert!(rules.kept(0, 0, 256).iter().all(|&kept| kept));
        let kept = rules.kept(250, 300, 400);
        let places: Vec<usize> = (250..400).zip(kept).filter_map(|(place, kept)| kept.then_some(place)).collect();
        assert_eq!(places, [250, 251, 252, 253, 254, 255, 298, 299, 398, 399]);
    }

    #[test]
    fn pages_are_taken_in_turn_only_where_nobody_looks() {
        let rules = rules(&[None, Some(65)], 96);
        // Ten places, two held, the fifth one kept.
        let layout = Layout::new(&rules, (200, 320), 2, vec![false, false, true]);
        assert_eq!(layout.wanted(), [8, 1 + 7]);
        assert_eq!(layout.keepers(0).collect::<Vec<_>>(), [true, false]);
        assert_eq!(layout.keepers(2).collect::<Vec<_>>(), [true, true]);
        let chain = blocks("NWNNW");
        let turns = [10, 11, 12, 13];
        assert_eq!(layout.table(0, &chain, &turns), [1, 1, 10, 11, 4, 12, 13, 10, 11, 12]);
        // Behind the prompt's blocks, a row at a time is computed.
        let layout = Layout::new(&rules, (65, 640), 0, vec![true, true]);
        assert_eq!(layout.wanted(), [20, 2 + 4]);
        // Nothing shared: as many as the largest chunk of the prompt asks for.
        assert_eq!(Layout::new(&rules, (640, 640), 0, vec![]).wanted(), [20, 7]);
        assert_eq!(Layout::new(&rules, (5, 640), 0, vec![]).wanted(), [20, 4]);
    }
}
