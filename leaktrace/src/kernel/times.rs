//! How long the kernel side's programs run, as the kernel measures it.

use std::{os::fd::OwnedFd, time::Duration};

use aya::{
    programs::Program,
    sys::{Stats, enable_stats},
};

use super::{Kernel, KernelError, error::chain};

/// What one program has used while somebody kept a [`Stopwatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramTime {
    /// Its name, without the suffix that tells link modes apart.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// For how long, all runs together.
    pub time: Duration,
}

/// While it lives, the kernel measures every BPF program of the host (some 20 ns a run).
pub struct Stopwatch(
    #[expect(dead_code, reason = "the descriptor is what keeps the kernel measuring")] OwnedFd,
);

impl Kernel {
    /// Makes the kernel measure.
    ///
    /// # Errors
    /// If it does not permit that.
    pub fn start_stopwatch(&self) -> Result<Stopwatch, KernelError> {
        enable_stats(Stats::RunTime)
            .map(Stopwatch)
            .map_err(|error| KernelError::Unsupported(format!("measure BPF programs: {}", chain(&error))))
    }

    /// What each probe's program has used so far.
    pub fn program_times(&self) -> Vec<ProgramTime> {
        let times = self.ebpf.programs().filter_map(|(name, program)| {
            let Program::UProbe(program) = program else { return None };
            let info = program.info().ok()?;
            let name = name.strip_suffix("_multi").unwrap_or(name).to_owned();
            Some(ProgramTime { name, runs: info.run_count(), time: info.run_time() })
        });
        times.collect()
    }
}
