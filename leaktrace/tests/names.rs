//! Promise: a frame has the name, the source line and the inlined calls that its author would expect, wherever the
//! symbols lie, whatever became of the file or the process meanwhile; and nothing that a target plants is believed.

mod harness;

use harness::{
    Outcome, Outcomes, Target, Tracer,
    place::{
        Place, SIZE, assert_nameless, assert_rich, await_survivors, frames_of, lines, names, text, traced,
        traced_as,
    },
    program,
};
use std::{
    fs::{self, File},
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

fn note_about(outcome: &Outcome, words: &str) -> Outcomes<bool> {
    Ok(outcome.final_report()?.truth.notes.iter().any(|note| note.contains(words)))
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_dwarf_gives_lines_and_inlined_calls_as_frames_of_their_own() -> Outcomes<()> {
    let frames = Place::with(&[])?.frames()?;
    assert_rich(&frames);
    let without = Place::with(&["-g0"])?.frames()?;
    assert_eq!(names(&without)[..2], ["names_site", "names_caller"], "from .symtab");
    assert_eq!(lines(&without)[..2], [None, None]);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_stripped_program_has_the_names_it_exports() -> Outcomes<()> {
    let place = Place::with(&["-rdynamic"])?;
    place.tool("strip", &["program"])?;
    let frames = place.frames()?;
    assert_eq!(names(&frames)[..2], ["?", "names_caller"]);
    let place = Place::with(&[])?;
    place.tool("strip", &["program"])?;
    assert_nameless(&place.frames()?);
    Ok(())
}

/// The target has a root directory of its own, with a debug file that the host does not have.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_debug_file_in_the_targets_root_is_found_by_build_id_and_after_its_end() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let root = place.root_with_libraries()?;
    let debug_file = root.join(place.path_by_build_id()?.strip_prefix("/").map_err(|e| e.to_string())?);
    fs::create_dir_all(debug_file.parent().ok_or("no parent")?).map_err(|e| e.to_string())?;
    place.tool("objcopy", &["--only-keep-debug", "program", text(&debug_file)])?;
    place.tool("strip", &["program"])?;
    fs::copy(place.path("program"), root.join("program")).map_err(|e| e.to_string())?;

    let start = || {
        let mut command = Command::new("chroot");
        command.arg(&root).arg("/program");
        Target::command(command).start()
    };
    assert_rich(&frames_of(&traced(&mut start()?, "go")?, SIZE)?);

    let mut target = start()?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    target.ask("go")?;
    target.finish()?;
    assert_rich(&frames_of(&tracer.await_end()?, SIZE)?);

    fs::copy(place.path("program"), &debug_file).map_err(|e| e.to_string())?;
    assert_nameless(&frames_of(&traced(&mut start()?, "go")?, SIZE)?);

    let other = Place::with(&["-DOTHER", "-O2"])?;
    fs::copy(other.path("program"), &debug_file).map_err(|e| e.to_string())?;
    let outcome = traced(&mut start()?, "go")?;
    assert_nameless(&frames_of(&outcome, SIZE)?);
    assert!(note_about(&outcome, "debug file has another build ID")?);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_debug_file_is_found_by_debug_link_and_only_the_right_one() -> Outcomes<()> {
    let place = Place::with(&["-Wl,--build-id=none"])?;
    place.tool("objcopy", &["--only-keep-debug", "program", "program.debug"])?;
    place.tool("strip", &["program"])?;
    assert_nameless(&place.frames()?);
    place.tool("objcopy", &["--add-gnu-debuglink=program.debug", "program"])?;
    assert_rich(&place.frames()?);
    let mut contents = fs::read(place.path("program.debug")).map_err(|e| e.to_string())?;
    contents.push(0);
    fs::write(place.path("program.debug"), contents).map_err(|e| e.to_string())?;
    let outcome = traced(&mut place.start()?, "go")?;
    assert_nameless(&frames_of(&outcome, SIZE)?);
    assert!(note_about(&outcome, "debug file has another checksum")?);
    Ok(())
}

/// As Fedora strips: names of functions, packed by xz into the object.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_packed_symbol_table_gives_names() -> Outcomes<()> {
    let place = Place::with(&[])?;
    place.tool("objcopy", &["--only-keep-debug", "program", "full"])?;
    let keep = ["--keep-symbol=names_site", "--keep-symbol=names_caller", "--keep-symbol=main"];
    place.tool("objcopy", &[&["-S"], &keep[..], &["full", "mini"]].concat())?;
    place.tool("xz", &["-k", "mini"])?;
    place.tool("strip", &["program"])?;
    assert_nameless(&place.frames()?);
    place.tool("objcopy", &["--add-section=.gnu_debugdata=mini.xz", "program"])?;
    let frames = place.frames()?;
    assert_eq!(names(&frames)[..2], ["names_site", "names_caller"]);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_program_deleted_or_replaced_while_it_runs_keeps_its_names() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let mut target = place.start()?;
    fs::remove_file(place.path("program")).map_err(|e| e.to_string())?;
    assert_rich(&frames_of(&traced(&mut target, "go")?, SIZE)?);

    let place = Place::with(&[])?;
    let mut target = place.start()?;
    // Another file at the same path: its names must not be taken.
    fs::remove_file(place.path("program")).map_err(|e| e.to_string())?;
    fs::copy("/bin/ls", place.path("program")).map_err(|e| e.to_string())?;
    assert_rich(&frames_of(&traced(&mut target, "go")?, SIZE)?);

    // While tracing goes on, after the stack was seen or before it is asked for.
    let place = Place::with(&[])?;
    let mut target = place.start()?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    fs::remove_file(place.path("program")).map_err(|e| e.to_string())?;
    target.ask("go")?;
    assert_rich(&frames_of(&tracer.interrupt_and_finish()?, SIZE)?);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_process_that_has_ended_keeps_its_names() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let mut target = place.start()?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    target.ask("go")?;
    target.finish()?;
    fs::remove_file(place.path("program")).map_err(|e| e.to_string())?;
    assert_rich(&frames_of(&tracer.await_end()?, SIZE)?);
    Ok(())
}

/// A perf map that is removed at the end of the test.
struct PerfMap(PathBuf);

impl PerfMap {
    fn of(target: &Target) -> Self {
        Self(PathBuf::from(format!("/tmp/perf-{}.map", target.pid())))
    }
}

impl Drop for PerfMap {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// `names.c` with generated code between `names_site` and `names_caller`.
fn start_generating(place: &Place) -> Outcomes<Target> {
    let mut command = Command::new(place.path("program"));
    command.arg("through-generated-code");
    Target::command(command).start()
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_generated_code_is_named_by_the_programs_perf_map() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let mut target = start_generating(&place)?;
    let unnamed = frames_of(&traced(&mut target, "go")?, SIZE)?;
    assert_eq!(names(&unnamed)[..4], ["names_inlined", "names_site", "?", "names_caller"]);

    let perf_map = PerfMap::of(&target);
    let frames = frames_of(&traced(&mut target, "map")?, SIZE)?;
    assert_eq!(names(&frames)[..4], ["names_inlined", "names_site", "generated code: names", "names_caller"]);
    assert_eq!(frames[2].object.as_deref(), perf_map.0.to_str());
    Ok(())
}

/// The map has gone with the process before anybody asks for names.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_generated_code_keeps_its_name_after_process_and_map_are_gone() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let mut target = start_generating(&place)?;
    let perf_map = PerfMap::of(&target);
    let mut tracer = Tracer::of(target.pid()).args(&["--interval", "60s"]).start()?;
    tracer.await_tracing()?;
    target.ask("map")?;
    await_open(tracer.pid(), &perf_map.0)?;
    target.finish()?;
    drop(perf_map);
    let frames = frames_of(&tracer.await_end()?, SIZE)?;
    assert_eq!(names(&frames)[..4], ["names_inlined", "names_site", "generated code: names", "names_caller"]);
    Ok(())
}

/// Waits until a process holds a file open.
fn await_open(pid: u32, path: &Path) -> Outcomes<()> {
    let deadline = Instant::now() + harness::longest_wait();
    while Instant::now() < deadline {
        let held = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| e.to_string())?;
        if held.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == path)) {
            return Ok(());
        }
        sleep(Duration::from_millis(10));
    }
    Err(format!("process {pid} does not open {}", path.display()))
}

