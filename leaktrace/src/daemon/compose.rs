//! Puts a report together from what the ledger, the frame store and the kernel side say at one moment.

use std::{collections::HashMap, path::Path, time::Duration};

use leaktrace_common::{counter, hook::domain, python, record::SiteKey, walk::end};

use super::FEW;
use super::code::CodeStatistics;
use super::merging::Unmerged;
use super::stacks::Stack;
use super::tracer::{MMAP_DOMAIN, Tracer};
use crate::{
    ledger::{Ages, MappingLabel, SiteState},
    process::{Identity, host::KernelRelease, status},
    report::{
        model::{
            AgeClass, Amount, Change, Detail, Frame, FrameKind, Fullness, Gaps, Growth, Loss, ProcessReport,
            Reason, Report, SiteReport, SortKey, Truth,
        },
        path,
    },
    symbolize::{FrameId, PythonStatistics, Statistics},
    target::image::Image,
};

/// Counters that stand for lost events, and what to call them.
const LOSSES: &[(usize, &str, Option<usize>)] = &[
    (counter::LOST_LIVE_FULL, Loss::LIVE_MAP_FULL, Some(counter::LOST_LIVE_FULL_BYTES)),
    (counter::LOST_LIVE_ERROR, "live map refused", None),
    (counter::LOST_THREAD_STATE, "no per-thread scratch", None),
    (counter::ABANDONED_CALLS, "calls that never returned", None),
    (counter::REPLACED_BLOCKS, "frees that were missed", None),
    (counter::REALLOC_RESTORE_FAILED, "failed reallocations that found the live map full", None),
    (counter::EVENT_SEND_FAILED, "mapping events that found the ring buffer full", None),
    (counter::READ_FAULTS, "results that could not be read", None),
];

/// What makes two sites one: frames, how their walks ended, domain, kind of mapping.
type SameSite = (Vec<FrameId>, [u8; 2], u32, Option<MappingLabel>);

/// A site before its frames have names.
struct RawSite {
    stack_id: u64,
    domain: u32,
    label: Option<MappingLabel>,
    live: Amount,
    survivors: Amount,
    allocated: Amount,
    change: Change,
    growth: Option<Growth>,
    ages: Vec<AgeClass>,
}

impl Tracer {
    /// Makes a report of everything known now.
    pub fn report(&mut self, reason: Reason) -> Report {
        let now = self.now();
        self.keeper.settle_if_ready(&self.kernel);
        self.read_rows();
        let ages = Ages::new(&self.keeper.epochs, now, self.plan.min_age);
        self.ledger.finish(&ages, now);
        self.count_unlisted();
        self.sequence += 1;
        self.images.values_mut().for_each(Image::read_mappings);
        let serials: Vec<u32> = self.images.keys().copied().collect();
        let mut processes: Vec<ProcessReport> =
            serials.iter().filter_map(|serial| self.process(*serial, &ages, now)).collect();
        processes.sort_by_key(|process| std::cmp::Reverse(process.survivors.bytes));
        let truth = self.truth(&processes);
        let ended = self.ended;
        self.count_listed(&processes, &reason);
        Report {
            leaktrace_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: KernelRelease::current().map(|release| release.text).unwrap_or_default(),
            sequence: self.sequence,
            reason,
            started_unix_s: self.started_unix_s,
            at_unix_s: self.started_unix_s + now.as_secs_f64(),
            elapsed_s: now.as_secs_f64(),
            interval_s: self.plan.interval.as_secs_f64(),
            min_age_s: self.plan.min_age.as_secs_f64(),
            top: self.plan.top,
            sort: self.plan.sort,
            group_by: self.plan.group_by,
            merge: self.plan.merge,
            detail: if self.plan.light { Detail::Light } else { Detail::Exact },
            processes,
            ended,
            truth,
        }
    }

