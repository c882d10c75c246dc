//! The weights on the device: one allocation, each tensor at an aligned place in it.

use super::driver::{MEMORY_TYPE_DEVICE, POINTER_IS_MANAGED, POINTER_MEMORY_TYPE, Ptr};
use super::gpu::Gpu;
use super::memory::DeviceMemory;
use super::packed::Packed;
use crate::device::Weights;
use crate::error::{Error, ErrorCode, Result};
use crate::model::{Linear, Norm, NormKind, Weight, WeightId};
use crate::plan::Plan;
use std::ffi::c_void;
use std::sync::Arc;

use super::params::NormArg;

const ALIGNMENT: u64 = 256;

/// Bytes of a weight as it is stored.
pub(super) fn stored_bytes(weight: &Weight, packed: Option<&Packed>) -> u64 {
    packed.map_or(weight.data.bytes, |p| weight.experts as u64 * p.matrix_bytes(weight.rows))
}

/// Where each weight will be in the allocation, and its bytes in all.
pub(super) fn places(plan: &Plan, stored: &[Option<Packed>]) -> Result<(Vec<u64>, u64)> {
    let mut at = 0u64;
    let mut places = Vec::with_capacity(plan.weights.len());
    for (weight, packed) in plan.weights.iter().zip(stored) {
        let end = at
            .checked_add(stored_bytes(weight, packed.as_ref()))
            .and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
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
    /// How each weight is repacked, or None where it lies as in the file.
    pub(super) stored: Vec<Option<Packed>>,
    pub(super) working: DeviceMemory,
}

impl LoadedWeights {
    pub(super) fn at(&self, id: WeightId) -> Ptr {
        self.slab.ptr + self.places[id.0 as usize]
    }

    /// A linear's first row in the file's layout, and its bias (0: none) at the same row.
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
        // Host memory that the device sees has another type, so this also says that nothing is mapped on the host.
        let (mut kind, mut managed) = (0u32, 0u32);
        if ask(POINTER_MEMORY_TYPE, (&raw mut kind).cast()) != 0 || kind != MEMORY_TYPE_DEVICE {
            return fail("it is not device memory");
        }
        if ask(POINTER_IS_MANAGED, (&raw mut managed).cast()) != 0 || managed != 0 {
            return fail("it is managed memory");
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
        for ((weight, &place), packed) in self.plan.weights.iter().zip(&self.places).zip(&self.stored) {
            let last = place + stored_bytes(weight, packed.as_ref()).max(1) - 1;
            self.check_address(self.slab.ptr + place, &weight.name)?;
            self.check_address(self.slab.ptr + last, &weight.name)?;
        }
        Ok(())
    }
}
