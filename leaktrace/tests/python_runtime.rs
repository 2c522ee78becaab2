//! The interpreter of a process is found, its version read from itself, its structures validated against the live process;
//! what is not supported is refused with its reason.

mod installed;

use std::path::{Path, PathBuf};
use std::process::Command;

use installed::{Installed, Script};
use leaktrace::process::{MemoryReader, MemoryWriter, maps, status};
use leaktrace::python::census::{Census, Reason};
use leaktrace::python::{self, Finder, Interpreter, Kinds, Memory, Refusal, Version, closing};
use leaktrace_common::python::FreeList;

/// Says that it is there and waits.
const WAIT: &str = "print('ready'); input()";

fn found(pid: u32) -> Result<Option<Interpreter>, Refusal> {
    python::find(pid, &maps::read(pid).expect("mappings"))
}

fn writer(pid: u32) -> MemoryWriter {
    let started = status::read_stat(pid).expect("alive").start_ticks;
    MemoryWriter::open(pid, started).expect("permitted")
}

fn ready(installed: &Installed, script: &str) -> Script {
    let mut running = installed.start(script);
    assert_eq!(running.line(), "ready", "{}", installed.name);
    running
}

#[test]
#[ignore = "needs root"]
fn root_every_interpreter_at_hand_is_found_with_its_own_version() {
    for installed in installed::supported() {
        let running = ready(&installed, WAIT);
        let interpreter =
            found(running.pid()).unwrap_or_else(|refusal| panic!("{}: {refusal}", installed.name));
        let interpreter = interpreter.unwrap_or_else(|| panic!("{}: not found", installed.name));
        assert_eq!(interpreter.version, installed.version(), "{}", installed.name);
        println!("{}: {} in {}", installed.name, interpreter.version, interpreter.path.display());
    }
}

/// Keeps half a million small blocks, counts, says so without allocating anything, and sleeps.
const COUNTED: &str = "
import os, struct, sys, time
kept = [str(number) for number in range(300000)] + [object() for _ in range(200000)]
large = [bytes(1000) for _ in range(1000)]
pack, count, write, sleep, word = struct.pack_into, sys.getallocatedblocks, os.write, time.sleep, bytearray(8)
pack('q', word, 0, count())
print('ready')
input()
pack('q', word, 0, count()); write(1, word); sleep(1000)
";

#[test]
#[ignore = "needs root"]
fn root_blocks_are_counted_exactly_as_the_interpreter_counts_them() {
    for installed in installed::supported() {
        let mut running = ready(&installed, COUNTED);
        let interpreter = found(running.pid()).expect("supported").expect("found");
        let mappings = maps::read(running.pid()).expect("mappings");
        let memory = MemoryReader::new(running.pid());
        let census = Census::find(&interpreter, &memory, &mappings);
        let census = census.unwrap_or_else(|reason| panic!("{}: {reason}", installed.name));
        running.go_on();
        let said = running.word();
        running.settle();
        let count = census.count(&memory).expect("countable");
        assert_eq!(count.blocks, said, "{}", installed.name);
        assert!(count.large.is_none_or(|large| large >= 1000), "{}: {count:?}", installed.name);
    }
}

#[test]
#[ignore = "needs root"]
fn root_an_interpreter_on_malloc_has_no_pools_to_count() {
    for installed in
        installed::supported().into_iter().filter(|installed| !installed.name.starts_with("plain 3.8"))
    {
        let mut running = installed.start_with(WAIT, &[("PYTHONMALLOC", "malloc")]);
        assert_eq!(running.line(), "ready");
        let interpreter = found(running.pid()).expect("supported").expect("found");
        let mappings = maps::read(running.pid()).expect("mappings");
        let census = Census::find(&interpreter, &MemoryReader::new(running.pid()), &mappings);
        assert_eq!(census.err(), Some(Reason::NoPools), "{}", installed.name);
    }
}

