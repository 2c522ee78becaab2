//! Where names can come from besides an object's own tables: compressed sections, packed symbol tables, debug files that
//! share a file, the vDSO, code made at run time.

use super::*;

/// The return address of a call in `outer`, resolved with the debug directory given.
fn resolved(program: &Program, debug_directory: &Path) -> (Vec<Frame>, Statistics) {
    let running = program.start();
    let mut store = store_with(debug_directory);
    let id = running.intern(&mut store);
    (store.resolve(id), store.statistics())
}

/// Moves the program's DWARF into a file of its own in the debug directory, by build ID. Returns the directory.
fn separate(program: &Program) -> PathBuf {
    let outline = Outline::read(&File::open(&program.path).expect("open")).expect("ELF");
    let text = hexadecimal(&outline.build_id.expect("build ID"));
    let directory = program.directory.path().join("debug");
    let folder = directory.join(".build-id").join(&text[..2]);
    fs::create_dir_all(&folder).expect("directory");
    let target = folder.join(format!("{}.debug", &text[2..]));
    program.tool("objcopy", &["--only-keep-debug", "leak", target.to_str().expect("UTF-8")]);
    program.tool("strip", &["leak"]);
    directory
}

/// As Fedora does: names of functions that `.dynsym` lacks, packed into the object.
fn add_packed_symbols(program: &Program) {
    program.tool("objcopy", &["--only-keep-debug", "leak", "full"]);
    program.tool(
        "objcopy",
        &["-S", "--remove-section=.comment", "--keep-symbol=outer", "--keep-symbol=main", "full", "mini"],
    );
    program.tool("xz", &["-k", "mini"]);
    program.tool("strip", &["leak"]);
    program.tool("objcopy", &["--add-section=.gnu_debugdata=mini.xz", "leak"]);
}

#[test]
fn sections_compressed_by_zstd_give_inlined_calls_and_lines() {
    let program = compile(&["-g"]);
    program.tool("objcopy", &["--compress-debug-sections=zstd", "leak"]);
    let outline = Outline::read(&File::open(&program.path).expect("open")).expect("ELF");
    assert!(outline.section(".debug_info").is_some_and(|section| section.compressed));
    let (frames, statistics) = resolved(&program, Path::new("/nonexistent"));
    assert_lines(&frames, "zstd");
    assert_eq!(statistics.debug_left_out, 0);
}

#[test]
fn a_packed_symbol_table_names_functions_of_a_stripped_program() {
    let program = compile(&[]);
    add_packed_symbols(&program);
    let (frames, _) = resolved(&program, Path::new("/nonexistent"));
    assert_eq!(names(&frames), ["outer"]);
    program.tool("objcopy", &["--remove-section=.gnu_debugdata", "leak"]);
    let (frames, _) = resolved(&program, Path::new("/nonexistent"));
    assert_eq!(names(&frames), ["?"], "the names came from there");
}

#[test]
fn a_damaged_packed_symbol_table_is_counted() {
    let program = compile(&[]);
    program.tool("strip", &["leak"]);
    fs::write(program.directory.path().join("junk"), [0x5a; 5000]).expect("write");
    program.tool("objcopy", &["--add-section=.gnu_debugdata=junk", "leak"]);
    let (frames, statistics) = resolved(&program, Path::new("/nonexistent"));
    assert_eq!((names(&frames), statistics.debug_left_out), (vec!["?"], 1));
}

