//! Promise: files that a target maps are not trusted. Whatever is wrong with one, tracing goes on, the reason is named, and
//! memory stays bounded.

mod harness;

use harness::{Outcome, Outcomes, Target, Tracer, program};
use leaktrace_common::walk::end;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// What the tracer may have resident, whatever it is made to read.
const MEMORY: i64 = 300 << 20;
/// Tracers that attach while a file changes.
const ATTACHMENTS: usize = 6;

/// Maps its argument with permission to execute, and speaks the harness' protocol as far as to be ready.
const MAPS_A_FILE: &str = "
import mmap, sys
with open(sys.argv[1], 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
print('ready', flush=True)
for line in sys.stdin:
    kept = [bytearray(70000) for _ in range(50)]
    print('total 0 0', flush=True)
";

fn text(reason: u8) -> String {
    end::NAMES[usize::from(reason)].to_owned()
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}

/// A library of the tests, copied to where it may be damaged.
fn copied_library(directory: &Path) -> Outcomes<PathBuf> {
    let copy = directory.join("library.so");
    fs::copy(program::path("whole_stacks_library.so")?, &copy).map_err(failed("copy"))?;
    Ok(copy)
}

/// Loads the library, has `damage` done to its file, and only then traces what it allocates.
fn traced_after(damage: impl FnOnce(&File) -> std::io::Result<()>) -> Outcomes<Outcome> {
    let directory = tempfile::tempdir().map_err(failed("temporary directory"))?;
    let library = copied_library(directory.path())?;
    let mut target = Target::prepare("whole_stacks")?.arg(&library).start()?;
    target.ask("load")?;
    let file = OpenOptions::new().write(true).open(&library).map_err(failed("open"))?;
    damage(&file).map_err(failed("damage"))?;
    let mut tracer = Tracer::of(target.pid()).args(&["--unwind-cache", "none"]).start()?;
    tracer.await_tracing()?;
    target.ask("use")?;
    let outcome = tracer.interrupt_and_finish()?;
    let truth = &outcome.final_report()?.truth;
    assert!(truth.own_rss_bytes < MEMORY, "{} bytes resident", truth.own_rss_bytes);
    Ok(outcome)
}

/// Stacks through the library end there, under the reason's name, and a sentence says which file it was.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_library_whose_headers_are_overwritten() -> Outcomes<()> {
    let outcome = traced_after(|file| file.write_all_at(&[0; 64], 0))?;
    let truth = &outcome.final_report()?.truth;
    assert!(
        truth.truncated_stacks.contains_key(&text(end::UNREADABLE_OBJECT)),
        "{:?}",
        truth.truncated_stacks
    );
    assert!(truth.notes.iter().any(|note| note.contains("library.so")), "{:?}", truth.notes);
    Ok(())
}

/// Program headers that point at each other, at themselves and past the end.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_library_whose_program_headers_are_forged() -> Outcomes<()> {
    let outcome = traced_after(|file| {
        // e_phoff, e_shoff: both at the header itself; e_phnum, e_shnum: as many as can be.
        file.write_all_at(&[0; 8], 32)?;
        file.write_all_at(&[0; 8], 40)?;
        file.write_all_at(&[0xff; 2], 56)?;
        file.write_all_at(&[0xff; 2], 60)
    })?;
    let truth = &outcome.final_report()?.truth;
    assert!(!truth.truncated_stacks.is_empty(), "{:?}", truth.truncated_stacks);
    Ok(())
}

/// The file of a running library grows to four gigabytes of nothing: its table is made of what it is made of.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_library_that_has_grown_to_four_gigabytes() -> Outcomes<()> {
    let outcome = traced_after(|file| file.set_len(4 << 30))?;
    let truth = &outcome.final_report()?.truth;
    assert!(truth.truncated_stacks.is_empty(), "{:?}", truth.truncated_stacks);
    Ok(())
}

