//! Promise: files are seen as the target sees them, however its file systems are put together and whatever became of the
//! files since. Nothing in them leads leaktrace to files of the host, and nothing in their names reaches a terminal.

mod harness;

use harness::{
    Outcomes, Process, Target, Tracer, mounts,
    place::{Place, SIZE, assert_nameless, assert_rich, await_survivors, frames_of, names, text, traced},
};
use std::{
    ffi::{CString, OsStr},
    fs,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::symlink, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

fn failed(what: &str) -> impl Fn(std::io::Error) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}

/// A place whose `upper` holds the program and whose `root` holds what the program needs.
fn layers() -> Outcomes<Place> {
    let place = Place::with(&[])?;
    place.root_with_libraries()?;
    mounts::prepare_overlay(place.directory.path())?;
    fs::rename(place.path("program"), place.path(mounts::UPPER).join("program"))
        .map_err(failed("program"))?;
    Ok(place)
}

/// Runs the program with the layers as its root directory.
fn start_on_layers(place: &Place) -> Outcomes<Target> {
    let mut command = Command::new("/program");
    mounts::overlay(&mut command, &place.path("root"), place.directory.path())?;
    mounts::enter(&mut command, &place.path(mounts::MERGED))?;
    Target::command(command).start()
}

/// Runs the program, which lies in a directory with all that it needs, with that for its root directory.
fn start_in_root(root: &Path, arguments: &[&str]) -> Outcomes<Target> {
    let mut command = Command::new("/program");
    command.args(arguments);
    mounts::enter(&mut command, root)?;
    Target::command(command).start()
}

/// A root directory with the program in it.
fn root_with_program(place: &Place) -> Outcomes<PathBuf> {
    let root = place.root_with_libraries()?;
    fs::copy(place.path("program"), root.join("program")).map_err(failed("program"))?;
    Ok(root)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_an_executable_in_the_upper_layer_and_its_libraries_in_the_lower() -> Outcomes<()> {
    let place = layers()?;
    let mut target = start_on_layers(&place)?;
    let outcome = traced(&mut target, "go")?;
    let frames = frames_of(&outcome, SIZE)?;
    assert_rich(&frames);
    assert_eq!(frames[1].object.as_deref(), Some("/program"), "as the target sees it");
    // What is left of an image that was deleted while its container runs.
    fs::remove_dir_all(place.path(mounts::UPPER)).map_err(failed("upper"))?;
    fs::remove_dir_all(place.path("root")).map_err(failed("lower"))?;
    assert_rich(&frames_of(&traced(&mut target, "go")?, SIZE)?);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_executable_and_libraries_that_are_gone() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let root = root_with_program(&place)?;
    let mut target = start_in_root(&root, &[])?;
    fs::remove_dir_all(&root).map_err(failed("root"))?;
    assert_rich(&frames_of(&traced(&mut target, "go")?, SIZE)?);
    Ok(())
}

/// An upgrade puts other files under the names of those that run.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_other_files_under_the_same_names() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let root = root_with_program(&place)?;
    let mut target = start_in_root(&root, &[])?;
    let other = Place::with(&["-DOTHER", "-O2"])?;
    for file in files_below(&root)? {
        let replacement = file.with_extension("new");
        fs::copy(other.path("program"), &replacement).map_err(failed("copy"))?;
        fs::rename(&replacement, &file).map_err(failed("rename"))?;
    }
    assert_rich(&frames_of(&traced(&mut target, "go")?, SIZE)?);
    Ok(())
}

fn files_below(directory: &Path) -> Outcomes<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read_dir"))?.flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(files_below(&path)?),
            path => files.push(path),
        }
    }
    Ok(files)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_program_that_is_mounted_over_another() -> Outcomes<()> {
    let place = Place::with(&[])?;
    fs::copy("/bin/true", place.path("bound")).map_err(failed("copy"))?;
    let mut command = Command::new(place.path("bound"));
    mounts::bind(&mut command, &place.path("program"), &place.path("bound"))?;
    let mut target = Target::command(command).start()?;
    let frames = frames_of(&traced(&mut target, "go")?, SIZE)?;
    assert_rich(&frames);
    assert_eq!(frames[1].object.as_deref(), place.path("bound").to_str());
    Ok(())
}