#[test]
fn debug_files_that_share_a_file_give_inlined_calls_and_lines() {
    let programs = [compile(&["-g"]), compile(&["-g", "-DOTHER"])];
    let directories = programs.each_ref().map(separate);
    let debug_files = directories.each_ref().map(|directory| {
        let folder = fs::read_dir(directory.join(".build-id")).expect("directory").next();
        let folder = folder.expect("one").expect("entry").path();
        fs::read_dir(folder).expect("directory").next().expect("one").expect("entry").path()
    });
    let shared = directories[0].join(".dwz/shared.debug");
    fs::create_dir_all(shared.parent().expect("folder")).expect("directory");
    let paths = debug_files.each_ref().map(|path| path.to_str().expect("UTF-8"));
    let shared_path = shared.to_str().expect("UTF-8");
    run_tool("dwz", &["-m", shared_path, "-M", shared_path, paths[0], paths[1]], &directories[0]);
    let outline = Outline::read(&File::open(&debug_files[0]).expect("open")).expect("ELF");
    assert!(
        outline.alternate_link(&File::open(&debug_files[0]).expect("open")).is_some(),
        "they share a file"
    );
    assert_lines(&resolved(&programs[0], &directories[0]).0, "shared");

    // Elsewhere than its link says, in the directory where distributions keep such files.
    fs::create_dir_all(directories[1].join(".dwz")).expect("directory");
    fs::rename(&shared, directories[1].join(".dwz/shared.debug")).expect("move");
    assert_lines(&resolved(&programs[1], &directories[1]).0, "shared, moved");

    // Another file in its place is refused; functions keep their names.
    fs::copy(&debug_files[0], directories[1].join(".dwz/shared.debug")).expect("replace");
    let (frames, statistics) = resolved(&programs[1], &directories[1]);
    assert_eq!(frames.last().and_then(|frame| frame.function.as_deref()), Some("outer"));
    assert_ne!(names(&frames), ["middle", "outer"], "the shared file was needed");
    assert_eq!(statistics.refused_files.get("debug file has another build ID"), Some(&1));
}

#[test]
fn debug_files_that_do_not_fit_are_refused_by_reason() {
    let program = compile(&["-g"]);
    let directory = separate(&program);
    let other = compile(&["-g", "-O2", "-DOTHER"]);
    let folder = fs::read_dir(directory.join(".build-id")).expect("directory").next();
    let folder = folder.expect("one").expect("entry").path();
    let file = fs::read_dir(folder).expect("directory").next().expect("one").expect("entry").path();
    fs::copy(&other.path, &file).expect("replace");
    let (frames, statistics) = resolved(&program, &directory);
    assert_eq!(names(&frames), ["?"]);
    assert_eq!(statistics.refused_files, BTreeMap::from([("debug file has another build ID", 1)]));
    fs::write(&file, "no ELF file").expect("replace");
    let (_, statistics) = resolved(&program, &directory);
    assert_eq!(statistics.refused_files, BTreeMap::from([("debug file is no readable ELF file", 1)]));
    assert_eq!(statistics.notes(), ["names: debug file is no readable ELF file (1)"]);
}

/// Debian's debug files of the C library: compressed, with partial units, made by `dwz`.
#[test]
fn the_c_librarys_own_debug_file_gives_names_lines_and_inlined_calls() {
    let program = compile(&[]);
    let running = program.start();
    let libc = running.mappings.iter().find(|mapping| {
        mapping.executable
            && mapping.path.as_deref().is_some_and(|path| path.to_string_lossy().contains("libc.so"))
    });
    let libc = libc.expect("linked with the C library");
    let mut store = FrameStore::default();
    let ids: Vec<FrameId> = (0..libc.len())
        .step_by(512)
        .filter_map(|at| libc.start.checked_add(at))
        .map(|address| store.intern(running.child.id(), 1, &running.mappings, address, false))
        .collect();
    let outline =
        Outline::read(&File::open(libc.path.as_deref().expect("file")).expect("open")).expect("ELF");
    let text = hexadecimal(&outline.build_id.expect("build ID"));
    let debug_file = format!("/usr/lib/debug/.build-id/{}/{}.debug", &text[..2], &text[2..]);
    assert!(Path::new(&debug_file).exists(), "install the C library's debug symbols (libc6-dbg)");
    let all: Vec<Vec<Frame>> = ids.iter().map(|&id| store.resolve(id)).collect();
    let named = all.iter().filter(|frames| frames.iter().all(|frame| frame.function.is_some())).count();
    let lines = all.iter().filter(|frames| frames.iter().all(|frame| frame.line.is_some())).count();
    let inlined = all.iter().filter(|frames| frames.len() > 1).count();
    println!("{} places: {named} named, {lines} with lines, {inlined} with inlined calls", all.len());
    assert_eq!(store.statistics().debug_left_out, 0);
    assert!(named * 10 > all.len() * 9, "{named} of {}", all.len());
    assert!(lines * 10 > all.len() * 6, "{lines} of {}", all.len());
    assert!(inlined * 20 > all.len(), "{inlined} of {}", all.len());
}