    fn process(&mut self, serial: u32, ages: &Ages, now: Duration) -> Option<ProcessReport> {
        let mut raw = self.block_sites(serial, ages, now);
        let allocated = self
            .ledger
            .of_process(serial)
            .fold(Amount::default(), |sum, (_, site)| plus(sum, site.allocated));
        raw.extend(self.mapping_sites(serial, now));
        let mut sites = self.merge_by_frames(serial, raw);
        sort(&mut sites, self.plan.sort);
        let counted = || sites.iter().filter(|site| site.label.as_deref() != MappingLabel::Reserved.text());
        let live = counted().fold(Amount::default(), |sum, site| plus(sum, site.live));
        let survivors = counted().fold(Amount::default(), |sum, site| plus(sum, site.survivors));
        let python = self.python_report(serial);
        let image = self.images.get_mut(&serial)?;
        image.survivors.set_survivors(survivors, now);
        Some(ProcessReport {
            pid: image.pid,
            serial,
            namespace_pids: image.identity.namespace_pids.clone(),
            container: image.container.clone(),
            late_s: image.late_s,
            name: image.identity.name.clone(),
            command: image.identity.command.clone(),
            ended: image.ended.clone(),
            rss_bytes: image.rss,
            rss_at_attach_bytes: image.rss_at_attach,
            live,
            survivors,
            allocated,
            survivors_change: image.survivors.change,
            growth: image.survivors.growth.growth(now),
            application_root: image
                .python
                .interpreter
                .as_ref()
                .and_then(|_| application_root(&image.identity)),
            python,
            sites,
        })
    }

    /// Sites of blocks with an address and a size.
    fn block_sites(&self, serial: u32, ages: &Ages, now: Duration) -> Vec<RawSite> {
        self.ledger
            .of_process(serial)
            .filter(|(key, _)| key.domain != MMAP_DOMAIN)
            .filter_map(|(key, site)| {
                let cells = site.cells.as_ref()?;
                let live = Ages::live(cells);
                (live != Amount::default()).then(|| RawSite {
                    stack_id: key.stack_id,
                    domain: key.domain,
                    label: None,
                    live,
                    survivors: site.survivors,
                    allocated: site.allocated,
                    change: site.change,
                    growth: site.growth.growth(now),
                    ages: ages.classes(cells),
                })
            })
            .collect()
    }

    /// Sites of anonymous mappings.
    fn mapping_sites(&mut self, serial: u32, now: Duration) -> Vec<RawSite> {
        let Some(image) = self.images.get_mut(&serial) else { return Vec::new() };
        let sums = image.intervals.sums(now, self.plan.min_age);
        image.mapping_sites.retain(|key, _| sums.contains_key(key));
        let mut sites = Vec::with_capacity(sums.len());
        for ((stack_id, label), sum) in sums {
            let state: &mut SiteState = image.mapping_sites.entry((stack_id, label)).or_default();
            let survivors = Amount { bytes: sum.survivor_bytes, blocks: sum.survivor_blocks };
            state.set_survivors(survivors, now);
            let (bytes, blocks) = sum.live();
            let key = SiteKey { stack_id, serial, domain: MMAP_DOMAIN };
            sites.push(RawSite {
                stack_id,
                domain: MMAP_DOMAIN,
                label: Some(label),
                live: Amount { bytes, blocks },
                survivors,
                allocated: self.ledger.get(&key).map(|site| site.allocated).unwrap_or_default(),
                change: state.change,
                growth: state.growth.growth(now),
                ages: mapping_ages(sum.ages),
            });
        }
        sites
    }

    /// Stacks that differ for the kernel side (before and after a dlclose, say) may have the same frames: one site.
    fn merge_by_frames(&mut self, serial: u32, raw: Vec<RawSite>) -> Vec<SiteReport> {
        let unknown = Stack { frames: Vec::new(), walk_end: end::COMPLETE, python_end: 0 };
        let mut by_frames: HashMap<SameSite, SiteReport> = HashMap::new();
        for site in raw {
            let stack = self.stacks.get(serial, site.stack_id).unwrap_or(&unknown).clone();
            // Two stacks whose frames never arrived are not the same one.
            let ends = [stack.walk_end, stack.python_end];
            let merged = by_frames.entry((stack.frames.clone(), ends, site.domain, site.label));
            let entry = merged.or_insert_with(|| self.named(&site, &stack));
            if entry.stack_id == site.stack_id && entry.live == Amount::default() {
                fill(entry, site);
            } else {
                add(entry, site);
            }
        }
        by_frames.into_values().collect()
    }

