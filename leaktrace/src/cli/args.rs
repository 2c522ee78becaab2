//! The command line as typed. Nothing here decides anything.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Finds memory leaks in running processes, from outside, while they run.
#[derive(Debug, Parser)]
#[command(name = "leaktrace", version, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace now, in the foreground: report what survives, and where it was allocated.
    Trace(Box<TraceArguments>),
    /// Always on: watch memory, trace what grows, keep a history, raise alerts, serve metrics.
    Daemon(DaemonArguments),
    /// Show what the daemon's history holds: suspects, and what changed between two moments.
    Report(ReportArguments),
    /// Watch a target live in the terminal.
    Top(Box<TopArguments>),
    /// Say what works on this host, what does not and why; with a target: every probe and its cost.
    Doctor(DoctorArguments),
}

/// What to trace: exactly one kind.
#[derive(Args, Clone, Debug, Default)]
pub struct TargetArguments {
    /// Process to trace, as the host sees it; repeatable, or a comma list.
    #[arg(short, long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<String>,
    /// Every process of a container, new ones included.
    #[arg(long, value_name = "ID|NAME")]
    pub container: Option<String>,
    /// Every process of that PID namespace and below.
    #[arg(long, value_name = "PID|PATH")]
    pub pid_namespace: Option<OsString>,
    /// Every process of a cgroup subtree.
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// The whole host.
    #[arg(long)]
    pub all: bool,
}

impl TargetArguments {
    /// Whether any kind of target is named.
    pub fn names_anything(&self) -> bool {
        let named = [self.container.is_some(), self.pid_namespace.is_some(), self.cgroup.is_some(), self.all];
        !self.pid.is_empty() || named.contains(&true)
    }
}

/// `leaktrace trace`.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag, as typed")]
pub struct TraceArguments {
    /// What to trace.
    #[command(flatten)]
    pub target: TargetArguments,
    /// Start this command and trace it.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Report interval.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub interval: String,
    /// Stop after that long (default: on Ctrl-C, or when the target is gone).
    #[arg(long, value_name = "TIME")]
    pub duration: Option<String>,
    /// What counts as survivor (default: one interval).
    #[arg(long, value_name = "TIME")]
    pub min_age: Option<String>,
    /// How many sites the text report shows.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Order of sites.
    #[arg(long, value_enum, default_value_t = Sort::Bytes)]
    pub sort: Sort,
    /// What the text report puts together.
    #[arg(long, value_enum, default_value_t = Group::Stack)]
    pub group_by: Group,
    /// What goes to stdout every interval; json: one object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// How processes are put together in a report.
    #[arg(long, value_enum, default_value_t = Merge::Process)]
    pub merge: Merge,
    /// exact: every call. light: large blocks and pool refills only.
    #[arg(long, value_enum, default_value_t = Detail::Exact)]
    pub detail: Detail,
    /// Cap of the live map, in blocks; some 105 bytes of kernel memory each.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub max_live_blocks: u32,
    /// Cap of the site table, in distinct stacks per process; some 590 bytes of kernel memory each.
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    pub max_sites: u32,
    /// How stacks are walked: by unwind tables made from each object's call frame information (by frame pointers where code
    /// has none), or by frame pointers alone.
    #[arg(long, value_enum, default_value_t = Unwind::Tables)]
    pub unwind: Unwind,
    /// Cap of all unwind tables, in rows of 4 bytes of kernel memory.
    #[arg(long, value_name = "N", default_value_t = 8 << 20)]
    pub max_unwind_rows: u32,
    /// Where unwind tables are kept from one run to the next; "none": nowhere.
    #[arg(long, value_name = "DIR", default_value = crate::unwind::Cache::DEFAULT_DIRECTORY)]
    pub unwind_cache: PathBuf,
    /// Never write to a target, whatever that costs in coverage.
    #[arg(long)]
    pub no_target_writes: bool,
    /// No process outside the scope may pay anything.
    #[arg(long)]
    pub strict_scope: bool,
    /// Plumbing frames, counters, kernel-side log.
    #[arg(short, long)]
    pub verbose: bool,
    /// Written at the end, and on SIGUSR1 (which goes to stdout if no file is named); the format follows the name: .folded .svg .pb.gz (pprof) .json .txt
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,
    /// Trace children of the target too (default).
    #[arg(long, overrides_with = "no_follow_forks")]
    pub follow_forks: bool,
    /// Leave children of the target alone.
    #[arg(long, overrides_with = "follow_forks")]
    pub no_follow_forks: bool,
    /// Switch a rule of the kernel side off, to prove that its test notices.
    #[arg(long, value_name = "RULE", hide = true)]
    pub switch_off: Vec<String>,
    /// Stop the allocating thread (SIGSTOP) at one allocation in N, and say so on stderr: for a debugger that looks at
    /// the same stack.
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub stop_one_in: u32,
    /// Whose the probes are, whatever the number of processes.
    #[arg(long, value_enum, hide = true)]
    pub placement: Option<Placement>,
    /// Use this kind of kernel link instead of the best that the kernel has.
    #[arg(long, value_enum, hide = true)]
    pub link_mode: Option<Link>,
}

