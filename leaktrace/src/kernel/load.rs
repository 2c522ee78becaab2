//! Loads the kernel side and keeps what belongs to it.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{HashMap, Map, MapData, PerCpuArray, Queue, RingBuf},
    programs::{Program, ProgramType, RawTracePoint, UProbe},
    sys::{BpfHelper, UProbeMultiFeature, is_helper_supported, is_uprobe_multi_supported},
};
use leaktrace_common::{
    counter,
    hook::MAX_HOOKS,
    python::closer,
    record::{LiveBlock, LiveKey, SiteKey, Target},
};

use super::{
    CodeCapacity, CodeMemory, ControlPage, KernelError, Logger, PythonMemory, Rings, RowTable, Sweeper,
    btf::KernelTypes,
    code::CODE_SLOTS,
    error::{chain, is_permission},
    python::thread_pointer_offset,
};

/// The kernel side as build.rs left it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/leaktrace.bpf.o"));

/// How probes are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMode {
    /// One link for many probes (kernel 6.6 and newer): attaches in a millisecond.
    Multi,
    /// One perf event for each probe.
    Perf,
}

impl std::fmt::Display for LinkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Multi => "probes are placed by multi links (one for many probes)",
            Self::Perf => {
                "probes are placed by perf links (one for each probe: detaching takes some 0.1 s each)"
            }
        })
    }
}

/// What can be chosen when loading.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Cap of the live map, blocks.
    pub max_live_blocks: u32,
    /// Cap of the site table, distinct (process, stack) pairs.
    pub max_sites: u32,
    /// Rules switched off, for tests (`leaktrace_common::rule`).
    pub rules_off: u64,
    /// Whether the kernel side may write log lines.
    pub log: bool,
    /// Whether calls are counted per function; costs some 20 ns a call.
    pub count_hits: bool,
    /// Probes do nothing but count the calls of each function, and no return is probed.
    pub count_only: bool,
    /// Whether CPython's free lists are closed again when a collection has opened them: see
    /// [`Kernel::free_list_closer`]. Where the kernel side does it, the kernel logs a warning.
    pub close_free_lists: bool,
    /// Whether processes that targets make become targets.
    pub follow_forks: bool,
    /// Whether the daemon is told of every new process of the host.
    pub watch_host: bool,
    /// Stop threads (SIGSTOP) at one allocation in so many, for tests; 0: never. Returns are not probed then.
    pub stop_one_in: u32,
    /// Room for unwind tables.
    pub code: CodeCapacity,
    /// Link mode to use; `None`: the best that this kernel has.
    pub link_mode: Option<LinkMode>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            max_live_blocks: 1_000_000,
            max_sites: 32_768,
            rules_off: 0,
            log: false,
            count_hits: false,
            count_only: false,
            close_free_lists: false,
            follow_forks: false,
            watch_host: false,
            stop_one_in: 0,
            code: CodeCapacity::default(),
            link_mode: None,
        }
    }
}

/// The loaded kernel side. Dropping it detaches everything.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) link_mode: LinkMode,
    pub(super) rules_off: u64,
    pub(super) stop_one_in: u32,
    pub(super) count_only: bool,
    free_list_closer: u32,
    targets: HashMap<MapData, u32, Target>,
    sites: HashMap<MapData, SiteKey, u32>,
    free_rows: Queue<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    hits: PerCpuArray<MapData, u64>,
    map_fds: Vec<OwnedFd>,
    /// The site table.
    pub rows: RowTable,
    /// Epochs and limits.
    pub control: ControlPage,
    /// Unwind tables and code mappings.
    pub code: CodeMemory,
    /// Interpreters.
    pub python: PythonMemory,
}

