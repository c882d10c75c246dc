//! Builds a spec's weights from the tensor table: each is looked up by name and must have the shape that the
//! hyperparameters say, so that no device ever meets a matrix of another size.

use super::{Embedding, Head, Linear, Norm, NormKind, Weight, WeightId};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Tensor};
use crate::quant::QuantType;
use std::collections::HashMap;

/// Collects the weights that a model uses.
pub struct Builder<'a> {
    gguf: &'a Gguf,
    weights: Vec<Weight>,
    ids: HashMap<String, WeightId>,
    norm_kind: NormKind,
    eps: f32,
}

/// The size of a linear step: `rows` outputs from `cols` inputs.
#[derive(Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub cols: usize,
}

impl<'a> Builder<'a> {
    pub fn new(gguf: &'a Gguf, norm_kind: NormKind, eps: f32) -> Self {
        Self { gguf, weights: Vec::new(), ids: HashMap::new(), norm_kind, eps }
    }

    pub fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    fn tensor(&self, name: &str) -> Result<&'a Tensor> {
        self.gguf.tensor(name).ok_or_else(|| Error::load(format!("the tensor {name} is missing")))
    }

    /// The weight `name`, whose dimensions must be `dims` (inputs first); ones at the end may be left out.
    fn weight(&mut self, name: &str, dims: [usize; 3]) -> Result<WeightId> {
        let t = self.tensor(name)?;
        if t.dims != [dims[0], dims[1], dims[2], 1] {
            return Err(Error::load(format!("the tensor {name} is {:?}, but the metadata says {dims:?}", t.dims)));
        }
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = WeightId(self.weights.len() as u32);
        self.weights.push(Weight {
            name: name.to_string(),
            ty: t.ty,
            cols: dims[0],
            rows: dims[1],
            experts: dims[2],
            data: t.data,
        });
        self.ids.insert(name.to_string(), id);
        Ok(id)
    }

    /// An F32 tensor that no matrix product reads: norms, biases, sinks.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<WeightId> {
        self.f32_only(name)?;
        self.weight(name, [len, 1, 1])
    }

    fn f32_only(&self, name: &str) -> Result<()> {
        let ty = self.tensor(name)?.ty;
        if ty != QuantType::F32 {
            return Err(Error::load(format!("the tensor {name} is {}; only F32 runs there", ty.name())));
        }
        Ok(())
    }

    /// A matrix whose rows are read one by one.
    pub fn table(&mut self, name: &str, size: Size) -> Result<WeightId> {
        self.weight(name, [size.cols, size.rows, 1])
    }

    /// The norm `stem`.weight, with `stem`.bias where the kind has one.
    pub fn norm(&mut self, stem: &str, len: usize) -> Result<Norm> {
        let weight = self.vector(&format!("{stem}.weight"), len)?;
        let bias = match self.norm_kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(self.vector(&format!("{stem}.bias"), len)?),
        };
        Ok(Norm { kind: self.norm_kind, weight, bias, eps: self.eps })
    }

    /// The matrix `stem`.weight, with the bias `stem`.bias if the file has one.
    pub fn linear(&mut self, stem: &str, size: Size) -> Result<Linear> {
        let weight = self.weight(&format!("{stem}.weight"), [size.cols, size.rows, 1])?;
        let bias_name = format!("{stem}.bias");
        let bias = if self.has(&bias_name) { Some(self.vector(&bias_name, size.rows)?) } else { None };
        Ok(Linear { weight, rows: 0..size.rows, bias })
    }

    /// One matrix `stem`.weight that holds several, one below the other.
    pub fn fused<const N: usize>(&mut self, stem: &str, rows: [usize; N], cols: usize) -> Result<[Linear; N]> {
        let whole = self.linear(stem, Size { rows: rows.iter().sum(), cols })?;
        let mut first = 0;
        Ok(rows.map(|n| {
            let part = Linear { rows: first..first + n, ..whole.clone() };
            first += n;
            part
        }))
    }

    /// A stack of matrices, one per expert, with biases [experts, rows] if the file has them.
    pub fn stack(&mut self, stem: &str, experts: usize, size: Size) -> Result<Linear> {
        let weight = self.weight(&format!("{stem}.weight"), [size.cols, size.rows, experts])?;
        let bias_name = format!("{stem}.bias");
        let bias = if self.has(&bias_name) {
            self.f32_only(&bias_name)?;
            Some(self.weight(&bias_name, [size.rows, experts, 1])?)
        } else {
            None
        };
        Ok(Linear { weight, rows: 0..size.rows, bias })
    }

    /// Rows of the embedding: the size of the vocabulary.
    pub fn n_vocab(&self) -> Result<usize> {
        Ok(self.tensor("token_embd.weight")?.dims[1])
    }

    pub fn embedding(&mut self, n_vocab: usize, n_embd: usize) -> Result<Embedding> {
        let table = self.table("token_embd.weight", Size { rows: n_vocab, cols: n_embd })?;
        Ok(Embedding { table, positions: None, scale: 1.0 })
    }

    /// The output norm and matrix; the embedding's table serves where the file has no output matrix.
    pub fn head(&mut self, n_vocab: usize, n_embd: usize) -> Result<Head> {
        let norm = self.norm("output_norm", n_embd)?;
        let stem = if self.has("output.weight") { "output" } else { "token_embd" };
        let output = self.linear(stem, Size { rows: n_vocab, cols: n_embd })?;
        Ok(Head { norm, output })
    }

    /// Numbers of an F32 tensor, read from the file: the rope's divisors.
    pub fn values(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(t) = self.gguf.tensor(name) else { return Ok(None) };
        self.f32_only(name)?;
        if t.dims != [len, 1, 1, 1] {
            return Err(Error::load(format!("the tensor {name} is {:?}, but {len} pairs rotate", t.dims)));
        }
        let bytes = self.gguf.source().bytes(&t.data);
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match values.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
            Some(v) => Err(Error::load(format!("the tensor {name} holds {v}, but divisors are finite and above 0"))),
            None => Ok(Some(values)),
        }
    }

    pub fn finish(self) -> Vec<Weight> {
        self.weights
    }
}