    /// A site with names, its amounts still empty.
    fn named(&mut self, site: &RawSite, stack: &Stack) -> SiteReport {
        let frames: Vec<Frame> = stack.frames.iter().flat_map(|frame| self.frames.resolve(*frame)).collect();
        let truncated = match stack.frames.is_empty() {
            true if site.stack_id == 0 => Some("site table full"),
            true => Some("the frames never arrived"),
            false => truncation(stack, &frames),
        };
        let truncated = truncated.map(str::to_owned);
        SiteReport {
            stack_id: site.stack_id,
            domain: domain::NAMES.get(site.domain as usize).copied().unwrap_or("unknown").to_owned(),
            label: site.label.and_then(MappingLabel::text).map(str::to_owned),
            frames,
            truncated,
            ..SiteReport::default()
        }
    }

    fn truth(&self, processes: &[ProcessReport]) -> Truth {
        let counters = self.kernel.counters().unwrap_or([0; counter::COUNT]);
        let names = self.frames.statistics();
        let sum = |pick: fn(&ProcessReport) -> Option<u64>| {
            processes.iter().map(pick).fold(None, |sum: Option<u64>, value| match (sum, value) {
                (Some(sum), Some(value)) => Some(sum.saturating_add(value)),
                (sum, value) => sum.or(value),
            })
        };
        let anonymous = self.images.values().filter_map(|image| image.anonymous).reduce(u64::saturating_add);
        let live_blocks = processes.iter().map(|process| {
            process
                .sites
                .iter()
                .filter(|site| site.domain != "mmap")
                .map(|site| site.live.blocks)
                .sum::<u64>()
        });
        let used_rows = self.kernel.rows_in_use();
        let mut named: std::collections::BTreeMap<String, u64> =
            counter::NAMES.iter().zip(counters).map(|(name, value)| ((*name).to_owned(), value)).collect();
        named.insert(counter::NAMES[counter::SWEPT_BLOCKS].to_owned(), self.swept);
        named.remove(counter::NAMES[counter::CALIBRATION_HITS]);
        named.extend(unwind_counters(&self.code.statistics()));
        named.extend(python_counters(&self.unmerged, &names.python));
        let newcomers = self.newcomers.report();
        Truth {
            lost: losses(&counters),
            unmatched_frees: counters[counter::UNMATCHED_FREES],
            inherited_frees: counters[counter::INHERITED_FREES],
            truncated_stacks: truncated_stacks(processes),
            stacks: processes.iter().map(|process| process.sites.len() as u64).sum(),
            unresolved_frames: names.unresolved_frames,
            frames: names.frames,
            live_map: Fullness {
                used: live_blocks.sum(),
                capacity: u64::from(self.plan.max_live_blocks),
                full_since_s: self.full_since.map(|since| since.as_secs_f64()),
            },
            rows: Fullness {
                used: u64::from(used_rows).saturating_sub(self.recycler.free_rows() as u64),
                capacity: u64::from(self.plan.max_sites),
                full_since_s: self.rows_full_since.map(|since| since.as_secs_f64()),
            },
            caps: self.caps(&counters),
            blind_windows: self.blind_windows(newcomers.gaps),
            newcomers,
            before_attach_bytes: sum(|process| process.rss_at_attach_bytes),
            tracked_bytes: processes.iter().map(|process| process.live.bytes).sum(),
            rss_bytes: sum(|process| process.rss_bytes),
            anonymous_bytes: anonymous,
            notes: self.notes(&names),
            counters: named,
            own_cpu_s: own_cpu_seconds(),
            own_rss_bytes: status::read(std::process::id())
                .ok()
                .and_then(|status| status.rss_bytes)
                .unwrap_or(0),
            map_bytes: self.kernel.map_memory(),
        }
    }

    /// What was not seen of each process; of many that came late, in sum.
    fn blind_windows(&self, gaps: Option<Gaps>) -> Vec<String> {
        let mut windows: Vec<String> = self.images.values().flat_map(|image| image.blind.clone()).collect();
        if self.images.len() <= FEW {
            let late = self.images.values().filter_map(|image| Some((image.pid, image.late_s?)));
            windows.extend(late.map(|(pid, late)| {
                format!("process {pid}: its first {:.0} ms, until it was traced", late * 1e3)
            }));
            return windows;
        }
        windows.extend(gaps.map(|gaps| {
            format!(
                "the first moments of processes made while tracing: half of them at most {:.0} ms, 99 of 100 at most {:.0} ms, all at most {:.0} ms",
                gaps.p50_ms, gaps.p99_ms, gaps.max_ms
            )
        }));
        windows
    }