/// Makes and drops more floats and tuples than any free list holds, whenever it is told to, then says so; then collects
/// everything; prints statistics at the end.
const CHURN: &str = "
import gc, sys
def churn():
    floats = [number + 0.5 for number in range(3000)]
    tuples = [tuple(range(length)) for length in range(1, 20) for _ in range(30)]
    lists = [[number] for number in range(200)]
    del floats, tuples, lists
churn()
print('ready')
while True:
    command = input()
    if command == 'churn': churn()
    elif command == 'collect': gc.collect()
    elif command == 'statistics': sys._debugmallocstats()
    print('done')
";

#[test]
#[ignore = "needs root"]
fn root_free_lists_are_found_closed_and_opened_again() {
    for installed in installed::supported() {
        let mut running = ready(&installed, CHURN);
        let interpreter = found(running.pid()).expect("supported").expect("found");
        let memory = MemoryReader::new(running.pid());
        running.settle();
        let lists = python::free_lists(&interpreter, &memory);
        let lists = lists.unwrap_or_else(|reason| panic!("{}: {reason}", installed.name));
        let writer = writer(running.pid());
        check_lists(&installed.name, &interpreter, &mut running, &lists, &writer);
        println!("{}: {} lists", installed.name, lists.len());
    }
}

fn check_lists(
    name: &str,
    interpreter: &Interpreter,
    running: &mut Script,
    lists: &[FreeList],
    writer: &MemoryWriter,
) {
    let memory = MemoryReader::new(running.pid());
    let filled = |lists: &[FreeList]| lists.iter().filter(|list| memory.word(list.head) != Some(0)).count();
    assert!(lists.len() >= 20 && filled(lists) >= 20, "{name}: {} of {}", filled(lists), lists.len());
    assert_eq!(closing::closed(lists, &memory), 0, "{name}");

    let outcome = closing::close(lists, &memory, writer).expect("writable");
    assert_eq!((outcome.written, outcome.left), (lists.len(), 0), "{name}");
    running.say("churn");
    running.settle();
    assert_eq!(closing::closed(lists, &memory), lists.len(), "{name}");
    assert_eq!(memory.word(lists[0].head), Some(0), "{name}: floats drained");
    assert!(filled(lists) < 20, "{name}: {}", filled(lists));

    // A second look, as that of a leaktrace whose predecessor was killed, finds the same lists.
    assert_eq!(python::free_lists(interpreter, &memory).as_deref(), Ok(lists), "{name}");

    running.say("collect");
    running.settle();
    let opened = closing::closed(lists, &memory) < lists.len();
    assert_eq!(
        opened,
        interpreter.version.minor < 14,
        "{name}: a full collection opens the lists up to 3.13"
    );
    assert_eq!(closing::closed(&lists[..1], &memory) == 0, opened, "{name}: the first list shows it");
    closing::close(lists, &memory, writer).expect("writable");
    running.say("statistics");

    let outcome = closing::open(lists, &memory, writer).expect("writable");
    assert_eq!((outcome.written, outcome.left), (lists.len(), 0), "{name}");
    running.say("churn");
    running.settle();
    assert_eq!(closing::closed(lists, &memory), 0, "{name}");
    assert!(filled(lists) >= 20, "{name}: used again");
    assert_eq!(python::free_lists(interpreter, &memory).as_deref(), Ok(lists), "{name}: as long as they say");
}

/// What lies behind `lib` and `include` of an installation.
fn series(installed: &Installed) -> String {
    let version = installed.version();
    format!("python{}.{}", version.major, version.minor)
}

/// Compiles against the headers and the library of an installation.
fn embedding(installed: &Installed, flags: &[&str]) -> PathBuf {
    let prefix = installed.program.parent().and_then(Path::parent).expect("bin/python");
    let series = series(installed);
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("embedded-{series}{}", flags.concat()));
    let status = Command::new("cc")
        .args(flags)
        .arg("-I")
        .arg(prefix.join("include").join(&series))
        .arg("-o")
        .arg(&built)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/installed/embedded.c"))
        .arg("-L")
        .arg(prefix.join("lib"))
        .arg(format!("-l{series}"))
        .status();
    assert!(status.expect("cc").success(), "{series}");
    built
}