/// Four gigabytes that are no object at all, mapped to be executed.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_sparse_file_of_four_gigabytes_as_object() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(failed("temporary directory"))?;
    let path = directory.path().join("sparse.so");
    File::create(&path).and_then(|file| file.set_len(4 << 30)).map_err(failed("sparse file"))?;
    let outcome = traced(&mut mapping(&path)?)?;
    let truth = &outcome.final_report()?.truth;
    assert!(truth.notes.iter().any(|note| note.contains("sparse.so")), "{:?}", truth.notes);
    assert!(truth.own_rss_bytes < MEMORY, "{} bytes resident", truth.own_rss_bytes);
    Ok(())
}

/// A process that has mapped the file.
fn mapping(path: &Path) -> Outcomes<Target> {
    let mut python = Command::new("python3");
    python.arg("-c").arg(MAPS_A_FILE).arg(path);
    Target::command(python).start()
}

fn traced(target: &mut Target) -> Outcomes<Outcome> {
    let mut tracer = Tracer::of(target.pid()).args(&["--unwind-cache", "none"]).start()?;
    tracer.await_tracing()?;
    target.say("allocate")?;
    let outcome = tracer.interrupt_and_finish()?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    Ok(outcome)
}

/// A mapped object is cut off, overwritten and restored, over and over, while tracers read it. (It executes nothing itself: a
/// process does not survive that its code is cut off.)
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_an_object_that_changes_while_it_is_read() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(failed("temporary directory"))?;
    let path = directory.path().join("changing.so");
    let sound = fs::read(program::path("whole_stacks_library.so")?).map_err(failed("library"))?;
    fs::write(&path, &sound).map_err(failed("copy"))?;
    let mut target = mapping(&path)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let changes = scope.spawn(|| change_until(&done, &path, &sound));
        let outcomes: Outcomes<Vec<Outcome>> = (0..ATTACHMENTS).map(|_| traced(&mut target)).collect();
        done.store(true, Ordering::Relaxed);
        let changed = changes.join().map_err(|_| "the writer panicked")?;
        for outcome in outcomes? {
            let truth = &outcome.final_report()?.truth;
            let about: Vec<_> = truth.notes.iter().filter(|note| note.contains("changing.so")).collect();
            println!("changed {changed} times; {about:?}");
            assert!(truth.own_rss_bytes < MEMORY, "{} bytes resident", truth.own_rss_bytes);
        }
        Ok(())
    })
}

/// Changes the file in place until told to stop: the mapping is of this very file. Returns how often.
fn change_until(done: &AtomicBool, path: &Path, sound: &[u8]) -> usize {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return 0 };
    let mut changes = 0;
    while !done.load(Ordering::Relaxed) {
        let mut damaged = sound.to_vec();
        damaged.iter_mut().skip(64 + changes % 512).step_by(61).for_each(|byte| *byte ^= 0xff);
        let changed = match changes % 4 {
            0 => file.set_len((changes * 97 % sound.len()) as u64),
            1 => file.write_all_at(&damaged, 0),
            _ => file.write_all_at(sound, 0),
        };
        changes += usize::from(changed.is_ok());
    }
    changes
}

/// Tables that find no room: the stacks end in that object, under the reason's name, and the note says what to do.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_no_room_for_unwind_tables() -> Outcomes<()> {
    let mut target = Target::start("whole_stacks")?;
    let mut tracer = Tracer::of(target.pid()).args(&["--max-unwind-rows", "4096"]).start()?;
    tracer.await_tracing()?;
    target.ask("go")?;
    let outcome = tracer.interrupt_and_finish()?;
    let truth = &outcome.final_report()?.truth;
    assert!(truth.truncated_stacks.contains_key(&text(end::NO_ROOM)), "{:?}", truth.truncated_stacks);
    assert!(truth.notes.iter().any(|note| note.contains("--max-unwind-rows")), "{:?}", truth.notes);
    Ok(())
}