    fn notes(&self, names: &Statistics) -> Vec<String> {
        let mut notes = names.notes();
        if self.plan.rules_off != 0 {
            let off: Vec<&str> = leaktrace_common::rule::ALL
                .iter()
                .filter(|(_, bit)| self.plan.rules_off & bit != 0)
                .map(|(name, _)| *name)
                .collect();
            notes.push(format!("FOR TESTS ONLY: rules switched off: {}", off.join(", ")));
        }
        if self.plan.stop_one_in != 0 {
            notes.push(format!(
                "FOR TESTS ONLY: threads are stopped at one allocation in {}, and no return is probed",
                self.plan.stop_one_in
            ));
        }
        for image in self.images.values() {
            for note in &image.notes {
                notes.push(if self.images.len() > 1 {
                    format!("process {}: {note}", image.pid)
                } else {
                    note.clone()
                });
            }
        }
        notes.extend(self.code.statistics().failures);
        if self.stacks_unknown > 0 {
            notes.push(format!(
                "{} stacks arrived for processes that were gone, or past the cap",
                self.stacks_unknown
            ));
        }
        notes
    }
}

/// Python frames in numbers, under the names that JSON and the verbose report use.
fn python_counters(unmerged: &Unmerged, names: &PythonStatistics) -> [(String, u64); 7] {
    let numbers = [
        ("python_loops_without_frames", unmerged.loops_without_python),
        ("python_frames_without_loop", unmerged.python_without_loop),
        ("python_walks_truncated", unmerged.python_truncated),
        ("python_code_objects", names.codes),
        ("python_code_without_lines", names.without_lines),
        ("python_name_bytes", names.text_bytes),
        ("python_line_table_bytes", names.table_bytes),
    ];
    numbers.map(|(name, value)| (name.to_owned(), value))
}

/// Unwind tables in numbers, under the names that JSON and the verbose report use.
fn unwind_counters(code: &CodeStatistics) -> Vec<(String, u64)> {
    let (store, workshop) = (&code.store, &code.workshop);
    let milliseconds = u64::try_from(workshop.spent.as_millis()).unwrap_or(u64::MAX);
    let numbers = [
        ("unwind_tables", store.tables),
        ("unwind_rows", u64::from(store.rows)),
        ("unwind_rows_capacity", u64::from(store.row_capacity)),
        ("unwind_bytes", store.bytes),
        ("unwind_rules", store.rules),
        ("unwind_tables_evicted", store.evicted),
        ("unwind_tables_refused", store.refused),
        ("unwind_tables_shared", store.shared),
        ("unwind_tables_built", workshop.built),
        ("unwind_tables_from_disk", workshop.from_disk),
        ("unwind_tables_waiting", workshop.waiting),
        ("unwind_objects_without_frames", workshop.no_frames),
        ("unwind_build_ms", milliseconds),
    ];
    let failed = workshop.failed.iter().map(|(reason, count)| (format!("unwind_failed: {reason}"), *count));
    numbers.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(failed).collect()
}

/// Of the stacks that hold live blocks, those that end early, by reason.
fn truncated_stacks(processes: &[ProcessReport]) -> std::collections::BTreeMap<String, u64> {
    let sites = processes.iter().flat_map(|process| &process.sites);
    sites.filter_map(|site| site.truncated.clone()).fold(
        std::collections::BTreeMap::new(),
        |mut reasons, reason| {
            *reasons.entry(reason).or_insert(0) += 1;
            reasons
        },
    )
}

/// Why a stack ends early, if it does. One whose Python frames are all there does not: what is missing is native frames
/// between them.
fn truncation(stack: &Stack, frames: &[Frame]) -> Option<&'static str> {
    let python_end = u32::from(stack.python_end);
    if matches!(python_end, python::end::UNREADABLE | python::end::TOO_DEEP | python::end::IMPLAUSIBLE) {
        return python::end::NAMES.get(usize::from(stack.python_end)).copied();
    }
    let has_python = || frames.iter().any(|frame| frame.kind == FrameKind::Python);
    let whole = stack.walk_end == end::COMPLETE || reaches_start(frames);
    if whole || python_end == python::end::COMPLETE && has_python() {
        return None;
    }
    Some(end::NAMES.get(usize::from(stack.walk_end)).copied().unwrap_or("unknown reason"))
}

