//! From a PID to the probes that would be placed in it.

use thiserror::Error;

use crate::{
    cli::Failure,
    kernel::AttachPoint,
    object::elf::ElfError,
    probe::{
        allocator::{AllocatorError, Allocators},
        cost::CostTable,
        plan::{Plan, PlanError, PlannedProbe},
    },
};
use leaktrace_common::hook::kind;

/// Everything that is to be placed in one process, as it is now.
#[derive(Debug)]
pub struct Discovered {
    /// The probes.
    pub plan: Plan,
    /// Address of the dynamic linker's `struct r_debug`; 0 in a static executable.
    pub r_debug: u64,
    /// The dynamic linker was not in the middle of a change.
    pub consistent: bool,
}

/// Why a process cannot be traced.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// Its allocators could not be found.
    #[error(transparent)]
    Allocator(#[from] AllocatorError),
    /// Its code cannot be probed.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl DiscoverError {
    /// Whether the process is simply gone.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Allocator(AllocatorError::Process(error)) if error.is_gone())
    }

    /// Whether leaktrace cannot trace this kind of program at all.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Allocator(AllocatorError::Object(
                ElfError::ThirtyTwoBit { .. } | ElfError::ForeignMachine { .. }
            ))
        )
    }
}

/// Finds the allocators of a process and plans its probes.
///
/// # Errors
/// If it has gone, has no known allocator, or is of a kind that leaktrace cannot trace.
pub fn discover(pid: u32, costs: &CostTable) -> Result<Discovered, DiscoverError> {
    let allocators = Allocators::discover(pid)?;
    Ok(Discovered {
        plan: Plan::new(&allocators, costs)?,
        r_debug: allocators.debug.map_or(0, |address| address.0),
        consistent: allocators.consistent.unwrap_or(true),
    })
}

/// As [`discover`], where a process that cannot be traced is the end of the command.
///
/// # Errors
/// As [`discover`], by exit code.
pub fn required(pid: u32, costs: &CostTable) -> Result<Discovered, Failure> {
    discover(pid, costs).map_err(|error| failure(pid, &error))
}

/// The same as a failure of the whole command.
pub fn failure(pid: u32, error: &DiscoverError) -> Failure {
    if error.is_gone() {
        return Failure::NoTarget(format!("process {pid} ended before it could be traced"));
    }
    let text = format!("process {pid} cannot be traced: {error}");
    if error.is_unsupported() { Failure::Unsupported(text) } else { Failure::Failed(text) }
}

/// What the kernel boundary needs to know of the probes of a plan: those on the dynamic linker, and the others.
pub fn attach_points(plan: &Plan) -> (Vec<AttachPoint>, Vec<AttachPoint>) {
    let points = plan.by_object().flat_map(|(object, probes)| {
        probes.into_iter().map(|probe| point(&object.attach_path, probe)).collect::<Vec<_>>()
    });
    points.partition(|point| point.cookie.kind == kind::LINK_MAP)
}

fn point(path: &std::path::Path, probe: &PlannedProbe) -> AttachPoint {
    AttachPoint {
        path: path.to_owned(),
        offset: probe.offset,
        cookie: probe.cookie,
        needs_return: probe.needs_return,
    }
}
