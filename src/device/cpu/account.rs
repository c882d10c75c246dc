//! What the library holds of the machine's memory, and how much more it may take.
//!
//! Everything is asked for before it is taken: the answer is no where the system says that it has not
//! that much left (`MemAvailable`, the control group's limit), or where `WORKER_ORCD_MEMORY`, in MiB, would
//! be exceeded by what the whole process holds through this library.

use crate::error::{Error, Result};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::*};

const MIB: u64 = 1 << 20;
/// Left to the system and to the host.
const RESERVE_BYTES: u64 = 64 * MIB;

/// Bytes held, by all models.
#[derive(Debug, Default)]
pub struct Account {
    held: AtomicU64,
}

impl Account {
    pub const fn new() -> Self {
        Self { held: AtomicU64::new(0) }
    }

    pub fn held_bytes(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Counts `bytes` as held, if there is room for them. `what` names them in the reason.
    pub fn take(&self, bytes: u64, what: &str) -> Result<()> {
        let available = available_bytes()?;
        if bytes > available {
            return Err(Error::memory(format!("{what}: {bytes} bytes are needed, and {available} are available")));
        }
        self.take_below(bytes, cap_bytes()?, what)
    }

    fn take_below(&self, bytes: u64, cap: u64, what: &str) -> Result<()> {
        let add = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= cap);
        match self.held.fetch_update(Relaxed, Relaxed, add) {
            Ok(_) => Ok(()),
            Err(held) => Err(Error::memory(format!(
                "{what}: {bytes} bytes on top of the {held} held exceed WORKER_ORCD_MEMORY, {} MiB",
                cap / MIB
            ))),
        }
    }

    pub fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
    }
}

/// The cap that `WORKER_ORCD_MEMORY` sets; none where it is unset or empty.
fn cap_bytes() -> Result<u64> {
    match std::env::var_os("WORKER_ORCD_MEMORY") {
        Some(mib) if !mib.is_empty() => {
            let mib = mib.to_string_lossy();
            let bytes = mib.parse::<u64>().ok().and_then(|mib| mib.checked_mul(MIB));
            bytes.ok_or_else(|| Error::memory(format!("WORKER_ORCD_MEMORY={mib} is not a number of MiB")))
        }
        _ => Ok(u64::MAX),
    }
}

/// What the system says may still be taken. A system that says nothing sets no limit.
fn available_bytes() -> Result<u64> {
    let machine = number_after(&read("/proc/meminfo"), "MemAvailable:").map(|kib| kib.saturating_mul(1024));
    let available = machine.unwrap_or(u64::MAX).min(group_bytes().unwrap_or(u64::MAX));
    Ok(available.saturating_sub(RESERVE_BYTES))
}

/// All the memory that the machine has.
pub fn machine_bytes() -> u64 {
    number_after(&read("/proc/meminfo"), "MemTotal:").map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

/// What the control group leaves: its limit less its use, where cached files do not count as use.
fn group_bytes() -> Option<u64> {
    let files = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "file "),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
            "total_cache ",
        ),
    ];
    files.iter().find_map(|(limit, usage, stat, cached)| {
        let limit: u64 = read(limit).trim().parse().ok()?;
        let usage: u64 = read(usage).trim().parse().ok()?;
        let cached = number_after(&read(stat), cached).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(cached)))
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number that follows `key` at the start of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_counts_until_it_is_given_back() {
        let account = Account::new();
        account.take_below(60, 100, "a").expect("room");
        let full = account.take_below(41, 100, "weights").expect_err("no room");
        assert!(full.reason().contains("weights") && full.reason().contains("60"));
        account.take_below(40, 100, "b").expect("room");
        account.give_back(60);
        assert_eq!(account.held_bytes(), 40);
        assert!(account.take_below(u64::MAX, u64::MAX, "overflow").is_err());
    }

    #[test]
    fn more_than_the_machine_has_is_refused() {
        let account = Account::new();
        let all = machine_bytes();
        assert!(all > RESERVE_BYTES && all < u64::MAX);
        assert!(account.take(all, "everything").is_err());
        account.take(4096, "a page").expect("room");
    }

    #[test]
    fn numbers_are_found_by_their_key() {
        let text = "MemTotal:       24000 kB\nMemAvailable:    123 kB\n";
        assert_eq!(number_after(text, "MemAvailable:"), Some(123));
        assert_eq!(number_after(text, "Swap:"), None);
    }
}
