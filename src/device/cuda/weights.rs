//! The weights on the device: one allocation, each tensor at an aligned place in it.

use super::driver::{MEMORY_TYPE_DEVICE, POINTER_HOST_POINTER, POINTER_IS_MANAGED, POINTER_MEMORY_TYPE, Ptr};
use super::gpu::Gpu;
use super::memory::DeviceMemory;
use crate::device::Weights;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{Linear, Norm, NormKind, WeightId};
use crate::plan::Plan;
use std::ffi::c_void;
use std::sync::Arc;

use super::params::NormArg;

const ALIGNMENT: u64 = 256;

/// Where each weight will be in the allocation, and its bytes in all.
pub(super) fn places(plan: &Plan) -> Result<(Vec<u64>, u64)> {
    let mut at = 0u64;
    let mut places = Vec::with_capacity(plan.weights.len());
    for weight in &plan.weights {
        let end = at.checked_add(weight.data.bytes).and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
        places.push(at);
        at = end.ok_or_else(|| Error::memory(format!("{} exceeds any device", weight.name)))?;
    }
    Ok((places, at))
}

/// Everything that a model holds on the device, apart from KV pages.
pub(super) struct LoadedWeights {
    pub(super) gpu: Arc<Gpu>,
    pub(super) plan: Arc<Plan>,
    pub(super) slab: DeviceMemory,
    pub(super) places: Vec<u64>,
    pub(super) working: DeviceMemory,
}

impl LoadedWeights {
    pub(super) fn at(&self, id: WeightId) -> Ptr {
        self.slab.ptr + self.places[id.0 as usize]
    }

    /// A linear's first row, and its bias (0: none) at the same row.
    pub(super) fn linear(&self, linear: &Linear) -> (Ptr, Ptr) {
        let weight = self.plan.weight(linear.weight);
        let first = linear.rows.start as u64;
        let bias = linear.bias.map_or(0, |id| self.at(id) + first * 4);
        (self.at(linear.weight) + first * weight.row_bytes() as u64, bias)
    }

    pub(super) fn norm(&self, norm: &Norm) -> NormArg {
        NormArg {
            weight: self.at(norm.weight),
            bias: norm.bias.map_or(0, |id| self.at(id)),
            eps: norm.eps,
            layer: (norm.kind == NormKind::Layer).into(),
        }
    }

    /// Code 7 unless the driver says that `ptr` is memory of the device and of nothing else.
    fn check_address(&self, ptr: Ptr, name: &str) -> Result<()> {
        let ask = |attribute, value: *mut c_void| {
            // SAFETY: a place as large as the attribute; any address may be asked about.
            unsafe { self.gpu.api.pointer_attribute(value, attribute, ptr) }
        };
        let fail = |what: &str| {
            let reason = format!("{name} is not resident on GPU {}: {what}", self.gpu.ordinal);
            Err(Error::new(ErrorCode::VramResidencyFailed, reason))
        };
        let (mut kind, mut managed, mut host) = (0u32, 0u32, std::ptr::null_mut::<c_void>());
        if ask(POINTER_MEMORY_TYPE, (&raw mut kind).cast()) != 0 || kind != MEMORY_TYPE_DEVICE {
            return fail("it is not device memory");
        }
        if ask(POINTER_IS_MANAGED, (&raw mut managed).cast()) != 0 || managed != 0 {
            return fail("it is managed memory");
        }
        if ask(POINTER_HOST_POINTER, (&raw mut host).cast()) == 0 && !host.is_null() {
            return fail("it is mapped on the host");
        }
        Ok(())
    }
}

impl Weights for LoadedWeights {
    fn held_bytes(&self) -> u64 {
        self.slab.bytes + self.working.bytes
    }

    fn check_residency(&self) -> Result<()> {
        let _entered = self.gpu.enter()?;
        for (weight, &place) in self.plan.weights.iter().zip(&self.places) {
            let last = place + weight.data.bytes.max(1) - 1;
            self.check_address(self.slab.ptr + place, &weight.name)?;
            self.check_address(self.slab.ptr + last, &weight.name)?;
        }
        Ok(())
    }
}
