//! Placing probes, and taking them away again.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use leaktrace_common::{
    hook::{HookCookie, kind},
    rule,
};

use super::{
    Kernel, KernelError, LinkMode, calibrate,
    error::{chain, is_permission},
};
use crate::object::address::FileOffset;

/// One instruction to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachPoint {
    /// The file, by a path that leads to it from our own root.
    pub path: PathBuf,
    /// Where in the file.
    pub offset: FileOffset,
    /// What sits there.
    pub cookie: HookCookie,
    /// Whether the function's return is probed as well.
    pub needs_return: bool,
}

/// Whose hits a link sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachScope {
    /// Those of one process.
    Process(u32),
    /// Those of every process that maps the file.
    Everyone,
}

impl std::fmt::Display for AttachScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Everyone => f.write_str("all processes"),
        }
    }
}

/// Links that belong together. Dropping it detaches them, which takes some 40 ms each.
#[derive(Default)]
pub struct Attachment {
    links: Vec<UProbeLink>,
}

impl Attachment {
    /// How many kernel links there are.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Adds the links of another attachment.
    pub fn merge(&mut self, mut other: Self) {
        self.links.append(&mut other.links);
    }
}

/// Threads that close links.
const CLOSERS: usize = 32;

/// Closes many attachments. Each link waits some 40 ms for programs that may still run, and links that are closed at the same
/// time wait together: 192 multi links took 8.1 s one after the other, 1.2 s from 16 threads.
pub fn close_together(attachments: impl IntoIterator<Item = Attachment>) {
    let links: Vec<UProbeLink> = attachments.into_iter().flat_map(|attachment| attachment.links).collect();
    let share = links.len().div_ceil(CLOSERS).max(1);
    let mut links = links.into_iter();
    std::thread::scope(|threads| {
        loop {
            let some: Vec<UProbeLink> = links.by_ref().take(share).collect();
            if some.is_empty() {
                return;
            }
            threads.spawn(move || drop(some));
        }
    });
}

/// Which program a probe runs: (at entry, at return).
pub fn programs(call_kind: u8) -> (&'static str, &'static str) {
    match call_kind {
        kind::FREE => ("block_freed", "block_return"),
        kind::MMAP | kind::MUNMAP | kind::MREMAP => ("mapping_entry", "mapping_return"),
        kind::LINK_MAP => ("link_map_changed", ""),
        kind::REUSE | kind::REUSE_LINKED => ("block_reused", ""),
        _ => ("block_entry", "block_return"),
    }
}

impl Kernel {
    /// Places probes. Either all are placed or none stay.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub fn attach(&mut self, scope: AttachScope, points: &[AttachPoint]) -> Result<Attachment, KernelError> {
        let late_free = self.rules_off & rule::FREE_AT_ENTRY != 0;
        let mut groups: BTreeMap<(&'static str, &Path), Vec<&AttachPoint>> = BTreeMap::new();
        for point in points {
            let (entry, leave) = programs(point.cookie.kind);
            groups.entry((entry, &point.path)).or_default().push(point);
            let wanted = point.needs_return || (late_free && point.cookie.kind == kind::FREE);
            if wanted && self.stop_one_in == 0 && !self.count_only {
                groups.entry((leave, &point.path)).or_default().push(point);
            }
        }
        let mut attachment = Attachment::default();
        for ((program, path), points) in groups {
            attachment.links.push(self.attach_program(program, path, scope, &points)?);
        }
        Ok(attachment)
    }

    /// Attaches one program to many points of one file.
    pub(super) fn attach_program(
        &mut self,
        program: &str,
        path: &Path,
        scope: AttachScope,
        points: &[&AttachPoint],
    ) -> Result<UProbeLink, KernelError> {
        let name = match self.link_mode {
            LinkMode::Multi => format!("{program}_multi"),
            LinkMode::Perf => program.to_owned(),
        };
        let failed = |reason: String| KernelError::Attach {
            count: points.len(),
            path: path.to_owned(),
            scope,
            reason,
        };
        let processes = match scope {
            AttachScope::Everyone => UProbeScope::AllProcesses,
            AttachScope::Process(pid) => {
                UProbeScope::OneProcess(NonZeroU32::new(pid).ok_or_else(|| failed("0 is no process".into()))?)
            }
        };
        let locations = points.iter().map(|point| UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(point.offset.0),
            cookie: Some(point.cookie.pack()),
        });
        let uprobe = self.uprobe(&name)?;
        let id = uprobe.attach(locations, path, processes).map_err(|error| {
            if is_permission(&error) {
                KernelError::NotPermitted {
                    what: format!("placing probes in {scope}"),
                    reason: chain(&error),
                }
            } else {
                failed(chain(&error))
            }
        })?;
        uprobe.take_link(id).map_err(|error| failed(chain(&error)))
    }

    /// Something whose closing waits until every probe that is being hit now has been dealt with to the end, all programs on it
    /// included: the kernel does that whenever a probe is taken away (`uprobe_unregister_sync`).
    ///
    /// # Errors
    /// If no probe can be placed in our own code.
    pub fn fence(&mut self) -> Result<Attachment, KernelError> {
        let missing = || KernelError::Unsupported("there is no code of our own to probe".into());
        let stub = calibrate::stubs().into_iter().next().ok_or_else(missing)?;
        let point = calibrate::own_point(&stub)?;
        let scope = AttachScope::Process(std::process::id());
        let link = self.attach_program("calibration", Path::new("/proc/self/exe"), scope, &[&point])?;
        Ok(Attachment { links: vec![link] })
    }
}
