//! Matrix products: which kernel makes y = W x + b for a type, a layout and a phase.
//!
//! The choice hangs on the weight and the phase alone, never on the number of rows, so that a row's result does not know its
//! neighbours.

use super::driver::Ptr;
use super::kernels::Launch;
use super::params;
use super::pass::Run;
use crate::error::Result;
use crate::model::Linear;
use crate::quant::QuantType;

/// Rows of activations: [n, stride], of which the product reads as many columns as the matrix has.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub at: Ptr,
    pub stride: usize,
    pub n: usize,
}

/// Which expert each row of the output is of, and which row of the input it reads.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    pub experts: Ptr,
    /// Output row j reads input row j / `divide`.
    pub divide: usize,
}

/// (file, suffix) of the kernels for a type in the file's own layout.
fn raw_kernel(ty: QuantType) -> (&'static str, &'static str) {
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
    pub(super) fn product(&self, linear: &Linear, x: Rows, y: Rows, add: bool) -> Result<()> {
        let p = self.raw_params(linear, x, y, add);
        let (file, name) = raw_kernel(self.weights.plan.weight(linear.weight).ty);
        let grid = [(p.rows as usize).div_ceil(4), y.n.div_ceil(8), 1];
        self.launch(file, &format!("product_{name}"), grid, (128, 0), &p)
    }

    /// The same, each row with its own expert's matrix.
    pub(super) fn expert_product(&self, linear: &Linear, chosen: Chosen, x: Rows, y: Rows) -> Result<()> {
        let weight = self.weights.plan.weight(linear.weight);
        let p = params::Product {
            experts: chosen.experts,
            x_divide: chosen.divide as i32,
            expert_bytes: weight.rows as u64 * weight.row_bytes() as u64,
            bias_stride: weight.rows as i32,
            ..self.raw_params(linear, x, y, false)
        };
        let (file, name) = raw_kernel(weight.ty);
        let grid = [(p.rows as usize).div_ceil(4), y.n, 1];
        self.launch(file, &format!("product_experts_{name}"), grid, (128, 0), &p)
    }

    fn raw_params(&self, linear: &Linear, x: Rows, y: Rows, add: bool) -> params::Product {
        let weight = self.weights.plan.weight(linear.weight);
        let (at, bias) = self.weights.linear(linear);
        params::Product {
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
            ..params::Product::default()
        }
    }

    pub(super) fn launch<P: Copy>(
        &self,
        file: &'static str,
        name: &str,
        grid: [usize; 3],
        (threads, shared_bytes): (u32, u32),
        params: &P,
    ) -> Result<()> {
        let launch = Launch { file, name, grid, threads, shared_bytes };
        let gpu = &self.weights.gpu;
        // SAFETY: each caller passes the struct that its kernel declares, with addresses from `Scratch`, `LoadedWeights` and
        // `KvPool`, which are as large as the plan and the limits say; `submit` has checked the batch against both.
        unsafe { gpu.kernels()?.launch(gpu, self.stream, &launch, params) }
    }
}
