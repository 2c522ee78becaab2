//! OOM kills, noticed while they happen: by the kernel's own tracepoint, or, where BPF is not permitted, by the counts that memory
//! cgroups keep ([`OomCounts`]), which are seen a tick later and do not say who was killed.

use std::{collections::HashMap, os::fd::OwnedFd};

use leaktrace_common::oom::{ANONYMOUS, FILE, SHARED, SWAPPED, Victim};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    kernel::{KernelError, OomVictims},
    process::{cgroup, host::unix_now, status},
    watched::{MemoryReading, Subject},
};

/// Most subjects whose counts are remembered.
const MAX_COUNTS: usize = 16_384;

/// A process that the kernel has chosen to kill for want of memory. It may live for some milliseconds more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OomKill {
    /// The process, as the kernel sees it.
    pub pid: u32,
    /// When, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// Its short name; empty: the kernel did not say, and it was gone before it could be asked.
    pub name: String,
    /// Its memory cgroup, as `/proc/PID/cgroup` names it; `None`: it was gone before it could be asked.
    pub cgroup: Option<String>,
    /// What the kernel counted; `None`: it does not tell before 6.9.
    pub memory: Option<OomMemory>,
}

/// Memory of a victim when it was chosen, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OomMemory {
    /// Its address space.
    pub total_bytes: u64,
    /// Resident anonymous memory.
    pub anonymous_bytes: u64,
    /// Resident mappings of files.
    pub file_bytes: u64,
    /// Resident shared memory.
    pub shared_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
}

/// Tells of OOM kills of the whole host. Costs nothing until there is one.
pub struct OomWatch {
    victims: OomVictims,
    ready: AsyncFd<OwnedFd>,
}

impl OomWatch {
    /// Begins to watch. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If the kernel does not permit it or lacks what it takes: then [`OomCounts`] must do.
    pub fn start() -> Result<Self, KernelError> {
        let victims = OomVictims::watch()?;
        // SAFETY: the descriptor is ours and stays open for as long as the AsyncFd that owns it.
        let ready = unsafe { AsyncFd::register_with_interest(victims.fd()?, Interest::READABLE) };
        let ready = ready.map_err(|error| KernelError::Io {
            what: "waiting for OOM kills".into(),
            source: error.into(),
        })?;
        Ok(Self { victims, ready })
    }

    /// Waits for the next kill. Nothing is lost if it is not waited for to the end.
    pub async fn next(&mut self) -> OomKill {
        loop {
            if let Some(victim) = self.victims.next_victim() {
                return OomKill::of(&victim);
            }
            match self.ready.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                // Only a runtime that is shutting down says so.
                Err(_) => std::future::pending().await,
            }
            // What came between the last look and the clearing would not be announced again.
            if let Some(victim) = self.victims.next_victim() {
                return OomKill::of(&victim);
            }
        }
    }
}

impl OomKill {
    /// Adds what `/proc` still knows of a victim.
    fn of(victim: &Victim) -> Self {
        let status = status::read(if victim.tgid == 0 { victim.tid } else { victim.tgid }).ok();
        let pid = match (victim.tgid, &status) {
            (0, Some(status)) => status.tgid,
            (0, None) => victim.tid,
            (tgid, _) => tgid,
        };
        let told = text(&victim.name);
        Self {
            pid,
            at_unix_s: unix_seconds(victim.at_ns),
            name: if told.is_empty() { status.map(|status| status.name).unwrap_or_default() } else { told },
            cgroup: memory_cgroup(pid),
            memory: (victim.total != 0).then(|| OomMemory::of(victim)),
        }
    }
}

impl OomMemory {
    fn of(victim: &Victim) -> Self {
        let page = rustix::param::page_size() as u64;
        let bytes = |kind: usize| victim.resident.get(kind).copied().unwrap_or(0).saturating_mul(page);
        Self {
            total_bytes: victim.total.saturating_mul(page),
            anonymous_bytes: bytes(ANONYMOUS),
            file_bytes: bytes(FILE),
            shared_bytes: bytes(SHARED),
            swap_bytes: bytes(SWAPPED),
        }
    }
}

