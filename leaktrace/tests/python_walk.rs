//! Promise: the Python frames that the kernel side sees at an allocation are those that the interpreter itself sees
//! there. Plain builds of the interpreter, as pyenv makes them; their allocators are probed where their symbols are.

mod python;

use std::collections::BTreeMap;

use leaktrace::kernel::{AttachScope, Kernel, LoadOptions, StackRecord};
use leaktrace_common::counter;
use leaktrace_common::hook::domain;
use leaktrace_common::python::end;
use leaktrace_common::record::{Target, gate, target_flag};
use python::{Program, VERSIONS, Version, installed, interpreter_points, libc_points, library, runtime};

/// What one sample of the program is called for, bytes; everything else it allocates is much smaller.
const SIZE: u64 = 1 << 20;

/// Domain and frames (address of the code, position), innermost first.
type Place = (u32, Vec<(u64, u32)>);

/// What the program saw itself: how often it allocated [`SIZE`] bytes at each place.
fn said(value: &serde_json::Value) -> BTreeMap<Place, u64> {
    let sample = |sample: &serde_json::Value| {
        let domain = if sample[0] == "py" { domain::PY } else { domain::MALLOC };
        let frame = |frame: &serde_json::Value| {
            (
                frame[0].as_u64().expect("as the program prints it"),
                frame[1].as_u64().expect("as the program prints it") as u32,
            )
        };
        let frames = sample[1].as_array().expect("as the program prints it").iter().map(frame).collect();
        ((u32::from(domain), frames), sample[2].as_u64().expect("as the program prints it"))
    };
    value["samples"].as_array().expect("as the program prints it").iter().map(sample).collect()
}

/// What the kernel side saw: how often [`SIZE`] bytes were allocated at each place.
fn seen(kernel: &Kernel, stacks: &[StackRecord]) -> BTreeMap<Place, u64> {
    let stacks: BTreeMap<u64, &StackRecord> =
        stacks.iter().map(|stack| (stack.header.stack_id, stack)).collect();
    let mut seen = BTreeMap::<Place, u64>::new();
    for row in (0..kernel.rows_in_use()).filter_map(|index| kernel.rows.read(index)) {
        let Some(stack) = stacks.get(&row.stack_id) else { continue };
        let shown = stack.python.iter().filter(|frame| frame.code != 0);
        let frames = shown.map(|frame| (frame.code, frame.instruction)).collect();
        *seen.entry((row.domain, frames)).or_default() += row.total_bytes;
    }
    seen.into_iter().map(|(place, bytes)| (place, bytes / SIZE)).filter(|(_, count)| *count > 0).collect()
}

fn compare(version: &Version) {
    let options = LoadOptions { max_sites: 262_144, ..LoadOptions::default() };
    let (mut kernel, mut rings, _sweeper) = Kernel::load(&options).expect("loaded");
    let root = installed(version.name);
    let mut program = Program::start(&root, "frames.py", 400);
    let pid = program.pid();
    let mut stacks = Vec::new();
    let address = program.says(&mut rings, &mut stacks)["runtime"].as_u64().expect("an address");
    let slot = kernel.python.take_slot().expect("a slot");
    kernel.python.set(slot, &runtime(version, pid, address));
    let target = Target {
        serial: 1,
        gate: gate::CLOSED,
        flags: target_flag::LAYERED,
        python_slot: slot,
        ..Target::default()
    };
    kernel.set_target(pid, &target).expect("entered");
    let mut points = interpreter_points(&library(&root, version.name));
    points.extend(libc_points(pid));
    let attachment = kernel.attach(AttachScope::Process(pid), &points).expect("attached");
    kernel.set_target(pid, &Target { gate: gate::OPEN, ..target }).expect("opened");
    let _stopwatch = kernel.start_stopwatch().expect("measuring");
    program.go_on();
    let said = said(&program.says(&mut rings, &mut stacks));
    drop(attachment);
    while let Some(record) = rings.next_stack() {
        stacks.push(record);
    }
    report(&kernel, &stacks);
    let seen = seen(&kernel, &stacks);
    let wrong: Vec<_> = said.iter().filter(|(place, count)| seen.get(*place) != Some(*count)).collect();
    let samples: u64 = said.values().sum();
    println!("{}: {samples} samples at {} places, {} wrong", version.name, said.len(), wrong.len());
    for (place, count) in wrong.iter().take(3) {
        println!("  said {count}, seen {:?}: {place:x?}", seen.get(*place));
    }
    assert!(samples >= 1000 && wrong.is_empty());
}

