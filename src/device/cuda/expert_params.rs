//! The parameters of the kernels of experts and their choice, byte for byte as kernels/*.cu declare them.

use super::driver::Ptr;
use super::params::PackedProduct;

/// ffn.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub logits: Ptr,
    pub chosen: Ptr,
    pub weights: Ptr,
    pub experts: i32,
    pub used: i32,
    pub n: i32,
}

/// ffn.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Combine {
    pub outputs: Ptr,
    pub weights: Ptr,
    pub places: Ptr,
    pub y: Ptr,
    pub used: i32,
    pub width: i32,
    pub add: i32,
}

/// route_row.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RouteRow {
    pub hidden: Ptr,
    pub norm_weight: Ptr,
    pub norm_bias: Ptr,
    pub router: Ptr,
    pub bias: Ptr,
    pub logits: Ptr,
    pub chosen: Ptr,
    pub weights: Ptr,
    pub finished: Ptr,
    pub norm: u32,
    pub eps: f32,
    pub cols: i32,
    pub experts: i32,
    pub used: i32,
}

/// route_cluster.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RouteCluster {
    pub hidden: Ptr,
    pub norm_weight: Ptr,
    pub norm_bias: Ptr,
    pub router: Ptr,
    pub bias: Ptr,
    pub rows: Ptr,
    pub chosen: Ptr,
    pub weights: Ptr,
    pub norm: u32,
    pub eps: f32,
    pub cols: i32,
    pub experts: i32,
    pub used: i32,
    pub row_stride: i32,
    pub n: i32,
    pub each: i32,
}

/// route_rows.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RouteRows {
    pub hidden: Ptr,
    pub norm_weight: Ptr,
    pub norm_bias: Ptr,
    pub router: Ptr,
    pub bias: Ptr,
    pub normed: Ptr,
    pub rows: Ptr,
    pub logits: Ptr,
    pub chosen: Ptr,
    pub weights: Ptr,
    pub norm: u32,
    pub eps: f32,
    pub cols: i32,
    pub experts: i32,
    pub used: i32,
    pub row_stride: i32,
}

/// sort_choices.cuh
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Choices {
    pub chosen: Ptr,
    pub slot: Ptr,
    pub count: u32,
    pub used: u32,
    pub experts: u32,
    pub most: u32,
}

/// product_experts.cu
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct ExpertsProduct {
    pub product: PackedProduct,
    pub choices: Choices,
    pub x_divide: u32,
    pub x_buffers: u32,
    pub chosen_before: u32,
    pub share: u32,
}

/// experts.cu
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub chosen: Ptr,
    pub places: Ptr,
    pub items: Ptr,
    pub item_count: Ptr,
    pub slot: Ptr,
    pub n: i32,
    pub used: i32,
    pub experts: i32,
    pub align: i32,
    pub most: i32,
    pub spare: i32,
}
