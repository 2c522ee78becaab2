//! The BPF maps of a running tracer, looked at from outside: how many entries each hash map holds.

use super::Outcomes;
use std::{collections::BTreeMap, fs};

const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_TYPE_HASH: u32 = 1;

/// Entries of each hash map that a process holds, by name.
pub fn entries(pid: u32) -> Outcomes<BTreeMap<String, u64>> {
    let directory = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&directory).map_err(|e| format!("{directory}: {e}"))?;
    let texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    let ids = texts
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok()));
    let mut found = BTreeMap::new();
    for id in ids.collect::<std::collections::BTreeSet<u32>>() {
        if let Some((name, count)) = count(id)? {
            found.insert(name, count);
        }
    }
    Ok(found)
}

/// Name and entries of a map; `None`: no hash map.
fn count(id: u32) -> Outcomes<Option<(String, u64)>> {
    let mut attributes = [0u64; 18];
    attributes[0] = u64::from(id);
    let fd = bpf(BPF_MAP_GET_FD_BY_ID, &mut attributes)?;
    // struct bpf_map_info: type, id, key_size, value_size, max_entries, map_flags, name[16].
    let mut info = [0u32; 32];
    let mut attributes = [0u64; 18];
    attributes[0] = (size_of_val(&info) as u64) << 32 | fd as u64;
    attributes[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let name: Vec<u8> =
        info[6..10].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    let entries = (info[0] == BPF_MAP_TYPE_HASH).then(|| walk(fd, info[2] as usize));
    // SAFETY: our own descriptor, used for the last time.
    unsafe { libc::close(fd as i32) };
    Ok(entries.map(|entries| (String::from_utf8_lossy(&name).into_owned(), entries)))
}

fn walk(fd: i64, key_size: usize) -> u64 {
    let (mut key, mut next) = (vec![0u8; key_size], vec![0u8; key_size]);
    let mut count = 0;
    loop {
        let mut attributes = [0u64; 18];
        attributes[0] = fd as u64;
        attributes[1] = if count == 0 { 0 } else { key.as_ptr() as u64 };
        attributes[2] = next.as_mut_ptr() as u64;
        if bpf(BPF_MAP_GET_NEXT_KEY, &mut attributes).is_err() {
            return count;
        }
        std::mem::swap(&mut key, &mut next);
        count += 1;
    }
}

fn bpf(command: libc::c_long, attributes: &mut [u64; 18]) -> Outcomes<i64> {
    // SAFETY: the attributes outlive the call and point to buffers that are large enough.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 {
        Err(format!("bpf command {command}: {}", std::io::Error::last_os_error()))
    } else {
        Ok(result)
    }
}