#[test]
#[ignore = "needs root"]
fn root_an_embedded_interpreter_is_found_once_it_is_set_up() {
    let installed = installed::pyenv(|series| series >= (3, 8));
    assert!(!installed.is_empty(), "no interpreter with headers and a shared library");
    for (installed, flags) in
        installed.iter().flat_map(|one| [(one, ["-fPIE", "-pie"]), (one, ["-fno-pie", "-no-pie"])])
    {
        let mut command = Command::new(embedding(installed, &flags));
        let prefix = installed.program.parent().and_then(Path::parent).expect("bin/python");
        command.env("PYTHONHOME", prefix).env("LD_LIBRARY_PATH", prefix.join("lib"));
        let mut running = Script::spawn(command);
        assert_eq!(running.line(), "loaded", "{} {flags:?}", installed.name);
        let refusal = found(running.pid()).expect_err("not set up");
        assert!(refusal.is_not_yet(), "{} {flags:?}: {refusal}", installed.name);
        running.go_on();
        assert_eq!(running.line(), "ready", "{} {flags:?}", installed.name);
        let interpreter =
            found(running.pid()).unwrap_or_else(|refusal| panic!("{} {flags:?}: {refusal}", installed.name));
        assert_eq!(interpreter.expect("found").version, installed.version(), "{} {flags:?}", installed.name);
        running.go_on();
        assert_eq!(running.line(), "finished", "{} {flags:?}", installed.name);
        let refusal = found(running.pid()).expect_err("over");
        assert!(refusal.is_not_yet(), "{} {flags:?}: {refusal}", installed.name);
    }
}

#[test]
#[ignore = "needs root"]
fn root_an_interpreter_that_only_the_target_can_see_is_found() {
    let installed = installed::pyenv(|series| series >= (3, 11));
    let installed = installed.first().expect("a plain build of 3.11 or later");
    let libraries = installed.libraries.as_deref().expect("a shared library");
    let hidden = "mount -t tmpfs none /mnt && cp -L \"$1\"/libpython3*.so.1.0 /mnt && LD_LIBRARY_PATH=/mnt exec \"$2\" -u -c \"$3\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hidden, "sh"]).arg(libraries).arg(&installed.program).arg(WAIT);
    let mut running = Script::spawn(command);
    assert_eq!(running.line(), "ready");
    let interpreter = found(running.pid()).expect("supported").expect("found");
    assert!(
        interpreter.path.starts_with("/mnt") && !interpreter.path.exists(),
        "{}",
        interpreter.path.display()
    );
    assert!(interpreter.openable.exists(), "{}", interpreter.openable.display());
    assert_eq!(interpreter.version, installed.version());
}

