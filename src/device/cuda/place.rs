//! A GPU as the engine sees it: limits, loading, health.

use super::attend;
use super::driver::Ptr;
use super::executor::CudaExecutor;
use super::gpu::Gpu;
use super::inputs::Block;
use super::kv::KvPool;
use super::memory::{DeviceMemory, Stream, in_grains};
use super::packed::{Packed, plan_storage};
use super::scratch::{self, Scratch, Sizes, TILE_ROWS, rope_bytes};
use super::upload::{STAGING_BYTES, Target, upload};
use super::weights::{LoadedWeights, places};
use crate::device::{Device, LoadedModel};
use crate::error::{Error, Result};
use crate::gguf::Source;
use crate::plan::{KvType, Limits, Plan, Step};
use std::sync::Arc;
use std::time::Instant;

/// Left free for the driver: modules, graphs, its own pools.
const RESERVE_BYTES: u64 = 128 << 20;

pub struct CudaDevice {
    gpu: Arc<Gpu>,
}

impl CudaDevice {
    pub(super) fn new(ordinal: i32) -> Result<Self> {
        let gpu = Gpu::get(ordinal)?;
        gpu.check_lost()?;
        Ok(Self { gpu })
    }
}

/// What the kernels take for granted about a plan's shapes; code 3 where one does not hold.
fn check_shapes(plan: &Plan, shared_bytes: usize) -> Result<()> {
    for w in &plan.weights {
        if w.rows * w.experts > 1 && w.cols % 8 != 0 {
            return Err(Error::load(format!("{}: rows of {} weights are no multiple of 8", w.name, w.cols)));
        }
    }
    for step in &plan.steps {
        match step {
            Step::Attend { heads, .. } if heads.dim % 8 != 0 || heads.dim > 256 || heads.q % heads.kv.max(1) != 0 => {
                return Err(Error::load(format!("heads of {} elements: only multiples of 8 up to 256", heads.dim)));
            }
            Step::Attend { heads, .. } if !attend::fits(*heads, shared_bytes) => {
                let (q, kv, dim) = (heads.q, heads.kv, heads.dim);
                return Err(Error::load(format!(
                    "{q} query heads for {kv} of {dim} elements exceed the {shared_bytes} bytes of this GPU's shared memory"
                )));
            }
            Step::Experts(e) if e.router.rows.len() > 1024 => {
                return Err(Error::load(format!("{} experts, more than 1024", e.router.rows.len())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The blocks of a decode pass and of a prefill pass.
fn blocks(sizes: &Sizes) -> (Block, Block) {
    let decode = Block { rows: sizes.decode_rows, tiles: 0, heads: sizes.decode_rows };
    let tiles = sizes.batch_tokens.div_ceil(TILE_ROWS) + sizes.sequences;
    (decode, Block { rows: sizes.batch_tokens, tiles, heads: sizes.logit_rows })
}

fn bytes_of((decode, prefill): (Block, Block)) -> [u64; 2] {
    [decode.bytes() as u64, prefill.bytes() as u64]
}

/// What a model will take on the device, and how it will lie there.
struct Layout {
    sizes: Sizes,
    /// Of a decode pass and of a prefill pass.
    blocks: (Block, Block),
    stored: Vec<Option<Packed>>,
    places: Vec<u64>,
    weight_bytes: u64,
    working_bytes: u64,
}

impl Layout {
    fn new(plan: &Plan, limits: &Limits) -> Result<Self> {
        let sizes = Sizes::new(plan, limits);
        let blocks = blocks(&sizes);
        let (_, working_bytes) = scratch::cut(plan, &sizes, bytes_of(blocks), 0)?;
        let stored = plan_storage(plan);
        let (places, weight_bytes) = places(plan, &stored)?;
        Ok(Self { sizes, blocks, stored, places, weight_bytes, working_bytes })
    }

    /// Code 2 where it does not fit what is free. The context must be current.
    fn check_room(&self, gpu: &Gpu) -> Result<()> {
        let model_bytes = in_grains(self.weight_bytes).saturating_add(in_grains(self.working_bytes));
        let needed = model_bytes.saturating_add(STAGING_BYTES);
        let (free, total) = gpu.memory_info()?;
        if needed.saturating_add(RESERVE_BYTES) > free {
            return Err(Error::memory(format!(
                "the model needs {needed} bytes ({} of weights) and {RESERVE_BYTES} in reserve; \
                 {free} of {total} are free on GPU {}",
                self.weight_bytes, gpu.ordinal
            )));
        }
        Ok(())
    }
}

/// Whether a model with this layout may launch the kernels of `file`.
fn may_launch(file: &str, plan: &Plan, stored: &[Option<Packed>]) -> bool {
    if file == "experts" || file.starts_with("route_") {
        plan.experts > 0
    } else if file.starts_with("product_raw") {
        plan.weights.iter().zip(stored).any(|(w, stored)| w.rows * w.experts > 1 && stored.is_none())
    } else {
        !file.starts_with("product_") || stored.iter().any(Option::is_some)
    }
}

/// Words with a bit for each id that must not be drawn.
fn never_words(plan: &Plan) -> Vec<u8> {
    let mut words = vec![0u8; plan.n_vocab.div_ceil(32) * 4];
    for &id in &plan.never_drawn {
        if let Some(byte) = words.get_mut(id as usize / 8) {
            *byte |= 1 << (id % 8);
        }
    }
    words
}

/// Clears the working memory and puts the constants in it; returns the ropes' addresses.
fn prepare(gpu: &Arc<Gpu>, plan: &Plan, scratch: &Scratch, working: &DeviceMemory) -> Result<Vec<Ptr>> {
    let stream = Stream::new(gpu)?;
    // SAFETY: the whole allocation.
    unsafe { stream.clear(working.ptr, working.bytes)? };
    let never = never_words(plan);
    // SAFETY: a bit per id, as the layout has it; the bytes outlive the synchronisation below.
    unsafe { stream.upload(scratch.never, &never)? };
    let mut at = scratch.ropes;
    let mut ropes = Vec::new();
    let mut frequencies = Vec::new();
    for rope in &plan.ropes {
        frequencies.push(rope.inv_freq.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<u8>>());
        ropes.push(at);
        at += rope_bytes(rope.inv_freq.len());
    }
    for (bytes, &to) in frequencies.iter().zip(&ropes) {
        // SAFETY: a place for these frequencies, as the layout has it.
        unsafe { stream.upload(to, bytes)? };
    }
    stream.synchronize()?;
    Ok(ropes)
}

impl Device for CudaDevice {
    fn name(&self) -> String {
        self.gpu.card.name.clone()
    }

    fn limits(&self, plan: &Plan) -> Limits {
        let small = self.gpu.card.memory_bytes < 12 << 30;
        Limits {
            batch_tokens: if small { 512 } else { 1024 }.min(plan.context.max(64)),
            sequences: 64,
            logit_rows: 64,
            kv_type: KvType::F16,
        }
    }

    fn load(
        &self,
        plan: Arc<Plan>,
        source: Arc<Source>,
        limits: Limits,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<LoadedModel> {
        let start = Instant::now();
        check_shapes(&plan, self.gpu.card.shared_bytes)?;
        if limits.kv_type != KvType::F16 {
            return Err(Error::parameter("kv_type is F32: on a GPU keys and values are F16 alone"));
        }
        let gpu = &self.gpu;
        let _entered = gpu.enter()?;
        let layout = Layout::new(&plan, &limits)?;
        gpu.kernels()?.make_ready(gpu, |file| may_launch(file, &plan, &layout.stored))?;
        layout.check_room(gpu)?;
        let Layout { sizes, blocks, stored, places, weight_bytes, working_bytes } = layout;
        let slab = DeviceMemory::new(gpu, weight_bytes, "the weights")?;
        let working = DeviceMemory::new(gpu, working_bytes, "the working memory")?;
        let (scratch, _) = scratch::cut(&plan, &sizes, bytes_of(blocks), working.ptr)?;
        let ropes = prepare(gpu, &plan, &scratch, &working)?;
        log::debug!("memory is ready after {:.3} s", start.elapsed().as_secs_f64());
        let target = Target { base: slab.ptr, places: &places, stored: &stored };
        upload(gpu, &plan, &source, target, progress)?;
        log::debug!("weights are uploaded after {:.3} s", start.elapsed().as_secs_f64());
        let page_bytes: Vec<u64> = plan.kv_groups.iter().map(|g| g.page_bytes(limits.kv_type) as u64).collect();
        let kv = Arc::new(KvPool::new(gpu, &page_bytes)?);
        let weights = Arc::new(LoadedWeights { gpu: gpu.clone(), plan, slab, places, stored, working });
        let executor = CudaExecutor::new(weights.clone(), kv.clone(), (sizes, scratch, ropes), blocks)?;
        log::debug!("the model is loaded after {:.3} s", start.elapsed().as_secs_f64());
        Ok(LoadedModel { executor: Box::new(executor), kv, weights })
    }

    fn held_bytes(&self) -> u64 {
        self.gpu.held_bytes()
    }

    fn check_health(&self) -> Result<()> {
        let _entered = self.gpu.enter()?;
        self.gpu.memory_info().map(|_| ())
    }
}