/// The memory cgroup of a process, if it can still be asked. One that is ending has left it for the root.
fn memory_cgroup(pid: u32) -> Option<String> {
    let places = cgroup::places(pid).ok()?;
    let place = cgroup::memory_place(&places).filter(|place| !place.is_root())?;
    Some(place.path.to_string_lossy().into_owned())
}

fn text(name: &[u8]) -> String {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned()
}

/// A moment of the monotonic clock by the wall clock.
fn unix_seconds(monotonic_ns: u64) -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now_s = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    unix_now() - (now_s - monotonic_ns as f64 / 1e9).max(0.0)
}

/// A subject whose memory cgroup has counted more OOM kills than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risen {
    /// [`Subject::key`].
    pub subject: String,
    /// How many more.
    pub kills: u64,
}

/// Where the kernel does not tell of kills: counts of memory cgroups, compared from tick to tick.
#[derive(Debug, Default)]
pub struct OomCounts {
    counts: HashMap<String, u64>,
}

impl OomCounts {
    /// Those whose count has risen since they were last looked at. What was counted before the first look is no news.
    pub fn look(&mut self, readings: &[(Subject, MemoryReading)]) -> Vec<Risen> {
        let before = std::mem::take(&mut self.counts);
        let counted =
            readings.iter().filter_map(|(subject, memory)| Some((subject, memory.cgroup?.oom_kills)));
        let mut risen = Vec::new();
        for (subject, count) in counted.take(MAX_COUNTS) {
            let kills = before.get(&subject.key).map_or(0, |before| count.saturating_sub(*before));
            if kills > 0 {
                risen.push(Risen { subject: subject.key.clone(), kills });
            }
            self.counts.insert(subject.key.clone(), count);
        }
        risen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::CgroupReading;

    fn reading(key: &str, oom_kills: u64) -> (Subject, MemoryReading) {
        let cgroup = Some(CgroupReading { oom_kills, ..CgroupReading::default() });
        (
            Subject { key: key.to_owned(), ..Subject::default() },
            MemoryReading { cgroup, ..MemoryReading::default() },
        )
    }

    #[test]
    fn only_a_count_that_rises_is_a_kill() {
        let mut counts = OomCounts::default();
        assert!(counts.look(&[reading("a", 5), reading("b", 0)]).is_empty());
        assert!(counts.look(&[reading("a", 5), reading("b", 0)]).is_empty());
        let risen = counts.look(&[reading("a", 5), reading("b", 2), reading("c", 9)]);
        assert_eq!(risen, [Risen { subject: "b".to_owned(), kills: 2 }]);
        // Made anew under the same name.
        assert!(counts.look(&[reading("b", 0)]).is_empty());
        assert_eq!(counts.look(&[reading("b", 1)]).len(), 1);
    }

    #[test]
    fn names_end_at_their_zero_and_a_thread_alone_is_a_victim_too() {
        assert_eq!(text(b"python3\0junk"), "python3");
        assert_eq!(text(b"0123456789abcdef"), "0123456789abcdef");
        // No such thread: what the kernel said is all there is.
        let kill = OomKill::of(&Victim { tid: 4_194_305, ..Victim::default() });
        assert_eq!((kill.pid, kill.name.as_str(), kill.cgroup, kill.memory), (4_194_305, "", None, None));
    }

    #[test]
    fn pages_become_bytes() {
        let page = rustix::param::page_size() as u64;
        let memory = OomMemory::of(&Victim { total: 9, resident: [1, 2, 3, 4], ..Victim::default() });
        assert_eq!((memory.file_bytes, memory.anonymous_bytes), (page, 2 * page));
        assert_eq!(
            (memory.swap_bytes, memory.shared_bytes, memory.total_bytes),
            (3 * page, 4 * page, 9 * page)
        );
    }
}
