//! The embedded kernels: loaded once per GPU, found by name, launched with one struct of parameters.

use super::driver::{
    ATTRIBUTE_CLUSTER, ATTRIBUTE_PROGRAMMATIC_SERIALIZATION, FUNCTION_DYNAMIC_SHARED, FUNCTION_STATIC_SHARED, Handle,
    LaunchAttribute, LaunchConfig,
};
use super::gpu::Gpu;
use super::ways::{PROMPT_SHARED_BYTES, few_rows_wanted};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

#[derive(Clone, Copy)]
struct Function {
    handle: Handle,
    /// Shared memory that it declares, and what a launch may add.
    declared_bytes: usize,
    allowed_bytes: u32,
}

type Functions = HashMap<String, Function>;

/// What the code that the driver chose can do: that of the card's architecture, or of the oldest, compiled anew for a card that
/// is newer than all that were built for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abilities {
    /// Bulk copies, clusters of blocks, and waiting for the kernel before by itself.
    pub clusters: bool,
    /// Hopper's tensor cores, and its shared memory.
    pub wgmma: bool,
    /// product_rows.cu and product_panels.cu, if they are wanted.
    pub few_rows: bool,
}

pub(super) struct Kernels {
    modules: Vec<(&'static str, Handle)>,
    functions: Mutex<Functions>,
    pub(super) abilities: Abilities,
    programmatic: bool,
}

// SAFETY: the driver's handles may be used from any thread; the map is guarded.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

/// Which kernel, over how many blocks of how many threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Launch<'a> {
    pub file: &'static str,
    pub name: &'a str,
    pub grid: [usize; 3],
    pub threads: u32,
    pub shared_bytes: u32,
    /// Blocks along x that are one cluster; 0: as the kernel says.
    pub cluster: u32,
}

impl Kernels {
    pub(super) fn load(gpu: &Gpu) -> Result<Kernels> {
        let mut modules = Vec::with_capacity(FATBINS.len());
        for &(name, image) in FATBINS {
            let mut module = std::ptr::null_mut();
            // SAFETY: a whole fatbin, and a place for the module.
            let code = unsafe { gpu.api.module_load(&mut module, image.as_ptr().cast()) };
            gpu.check(code, &format!("loading the kernels of {name}"))?;
            modules.push((name, module));
        }
        let none = Abilities::default();
        let mut kernels =
            Kernels { modules, functions: Mutex::new(HashMap::new()), abilities: none, programmatic: false };
        // A kernel that has no code for this architecture declares no shared memory either.
        let has_code = |file| Ok(kernels.function(gpu, file, file)?.declared_bytes > 0);
        let abilities = Abilities {
            clusters: has_code("product_split")?,
            wgmma: has_code("product_prefill")? && gpu.card.shared_bytes >= PROMPT_SHARED_BYTES,
            few_rows: has_code("product_rows")? && few_rows_wanted(),
        };
        kernels.abilities = abilities;
        kernels.programmatic = abilities.clusters && std::env::var_os("WORKER_ORCD_CUDA_PLAIN_LAUNCH").is_none();
        log::debug!("GPU {}: {abilities:?}", gpu.ordinal);
        Ok(kernels)
    }

    /// Has the driver put all kernels of the files that are wanted on the device, where it can be told to: one that it puts
    /// there at its first launch would not find room on a card that is full by then.
    pub(super) fn make_ready(&self, gpu: &Gpu, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for (file, module) in self.modules.iter().filter(|m| wanted(m.0)) {
            let what = format!("making the kernels of {file} ready");
            let mut count = 0;
            // SAFETY: a place for the number, and a loaded module.
            let Some(code) = (unsafe { gpu.api.module_function_count(&mut count, *module) }) else { continue };
            gpu.check(code, &what)?;
            let mut handles = vec![std::ptr::null_mut(); count as usize];
            // SAFETY: places for as many functions, and a loaded module.
            let code = unsafe { gpu.api.module_functions(handles.as_mut_ptr(), count, *module) };
            gpu.check(code.unwrap_or(0), &what)?;
            for handle in handles.into_iter().filter(|h| !h.is_null()) {
                // SAFETY: a function of a loaded module.
                let code = unsafe { gpu.api.function_load(handle) };
                gpu.check(code.unwrap_or(0), &what)?;
            }
        }
        Ok(())
    }