impl Kernel {
    /// Loads every program and map. Nothing is attached to any target yet; exec and exit are being watched.
    ///
    /// # Errors
    /// If the kernel lacks a feature, does not permit it, or refuses a program.
    pub fn load(options: &LoadOptions) -> Result<(Self, Rings, Sweeper), KernelError> {
        let link_mode = match options.link_mode {
            Some(mode) => mode,
            None => best_link_mode(),
        };
        let types = KernelTypes::of_running_kernel()?;
        let closer = closer_of_free_lists(options);
        let mut ebpf = open_object(options, &types, closer)?;
        let map_fds = clone_map_fds(&ebpf)?;
        load_programs(&mut ebpf, link_mode)?;
        attach_lifecycle(&mut ebpf)?;

        let rings = Rings::new(ring(&mut ebpf, "STACKS")?, ring(&mut ebpf, "EVENTS")?);
        let live = take(&mut ebpf, "LIVE")?;
        let live_fd = clone_fd(&live, "LIVE")?;
        let live: HashMap<_, LiveKey, LiveBlock> = convert(live, "LIVE")?;
        let rows = RowTable::map(clone_fd(&take(&mut ebpf, "ROWS")?, "ROWS")?, options.max_sites)?;
        let control = ControlPage::map(clone_fd(&take(&mut ebpf, "CONTROL")?, "CONTROL")?)?;
        let fd = |name| {
            clone_fd(ebpf.map(name).ok_or_else(|| KernelError::map("find", name, "not in the object"))?, name)
        };
        let code = CodeMemory::map(options.code, fd)?;
        let python = PythonMemory::map(options.rules_off, fd)?;
        let kernel = Self {
            code,
            python,
            targets: convert(take(&mut ebpf, "TARGETS")?, "TARGETS")?,
            sites: convert(take(&mut ebpf, "SITES")?, "SITES")?,
            free_rows: convert(take(&mut ebpf, "FREE_ROWS")?, "FREE_ROWS")?,
            counters: convert(take(&mut ebpf, "COUNTERS")?, "COUNTERS")?,
            hits: convert(take(&mut ebpf, "HITS")?, "HITS")?,
            map_fds,
            rows,
            control,
            link_mode,
            rules_off: options.rules_off,
            stop_one_in: options.stop_one_in,
            count_only: options.count_only,
            free_list_closer: closer,
            ebpf,
        };
        Ok((kernel, rings, Sweeper::new(live, live_fd)))
    }

    /// How probes are attached on this host.
    pub fn link_mode(&self) -> LinkMode {
        self.link_mode
    }

    /// The kernel side's log, if it was loaded with [`LoadOptions::log`]. `None` if it cannot be read.
    pub fn logger(&mut self) -> Option<Logger> {
        Logger::new(&mut self.ebpf)
    }

    /// Who closes CPython's free lists again after a full collection, one of [`leaktrace_common::python::closer`]: the
    /// daemon where the kernel does not permit programs to write to a process (in lockdown).
    pub fn free_list_closer(&self) -> u32 {
        self.free_list_closer
    }

    /// Enters a process, or changes what is known of it.
    ///
    /// # Errors
    /// If the map refuses (it holds 16,384 processes).
    pub fn set_target(&mut self, tgid: u32, target: &Target) -> Result<(), KernelError> {
        self.targets
            .insert(&tgid, target, 0)
            .map_err(|error| KernelError::map("write", "TARGETS", chain(&error)))
    }

    /// What the kernel side holds of a process.
    pub fn target(&self, tgid: u32) -> Option<Target> {
        self.targets.get(&tgid, 0).ok()
    }

    /// Forgets a process.
    pub fn remove_target(&mut self, tgid: u32) {
        // Gone already is as good as removed.
        let _ = self.targets.remove(&tgid);
    }

