//! Promise: a float or a tuple that is kept is booked where it was made, whatever was freed before and however often the
//! collector ran; and pools are seen where they are taken into use.

mod python;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use leaktrace::kernel::{AttachScope, Kernel, LoadOptions, Rings, StackRecord};
use leaktrace::object::address::AbsoluteAddress;
use leaktrace::process::MemoryReader;
use leaktrace_common::hook::{HookCookie, domain, kind};
use leaktrace_common::python::{CLOSED, FreeList, Runtime, closer};
use leaktrace_common::record::{Target, gate, target_flag};
use leaktrace_common::{counter, event, rule};
use python::{Program, VERSIONS, Version, installed, interpreter_points, library, point, runtime};

/// `float_state.numfree` and `.free_list`, `tuple.numfree[0]` and `.free_list[0]` of the interpreter, 3.11.
const FLOATS: [u64; 2] = [3608, 3616];
const TUPLES: [u64; 2] = [3792, 3632];
/// Sizes of tuples that have a list, from 1 on.
const TUPLE_LISTS: u64 = 20;

/// The free lists of an interpreter at `address`, 3.11.
fn free_lists(address: u64) -> Vec<FreeList> {
    let list =
        |counter, head, next, header| FreeList { counter, head, counter_bytes: 4, next, header, pad: 0 };
    let tuples = (0..TUPLE_LISTS)
        .map(|size| list(address + TUPLES[0] + size * 4, address + TUPLES[1] + size * 8, 24, 16));
    std::iter::once(list(address + FLOATS[0], address + FLOATS[1], 8, 0)).chain(tuples).collect()
}

fn word(pid: u32, address: u64) -> u64 {
    MemoryReader::new(pid).read_u64(AbsoluteAddress(address)).expect("readable")
}

/// What was seen of a run of the program.
struct Seen {
    /// Live (blocks, bytes) by function and by size of a block.
    live: BTreeMap<(String, i64), i64>,
    counters: [u64; counter::COUNT],
    closer: u32,
    /// Counters of the free lists at the end.
    lists: Vec<u32>,
}

/// Traces the program with probes that `points` names.
fn trace(
    version: &Version,
    options: &LoadOptions,
    lists: impl Fn(u64) -> Vec<FreeList>,
    points: impl Fn(&std::path::Path) -> Vec<leaktrace::kernel::AttachPoint>,
) -> Seen {
    let (mut kernel, mut rings, _sweeper) = Kernel::load(options).expect("loaded");
    let root = installed(version.name);
    let mut program = Program::start(&root, "free_lists.py", 20);
    let pid = program.pid();
    let mut stacks = Vec::new();
    let first = program.says(&mut rings, &mut stacks);
    let mut found = runtime(version, pid, first["runtime"].as_u64().expect("an address"));
    let lists = lists(word(pid, found.interpreters));
    found.lists[..lists.len()].copy_from_slice(&lists);
    let found = Runtime { list_count: lists.len() as u32, ..found };
    let slot = kernel.python.take_slot().expect("a slot");
    kernel.python.set(slot, &found);
    let flags = target_flag::LAYERED;
    let target = Target { serial: 1, flags, python_slot: slot, ..Target::default() };
    kernel.set_target(pid, &target).expect("entered");
    let attachment = kernel.attach(AttachScope::Process(pid), &points(&root)).expect("attached");
    kernel.set_target(pid, &Target { gate: gate::OPEN, ..target }).expect("opened");
    program.go_on();
    program.says_to(|rings| close_on_demand(pid, rings, &lists), &mut rings, &mut stacks);
    drop(attachment);
    while let Some(record) = rings.next_stack() {
        stacks.push(record);
    }
    Seen {
        live: live(&kernel, &stacks, &first["functions"]),
        counters: kernel.counters().expect("readable"),
        closer: kernel.free_list_closer(),
        lists: lists.iter().map(|list| word(pid, list.counter) as u32).collect(),
    }
}

