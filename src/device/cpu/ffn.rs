//! Feed-forward layers, dense and of experts, and the projection that ends a branch.

use super::buffers::{Buffers, Room, Routing};
use super::linear::{Context, room};
use super::pool::{Chunks, Grid, Tile};
use super::simd::Input;
use crate::model::{Activation, Linear, Norm};
use crate::plan::{self, Experts};
use std::ops::Range;

/// gate, up and what joins them.
#[derive(Clone, Copy)]
struct Gated<'a> {
    gate: Option<&'a Linear>,
    up: &'a Linear,
    activation: Activation,
}

impl Context<'_> {
    /// hidden += post_norm(linear(input))
    pub fn project(&self, which: plan::Input, linear: &Linear, post_norm: Option<&Norm>, b: &mut Buffers) {
        let n = b.rows.len();
        let cols = self.plan.weight(linear.weight).cols;
        let from = match which {
            plan::Input::Mixed => &b.q[..n * cols],
            plan::Input::Ffn => &b.ffn[..n * cols],
        };
        let integers = self.integers(&[linear.weight]);
        self.quantise(from, cols, integers, &mut b.planes);
        let input = b.planes.input(from, cols, integers);
        let width = n * self.plan.n_embd;
        match post_norm {
            None => self.add_linear(linear, input, &mut b.hidden[..width], &b.rooms),
            Some(norm) => {
                self.linear(linear, input, &mut b.x[..width], &b.rooms);
                self.add_normed(norm, &mut b.x[..width], &mut b.hidden[..width]);
            }
        }
    }

    /// hidden += norm(x)
    fn add_normed(&self, norm: &Norm, x: &mut [f32], hidden: &mut [f32]) {
        let normed = self.normed(norm);
        let width = self.plan.n_embd;
        self.pool.each((Chunks::new(x, width), Chunks::new(hidden, width)), |_, _, (x, hidden)| {
            normed.apply_in_place(x);
            self.isa.add(hidden, x);
        });
    }

    /// x = norm(hidden); ffn = activation(gate(x), up(x))
    pub fn gate_up(&self, norm: &Norm, linears: (Option<&Linear>, &Linear), activation: Activation, b: &mut Buffers) {
        let (gate, up) = linears;
        let n_embd = self.plan.n_embd;
        let len = b.rows.len() * n_embd;
        let integers = self.integers(&[gate.unwrap_or(up).weight, up.weight]);
        self.norm(norm, &b.hidden[..len], &mut b.x[..len], integers, &mut b.planes);
        let input = b.planes.input(&b.x[..len], n_embd, integers);
        let width = up.rows.len();
        let block = self.block([b.rows.len(), width, n_embd], integers);
        let grid = Grid::new(&mut b.ffn[..b.rows.len() * width], width, width, block);
        let gated = Gated { gate, up, activation };
        self.pool.each(grid, |thread, _, mut tile| {
            self.gated_tile(gated, 0, input, &mut tile, &mut room(&b.rooms, thread));
        });
    }

    fn gated_tile(&self, g: Gated<'_>, expert: usize, input: Input<'_>, tile: &mut Tile<'_>, room: &mut Room) {
        self.tile(g.up, expert, input, tile, room.split().1);
        let Some(gate) = g.gate else {
            return (0..tile.rows().len()).for_each(|t| self.isa.activate_up(g.activation, tile.row(t)));
        };
        let (gates, row) = room.split();
        let mut gates = Tile::like(gates, tile);
        self.tile(gate, expert, input, &mut gates, row);
        for t in 0..tile.rows().len() {
            self.isa.activate(g.activation, gates.row(t), tile.row(t));
        }
    }

    /// x = norm(hidden); hidden += post_norm(the chosen experts' sum)
    pub fn experts(&self, step: &Experts, b: &mut Buffers) {
        let (n, n_embd) = (b.rows.len(), self.plan.n_embd);
        let pairs = n * step.used;
        let integers = self.integers(&[step.router.weight]);
        self.norm(&step.norm, &b.hidden[..n * n_embd], &mut b.x[..n * n_embd], integers, &mut b.planes);
        let experts = step.router.rows.len();
        let input = b.planes.input(&b.x[..n * n_embd], n_embd, integers);
        self.linear(&step.router, input, &mut b.router[..n * experts], &b.rooms);
        let longest =
            self.block([pairs, step.up.rows.len(), n_embd], self.integers(&[step.gate.weight, step.up.weight]))[0];
        b.routing.choose(&b.router[..n * experts], experts, step.used, longest);
        self.gather(b, pairs);
        self.expert_gate_up(step, b, pairs);
        self.expert_down(step, b, pairs);
        self.sum_experts(step, b);
    }

    /// Copies each pair's row of x next to those of the same expert.
    fn gather(&self, b: &mut Buffers, pairs: usize) {
        let (x, rows, width) = (&b.x, &b.routing.rows, self.plan.n_embd);
        self.pool.each(Chunks::new(&mut b.pairs[..pairs * width], width), |_, pair, out| {
            out.copy_from_slice(&x[rows[pair] * width..][..width]);
        });
    }

    fn expert_gate_up(&self, step: &Experts, b: &mut Buffers, pairs: usize) {
        let n_embd = self.plan.n_embd;
        let integers = self.integers(&[step.gate.weight, step.up.weight]);
        self.quantise(&b.pairs[..pairs * n_embd], n_embd, integers, &mut b.planes);
        let input = b.planes.input(&b.pairs[..pairs * n_embd], n_embd, integers);
        let width = step.up.rows.len();
        let block = self.block([pairs, width, n_embd], integers)[1];
        let (routing, rooms) = (&b.routing, &b.rooms);
        let grid = Grid::listed(&mut b.ffn[..pairs * width], width, &routing.blocks, block);
        let gated = Gated { gate: Some(&step.gate), up: &step.up, activation: step.activation };
        self.pool.each(grid, |thread, _, mut tile| {
            let expert = routing.block_experts[tile.block()];
            self.gated_tile(gated, expert, input, &mut tile, &mut room(rooms, thread));
        });
    }

    fn expert_down(&self, step: &Experts, b: &mut Buffers, pairs: usize) {
        let (cols, width) = (step.up.rows.len(), self.plan.n_embd);
        let integers = self.integers(&[step.down.weight]);
        self.quantise(&b.ffn[..pairs * cols], cols, integers, &mut b.planes);
        let input = b.planes.input(&b.ffn[..pairs * cols], cols, integers);
        let (routing, rooms) = (&b.routing, &b.rooms);
        let block = self.block([pairs, width, cols], integers)[1];
        let grid = Grid::listed(&mut b.pairs[..pairs * width], width, &routing.blocks, block);
        self.pool.each(grid, |thread, _, mut tile| {
            let expert = routing.block_experts[tile.block()];
            self.tile(&step.down, expert, input, &mut tile, room(rooms, thread).split().1);
        });
    }

    /// Adds the experts' outputs in the order of their rank, so that the sum has one order only.
    fn sum_experts(&self, step: &Experts, b: &mut Buffers) {
        let (n, width, used) = (b.rows.len(), self.plan.n_embd, step.used);
        let normed = step.post_norm.as_ref().map(|norm| self.normed(norm));
        let (pairs, choices) = (&b.pairs, &b.routing.choices);
        let parts = (Chunks::new(&mut b.x[..n * width], width), Chunks::new(&mut b.hidden[..n * width], width));
        self.pool.each(parts, |_, row, (x, hidden)| {
            x.fill(0.0);
            for &(pair, weight) in &choices[row * used..][..used] {
                let out = &pairs[pair * width..][..width];
                x.iter_mut().zip(out).for_each(|(x, out)| *x += weight * out);
            }
            if let Some(normed) = normed {
                normed.apply_in_place(x);
            }
            self.isa.add(hidden, x);
        });
    }
}