#[test]
fn functions_of_the_vdso_have_names() {
    let pid = std::process::id();
    let mappings = maps::read(pid).expect("own mappings");
    let vdso = mappings.iter().find(|mapping| mapping.label.as_deref() == Some("[vdso]")).expect("vDSO");
    let mut store = FrameStore::new(Settings { max_open: 1, ..Settings::default() });
    let ids: Vec<FrameId> = (0..vdso.len())
        .step_by(16)
        .filter_map(|at| vdso.start.checked_add(at))
        .map(|address| store.intern(pid, 1, &mappings, address, false))
        .collect();
    let program = compile(&[]);
    intern_paper(&mut store, &program.path, 0x1150);
    let frames: Vec<Frame> = ids.iter().flat_map(|&id| store.resolve(id)).collect();
    let clock = frames
        .iter()
        .find(|frame| frame.function.as_deref().is_some_and(|name| name.ends_with("clock_gettime")));
    let clock = clock.expect("a name of clock_gettime");
    assert_eq!(clock.object.as_deref(), Some("[vdso]"));
    assert!(clock.build_id.is_some() && clock.file_offset.is_some());
}

/// Prints the address that its signal handler returns to.
const SIGNALLED: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
static void handler(int number) {
    printf("%p\n%p\nend\n", __builtin_return_address(0), (void *)handler);
    fflush(stdout);
    for (;;) pause();
}
int main(void) {
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
}
"#;

#[test]
fn what_a_signal_handler_returns_to_is_known_by_its_code() {
    let program = compile(&[]);
    fs::write(program.directory.path().join("leak.c"), SIGNALLED).expect("source");
    program.tool("gcc", &["-O1", "-static", "-o", "leak", "leak.c"]);
    program.tool("strip", &["leak"]);
    let running = program.start();
    let mut store = store_with(Path::new("/nonexistent"));
    let id = running.intern(&mut store);
    assert_eq!(names(&store.resolve(id)), [Frame::SIGNAL_RETURN]);
    // The interrupted instruction, as it would be reported were the same place interrupted by a second signal.
    let exact = store.intern(running.child.id(), 1, &running.mappings, running.inside, false);
    assert_eq!(names(&store.resolve(exact)), ["?"], "only as a return address");
}

/// A mapping of generated code of this very process.
fn generated(label: Option<&str>) -> Mapping {
    Mapping {
        inode: 0,
        path: None,
        label: label.map(str::to_owned),
        ..paper_mapping(Path::new("/proc/self/exe"))
    }
}

/// This process's perf map, removed at the end.
struct OwnPerfMap(PathBuf);

impl OwnPerfMap {
    fn write(contents: &str) -> Self {
        let path = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
        fs::write(&path, contents).expect("write");
        Self(path)
    }
}

impl Drop for OwnPerfMap {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn generated_code_is_named_by_the_perf_map_even_late_and_after_the_end() {
    let pid = std::process::id();
    let mappings = [generated(None)];
    let mut store = FrameStore::default();
    let intern = |store: &mut FrameStore, address, is_return| {
        store.intern(pid, 1, &mappings, AbsoluteAddress(address), is_return)
    };
    // What is called last in its function returns behind the function.
    let first = intern(&mut store, 0x1000_0010, true);
    let exact = intern(&mut store, 0x1000_0010, false);
    let late = intern(&mut store, 0x1000_1000, false);
    let never_shown = intern(&mut store, 0x1000_2000, false);
    assert_eq!(names(&store.resolve(first)), ["?"]);
    assert_eq!(store.statistics().unresolved_frames, 1);

    let perf_map = OwnPerfMap::write("10000000 10 first\n10000010 10 second\n");
    let frames = store.resolve(first);
    assert_eq!(names(&frames), ["first"]);
    assert_eq!(frames[0].object.as_deref(), perf_map.0.to_str());
    assert_eq!(names(&store.resolve(exact)), ["second"]);
    assert_eq!(names(&store.resolve(late)), ["?"]);
    assert_eq!(store.statistics().unresolved_frames, 1, "only the one that is still missing");

    fs::write(&perf_map.0, "10000000 10 first\n10000010 10 second\n10001000 10 late\n10002000 10 last")
        .expect("write");
    store.process_ending(1);
    drop(perf_map);
    assert_eq!(names(&store.resolve(late)), ["late"]);
    assert_eq!(names(&store.resolve(never_shown)), ["last"]);
    assert_eq!(store.statistics().unresolved_frames, 0);
}