/// In a PID namespace with a `/tmp` of its own the program is PID 1, and so it names its map.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_perf_map_is_found_under_the_pid_that_the_program_knows() -> Outcomes<()> {
    let place = Place::with(&[])?;
    let copy = PathBuf::from(format!("/var/tmp/leaktrace-names-{}", std::process::id()));
    fs::copy(place.path("program"), &copy).map_err(|e| e.to_string())?;
    let script = format!("mount -t tmpfs none /tmp && exec {} through-generated-code", copy.display());
    let mut command = Command::new("unshare");
    command.args(["--pid", "--mount", "--fork", "--kill-child", "sh", "-c", &script]);
    let mut target = Target::command(command).start()?;
    let children = format!("/proc/{0}/task/{0}/children", target.pid());
    let children = fs::read_to_string(children).map_err(|e| e.to_string())?;
    let inside: u32 = children.trim().parse().map_err(|e| format!("{children:?}: {e}"))?;
    let outcome = traced_as(&mut target, inside, "map");
    fs::remove_file(&copy).ok();
    let frames = frames_of(&outcome?, SIZE)?;
    assert_eq!(names(&frames)[..4], ["names_inlined", "names_site", "generated code: names", "names_caller"]);
    assert_eq!(frames[2].object.as_deref(), Some("/tmp/perf-1.map"));
    Ok(())
}

