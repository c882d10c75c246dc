//! Opaque pointers that are ids: a freed, foreign or wrong-typed one is an error, never undefined behaviour.
//!
//! 64 bits: 1, nonce (16), kind (2), generation (24), index (21). The top bit keeps an id apart from NULL and from every address that
//! a host can have; the nonce differs from load to load of the library; the generation tells a place's tenants apart, and
//! a place that has used up its generations is never used again, so no two objects ever have the same handle.

use crate::engine::{Context, Inference, Model};
use crate::error::{Error, Result};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const INDEX_BITS: u32 = 21;
const GENERATION_BITS: u32 = 24;
const LAST_GENERATION: u32 = (1 << GENERATION_BITS) - 1;
const KINDS: [&str; 4] = ["nothing", "CudaContext", "CudaModel", "InferenceResult"];
const _: () = assert!(size_of::<usize>() == 8, "a handle needs 64 bits");

pub static CONTEXTS: Table<Context> = Table::new(1);
pub static MODELS: Table<Model> = Table::new(2);
pub static INFERENCES: Table<Inference> = Table::new(3);

pub struct Table<T> {
    kind: u8,
    places: RwLock<Places<T>>,
}

struct Places<T> {
    all: Vec<Place<T>>,
    free: Vec<usize>,
}

struct Place<T> {
    /// Of the tenant, or of the last one.
    generation: u32,
    tenant: Option<Arc<T>>,
}

/// A handle taken apart.
struct Parts {
    kind: u8,
    generation: u32,
    index: usize,
}

impl<T> Table<T> {
    pub const fn new(kind: u8) -> Self {
        Self { kind, places: RwLock::new(Places { all: Vec::new(), free: Vec::new() }) }
    }

    /// A handle for `value`, as the pointer that the host holds.
    pub fn insert<P>(&self, value: T) -> Result<*mut P> {
        let mut places = self.write();
        let index = places.vacancy()?;
        let place = &mut places.all[index];
        place.generation += 1;
        place.tenant = Some(Arc::new(value));
        Ok(compose(self.kind, place.generation, index) as *mut P)
    }

    pub fn get<P>(&self, handle: *mut P) -> Result<Arc<T>> {
        let parts = self.parse(handle as usize)?;
        let places = self.read();
        let place = places.all.get(parts.index).filter(|p| p.generation == parts.generation);
        place.and_then(|p| p.tenant.clone()).ok_or_else(|| self.not_open(handle as usize))
    }

    /// Takes the object out; whoever is using it keeps it until done.
    pub fn remove<P>(&self, handle: *mut P) -> Result<Arc<T>> {
        let parts = self.parse(handle as usize)?;
        let mut places = self.write();
        let place = places.all.get_mut(parts.index).filter(|p| p.generation == parts.generation);
        let tenant = place.and_then(|p| p.tenant.take()).ok_or_else(|| self.not_open(handle as usize))?;
        if parts.generation < LAST_GENERATION {
            places.free.push(parts.index);
        }
        Ok(tenant)
    }

    fn parse(&self, handle: usize) -> Result<Parts> {
        let kind = KINDS[usize::from(self.kind)];
        if handle == 0 {
            return Err(Error::parameter(format!("the {kind} is NULL")));
        }
        match split(handle) {
            Some(parts) if parts.kind == self.kind => Ok(parts),
            Some(parts) => {
                let given = KINDS[usize::from(parts.kind)];
                Err(Error::parameter(format!("{given} was given where {kind} is wanted")))
            }
            None => Err(self.not_open(handle)),
        }
    }

    fn not_open(&self, handle: usize) -> Error {
        let kind = KINDS[usize::from(self.kind)];
        Error::parameter(format!("{handle:#x} is not an open {kind}: freed before, or never given by this library"))
    }

