//! Products over weights in the file's own layout: F32, odd shapes, and everything under WORKER_ORCD_CUDA_SAFE=1.

use super::driver::Ptr;
use super::params::Product;
use super::pass::Run;
use super::products::Rows;
use crate::error::Result;
use crate::model::Linear;
use crate::quant::QuantType;

/// Which expert each row of the output is of, and which row of the input it reads.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    pub experts: Ptr,
    /// Output row j reads input row j / `divide`.
    pub divide: usize,
}

/// (file, suffix) of the kernels for a type.
fn kernel(ty: QuantType) -> (&'static str, &'static str) {
    const PLAIN: &str = "product_raw";
    const SUPER: &str = "product_raw_k";
    match ty {
        QuantType::F32 => (PLAIN, "f32"),
        QuantType::F16 => (PLAIN, "f16"),
        QuantType::BF16 => (PLAIN, "bf16"),
        QuantType::Q4_0 => (PLAIN, "q4_0"),
        QuantType::Q4_1 => (PLAIN, "q4_1"),
        QuantType::Q5_0 => (PLAIN, "q5_0"),
        QuantType::Q5_1 => (PLAIN, "q5_1"),
        QuantType::Q8_0 => (PLAIN, "q8_0"),
        QuantType::IQ4NL => (PLAIN, "iq4_nl"),
        QuantType::MXFP4 => (PLAIN, "mxfp4"),
        QuantType::Q2K => (SUPER, "q2_k"),
        QuantType::Q3K => (SUPER, "q3_k"),
        QuantType::Q4K => (SUPER, "q4_k"),
        QuantType::Q5K => (SUPER, "q5_k"),
        QuantType::Q6K => (SUPER, "q6_k"),
        QuantType::IQ4XS => (SUPER, "iq4_xs"),
    }
}

impl Run<'_> {
    /// y = W x + b, or y += that.
    pub(super) fn raw_product(&self, linear: &Linear, x: Rows, y: Rows, add: bool) -> Result<()> {
        let p = self.raw_params(linear, x, y, add);
        let (file, name) = kernel(self.weights.plan.weight(linear.weight).ty);
        // As kernels/product_raw.cuh has it.
        let together = if name == "f32" { 2 } else { 8 };
        let grid = [(p.rows as usize).div_ceil(4), y.n.div_ceil(together), 1];
        self.launch(file, &format!("product_{name}"), grid, (128, 0), &p)
    }

    /// The same, each row with its own expert's matrix.
    pub(super) fn raw_expert_product(&self, linear: &Linear, chosen: Chosen, x: Rows, y: Rows) -> Result<()> {
        let weight = self.weights.plan.weight(linear.weight);
        let p = Product {
            experts: chosen.experts,
            x_divide: chosen.divide as i32,
            expert_bytes: weight.rows as u64 * weight.row_bytes() as u64,
            bias_stride: weight.rows as i32,
            ..self.raw_params(linear, x, y, false)
        };
        let (file, name) = kernel(weight.ty);
        let grid = [(p.rows as usize).div_ceil(4), y.n, 1];
        self.launch(file, &format!("product_experts_{name}"), grid, (128, 0), &p)
    }

    fn raw_params(&self, linear: &Linear, x: Rows, y: Rows, add: bool) -> Product {
        let weight = self.weights.plan.weight(linear.weight);
        let (at, bias) = self.weights.linear(linear);
        Product {
            weight: at,
            row_bytes: weight.row_bytes() as u64,
            x: x.at,
            y: y.at,
            bias,
            cols: weight.cols as i32,
            rows: linear.rows.len() as i32,
            n: y.n as i32,
            x_stride: x.stride as i32,
            y_stride: y.stride as i32,
            x_divide: 1,
            add: add.into(),
            ..Product::default()
        }
    }
}
