//! The driver's functions, found at run time in libcuda.
//!
//! Bound here and not through a crate, because the promise is hard: without a driver, with a stub of it, or with one that
//! lacks a function, the library answers with a code and stays silent. Results are plain integers, so that a code newer than
//! this table is no undefined value. Only `Api::get` makes one; whoever holds an `&Api` may call.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

pub(super) type Status = c_int;
pub(super) type Ptr = u64;
/// Contexts, streams, events, modules, functions, graphs: the driver's own pointers, never looked into.
pub(super) type Handle = *mut c_void;

/// `CUmemLocation` on a device.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Location {
    pub kind: c_int,
    pub id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct AllocationProp {
    pub kind: c_int,
    pub handle_types: c_int,
    pub location: Location,
    pub win32: *mut c_void,
    pub flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct AccessDesc {
    pub location: Location,
    pub flags: c_int,
}

/// `CUlaunchAttribute`: the value is a union of 64 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct LaunchAttribute {
    pub id: c_int,
    pub pad: c_int,
    pub value: [c_int; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(super) struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: Handle,
    pub attributes: *const LaunchAttribute,
    pub n_attributes: c_uint,
}

pub(super) const ATTRIBUTE_CLUSTER: c_int = 4;
pub(super) const ATTRIBUTE_PROGRAMMATIC_SERIALIZATION: c_int = 6;
pub(super) const DEVICE_MULTIPROCESSORS: c_int = 16;
pub(super) const DEVICE_BLOCK_SHARED: c_int = 97;
pub(super) const DEVICE_MAJOR: c_int = 75;
pub(super) const DEVICE_MINOR: c_int = 76;
pub(super) const FUNCTION_STATIC_SHARED: c_int = 1;
pub(super) const FUNCTION_DYNAMIC_SHARED: c_int = 8;
pub(super) const POINTER_MEMORY_TYPE: c_int = 2;
pub(super) const POINTER_IS_MANAGED: c_int = 8;
pub(super) const MEMORY_TYPE_DEVICE: c_uint = 2;
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;
pub(super) const CAPTURE_THREAD_LOCAL: c_int = 1;
pub(super) const HOST_PORTABLE: c_uint = 1;

macro_rules! api {
    (
        $($name:ident = $symbol:literal ($($arg:ident: $ty:ty),*);)*
        [newer] $($newer:ident = $newer_symbol:literal ($($newer_arg:ident: $newer_ty:ty),*);)*
    ) => {
        /// Every function of the driver that is used; None: a newer one that this driver lacks.
        pub(super) struct Api {
            $($name: unsafe extern "C" fn($($ty),*) -> Status,)*
            $($newer: Option<unsafe extern "C" fn($($newer_ty),*) -> Status>,)*
        }

        impl Api {
            fn load(library: Handle) -> Result<Api, &'static str> {
                Ok(Api {
                    $($name: {
                        let symbol = find(library, concat!($symbol, "\0")).ok_or($symbol)?;
                        // SAFETY: the driver exports this name with this signature; versioned names never change theirs.
                        unsafe { std::mem::transmute::<Handle, unsafe extern "C" fn($($ty),*) -> Status>(symbol) }
                    },)*
                    $($newer: find(library, concat!($newer_symbol, "\0")).map(|symbol| {
                        // SAFETY: as above.
                        unsafe { std::mem::transmute::<Handle, unsafe extern "C" fn($($newer_ty),*) -> Status>(symbol) }
                    }),)*
                })
            }

            $(
                /// # Safety
                /// As the driver documents the function of this name: pointers valid, handles alive, context current.
                #[allow(clippy::too_many_arguments)]
                pub(super) unsafe fn $name(&self, $($arg: $ty),*) -> Status {
                    // SAFETY: the caller's promise.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*

            $(
                /// None where the driver is too old.
                ///
                /// # Safety
                /// As the driver documents the function of this name.
                pub(super) unsafe fn $newer(&self, $($newer_arg: $newer_ty),*) -> Option<Status> {
                    // SAFETY: the caller's promise.
                    self.$newer.map(|call| unsafe { call($($newer_arg),*) })
                }
            )*
        }
    };
}

api! {
    init = "cuInit" (flags: c_uint);
    device_count = "cuDeviceGetCount" (count: *mut c_int);
    device_get = "cuDeviceGet" (device: *mut c_int, ordinal: c_int);
    device_name = "cuDeviceGetName" (name: *mut c_char, len: c_int, device: c_int);
    device_attribute = "cuDeviceGetAttribute" (value: *mut c_int, attribute: c_int, device: c_int);
    device_memory = "cuDeviceTotalMem_v2" (bytes: *mut usize, device: c_int);
    error_name = "cuGetErrorName" (code: Status, name: *mut *const c_char);
    primary_retain = "cuDevicePrimaryCtxRetain" (context: *mut Handle, device: c_int);
    context_push = "cuCtxPushCurrent_v2" (context: Handle);
    context_pop = "cuCtxPopCurrent_v2" (context: *mut Handle);
    memory_info = "cuMemGetInfo_v2" (free: *mut usize, total: *mut usize);
    memory_alloc = "cuMemAlloc_v2" (ptr: *mut Ptr, bytes: usize);
    memory_free = "cuMemFree_v2" (ptr: Ptr);
    host_alloc = "cuMemHostAlloc" (ptr: *mut *mut c_void, bytes: usize, flags: c_uint);
    host_free = "cuMemFreeHost" (ptr: *mut c_void);
    copy_to_device = "cuMemcpyHtoDAsync_v2" (to: Ptr, from: *const c_void, bytes: usize, stream: Handle);
    copy_to_host = "cuMemcpyDtoHAsync_v2" (to: *mut c_void, from: Ptr, bytes: usize, stream: Handle);
    fill = "cuMemsetD8Async" (to: Ptr, value: u8, bytes: usize, stream: Handle);
    pointer_attribute = "cuPointerGetAttribute" (value: *mut c_void, attribute: c_int, ptr: Ptr);
    address_reserve = "cuMemAddressReserve" (ptr: *mut Ptr, bytes: usize, alignment: usize, at: Ptr, flags: u64);
    address_free = "cuMemAddressFree" (ptr: Ptr, bytes: usize);
    physical_create = "cuMemCreate" (handle: *mut u64, bytes: usize, prop: *const AllocationProp, flags: u64);
    physical_release = "cuMemRelease" (handle: u64);
    map = "cuMemMap" (ptr: Ptr, bytes: usize, offset: usize, handle: u64, flags: u64);
    unmap = "cuMemUnmap" (ptr: Ptr, bytes: usize);
    set_access = "cuMemSetAccess" (ptr: Ptr, bytes: usize, desc: *const AccessDesc, count: usize);
    module_load = "cuModuleLoadData" (module: *mut Handle, image: *const c_void);
    module_function = "cuModuleGetFunction" (function: *mut Handle, module: Handle, name: *const c_char);
    function_get = "cuFuncGetAttribute" (value: *mut c_int, attribute: c_int, function: Handle);
    function_set = "cuFuncSetAttribute" (function: Handle, attribute: c_int, value: c_int);
    occupancy = "cuOccupancyMaxActiveBlocksPerMultiprocessor" (blocks: *mut c_int, function: Handle, threads: c_int, shared: usize);
    stream_create = "cuStreamCreate" (stream: *mut Handle, flags: c_uint);
    stream_destroy = "cuStreamDestroy_v2" (stream: Handle);
    stream_synchronize = "cuStreamSynchronize" (stream: Handle);
    stream_capture = "cuStreamBeginCapture_v2" (stream: Handle, mode: c_int);
    stream_end_capture = "cuStreamEndCapture" (stream: Handle, graph: *mut Handle);
    event_create = "cuEventCreate" (event: *mut Handle, flags: c_uint);
    event_destroy = "cuEventDestroy_v2" (event: Handle);
    event_record = "cuEventRecord" (event: Handle, stream: Handle);
    event_synchronize = "cuEventSynchronize" (event: Handle);
    graph_instantiate = "cuGraphInstantiateWithFlags" (exec: *mut Handle, graph: Handle, flags: u64);
    graph_launch = "cuGraphLaunch" (exec: Handle, stream: Handle);
    graph_destroy = "cuGraphDestroy" (graph: Handle);
    graph_exec_destroy = "cuGraphExecDestroy" (exec: Handle);
    launch = "cuLaunchKernelEx" (config: *const LaunchConfig, function: Handle, params: *mut *mut c_void, extra: *mut *mut c_void);

    [newer]
    module_function_count = "cuModuleGetFunctionCount" (count: *mut c_uint, module: Handle);
    module_functions = "cuModuleEnumerateFunctions" (functions: *mut Handle, count: c_uint, module: Handle);
    function_load = "cuFuncLoad" (function: Handle);
}

fn find(library: Handle, name: &'static str) -> Option<Handle> {
    // SAFETY: an open library and a name that ends in NUL.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
    (!symbol.is_null()).then_some(symbol)
}

impl Api {
    /// The driver, initialised; or why there is none. Tried once per process.
    pub(super) fn get() -> Result<&'static Api, String> {
        static API: OnceLock<Result<Api, String>> = OnceLock::new();
        API.get_or_init(Self::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Api, String> {
        let library = [c"libcuda.so.1", c"libcuda.so"].into_iter().find_map(open_library);
        let library = library.ok_or("no NVIDIA driver: libcuda.so.1 is not found")?;
        let api = Self::load(library).map_err(|name| format!("the NVIDIA driver lacks {name}"))?;
        // SAFETY: no requirements.
        match unsafe { api.init(0) } {
            0 => Ok(api),
            code => Err(format!("the NVIDIA driver does not start: {}", api.name_of(code))),
        }
    }

    /// `CUDA_ERROR_ILLEGAL_ADDRESS (700)`.
    pub(super) fn name_of(&self, code: Status) -> String {
        let mut name = std::ptr::null();
        // SAFETY: a place for the pointer; unknown codes leave null.
        let known = unsafe { self.error_name(code, &mut name) } == 0 && !name.is_null();
        if !known {
            return format!("CUDA error {code}");
        }
        // SAFETY: a static string of the driver.
        let name = unsafe { CStr::from_ptr(name) };
        format!("{} ({code})", name.to_string_lossy())
    }
}

/// The library stays open for good: the driver must not be unloaded.
fn open_library(name: &CStr) -> Option<Handle> {
    // SAFETY: a C string; the driver's own initialisers run.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    (!library.is_null()).then_some(library)
}
