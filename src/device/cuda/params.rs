//! The kernels' parameters, byte for byte as kernels/*.cu declare them.

use super::driver::Ptr;
pub(super) use super::expert_params::*;

/// `Norm` of common.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct NormArg {
    pub weight: Ptr,
    pub bias: Ptr,
    pub eps: f32,
    pub layer: i32,
}

/// `KvView` of common.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct KvView {
    pub base: Ptr,
    pub page_bytes: u64,
    pub tables: Ptr,
    pub table_stride: i32,
    pub group: i32,
    pub table_offset: i32,
    pub layer: i32,
    pub heads: i32,
    pub dim: i32,
    pub ring: i32,
}

/// embed.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Embed {
    pub table: Ptr,
    pub positions: Ptr,
    pub token: Ptr,
    pub slot: Ptr,
    pub position: Ptr,
    pub drawn: Ptr,
    pub hidden: Ptr,
    pub table_row_bytes: u64,
    pub positions_row_bytes: u64,
    pub table_type: i32,
    pub positions_type: i32,
    pub width: i32,
    pub scale: f32,
}

/// norm.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct NormRows {
    pub x: Ptr,
    pub y: Ptr,
    pub gather: Ptr,
    pub norm: NormArg,
    pub width: i32,
}

/// product_raw.cuh
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Product {
    pub weight: Ptr,
    pub row_bytes: u64,
    pub x: Ptr,
    pub y: Ptr,
    pub bias: Ptr,
    pub experts: Ptr,
    pub expert_bytes: u64,
    pub cols: i32,
    pub rows: i32,
    pub n: i32,
    pub x_stride: i32,
    pub y_stride: i32,
    pub x_divide: i32,
    pub bias_stride: i32,
    pub add: i32,
}

/// `Rope` of rope.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RopeArg {
    pub inv_freq: Ptr,
    pub magnitude: f32,
    pub pairs: i32,
    pub adjacent: i32,
}

/// qkv.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct QkvEpilogue {
    pub q: Ptr,
    pub k: Ptr,
    pub v: Ptr,
    pub slot: Ptr,
    pub position: Ptr,
    pub q_norm: NormArg,
    pub k_norm: NormArg,
    pub kv: KvView,
    pub rope: RopeArg,
    pub q_heads: i32,
    pub q_stride: i32,
    pub kv_stride: i32,
}

/// `Mixed` of attend.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Mixed {
    pub plain: Ptr,
    pub packed: Ptr,
    pub stride: i32,
    pub panels: i32,
}

/// attend.cuh
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Attend {
    pub q: Ptr,
    pub k: Ptr,
    pub v: Ptr,
    pub slot: Ptr,
    pub position: Ptr,
    pub tiles: Ptr,
    pub sinks: Ptr,
    pub partial: Ptr,
    pub finished: Ptr,
    pub mixed: Mixed,
    pub q_norm: NormArg,
    pub k_norm: NormArg,
    pub rope: RopeArg,
    pub kv: KvView,
    pub scale: f32,
    pub window: i32,
    pub q_heads: i32,
    pub q_stride: i32,
    pub kv_stride: i32,
    pub splits: i32,
}

/// ffn.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Activate {
    pub gate: Ptr,
    pub up: Ptr,
    pub y: Ptr,
    pub count: u64,
    pub kind: i32,
    pub alpha: f32,
    pub limit: f32,
}

/// sample.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub logits: Ptr,
    pub draws: Ptr,
    pub never: Ptr,
    pub best: Ptr,
    pub finished: Ptr,
    pub drawn: Ptr,
    pub outputs: Ptr,
    pub n_vocab: i32,
    pub parts: i32,
}

/// `ProductMatrix` of product_layout.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct ProductMatrix {
    pub weights: Ptr,
    pub bias: Ptr,
    pub out: Ptr,
    pub expert_bytes: u64,
    pub kind: u32,
    pub rows: u32,
    pub out_stride: u32,
    pub first_unit: u32,
    pub piece_bytes: u32,
    pub last_piece_bytes: u32,
    pub tile_bytes: u32,
    pub tiles: u32,
}

/// `ProductArgs` of product_layout.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct PackedProduct {
    pub matrix: [ProductMatrix; 3],
    pub x: Ptr,
    pub items: Ptr,
    pub item_count: Ptr,
    pub matrices: u32,
    pub units: u32,
    pub cols: u32,
    pub tokens: u32,
    pub x_stride: u32,
    pub act: u32,
    pub store: u32,
    pub stages: u32,
    pub weight_stages: u32,
    pub slot_bytes: u32,
    pub out_scale: f32,
    pub store_scale: f32,
    pub alpha: f32,
    pub limit: f32,
}

/// product_row.cuh
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RowProduct {
    pub product: PackedProduct,
    pub hidden: Ptr,
    pub norm_weight: Ptr,
    pub norm_bias: Ptr,
    pub chosen: Ptr,
    pub norm: u32,
    pub eps: f32,
    pub x_per_expert: u32,
    pub quiet: u32,
}

/// product_rows.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RowsProduct {
    pub product: PackedProduct,
    pub resident: u32,
    pub pad: u32,
}

/// prepare.cu
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Prepare {
    pub input: Ptr,
    pub weight: Ptr,
    pub bias: Ptr,
    pub out: Ptr,
    pub places: Ptr,
    pub cols: u32,
    pub in_stride: u32,
    pub out_stride: u32,
    pub copies: u32,
    pub norm: u32,
    pub format: u32,
    pub eps: f32,
    pub scale: f32,
}

/// repack.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Repack {
    pub source: Ptr,
    pub target: Ptr,
    pub row_bytes: u64,
    pub ty: u32,
    pub rows: u32,
    pub cols: u32,
}

/// embed_packed.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct EmbedPacked {
    pub table: Ptr,
    pub token: Ptr,
    pub slot: Ptr,
    pub position: Ptr,
    pub drawn: Ptr,
    pub positions: Ptr,
    pub hidden: Ptr,
    pub positions_row_bytes: u64,
    pub positions_type: i32,
    pub kind: u32,
    pub piece_bytes: u32,
    pub last_piece_bytes: u32,
    pub tile_bytes: u32,
    pub tiles: u32,
    pub width: i32,
    pub scale: f32,
}