/// Each of them exactly, in one run.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_two_c_libraries_at_once() -> Outcomes<()> {
    let mut targets = [Target::start("exact")?, Target::start("exact-musl")?, Target::start("exact-static")?];
    let mut tracer = Tracer::json();
    for target in &targets {
        tracer = tracer.arg("-p").arg(target.pid().to_string());
    }
    let mut tracer = tracer.start()?;
    targets.iter().try_for_each(|_| tracer.await_tracing().map(drop))?;
    let expected = targets.each_mut().map(|target| target.ask("go"));
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    for (target, expected) in targets.iter().zip(expected) {
        let process = report.processes.iter().find(|process| process.pid == target.pid());
        let process = process.ok_or_else(|| format!("{} is not reported", target.pid()))?;
        let differences = expected?.site_differences(process);
        assert!(differences.is_empty(), "{differences:#?}\n{}", process.summary());
    }
    Ok(())
}

/// Tells whether a file was opened.
struct Watch(OwnedFd);

impl Watch {
    fn on(path: &Path) -> Outcomes<Self> {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: `name` is a C string, and the descriptor is nobody else's.
        unsafe {
            let descriptor = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
            assert!(descriptor >= 0, "inotify");
            let watch = Self(OwnedFd::from_raw_fd(descriptor));
            let flags = libc::IN_OPEN | libc::IN_ACCESS;
            assert!(libc::inotify_add_watch(descriptor, name.as_ptr(), flags) >= 0, "inotify");
            Ok(watch)
        }
    }

    /// Since it was last asked.
    fn was_opened(&self) -> bool {
        let mut events = [0_u8; 4096];
        // SAFETY: the kernel writes at most the length of the buffer.
        unsafe { libc::read(self.0.as_raw_fd(), events.as_mut_ptr().cast(), events.len()) > 0 }
    }
}

/// Every place in its root where a container can say where names are to be found leads to a file of the host's, which
/// would even fit.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_links_lead_nowhere_outside_the_targets_root() -> Outcomes<()> {
    let place = Place::with(&[])?;
    place.tool("objcopy", &["--only-keep-debug", "program", "program.debug"])?;
    let by_build_id = place.path_by_build_id()?;
    place.tool("strip", &["program"])?;
    place.tool("objcopy", &["--add-gnu-debuglink=program.debug", "program"])?;
    let secret = place.path("program.debug");
    let watch = Watch::on(&secret)?;
    fs::read(&secret).map_err(failed("secret"))?;
    assert!(watch.was_opened(), "whoever opens it is seen");

    let root = root_with_program(&place)?;
    // The program lies at the same path in its root as on the host, where its debug file lies beside it.
    let inside = root.join(place.directory.path().strip_prefix("/").map_err(|e| e.to_string())?);
    fs::create_dir_all(&inside).map_err(failed("directory"))?;
    fs::rename(root.join("program"), inside.join("program")).map_err(failed("rename"))?;
    let upward = Path::new("../../../../../../../../../..").join(secret.strip_prefix("/").unwrap_or(&secret));
    link(&upward, &root.join(by_build_id.strip_prefix("/").unwrap_or(&by_build_id)))?;
    link(&upward, &inside.join(".debug/program.debug"))?;
    link(
        &secret,
        &root.join("usr/lib/debug").join(inside.strip_prefix(&root).unwrap_or(&inside)).join("program.debug"),
    )?;
    fs::create_dir_all(root.join("tmp")).map_err(failed("directory"))?;

    let mut command = Command::new(place.path("program"));
    command.arg("through-generated-code");
    mounts::enter(&mut command, &root)?;
    let mut target = Target::command(command).start()?;
    link(&upward, &root.join(format!("tmp/perf-{}.map", target.pid())))?;
    let outcome = traced(&mut target, "go")?;
    assert_nameless(&frames_of(&outcome, SIZE)?);
    assert!(!watch.was_opened(), "a file outside the target's root was opened");
    Ok(())
}

fn link(to: &Path, at: &Path) -> Outcomes<()> {
    fs::create_dir_all(at.parent().ok_or("no parent")?).map_err(failed("directory"))?;
    symlink(to, at).map_err(failed("link"))
}

/// The end is what the kernel says of files that are gone; this one is there.
const HOSTILE_NAME: &[u8] = b"\x1b[2J\n#1  9 TiB\r\x07\xc2\x9b31m (deleted)";