impl Routing {
    /// Chooses `used` experts for each row of `logits` [rows, experts], and groups the pairs by expert in blocks of at most
    /// `longest`. Of equal logits the lower expert wins; a NaN never does while there is a number.
    fn choose(&mut self, logits: &[f32], experts: usize, used: usize, longest: usize) {
        let chosen = self.experts.chunks_exact_mut(used).zip(self.choices.chunks_exact_mut(used));
        self.starts[..=experts].fill(0);
        for (logits, (chosen, choices)) in logits.chunks_exact(experts).zip(chosen) {
            best(logits, chosen);
            softmax(logits, chosen, choices);
            chosen.iter().for_each(|&e| self.starts[e + 1] += 1);
        }
        self.blocks.clear();
        self.block_experts.clear();
        for e in 0..experts {
            self.starts[e + 1] += self.starts[e];
            for block in blocks(self.starts[e]..self.starts[e + 1], longest) {
                self.blocks.push(block);
                self.block_experts.push(e);
            }
        }
        for choice in 0..logits.len() / experts * used {
            let next = &mut self.starts[self.experts[choice]];
            self.choices[choice].0 = *next;
            self.rows[*next] = choice / used;
            *next += 1;
        }
    }
}

/// The ids of the largest logits, best first.
fn best(logits: &[f32], chosen: &mut [usize]) {
    for i in 0..chosen.len() {
        let (before, rest) = chosen.split_at_mut(i);
        let free = (0..logits.len()).filter(|e| !before.contains(e));
        let rank = |e: usize| if logits[e].is_nan() { f32::NEG_INFINITY } else { logits[e] };
        rest[0] = free.reduce(|a, b| if rank(b) > rank(a) { b } else { a }).unwrap_or(0);
    }
}

/// The weights of the chosen: a softmax over their logits alone.
fn softmax(logits: &[f32], chosen: &[usize], choices: &mut [(usize, f32)]) {
    let max = logits[chosen[0]];
    let mut sum = 0.0;
    for (choice, &e) in choices.iter_mut().zip(chosen) {
        choice.1 = (logits[e] - max).exp();
        sum += choice.1;
    }
    choices.iter_mut().for_each(|choice| choice.1 /= sum);
}

fn blocks(range: Range<usize>, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(longest.max(1)).map(move |start| start..(start + longest.max(1)).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_chosen_by_logit_and_grouped() {
        let mut routing = Routing {
            rows: vec![0; 4],
            choices: vec![(0, 0.0); 4],
            experts: vec![0; 4],
            starts: vec![0; 4],
            ..Routing::default()
        };
        routing.choose(&[1.0, 1.0, 0.0, f32::NAN, 3.0, 3.0], 3, 2, 1);
        assert_eq!(routing.experts, [0, 1, 1, 2]);
        assert_eq!(routing.rows, [0, 0, 1, 1]);
        assert_eq!(routing.choices, [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5)]);
        assert_eq!(routing.blocks, [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(routing.block_experts, [0, 1, 1, 2]);
    }
}