#[test]
#[ignore = "needs root"]
fn root_versions_that_are_too_old_are_refused_by_name() {
    let old = installed::pyenv(|series| series < (3, 8));
    assert!(!old.is_empty(), "no interpreter before 3.8");
    for installed in old {
        let mut running = installed.start("import sys; print('ready'); sys.stdin.readline()");
        assert_eq!(running.line(), "ready");
        let refusal = found(running.pid()).expect_err(&installed.name);
        let version = installed.name.trim_start_matches("plain ");
        assert!(matches!(&refusal, Refusal::Version { version: said, .. } if said == version), "{refusal}");
        println!("{refusal}");
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_process_without_python_has_none() {
    let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
    // Its own program, no longer that of its parent.
    while !maps::read(child.id())
        .expect("mappings")
        .iter()
        .any(|mapping| mapping.path.as_deref().is_some_and(|path| path.ends_with("sleep")))
    {
        std::thread::yield_now();
    }
    let found = found(child.id());
    child.kill().and_then(|()| child.wait()).expect("own child");
    assert!(matches!(found, Ok(None)), "{found:?}");
}

/// Four threads that call deeply and allocate all the time, in as many interpreters as the version can have.
const BUSY: &str = "
import sys, threading
def deep(depth, number):
    kept = [number * 0.5, (depth, number), {depth: number}]
    return deep(depth - 1, number + 1) if depth else kept
def work():
    while True: deep(60, 1)
for _ in range(3): threading.Thread(target=work, daemon=True).start()
print('ready')
work()
";

#[test]
#[ignore = "needs root"]
fn root_a_busy_interpreter_is_found_every_time_and_its_lists_can_be_closed() {
    for installed in installed::supported() {
        let running = ready(&installed, BUSY);
        let mut finder = Finder::default();
        for _ in 0..50 {
            let found = finder.find(running.pid(), &maps::read(running.pid()).expect("mappings"));
            let found = found.unwrap_or_else(|refusal| panic!("{}: {refusal}", installed.name));
            assert!(found.is_some(), "{}", installed.name);
        }
        let interpreter = found(running.pid()).expect("supported").expect("found");
        let memory = MemoryReader::new(running.pid());
        let lists = python::free_lists(&interpreter, &memory);
        let lists = lists.unwrap_or_else(|reason| panic!("{}: {reason}", installed.name));
        let writer = writer(running.pid());
        for _ in 0..20 {
            let outcome = closing::close(&lists, &memory, &writer).expect("writable");
            assert_eq!((outcome.done, outcome.left), (lists.len(), 0), "{}: {outcome:?}", installed.name);
            let outcome = closing::open(&lists, &memory, &writer).expect("writable");
            assert_eq!((outcome.done, outcome.left), (lists.len(), 0), "{}: {outcome:?}", installed.name);
        }
        assert!(found(running.pid()).is_ok(), "{}: still works", installed.name);
    }
}

/// Makes another interpreter, where the version has a module for that.
const SEVERAL: &str = "
import importlib, sys, time, os, struct
made = 0
for name in ('_interpreters', '_xxsubinterpreters'):
    try: module = importlib.import_module(name)
    except ImportError: continue
    other = module.create()
    made = 1
    break
pack, count, write, sleep, word = struct.pack_into, sys.getallocatedblocks, os.write, time.sleep, bytearray(8)
pack('q', word, 0, count())
print(made)
input()
pack('q', word, 0, count()); write(1, word); sleep(1000)
";

#[test]
#[ignore = "needs root"]
fn root_every_interpreter_of_a_process_counts() {
    let mut seen = 0;
    for installed in installed::supported() {
        let mut running = installed.start(SEVERAL);
        let made: usize = running.line().parse().expect("a number");
        let interpreter = found(running.pid()).expect("supported").expect("found");
        let memory = MemoryReader::new(running.pid());
        let mappings = maps::read(running.pid()).expect("mappings");
        let census = Census::find(&interpreter, &memory, &mappings).expect("countable");
        let lists = python::free_lists(&interpreter, &memory).expect("found").len();
        let each = match interpreter.version.minor {
            8 | 9 => None,
            10 => Some(20),
            14 => Some(39),
            _ => Some(21),
        };
        assert_eq!(lists, each.map_or(20, |each| each * (1 + made)), "{}", installed.name);
        running.go_on();
        let said = running.word();
        running.settle();
        assert_eq!(census.count(&memory).expect("countable").blocks, said, "{}", installed.name);
        seen += made;
    }
    assert!(seen > 0, "no version could make another interpreter");
}

/// Keeps one object of each kind and says where the blocks begin and how large they are.
const KINDS: &str = "
import gc, sys
kept = [[1], {1: 2}, float('2.5'), tuple([5, 6]), 'text' * 9, object()]
for one in kept:
    header = 16 if isinstance(one, (list, dict, tuple)) else 0
    size = sys.getsizeof(one) if header == 0 else {list: 56, dict: 64, tuple: 56}[type(one)]
    print(id(one) - header, size)
print('ready')
input()
";

#[test]
#[ignore = "needs root"]
fn root_blocks_that_may_have_changed_hands_are_told_by_what_they_hold() {
    for installed in installed::supported() {
        let mut running = installed.start(KINDS);
        let lines: Vec<String> =
            std::iter::repeat_with(|| running.line()).take_while(|line| line != "ready").collect();
        let block = |line: &String| {
            let (address, bytes) = line.split_once(' ').expect("two numbers");
            (address.parse().expect("a number"), bytes.parse().expect("a number"))
        };
        let blocks: Vec<(u64, u64)> = lines.iter().map(block).collect();
        let interpreter = found(running.pid()).expect("supported").expect("found");
        let memory = MemoryReader::new(running.pid());
        let holding = |closed| {
            let kinds = Kinds::of(&interpreter, closed);
            blocks.iter().map(|block| kinds.recycled(&memory, [*block]).holding).collect::<Vec<_>>()
        };
        assert_eq!(holding(false), [1, 1, 1, 1, 0, 0], "{}", installed.name);
        let closed = if interpreter.version.minor < 14 { [1, 1, 0, 0, 0, 0] } else { [0; 6] };
        assert_eq!(holding(true), closed, "{}", installed.name);
    }
}

#[test]
#[ignore = "needs root"]
fn root_tables_say_what_the_headers_of_installed_versions_say() {
    let offsets = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/python/offsets");
    let installed = installed::pyenv(|series| series >= (3, 8));
    assert!(!installed.is_empty(), "no interpreter with headers");
    for installed in installed {
        let prefix = installed.program.parent().and_then(Path::parent).expect("bin/python");
        let include = prefix.join("include").join(series(&installed));
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("print-{}", series(&installed)));
        let mut compiler = Command::new("cc");
        compiler.arg("-w").arg("-I").arg(&include).arg("-I").arg(include.join("internal"));
        let status = compiler.arg(offsets.join("print.c")).arg("-o").arg(&built).status();
        assert!(status.expect("cc").success(), "{}", installed.name);
        let printed = Command::new(&built).output().expect("runs").stdout;
        let Version { major, minor, micro } = installed.version();
        let table = offsets.join(format!("tables/v{major}_{minor}_{micro}.rs"));
        let table = std::fs::read(&table).unwrap_or_else(|error| panic!("{}: {error}", table.display()));
        assert_eq!(String::from_utf8_lossy(&printed), String::from_utf8_lossy(&table), "{}", installed.name);
    }
}

#[test]
#[ignore = "needs root"]
fn root_what_moved_between_releases_is_found_again_or_refused() {
    let later = installed::supported().into_iter().filter(|installed| installed.version().minor >= 12);
    let mut seen = 0;
    for installed in later {
        let running = ready(&installed, CHURN);
        running.settle();
        let exact = found(running.pid()).expect("supported").expect("found");
        let memory = MemoryReader::new(running.pid());
        let mappings = maps::read(running.pid()).expect("mappings");
        let lists = python::free_lists(&exact, &memory).expect("found");
        let census =
            |interpreter: &Interpreter| Census::find(interpreter, &memory, &mappings).ok()?.count(&memory);
        for moved in [0, 16, 32, 56, 400] {
            let mut other = Interpreter { exact: false, ..exact.clone() };
            other.offsets.free_lists.float_head += moved;
            other.offsets.free_lists.float_count += moved;
            other.offsets.free_lists.tuple_heads += moved;
            other.offsets.free_lists.tuple_counts += moved;
            other.offsets.free_lists.uniform += if exact.version.minor < 14 { 0 } else { moved };
            other.offsets.pools.state += moved;
            assert_eq!(
                python::free_lists(&other, &memory).as_deref(),
                Ok(&*lists),
                "{} {moved}",
                installed.name
            );
            assert_eq!(census(&other), census(&exact), "{} {moved}", installed.name);
        }
        let mut other = Interpreter { exact: false, ..exact.clone() };
        other.offsets.free_lists.float_head += 4096;
        other.offsets.free_lists.uniform += if exact.version.minor < 14 { 0 } else { 4096 };
        assert!(python::free_lists(&other, &memory).is_err(), "{}", installed.name);
        seen += 1;
    }
    assert!(seen > 0, "no interpreter of 3.12 or later");
}