    /// All counters, summed over CPUs, by index.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<[u64; counter::COUNT], KernelError> {
        let mut sums = [0; counter::COUNT];
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = per_cpu_sum(&self.counters, index, "COUNTERS")?;
        }
        Ok(sums)
    }

    /// Calls seen per hooked function, by hook number.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn hits(&self) -> Result<[u64; MAX_HOOKS], KernelError> {
        let mut sums = [0; MAX_HOOKS];
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = per_cpu_sum(&self.hits, index, "HITS")?;
        }
        Ok(sums)
    }

    /// Removes a site, so that its row can be recycled. Returns whether it was there.
    pub fn remove_site(&mut self, key: &SiteKey) -> bool {
        self.sites.remove(key).is_ok()
    }

    /// Enters a site again whose row turned out to be in use. `false`: another row has taken its place.
    pub fn restore_site(&mut self, key: &SiteKey, row: u32) -> bool {
        const BPF_NOEXIST: u64 = 1;
        self.sites.insert(key, &row, BPF_NOEXIST).is_ok()
    }

    /// Hands an emptied row back to the kernel side.
    ///
    /// # Errors
    /// If the queue refuses, which has room for every row.
    pub fn give_row_back(&mut self, row: u32) -> Result<(), KernelError> {
        self.free_rows.push(&row, 0).map_err(|error| KernelError::map("write", "FREE_ROWS", chain(&error)))
    }

    /// Bytes of kernel memory that the maps take, as the kernel accounts them.
    pub fn map_memory(&self) -> u64 {
        self.map_fds.iter().filter_map(|fd| memlock(fd.as_raw_fd())).sum()
    }

    /// How many rows have been handed out, the overflow row included: those that are worth reading.
    pub fn rows_in_use(&self) -> u32 {
        self.control.rows_used().min(self.rows.capacity())
    }

    pub(super) fn uprobe(&mut self, name: &str) -> Result<&mut UProbe, KernelError> {
        let missing =
            || KernelError::Load { what: format!("program {name}"), reason: "not in the object".into() };
        self.ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
    }
}

/// Multi links, if the kernel has them and their PID filter means the whole process (6.6 to 6.9 had it per thread).
fn best_link_mode() -> LinkMode {
    match is_uprobe_multi_supported(UProbeMultiFeature::ProcessScopedPidFilter) {
        Ok(true) => LinkMode::Multi,
        Ok(false) | Err(_) => LinkMode::Perf,
    }
}

fn closer_of_free_lists(options: &LoadOptions) -> u32 {
    if !options.close_free_lists {
        return closer::NOBODY;
    }
    match is_helper_supported(ProgramType::KProbe, BpfHelper::BPF_FUNC_probe_write_user) {
        Ok(true) => closer::KERNEL,
        Ok(false) | Err(_) => closer::DAEMON,
    }
}

fn open_object(options: &LoadOptions, types: &KernelTypes, closer: u32) -> Result<Ebpf, KernelError> {
    let signal = types.offset_of("task_struct", "signal")?;
    let exit_code = types.offset_of("task_struct", "exit_code")?;
    let live = types.offset_of("signal_struct", "live")?;
    let trampoline = trampoline_offsets(types).unwrap_or_default();
    let task_pid = types.offset_of("task_struct", "pid")?;
    let task_tgid = types.offset_of("task_struct", "tgid")?;
    let follow_forks = u32::from(options.follow_forks);
    let watch_host = u32::from(options.watch_host);
    let log = u32::from(options.log);
    let own = std::process::id();
    let count_hits = u32::from(options.count_hits);
    let count_only = u32::from(options.count_only);
    let thread_pointer = thread_pointer_offset(types);
    EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::DEBUG)
        .override_global("RULES_OFF", &options.rules_off, true)
        .override_global("LOG_ENABLED", &log, true)
        .override_global("TASK_SIGNAL_OFFSET", &signal, true)
        .override_global("TASK_EXIT_CODE_OFFSET", &exit_code, true)
        .override_global("SIGNAL_LIVE_OFFSET", &live, true)
        .override_global("TASK_MM_OFFSET", &trampoline[0], true)
        .override_global("MM_XOL_AREA_OFFSET", &trampoline[1], true)
        .override_global("XOL_AREA_ADDRESS_OFFSET", &trampoline[2], true)
        .override_global("TASK_THREAD_POINTER_OFFSET", &thread_pointer, true)
        .override_global("COUNT_ONLY", &count_only, true)
        .override_global("FREE_LIST_CLOSER", &closer, true)
        .override_global("COUNT_HITS", &count_hits, true)
        .override_global("STOP_ONE_IN", &options.stop_one_in, true)
        .override_global("OWN_TGID", &own, true)
        .override_global("TASK_PID_OFFSET", &task_pid, true)
        .override_global("TASK_TGID_OFFSET", &task_tgid, true)
        .override_global("FOLLOW_FORKS", &follow_forks, true)
        .override_global("WATCH_HOST", &watch_host, true)
        .map_max_entries("LIVE", options.max_live_blocks)
        .map_max_entries("SITES", options.max_sites)
        .map_max_entries("ROWS", options.max_sites)
        .map_max_entries("FREE_ROWS", options.max_sites)
        .map_max_entries("CODE_HEADS", CODE_SLOTS)
        .map_max_entries("CODE", options.code.entries)
        .map_max_entries("UNWIND_PAGES", options.code.pages)
        .map_max_entries("UNWIND_ROWS", options.code.lines())
        .load(OBJECT)
        .map_err(|error| load_error("object", &error))
}