/// A forged line for wherever the code lies.
const FORGED: &str = "0 7fffffffffff forged\n";

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_perf_maps_that_somebody_planted_are_not_believed() -> Outcomes<()> {
    type Plant = fn(&Path) -> std::io::Result<()>;
    let kinds: [(&str, Plant); 5] = [
        ("perf map is no regular file", |path| {
            let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
            // SAFETY: `name` is a valid C string.
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0);
            Ok(())
        }),
        ("perf map is no regular file", |path| symlink("/etc/shadow", path)),
        ("perf map is no regular file", |path| {
            // Even where it leads to a map that would be believed.
            let real = path.with_extension("real");
            fs::write(&real, FORGED)?;
            symlink(&real, path)
        }),
        ("perf map is longer than 64 MiB", |path| File::create(path)?.set_len(1 << 40)),
        ("perf map is owned by neither root", |path| {
            fs::write(path, FORGED)?;
            chown(path, Some(65_533), None)
        }),
    ];
    let place = Place::with(&[])?;
    for (reason, plant) in kinds {
        let mut target = start_generating(&place)?;
        let perf_map = PerfMap::of(&target);
        plant(&perf_map.0).map_err(|error| format!("{reason}: {error}"))?;
        let outcome = traced(&mut target, "go")?;
        fs::remove_file(perf_map.0.with_extension("real")).ok();
        let frames = frames_of(&outcome, SIZE)?;
        assert_eq!(names(&frames)[..4], ["names_inlined", "names_site", "?", "names_caller"], "{reason}");
        assert!(note_about(&outcome, reason)?, "{reason}: {:?}", outcome.final_report()?.truth.notes);
    }
    Ok(())
}

/// Compiles a program of another language and returns a report as text and one as JSON.
fn language(compiler: &str, source: &str, options: &[&str]) -> Outcomes<(String, Outcome)> {
    let place = Place::empty()?;
    let source = program::sources().join(source);
    place.tool(compiler, &[options, &["-o", "program", text(&source)]].concat())?;
    let outcome = traced(&mut place.start()?, "go")?;
    let mut target = place.start()?;
    let report = place.path("report.txt");
    let arguments = ["trace", "--interval", "200ms", "--min-age", "200ms", "-o", text(&report), "-p"];
    let mut tracer = Tracer::bare().args(&arguments).arg(target.pid().to_string()).start()?;
    tracer.await_tracing()?;
    target.ask("go")?;
    await_survivors(&tracer, &report)?;
    Ok((tracer.interrupt_and_finish()?.stdout, outcome))
}

/// The first line below each headline of the last report.
fn first_lines(report: &str) -> Vec<&str> {
    let last = report.rfind("leaktrace report").and_then(|at| report.get(at..)).unwrap_or(report);
    let lines: Vec<&str> = last.lines().collect();
    lines.windows(2).filter(|pair| pair[0].starts_with('#')).map(|pair| pair[1].trim()).collect()
}

fn assert_first_lines(report: &str, functions: &[&str]) {
    let first = first_lines(report);
    for function in functions {
        assert!(first.iter().any(|line| line.contains(function)), "{function} is not first:\n{report}");
    }
    let plumbing = ["std::", "operator new", "alloc::", "core::", "malloc", "hashbrown"];
    for line in first {
        let name = line.split_once(' ').map_or(line, |(_, name)| name);
        assert!(!plumbing.iter().any(|start| name.starts_with(start)), "{line}\n{report}");
    }
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_cpp_is_demangled_and_the_users_line_comes_first() -> Outcomes<()> {
    let functions = [
        "app::Store<Record>::keep(Record const&)",
        "app::share()",
        "app::text",
        "app::count(std::map<",
        "app::in_thread()",
    ];
    for optimization in ["-O0", "-O2"] {
        let options = [optimization, "-g", "-fno-omit-frame-pointer", "-pthread", "-std=c++17"];
        let (report, outcome) = language("c++", "names.cpp", &options)?;
        assert_first_lines(&report, &functions);
        let frames = frames_of(&outcome, 5000)?;
        assert!(names(&frames).contains(&"app::Store<Record>::keep(Record const&)"), "{frames:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_rust_is_demangled_and_the_users_line_comes_first() -> Outcomes<()> {
    let functions = ["names::text", "names::boxed", "names::table", "names::in_thread"];
    for (mangling, keep) in
        [("v0", "<names::store::Records<[u8; 5000]>>::keep"), ("legacy", "names::store::Records<T>::keep")]
    {
        for optimization in ["opt-level=0", "opt-level=2"] {
            let mangling = format!("symbol-mangling-version={mangling}");
            let unstable = if mangling.ends_with("legacy") { &["-Z", "unstable-options"][..] } else { &[] };
            let options = [
                &[
                    "--edition=2024",
                    "-g",
                    "-C",
                    optimization,
                    "-C",
                    "force-frame-pointers=yes",
                    "-C",
                    &mangling,
                ],
                unstable,
            ]
            .concat();
            let (report, outcome) = language("rustc", "rust/names.rs", &options)?;
            assert_first_lines(&report, &functions);
            assert_first_lines(&report, &[keep]);
            let frames = frames_of(&outcome, 5000)?;
            assert!(names(&frames).contains(&keep), "{frames:?}");
        }
    }
    Ok(())
}