/// What the daemon does: closes the lists when it is told that they are open, the first one last.
fn close_on_demand(pid: u32, rings: &mut Rings, lists: &[FreeList]) {
    while let Some(event) = rings.next_event() {
        if event.kind == event::kind::FREE_LISTS_OPEN {
            let memory = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")).expect("opened");
            for list in lists.iter().rev() {
                memory.write_all_at(&CLOSED.to_le_bytes(), list.counter).expect("written");
            }
        }
    }
}

/// Live blocks by the function that made them and by their size.
fn live(
    kernel: &Kernel,
    stacks: &[StackRecord],
    functions: &serde_json::Value,
) -> BTreeMap<(String, i64), i64> {
    let name = |code: u64| {
        let mut functions = functions.as_object().expect("functions").iter();
        functions.find(|(_, address)| address.as_u64() == Some(code)).map(|(name, _)| name.clone())
    };
    let innermost: BTreeMap<u64, String> = stacks
        .iter()
        .filter_map(|stack| Some((stack.header.stack_id, name(stack.python.first()?.code)?)))
        .collect();
    let mut live = BTreeMap::new();
    for row in (0..kernel.rows_in_use()).filter_map(|index| kernel.rows.read(index)) {
        let Some(name) = innermost.get(&row.stack_id) else { continue };
        let (blocks, bytes) =
            row.cells.iter().fold((0, 0), |sum, cell| (sum.0 + cell.blocks, sum.1 + cell.bytes));
        if blocks > 0 {
            assert_eq!(
                row.small_blocks,
                if row.domain == u32::from(domain::PY) && bytes / blocks <= 512 { blocks } else { 0 }
            );
            *live.entry((name.clone(), bytes / blocks)).or_default() += blocks;
        }
    }
    live
}

fn kept(rules_off: u64) -> Seen {
    let options = LoadOptions { close_free_lists: true, rules_off, ..LoadOptions::default() };
    trace(&VERSIONS[3], &options, free_lists, |root| interpreter_points(&library(root, "3.11")))
}

fn blocks(seen: &Seen, function: &str, size: i64) -> i64 {
    seen.live.get(&(function.to_owned(), size)).copied().unwrap_or(0)
}

#[test]
#[ignore = "needs root, BPF and pyenv's interpreters: cargo xtask test"]
fn root_rule_free_lists_closed() {
    let seen = kept(0);
    assert_eq!(blocks(&seen, "keep_floats", 24), 1000);
    assert_eq!(blocks(&seen, "keep_tuples", 56), 1000);
    // Twenty collections, and what was open in the beginning.
    let by_kernel = seen.counters[counter::FREE_LISTS_CLOSED_AGAIN];
    assert!(seen.closer == closer::DAEMON || by_kernel >= 21 * 20, "{by_kernel} closed");
    assert_eq!(seen.counters[counter::FREE_LIST_WRITE_FAILED], 0);
    assert!(seen.lists.iter().all(|counter| (CLOSED / 2..=CLOSED).contains(counter)), "{:?}", seen.lists);
}

#[test]
#[ignore = "needs root, BPF and pyenv's interpreters: cargo xtask test"]
fn root_rule_free_lists_closed_fails_when_switched_off() {
    let seen = kept(rule::FREE_LISTS_CLOSED);
    assert!(blocks(&seen, "keep_floats", 24) < 1000);
    assert!(blocks(&seen, "keep_tuples", 56) < 1000);
}

#[test]
#[ignore = "needs root, BPF and pyenv's interpreters: cargo xtask test"]
fn root_pools_are_seen_where_they_are_taken_into_use() {
    let pools = |root: &std::path::Path| {
        let cookie = HookCookie { kind: kind::POOL, domain: domain::PY, ..HookCookie::default() };
        vec![point(&library(root, "3.12"), "allocate_from_new_pool", cookie)]
    };
    let seen = trace(&VERSIONS[4], &LoadOptions::default(), |_| Vec::new(), pools);
    let pools = blocks(&seen, "keep_small", 16384);
    // 433 bytes each, in blocks of 448: 36 fit into a pool.
    assert!((27..=29).contains(&pools), "{pools} pools for 1,000 blocks of 448 bytes");
}