/// `leaktrace doctor`.
#[derive(Args, Debug)]
pub struct DoctorArguments {
    /// What would be traced.
    #[command(flatten)]
    pub target: TargetArguments,
    /// Count calls in short windows and predict the slowdown.
    #[arg(long)]
    pub measure: bool,
    /// json: what was measured, and nothing else, as one object; needs --measure.
    #[arg(long, value_enum, default_value_t = DoctorFormat::Text)]
    pub format: DoctorFormat,
    /// More detail.
    #[arg(short, long)]
    pub verbose: bool,
}

/// `leaktrace daemon`.
#[derive(Args, Debug)]
pub struct DaemonArguments {
    /// The configuration (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only say whether the configuration is right.
    #[arg(long)]
    pub check: bool,
    /// More detail in the log.
    #[arg(short, long)]
    pub verbose: bool,
}

/// `leaktrace report`.
#[derive(Args, Debug)]
pub struct ReportArguments {
    /// The history to read; also one that was copied from another machine.
    #[arg(long, value_name = "FILE", default_value = crate::store::DEFAULT_FILE)]
    pub db: PathBuf,
    /// Whose: a name, a key, a PID, or the beginning of a container's ID; repeatable (default: everybody).
    #[arg(long, value_name = "NAME|PID")]
    pub subject: Vec<String>,
    /// From when on: a time such as 2026-05-01T12:00:00Z or "2026-05-01 12:00" (UTC), or how long ago, such as 2h.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until when, likewise.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Compare two moments.
    #[arg(long, num_args = 2, value_names = ["T1", "T2"], conflicts_with_all = ["since", "until"])]
    pub diff: Vec<String>,
    /// How many suspects, or rows of a comparison, are shown of each subject.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Order of suspects and sites (default: the worst first); comparisons have the largest change first.
    #[arg(long, value_enum)]
    pub sort: Option<Sort>,
    /// What is put together in a comparison (default: line), or in a list of all that survives, which this adds to the text.
    #[arg(long, value_enum)]
    pub group_by: Option<Group>,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Written besides stdout; the format follows the name: .folded .svg .pb.gz (pprof) .json .txt
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,
}

/// `leaktrace top`.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag, as typed")]
pub struct TopArguments {
    /// What to watch.
    #[command(flatten)]
    pub target: TargetArguments,
    /// Start this command and watch it; what it prints is among the messages.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Between two pictures.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub interval: String,
    /// What counts as survivor (default: five intervals).
    #[arg(long, value_name = "TIME")]
    pub min_age: Option<String>,
    /// exact: every call. light: large blocks and pool refills only.
    #[arg(long, value_enum, default_value_t = Detail::Exact)]
    pub detail: Detail,
    /// Cap of the live map, in blocks; some 105 bytes of kernel memory each.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub max_live_blocks: u32,
    /// Never write to a target, whatever that costs in coverage.
    #[arg(long)]
    pub no_target_writes: bool,
    /// No process outside the scope may pay anything.
    #[arg(long)]
    pub strict_scope: bool,
    /// Watch children of the target too (default).
    #[arg(long, overrides_with = "no_follow_forks")]
    pub follow_forks: bool,
    /// Leave children of the target alone.
    #[arg(long, overrides_with = "follow_forks")]
    pub no_follow_forks: bool,
}

/// `--sort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Survivors' bytes.
    Bytes,
    /// Survivors' blocks.
    Count,
    /// Growth of survivors.
    Growth,
}

/// `--group-by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Whole stacks.
    Stack,
    /// Functions.
    Function,
    /// Source lines.
    Line,
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For the leaktrace that started this one.
    #[value(hide = true)]
    Wire,
}

/// `--format` of `doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoctorFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `--unwind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unwind {
    /// Unwind tables.
    Tables,
    /// Frame pointers alone.
    FramePointers,
}

/// `--merge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Merge {
    /// Each process by itself.
    Process,
    /// Each container by itself.
    Container,
    /// Everything together.
    All,
}

/// `--detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Detail {
    /// Every call.
    Exact,
    /// Large blocks and pool refills.
    Light,
}

/// `--link-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Link {
    /// Multi links.
    Multi,
    /// Perf links.
    Perf,
}

/// `--placement`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Placement {
    /// Each process has its own.
    Process,
    /// All processes of a file share them.
    Shared,
}