/// The way from a task to its uprobe trampoline. `None` where the kernel's structures differ: the kernel side then
/// makes do without.
fn trampoline_offsets(types: &KernelTypes) -> Option<[u32; 3]> {
    let state = types.offset_of("mm_struct", "uprobes_state").ok()?;
    let area = types.offset_of("uprobes_state", "xol_area").ok()?;
    Some([
        types.offset_of("task_struct", "mm").ok()?,
        state + area,
        types.offset_of("xol_area", "vaddr").ok()?,
    ])
}

pub(super) fn load_error(what: &str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    let reason = chain(error);
    if is_permission(error) {
        KernelError::NotPermitted { what: format!("loading leaktrace's BPF {what}"), reason }
    } else {
        KernelError::Load { what: what.to_owned(), reason }
    }
}

fn load_programs(ebpf: &mut Ebpf, mode: LinkMode) -> Result<(), KernelError> {
    for (name, program) in ebpf.programs_mut() {
        let wanted = match program {
            Program::UProbe(_) => name.ends_with("_multi") == (mode == LinkMode::Multi),
            _ => true,
        };
        if !wanted {
            continue;
        }
        let result = match program {
            Program::UProbe(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            _ => Ok(()),
        };
        result.map_err(|error| load_error(&format!("program {name}"), &error))?;
    }
    Ok(())
}

fn attach_lifecycle(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    // exec and exit first: what is known of a process must go with it.
    for (program, tracepoint) in [
        ("process_exec", "sched_process_exec"),
        ("process_exit", "sched_process_exit"),
        ("process_fork", "sched_process_fork"),
    ] {
        let missing =
            || KernelError::Load { what: format!("program {program}"), reason: "not in the object".into() };
        let raw: &mut RawTracePoint =
            ebpf.program_mut(program).ok_or_else(missing)?.try_into().map_err(|_| missing())?;
        raw.attach(tracepoint).map_err(|error| load_error(&format!("tracepoint {tracepoint}"), &error))?;
    }
    Ok(())
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError::map("find", name, "not in the object"))
}

fn convert<T: TryFrom<Map, Error = aya::maps::MapError>>(
    map: Map,
    name: &'static str,
) -> Result<T, KernelError> {
    T::try_from(map).map_err(|error| KernelError::map("use", name, chain(&error)))
}

fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    convert(take(ebpf, name)?, name)
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

fn clone_fd(map: &Map, name: &'static str) -> Result<OwnedFd, KernelError> {
    data(map)
        .ok_or_else(|| KernelError::map("use", name, "unexpected type"))?
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| KernelError::map("use", name, error))
}

fn clone_map_fds(ebpf: &Ebpf) -> Result<Vec<OwnedFd>, KernelError> {
    ebpf.maps().filter(|(_, map)| data(map).is_some()).map(|(_, map)| clone_fd(map, "fd")).collect()
}

fn per_cpu_sum(
    map: &PerCpuArray<MapData, u64>,
    index: usize,
    name: &'static str,
) -> Result<u64, KernelError> {
    let index = u32::try_from(index).map_err(|error| KernelError::map("read", name, error))?;
    let values = map.get(&index, 0).map_err(|error| KernelError::map("read", name, chain(&error)))?;
    Ok(values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value)))
}

fn fdinfo(fd: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()))
}

fn memlock(fd: i32) -> Option<u64> {
    fdinfo(fd, "memlock:")?.parse().ok()
}
