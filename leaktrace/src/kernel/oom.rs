//! Whom the kernel's OOM killer chooses: a program on its tracepoint `oom:mark_victim`, in an object of its own, which is some
//! 64 KiB of kernel memory and runs only then.

use std::os::fd::{AsFd, OwnedFd};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{MapData, RingBuf},
    programs::RawTracePoint,
};
use leaktrace_common::oom::Victim;

use super::{KernelError, btf::KernelTypes, error::chain, load::load_error};

/// The program as build.rs left it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/oom.bpf.o"));
const PROGRAM: &str = "mark_victim";
const TRACEPOINT: &str = "mark_victim";
const RING: &str = "VICTIMS";

/// Victims of the OOM killer from now on. Dropping it detaches the program.
pub struct OomVictims {
    ring: RingBuf<MapData>,
    _ebpf: Ebpf,
}

/// Where the program finds what it sends; all zero where the tracepoint only gives a thread's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offsets {
    given_task: u32,
    pid: u32,
    tgid: u32,
    name: u32,
    mm: u32,
    total: u32,
    rss: u32,
    stride: u32,
}

impl OomVictims {
    /// Loads and attaches the program.
    ///
    /// # Errors
    /// If the kernel does not permit it, has no such tracepoint, or no type information.
    pub fn watch() -> Result<Self, KernelError> {
        let offsets = Offsets::find(&KernelTypes::of_running_kernel()?)?;
        let mut ebpf = open_object(&offsets)?;
        attach(&mut ebpf)?;
        let ring = ebpf.take_map(RING).ok_or_else(|| KernelError::map("find", RING, "not in the object"))?;
        let ring = RingBuf::try_from(ring).map_err(|error| KernelError::map("use", RING, chain(&error)))?;
        Ok(Self { ring, _ebpf: ebpf })
    }

    /// A descriptor that becomes readable when a victim was chosen.
    ///
    /// # Errors
    /// If no more descriptors can be had.
    pub fn fd(&self) -> Result<OwnedFd, KernelError> {
        self.ring.as_fd().try_clone_to_owned().map_err(|source| KernelError::Io {
            what: "duplicating the descriptor of a ring buffer".into(),
            source,
        })
    }

    /// The next victim, if one is there.
    pub fn next_victim(&mut self) -> Option<Victim> {
        loop {
            if let Some(victim) = decode(&self.ring.next()?) {
                return Some(victim);
            }
        }
    }
}

impl Offsets {
    /// Up to 6.8 the tracepoint gives a thread's number, since then the task.
    fn find(types: &KernelTypes) -> Result<Self, KernelError> {
        if !types.tracepoint_gives_pointer(TRACEPOINT, 0)? {
            return Ok(Self::default());
        }
        let task = |member| types.offset_of("task_struct", member);
        let rss = rss(types).unwrap_or_default();
        Ok(Self {
            given_task: 1,
            pid: task("pid")?,
            tgid: task("tgid")?,
            name: task("comm")?,
            mm: task("mm")?,
            total: types.offset_of("mm_struct", "total_vm")?,
            rss: rss.0,
            stride: rss.1,
        })
    }
}

/// Where the first resident amount lies in an `mm_struct`, and how far the next one is from it: up to 6.1 they are plain numbers in
/// a `mm_rss_stat`, since then an array of `percpu_counter`.
fn rss(types: &KernelTypes) -> Option<(u32, u32)> {
    let first = types.offset_of("mm_struct", "rss_stat").ok()?;
    let (sum, stride) = match types.offset_of("mm_rss_stat", "count") {
        Ok(sum) => (sum, size_of::<u64>() as u32),
        Err(_) => (types.offset_of("percpu_counter", "count").ok()?, types.size_of("percpu_counter").ok()?),
    };
    Some((first.checked_add(sum)?, stride))
}

fn open_object(offsets: &Offsets) -> Result<Ebpf, KernelError> {
    EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::DEBUG)
        .override_global("GIVEN_TASK", &offsets.given_task, true)
        .override_global("TASK_PID_OFFSET", &offsets.pid, true)
        .override_global("TASK_TGID_OFFSET", &offsets.tgid, true)
        .override_global("TASK_COMM_OFFSET", &offsets.name, true)
        .override_global("TASK_MM_OFFSET", &offsets.mm, true)
        .override_global("MM_TOTAL_VM_OFFSET", &offsets.total, true)
        .override_global("MM_RSS_OFFSET", &offsets.rss, true)
        .override_global("RSS_STRIDE", &offsets.stride, true)
        .load(OBJECT)
        .map_err(|error| load_error("object that watches the OOM killer", &error))
}

fn attach(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let missing =
        || KernelError::Load { what: format!("program {PROGRAM}"), reason: "not in the object".into() };
    let program: &mut RawTracePoint =
        ebpf.program_mut(PROGRAM).ok_or_else(missing)?.try_into().map_err(|_| missing())?;
    program.load().map_err(|error| load_error(&format!("program {PROGRAM}"), &error))?;
    program.attach(TRACEPOINT).map_err(|error| load_error(&format!("tracepoint {TRACEPOINT}"), &error))?;
    Ok(())
}

fn decode(bytes: &[u8]) -> Option<Victim> {
    // SAFETY: the length is checked; any bytes are a valid Victim, and the read does not ask for alignment.
    (bytes.len() >= size_of::<Victim>()).then(|| unsafe { bytes.as_ptr().cast::<Victim>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_is_none() {
        assert_eq!(decode(&[0; 71]), None);
        assert_eq!(decode(&[0; 72]), Some(Victim::default()));
    }
}