    fn functions(&self) -> MutexGuard<'_, Functions> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self, gpu: &Gpu, file: &str, name: &str) -> Result<Function> {
        if let Some(&function) = self.functions().get(name) {
            return Ok(function);
        }
        let module = self.modules.iter().find(|m| m.0 == file);
        let module = module.ok_or_else(|| Error::launch(format!("no kernels named {file}")))?.1;
        let c_name = CString::new(name).map_err(|_| Error::launch("a kernel's name holds NUL"))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a loaded module, a C string, and a place for the function.
        let code = unsafe { gpu.api.module_function(&mut handle, module, c_name.as_ptr()) };
        gpu.check(code, &format!("finding the kernel {name}"))?;
        let mut declared: c_int = 0;
        // SAFETY: a place for the number, and a function of a loaded module.
        let code = unsafe { gpu.api.function_get(&mut declared, FUNCTION_STATIC_SHARED, handle) };
        gpu.check(code, &format!("asking for the shared memory of {name}"))?;
        let function = Function { handle, declared_bytes: declared.max(0) as usize, allowed_bytes: 0 };
        Ok(*self.functions().entry(name.to_string()).or_insert(function))
    }

    /// The function, allowed to use the launch's shared memory.
    fn allowed(&self, gpu: &Gpu, launch: &Launch) -> Result<Handle> {
        let function = self.function(gpu, launch.file, launch.name)?;
        // Held while the driver is told, so that no other thread takes away what this one asked for.
        let mut functions = self.functions();
        let known = functions.entry(launch.name.to_string()).or_insert(function);
        if known.allowed_bytes < launch.shared_bytes {
            let bytes = launch.shared_bytes as c_int;
            // SAFETY: a function of a loaded module.
            let code = unsafe { gpu.api.function_set(function.handle, FUNCTION_DYNAMIC_SHARED, bytes) };
            gpu.check(code, &format!("giving {} its {bytes} bytes of shared memory", launch.name))?;
            known.allowed_bytes = launch.shared_bytes;
        }
        Ok(function.handle)
    }

    /// Shared memory that a launch of this kernel may have on this card.
    pub(super) fn room(&self, gpu: &Gpu, file: &str, name: &str) -> Result<usize> {
        Ok(gpu.card.shared_bytes.saturating_sub(self.function(gpu, file, name)?.declared_bytes))
    }

    /// Blocks of this kernel that fit the whole device at once.
    pub(super) fn resident_blocks(&self, gpu: &Gpu, launch: &Launch) -> Result<usize> {
        let function = self.allowed(gpu, launch)?;
        let mut blocks = 0;
        // SAFETY: a place for the number, and a function of a loaded module.
        let code =
            unsafe { gpu.api.occupancy(&mut blocks, function, launch.threads as c_int, launch.shared_bytes as usize) };
        gpu.check(code, &format!("asking how many blocks of {} fit", launch.name))?;
        Ok(blocks.max(1) as usize * gpu.card.multiprocessors)
    }

    /// Queues a kernel whose only parameter is `params`.
    ///
    /// # Safety
    /// `P` is the kernel's parameter, byte for byte, and the addresses in it are good for what the kernel does with this grid.
    pub(super) unsafe fn launch<P: Copy>(&self, gpu: &Gpu, stream: Handle, launch: &Launch, params: &P) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(gpu, stream, launch, (params, self.programmatic)) }
    }

    /// The same for a kernel that does not wait for the one before by itself.
    ///
    /// # Safety
    /// As for `launch`.
    pub(super) unsafe fn launch_in_order<P: Copy>(
        &self,
        gpu: &Gpu,
        stream: Handle,
        launch: &Launch,
        params: &P,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(gpu, stream, launch, (params, false)) }
    }

    /// # Safety
    /// As for `launch`.
    unsafe fn launch_with<P: Copy>(
        &self,
        gpu: &Gpu,
        stream: Handle,
        launch: &Launch,
        (params, programmatic): (&P, bool),
    ) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let function = self.allowed(gpu, launch)?;
        let attribute = |id, first: [c_int; 3]| {
            let mut value = [0; 16];
            value[..3].copy_from_slice(&first);
            LaunchAttribute { id, pad: 0, value }
        };
        let attributes = [
            attribute(ATTRIBUTE_PROGRAMMATIC_SERIALIZATION, [programmatic.into(), 0, 0]),
            attribute(ATTRIBUTE_CLUSTER, [launch.cluster as c_int, 1, 1]),
        ];
        let config = LaunchConfig {
            grid: launch.grid.map(|n| n.try_into().unwrap_or(u32::MAX)),
            block: [launch.threads, 1, 1],
            shared_bytes: launch.shared_bytes,
            stream,
            attributes: attributes.as_ptr(),
            n_attributes: if launch.cluster > 0 { 2 } else { programmatic.into() },
        };
        let mut pointers: [*mut c_void; 1] = [std::ptr::from_ref(params).cast_mut().cast()];
        // SAFETY: the caller's promise; the driver copies the parameters before it returns.
        let code = unsafe { gpu.api.launch(&config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) };
        match code {
            0 => Ok(()),
            _ => gpu.check(code, &format!("launching {}", launch.name)).map_err(|e| Error::launch(e.reason())),
        }
    }
}