    fn read(&self) -> RwLockReadGuard<'_, Places<T>> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Places<T>> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Places<T> {
    /// A place without tenant that has a generation left.
    fn vacancy(&mut self) -> Result<usize> {
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        let index = self.all.len();
        if index >= 1 << INDEX_BITS {
            return Err(Error::memory(format!("{index} handles of a kind are open or used up: there are no more")));
        }
        let none = |_| Error::memory("no memory for another handle");
        self.all.try_reserve(1).map_err(none)?;
        // Room for every place to become free, so that a release never allocates.
        let missing = self.all.capacity().saturating_sub(self.free.len());
        self.free.try_reserve(missing).map_err(none)?;
        self.all.push(Place { generation: 0, tenant: None });
        Ok(index)
    }
}

fn nonce() -> usize {
    static NONCE: OnceLock<usize> = OnceLock::new();
    *NONCE.get_or_init(|| RandomState::new().hash_one(0) as usize & 0xffff)
}

fn compose(kind: u8, generation: u32, index: usize) -> usize {
    let top = (1 << 16) | nonce();
    let top = (top << 2) | usize::from(kind);
    (((top << GENERATION_BITS) | generation as usize) << INDEX_BITS) | index
}

/// None if no handle of this library looks so.
fn split(handle: usize) -> Option<Parts> {
    let index = handle & ((1 << INDEX_BITS) - 1);
    let generation = (handle >> INDEX_BITS) as u32 & LAST_GENERATION;
    let kind = (handle >> (INDEX_BITS + GENERATION_BITS)) as u8 & 3;
    let same = kind != 0 && compose(kind, generation, index) == handle;
    same.then_some(Parts { kind, generation, index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::ffi::c_void;

    type Any = *mut c_void;

    #[test]
    fn random_calls_agree_with_a_map() {
        let table: Table<u64> = Table::new(1);
        let mut open: HashMap<usize, u64> = HashMap::new();
        let mut closed: Vec<usize> = Vec::new();
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize
        };
        for round in 0..20_000 {
            let some_open = open.keys().nth(random() % open.len().max(1)).copied();
            match (random() % 4, some_open) {
                (0, _) | (_, None) => {
                    let handle = table.insert::<c_void>(round).expect("room") as usize;
                    assert!(handle >> 63 == 1 && !closed.contains(&handle));
                    assert_eq!(open.insert(handle, round), None);
                }
                (1, Some(handle)) => {
                    assert_eq!(table.remove(handle as Any).map(|v| *v).ok(), open.remove(&handle));
                    closed.push(handle);
                    closed.drain(..closed.len().saturating_sub(50));
                }
                (_, Some(handle)) => assert_eq!(table.get(handle as Any).map(|v| *v).ok(), open.get(&handle).copied()),
            }
            if let Some(&handle) = closed.get(random() % closed.len().max(1)) {
                assert!(table.get(handle as Any).is_err() && table.remove(handle as Any).is_err());
            }
        }
    }

    #[test]
    fn what_is_no_handle_is_refused() {
        let table: Table<u64> = Table::new(2);
        let handle = table.insert::<c_void>(7).expect("room") as usize;
        for bit in 0..64 {
            assert!(table.get((handle ^ (1 << bit)) as Any).is_err(), "bit {bit}");
        }
        for wrong in [0, 1, 16, usize::MAX, 1 << 63, &table as *const _ as usize] {
            assert!(table.get(wrong as Any).is_err() && table.remove(wrong as Any).is_err());
        }
        let reason = Table::<u64>::new(3).get(handle as Any).expect_err("another kind");
        assert!(reason.reason().contains("CudaModel was given where InferenceResult"));
        assert_eq!(table.get(handle as Any).map(|v| *v), Ok(7));
    }

    #[test]
    fn a_place_without_generations_left_is_retired() {
        let table: Table<u64> = Table::new(1);
        let first = table.insert::<c_void>(0).expect("room");
        assert!(table.remove(first).is_ok());
        table.write().all[0].generation = LAST_GENERATION - 1;
        let last = table.insert::<c_void>(1).expect("room");
        assert!(table.remove(last).is_ok());
        let next = split(table.insert::<c_void>(2).expect("room") as usize).expect("a handle");
        assert_eq!((next.index, next.generation), (1, 1));
    }
}