/// How often a thread is let begin without the lock. The lock's last holder may be that very thread, if no other has run
/// since: then nothing is searched.
const BEGINNINGS: usize = 5;

/// A thread whose first allocation that anybody sees is made in C, without the lock.
fn found_without_lock(version: &Version) {
    let searched = (0..BEGINNINGS).any(|_| searches_without_lock(version) > 0);
    assert!(searched, "{}: nothing was searched", version.name);
}

/// Traces such a thread; returns how often the interpreter's threads were searched for it.
fn searches_without_lock(version: &Version) -> u64 {
    let (mut kernel, mut rings, _sweeper) = Kernel::load(&LoadOptions::default()).expect("loaded");
    let root = installed(version.name);
    let mut program = Program::start(&root, "waiting.py", 100_000);
    let pid = program.pid();
    let mut stacks = Vec::new();
    let first = program.says(&mut rings, &mut stacks);
    let slot = kernel.python.take_slot().expect("a slot");
    kernel.python.set(slot, &runtime(version, pid, first["runtime"].as_u64().expect("an address")));
    let target = Target { serial: 1, python_slot: slot, ..Target::default() };
    kernel.set_target(pid, &target).expect("entered");
    let attachment = kernel.attach(AttachScope::Process(pid), &libc_points(pid)).expect("attached");
    kernel.set_target(pid, &Target { gate: gate::OPEN, ..target }).expect("opened");
    program.go_on();
    program.says(&mut rings, &mut stacks);
    drop(attachment);
    while let Some(record) = rings.next_stack() {
        stacks.push(record);
    }
    let others: Vec<_> = stacks.iter().filter(|stack| stack.header.tid != pid).collect();
    let waiting = first["waiting"].as_u64();
    let innermost = |stack: &StackRecord| stack.python.first().map(|frame| frame.code);
    assert!(others.iter().any(|stack| innermost(stack) == waiting), "{}: {others:?}", version.name);
    kernel.counters().expect("readable")[counter::PYTHON_THREAD_SEARCHES]
}

#[test]
#[ignore = "needs root, BPF and pyenv's interpreters: cargo xtask test"]
fn root_python_threads_are_found_without_the_lock() {
    VERSIONS.iter().for_each(found_without_lock);
}

/// What the walks cost and how they ended, for people.
fn report(kernel: &Kernel, stacks: &[StackRecord]) {
    for time in kernel.program_times().into_iter().filter(|time| time.runs > 0) {
        println!("  {}: {} runs, {:?} each", time.name, time.runs, time.time / time.runs.max(1) as u32);
    }
    let mut ends = BTreeMap::<&str, usize>::new();
    for stack in stacks {
        let name = end::NAMES.get(stack.header.python_end as usize).copied().unwrap_or("?");
        *ends.entry(name).or_default() += 1;
    }
    println!("  ends: {ends:?}");
    let counters = kernel.counters().expect("readable");
    let counted = counter::NAMES.iter().zip(counters).filter(|(_, count)| *count > 0);
    println!("  {:?}", counted.collect::<Vec<_>>());
}

macro_rules! versions {
    ($($test:ident: $index:literal;)*) => {
        $(#[test]
        #[ignore = "needs root, BPF and pyenv's interpreters: cargo xtask test"]
        fn $test() {
            compare(&VERSIONS[$index]);
        })*
    };
}

versions! {
    root_python_3_8_frames_are_the_interpreters_own: 0;
    root_python_3_9_frames_are_the_interpreters_own: 1;
    root_python_3_10_frames_are_the_interpreters_own: 2;
    root_python_3_11_frames_are_the_interpreters_own: 3;
    root_python_3_12_frames_are_the_interpreters_own: 4;
    root_python_3_13_frames_are_the_interpreters_own: 5;
}
