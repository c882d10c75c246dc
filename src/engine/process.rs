//! Which process the library was first used in.
//!
//! Neither the driver nor our threads survive a fork, so in a child of a process that has used a device every call is refused
//! and every release does nothing. A child that forked before the first use is a process like any other.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU32, Ordering};

/// The process that uses the devices; 0 before the first use.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Claims the devices for this process; refused in a child of the one that has them.
pub fn claim() -> Result<()> {
    let own = std::process::id();
    match OWNER.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire) {
        Err(owner) if owner != own => Err(forked(owner)),
        _ => Ok(()),
    }
}

/// Refused in a child of the process that has used a device.
pub fn check() -> Result<()> {
    match OWNER.load(Ordering::Acquire) {
        0 => Ok(()),
        owner if owner == std::process::id() => Ok(()),
        owner => Err(forked(owner)),
    }
}

fn forked(owner: u32) -> Error {
    let own = std::process::id();
    Error::unknown(format!(
        "process {own} was forked from {owner}, which already used the library; start it before, or exec after the fork"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_claims_may_go_on() {
        assert_eq!(claim(), Ok(()));
        assert_eq!(claim(), Ok(()));
        assert_eq!(check(), Ok(()));
    }
}
