//! Whether probes are left in a process: its code in memory against the file it was mapped from. A uprobe replaces
//! the first byte of an instruction (or all five of a nop).

use super::{Outcomes, Target};
use std::{
    fs,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

/// Bytes compared per function: probes sit within the first instructions.
const WINDOW: u64 = 64;

/// The named functions of the target whose code differs from their file.
pub fn changed_functions(target: &Target) -> Outcomes<Vec<String>> {
    if target.addresses.is_empty() {
        return Err("the target named no addresses".to_owned());
    }
    let mut changed = Vec::new();
    for (function, address) in &target.addresses {
        if in_memory(target.pid(), *address)? != in_file(target.pid(), *address)? {
            changed.push(function.clone());
        }
    }
    Ok(changed)
}

/// Fails if a probe is left; a killed tracer's probes go when the kernel closes its files, a moment later.
pub fn assert_none_left(target: &Target) -> Outcomes<()> {
    let deadline = Instant::now() + super::longest_wait();
    loop {
        let changed = changed_functions(target)?;
        if changed.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("probes left on {changed:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn read_at(path: &str, offset: u64) -> Outcomes<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(WINDOW).unwrap_or_default()];
    let file = fs::File::open(path).map_err(|e| format!("{path}: {e}"))?;
    file.read_exact_at(&mut bytes, offset).map_err(|e| format!("{path} at {offset:#x}: {e}"))?;
    Ok(bytes)
}

fn in_memory(pid: u32, address: u64) -> Outcomes<Vec<u8>> {
    read_at(&format!("/proc/{pid}/mem"), address)
}

fn in_file(pid: u32, address: u64) -> Outcomes<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|e| format!("maps of {pid}: {e}"))?;
    let (path, offset) = maps
        .lines()
        .find_map(|line| mapped_file(line, address))
        .ok_or_else(|| format!("{address:#x} is unmapped"))?;
    read_at(&path, offset)
}

/// Path and file offset of `address`, if this line of `maps` holds it.
fn mapped_file(line: &str, address: u64) -> Option<(String, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end, offset) = (hex(start)?, hex(end)?, hex(words.nth(1)?)?);
    let path = words.nth(2)?;
    (start..end).contains(&address).then(|| (path.to_owned(), address - start + offset))
}