/// Whether the outermost frame is where a process or thread starts. The C library has no frame pointers there, so
/// a walk that got that far ends on whatever the register holds.
fn reaches_start(frames: &[Frame]) -> bool {
    const STARTS: [&str; 6] =
        ["__libc_start_call_main", "__libc_start_main", "_start", "start_thread", "clone", "__clone3"];
    let outermost = frames.last().and_then(|frame| frame.function.as_deref());
    outermost.is_some_and(|name| STARTS.iter().any(|start| name.starts_with(start)))
}

fn losses(counters: &[u64; counter::COUNT]) -> Vec<Loss> {
    LOSSES
        .iter()
        .filter(|(index, ..)| counters[*index] > 0)
        .map(|(index, cause, bytes)| Loss {
            cause: (*cause).to_owned(),
            events: counters[*index],
            bytes: bytes.map(|bytes| counters[bytes]),
        })
        .collect()
}

/// Mappings by age, youngest first, one class per mapping: there are few.
fn mapping_ages(mut pieces: Vec<(Duration, u64, u64)>) -> Vec<AgeClass> {
    const MAX_CLASSES: usize = 32;
    pieces.sort_by_key(|(age, ..)| *age);
    let per_class = pieces.len().div_ceil(MAX_CLASSES).max(1);
    pieces
        .chunks(per_class)
        .map(|chunk| AgeClass {
            youngest_s: chunk.first().map_or(0.0, |(age, ..)| age.as_secs_f64()),
            oldest_s: chunk.last().map_or(0.0, |(age, ..)| age.as_secs_f64()),
            live: chunk.iter().fold(Amount::default(), |sum, (_, bytes, blocks)| {
                plus(sum, Amount { bytes: *bytes, blocks: *blocks })
            }),
        })
        .collect()
}

fn plus(left: Amount, right: Amount) -> Amount {
    Amount { bytes: left.bytes.saturating_add(right.bytes), blocks: left.blocks.saturating_add(right.blocks) }
}

fn fill(entry: &mut SiteReport, site: RawSite) {
    entry.live = site.live;
    entry.survivors = site.survivors;
    entry.allocated = site.allocated;
    entry.survivors_change = site.change;
    entry.growth = site.growth;
    entry.ages = site.ages;
}

/// Adds a second kernel-side site with the same frames.
fn add(entry: &mut SiteReport, site: RawSite) {
    entry.live = plus(entry.live, site.live);
    entry.survivors = plus(entry.survivors, site.survivors);
    entry.allocated = plus(entry.allocated, site.allocated);
    entry.survivors_change.bytes += site.change.bytes;
    entry.survivors_change.blocks += site.change.blocks;
    entry.growth = match (entry.growth, site.growth) {
        (Some(left), Some(right)) => Some(Growth {
            bytes_per_hour: left.bytes_per_hour + right.bytes_per_hour,
            observed_s: left.observed_s.max(right.observed_s),
            steady_s: left.steady_s.min(right.steady_s),
        }),
        (left, right) => left.or(right),
    };
    for class in site.ages {
        match entry
            .ages
            .iter_mut()
            .find(|known| known.youngest_s == class.youngest_s && known.oldest_s == class.oldest_s)
        {
            Some(known) => known.live = plus(known.live, class.live),
            None => entry.ages.push(class),
        }
    }
    entry.ages.sort_by(|left, right| left.youngest_s.total_cmp(&right.youngest_s));
}

/// Largest first; address space without memory comes last, and equal sites keep a fixed order.
fn sort(sites: &mut [SiteReport], key: SortKey) {
    let growth = |site: &SiteReport| site.growth.map_or(0.0, |growth| growth.bytes_per_hour);
    sites.sort_by(|left, right| {
        let reserved = |site: &SiteReport| site.label.as_deref() == MappingLabel::Reserved.text();
        let by_key = match key {
            SortKey::Bytes => right.survivors.bytes.cmp(&left.survivors.bytes),
            SortKey::Count => right.survivors.blocks.cmp(&left.survivors.blocks),
            SortKey::Growth => growth(right).total_cmp(&growth(left)),
        };
        let by_live = || right.live.bytes.cmp(&left.live.bytes);
        reserved(left)
            .cmp(&reserved(right))
            .then(by_key)
            .then_with(by_live)
            .then_with(|| left.stack_id.cmp(&right.stack_id))
    });
}

fn application_root(identity: &Identity) -> Option<String> {
    let directory = identity.directory.as_deref().and_then(Path::to_str);
    path::application_root(directory, &identity.command)
}

fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