/// Program, name, arguments and directory are anything but harmless.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_names_that_would_write_to_the_terminal() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let directory = place.path("x").with_file_name(OsStr::from_bytes(b"\x1b]0;title\x07\nprocess;0 1"));
    fs::create_dir(&directory).map_err(failed("directory"))?;
    let program = directory.join(OsStr::from_bytes(HOSTILE_NAME));
    fs::rename(place.path("program"), &program).map_err(failed("rename"))?;
    let mut command = Command::new(&program);
    command.arg0("\x1b[8m\n#1  8 TiB");
    let mut target = Target::command(command).start()?;

    let outputs = harmless_outputs(&place, &mut target, "go", || Ok(()))?;
    let process = check_json(&outputs[1])?;
    assert_eq!(process.name, String::from_utf8_lossy(&HOSTILE_NAME[..15]));
    let site = process.sites.iter().find(|site| site.live.bytes == SIZE).ok_or("no site")?;
    assert_eq!(site.frames[1].object.as_deref(), program.to_str());
    check_folded(&outputs[2])
}

/// While it is looked at, it takes another name, and so does its program, in whose place there is soon another.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_names_that_change_while_they_are_looked_at() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let mut target = place.start()?;
    let rename = || {
        let renamed = place.path("x").with_file_name(OsStr::from_bytes(HOSTILE_NAME));
        fs::rename(place.path("program"), renamed).map_err(failed("rename"))?;
        fs::copy("/bin/true", place.path("program")).map(drop).map_err(failed("copy"))
    };
    let outputs = harmless_outputs(&place, &mut target, "rename", rename)?;
    check_json(&outputs[1])?;
    check_folded(&outputs[2])
}

/// Has the target carry out a command while it is traced, after `meanwhile`. All that is written, to streams and files (text,
/// JSON, folded stacks, a drawing), is harmless.
fn harmless_outputs(
    place: &Place,
    target: &mut Target,
    command: &str,
    meanwhile: impl FnOnce() -> Outcomes<()>,
) -> Outcomes<[PathBuf; 4]> {
    let outputs = ["report.txt", "report.json", "report.folded", "report.svg"].map(|name| place.path(name));
    let arguments = ["trace", "--interval", "200ms", "--min-age", "200ms", "-p"];
    let mut tracer = Tracer::bare().args(&arguments).arg(target.pid().to_string());
    for output in &outputs {
        tracer = tracer.arg("-o").arg(output);
    }
    let mut tracer = tracer.start()?;
    tracer.await_tracing()?;
    meanwhile()?;
    target.ask(command)?;
    await_survivors(&tracer, &outputs[0])?;
    let outcome = tracer.interrupt_and_finish()?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert_printable("stdout", &outcome.stdout);
    assert_printable("stderr", &outcome.stderr);
    for output in &outputs {
        let written = fs::read_to_string(output).map_err(failed(text(output)))?;
        assert_printable(text(output), &written);
    }
    let forged = |line: &str| line.starts_with("#1  9 TiB") || line.starts_with("#1  8 TiB");
    assert!(!outcome.stdout.lines().any(forged), "{}", outcome.stdout);
    Ok(outputs)
}

/// Nothing but text and ends of lines.
fn assert_printable(what: &str, written: &str) {
    let odd = written.chars().find(|letter| letter.is_control() && *letter != '\n');
    assert_eq!(odd, None, "{what}: {written}");
}

/// Programs are told the names as they are.
fn check_json(file: &Path) -> Outcomes<Process> {
    let written = fs::read_to_string(file).map_err(failed("report.json"))?;
    let mut report: harness::Report = serde_json::from_str(&written).map_err(|e| e.to_string())?;
    let process = report.processes.pop().ok_or("no process")?;
    let site = process.sites.iter().find(|site| site.live.bytes == SIZE).ok_or("no site")?;
    assert_eq!(names(&site.frames)[..3], ["names_inlined", "names_site", "names_caller"]);
    Ok(process)
}

/// Every line is a stack and its weight.
fn check_folded(file: &Path) -> Outcomes<()> {
    let written = fs::read_to_string(file).map_err(failed("report.folded"))?;
    for line in written.lines() {
        let weight = line.rsplit_once(' ').and_then(|(_, weight)| weight.parse::<u64>().ok());
        assert!(weight.is_some() && line.contains(";main;"), "{line:?} in {written}");
    }
    assert!(!written.is_empty());
    Ok(())
}
