//! The embedded kernels: loaded once per GPU, found by name, launched with one struct of parameters.

use super::driver::{
    ATTRIBUTE_PROGRAMMATIC_SERIALIZATION, FUNCTION_DYNAMIC_SHARED, Handle, LaunchAttribute, LaunchConfig,
};
use super::gpu::Gpu;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::{Mutex, PoisonError};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Functions by name, each with the shared memory that it may use.
type Functions = HashMap<String, (Handle, u32)>;

pub(super) struct Kernels {
    modules: Vec<(&'static str, Handle)>,
    functions: Mutex<Functions>,
    programmatic: bool,
}

// SAFETY: the driver's handles may be used from any thread; the map is guarded.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

/// Which kernel, over how many blocks of how many threads.
pub(super) struct Launch<'a> {
    pub file: &'static str,
    pub name: &'a str,
    pub grid: [usize; 3],
    pub threads: u32,
    pub shared_bytes: u32,
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
        let programmatic = gpu.capability >= 90 && std::env::var_os("WORKER_ORCD_CUDA_PLAIN_LAUNCH").is_none();
        Ok(Kernels { modules, functions: Mutex::new(HashMap::new()), programmatic })
    }

    /// The function, allowed to use `shared_bytes` of shared memory.
    fn function(&self, gpu: &Gpu, launch: &Launch) -> Result<Handle> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&(function, allowed)) = functions.get(launch.name)
            && allowed >= launch.shared_bytes
        {
            return Ok(function);
        }
        let module = self.modules.iter().find(|m| m.0 == launch.file);
        let module = module.ok_or_else(|| Error::launch(format!("no kernels named {}", launch.file)))?.1;
        let name = CString::new(launch.name).map_err(|_| Error::launch("a kernel's name holds NUL"))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: a loaded module, a C string, and a place for the function.
        let code = unsafe { gpu.api.module_function(&mut function, module, name.as_ptr()) };
        gpu.check(code, &format!("finding the kernel {}", launch.name))?;
        if launch.shared_bytes > 0 {
            // SAFETY: a function of a loaded module.
            let code = unsafe { gpu.api.function_set(function, FUNCTION_DYNAMIC_SHARED, launch.shared_bytes as c_int) };
            gpu.check(code, &format!("giving {} its shared memory", launch.name))?;
        }
        functions.insert(launch.name.to_string(), (function, launch.shared_bytes));
        Ok(function)
    }

    /// Blocks of this kernel that fit the whole device at once.
    pub(super) fn resident_blocks(&self, gpu: &Gpu, launch: &Launch) -> Result<usize> {
        let function = self.function(gpu, launch)?;
        let mut blocks = 0;
        // SAFETY: a place for the number, and a function of a loaded module.
        let code =
            unsafe { gpu.api.occupancy(&mut blocks, function, launch.threads as c_int, launch.shared_bytes as usize) };
        gpu.check(code, &format!("asking how many blocks of {} fit", launch.name))?;
        Ok(blocks.max(1) as usize * gpu.multiprocessors.max(1) as usize)
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
        let function = self.function(gpu, launch)?;
        let mut value = [0; 16];
        value[0] = 1;
        let attribute = LaunchAttribute { id: ATTRIBUTE_PROGRAMMATIC_SERIALIZATION, pad: 0, value };
        let config = LaunchConfig {
            grid: launch.grid.map(|n| n.try_into().unwrap_or(u32::MAX)),
            block: [launch.threads, 1, 1],
            shared_bytes: launch.shared_bytes,
            stream,
            attributes: &attribute,
            n_attributes: programmatic.into(),
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
