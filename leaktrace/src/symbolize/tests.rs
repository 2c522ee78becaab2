//! Real programs, compiled and run as children: every kind of object that blazesym is asked about, and every way in
//! which an object can disappear between the moment a frame is seen and the moment it is shown.

mod sources;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::outline::Outline;
use super::*;
use crate::process::maps;

/// Prints the return addresses of calls and waits.
const SOURCE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((noinline)) void report(void) { printf("%p\n", __builtin_return_address(0)); }
static inline __attribute__((always_inline)) void middle(void) {
    report(); /* line 7 */
}
__attribute__((noinline)) int outer(int x) {
    middle(); /* line 10 */
    return x + 1;
}
int main(int argc, char **argv) {
    int r = outer(argc);
    printf("%p\n", (void *)&outer);
    printf("end\n");
    fflush(stdout);
    for (;;) pause();
    return r;
}
"#;

struct Program {
    directory: TempDir,
    path: PathBuf,
}

struct Running {
    child: Child,
    mappings: Vec<Mapping>,
    /// Return address of the inlined call in `outer`, and the address of `outer`.
    inside: AbsoluteAddress,
    entry: AbsoluteAddress,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run_tool(tool: &str, arguments: &[&str], directory: &Path) {
    let output = Command::new(tool).args(arguments).current_dir(directory).output().expect(tool);
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn compile(options: &[&str]) -> Program {
    let directory = tempfile::tempdir().expect("directory");
    fs::write(directory.path().join("leak.c"), SOURCE).expect("source");
    let common = ["-O1", "-w", "-o", "leak", "leak.c", "-Wl,--build-id=sha1"];
    run_tool("gcc", &[options, &common].concat(), directory.path());
    let path = directory.path().join("leak");
    Program { directory, path }
}

impl Program {
    fn tool(&self, tool: &str, arguments: &[&str]) {
        run_tool(tool, arguments, self.directory.path());
    }

    fn start(&self) -> Running {
        let mut child = Command::new(&self.path).stdout(Stdio::piped()).spawn().expect("start");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let lines: Vec<String> =
            output.lines().map_while(Result::ok).take_while(|line| line != "end").collect();
        let address =
            |line: &String| u64::from_str_radix(line.trim_start_matches("0x"), 16).expect("address");
        let addresses: Vec<u64> = lines.iter().map(address).collect();
        let mappings = maps::read(child.id()).expect("mappings of the child");
        Running {
            child,
            mappings,
            inside: AbsoluteAddress(addresses[0]),
            entry: AbsoluteAddress(addresses[1]),
        }
    }
}

impl Running {
    fn intern(&self, store: &mut FrameStore) -> FrameId {
        store.intern(self.child.id(), 1, &self.mappings, self.inside, true)
    }
}

fn store_with(debug_directory: &Path) -> FrameStore {
    FrameStore::new(Settings { debug_directories: vec![debug_directory.to_owned()], ..Settings::default() })
}

fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.function.as_deref().unwrap_or("?")).collect()
}

/// What every object with DWARF must give: the inlined call first, each with the line it stands on.
fn assert_lines(frames: &[Frame], what: &str) {
    assert_eq!(names(frames), ["middle", "outer"], "{what}");
    assert_eq!([frames[0].line, frames[1].line], [Some(7), Some(10)], "{what}");
    assert!(frames[0].inlined && !frames[1].inlined, "{what}");
    assert!(frames[0].file.as_deref().is_some_and(|file| file.ends_with("leak.c")), "{what}: {frames:?}");
}

#[test]
fn every_kind_of_executable_gives_inlined_calls_and_lines() {
    let kinds: [&[&str]; 6] = [
        &["-g", "-pie", "-fPIE"],
        &["-g", "-no-pie", "-fno-pie"],
        &["-g", "-static"],
        &["-g", "-static-pie"],
        &["-gdwarf-4"],
        &["-g", "-gz=zlib"],
    ];
    for options in kinds {
        let program = compile(options);
        let outline = Outline::read(&File::open(&program.path).expect("open")).expect("ELF");
        let compressed = outline.sections.iter().any(|section| section.compressed);
        assert_eq!(compressed, options.contains(&"-gz=zlib"));
        let running = program.start();
        let mut store = FrameStore::default();
        let id = running.intern(&mut store);
        assert_eq!(running.intern(&mut store), id, "the same frame is the same number");
        let frames = store.resolve(id);
        assert_lines(&frames, &format!("{options:?}"));
        assert_eq!(frames[0].address, running.inside.0);
        assert_eq!(frames[0].object.as_deref(), program.path.to_str());
        assert_eq!(frames[0].build_id.as_ref().map(String::len), Some(40));
        let statistics = store.statistics();
        assert_eq!((statistics.frames, statistics.unresolved_frames, statistics.objects), (1, 0, 1));
    }
}

#[test]
fn offsets_are_those_that_addr2line_wants() {
    let program = compile(&["-g"]);
    let running = program.start();
    let mut store = FrameStore::default();
    let id = store.intern(running.child.id(), 1, &running.mappings, running.entry, false);
    let frame = store.resolve(id).remove(0);
    assert_eq!(frame.function.as_deref(), Some("outer"));
    let symbols = Command::new("nm").arg(&program.path).output().expect("nm").stdout;
    let expected = format!("{:016x} T outer", frame.virtual_offset.expect("loaded"));
    assert!(String::from_utf8_lossy(&symbols).contains(&expected), "{expected}");
    assert!(frame.file_offset.is_some());
}

#[test]
fn a_function_entry_looked_up_as_return_address_belongs_to_whoever_stands_before() {
    let program = compile(&["-g"]);
    let running = program.start();
    let mut store = FrameStore::default();
    let id = store.intern(running.child.id(), 1, &running.mappings, running.entry, true);
    let frames = store.resolve(id);
    assert_ne!(names(&frames).last(), Some(&"outer"));
    assert_eq!(frames[0].address, running.entry.0, "reported as it is");
}

#[test]
fn a_program_without_dwarf_has_names_and_no_lines() {
    let running_program = compile(&[]);
    let running = running_program.start();
    let mut store = FrameStore::default();
    let id = running.intern(&mut store);
    let frames = store.resolve(id);
    assert_eq!((names(&frames), frames[0].line), (vec!["outer"], None));
}

#[test]
fn a_cpp_program_has_demangled_names() {
    for options in [&["-x", "c++"][..], &["-x", "c++", "-g"]] {
        let program = compile(options);
        let running = program.start();
        let mut store = FrameStore::default();
        let id = running.intern(&mut store);
        let frames = store.resolve(id);
        assert_eq!(
            frames.last().and_then(|frame| frame.function.as_deref()),
            Some("outer(int)"),
            "{options:?}"
        );
    }
}

#[test]
fn a_stripped_program_has_exported_names_only_and_else_object_and_offset() {
    let exported = compile(&["-rdynamic"]);
    exported.tool("strip", &["leak"]);
    let running = exported.start();
    let mut store = FrameStore::default();
    let id = running.intern(&mut store);
    assert_eq!(names(&store.resolve(id)), ["outer"]);

    let silent = compile(&[]);
    silent.tool("strip", &["leak"]);
    let running = silent.start();
    let mut store = FrameStore::default();
    let id = running.intern(&mut store);
    let frames = store.resolve(id);
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].function.as_deref(), frames[0].object.as_deref()), (None, silent.path.to_str()));
    assert!(frames[0].file_offset.is_some() && frames[0].build_id.is_some());
    let statistics = store.statistics();
    assert_eq!(statistics.unresolved_by_reason, BTreeMap::from([(Unresolved::NoSymbol.describe(), 1)]));
}

#[test]
fn a_separate_debug_file_is_found_by_build_id() {
    let program = compile(&["-g"]);
    let build_id =
        Outline::read(&File::open(&program.path).expect("open")).expect("ELF").build_id.expect("build ID");
    let text = hexadecimal(&build_id);
    let folder = program.directory.path().join("debug/.build-id").join(&text[..2]);
    fs::create_dir_all(&folder).expect("directory");
    let target = folder.join(format!("{}.debug", &text[2..]));
    program.tool("objcopy", &["--only-keep-debug", "leak", target.to_str().expect("UTF-8")]);
    program.tool("strip", &["leak"]);
    let running = program.start();
    let mut store = store_with(&program.directory.path().join("debug"));
    let id = running.intern(&mut store);
    assert_lines(&store.resolve(id), "build ID");

    // The same place with another program's symbols must not be believed.
    let other = compile(&["-g", "-DOTHER=1", "-O2"]);
    fs::copy(&other.path, &target).expect("replace");
    let mut store = store_with(&program.directory.path().join("debug"));
    let id = running.intern(&mut store);
    assert_eq!(names(&store.resolve(id)), ["?"]);
}

#[test]
fn a_separate_debug_file_is_found_by_debug_link_and_checked() {
    let program = compile(&["-g", "-Wl,--build-id=none"]);
    program.tool("objcopy", &["--only-keep-debug", "leak", "leak.debug"]);
    program.tool("strip", &["leak"]);
    program.tool("objcopy", &["--add-gnu-debuglink=leak.debug", "leak"]);
    let running = program.start();
    let mut store = store_with(Path::new("/nonexistent"));
    let id = running.intern(&mut store);
    assert_lines(&store.resolve(id), "debug link");

    let path = program.directory.path().join("leak.debug");
    let mut bytes = fs::read(&path).expect("read");
    bytes.push(0);
    fs::write(&path, bytes).expect("write");
    let mut store = store_with(Path::new("/nonexistent"));
    let id = running.intern(&mut store);
    assert_eq!(names(&store.resolve(id)), ["?"], "the checksum no longer fits");
}

#[test]
fn a_program_that_was_deleted_or_replaced_or_that_ended_still_has_names() {
    let program = compile(&["-g"]);
    let running = program.start();
    let mut store = FrameStore::default();
    let id = running.intern(&mut store);
    fs::remove_file(&program.path).expect("delete");
    fs::write(&program.path, "something else").expect("replace");
    drop(running);
    assert_lines(&store.resolve(id), "seen before it went");
}

#[test]
fn a_deleted_program_is_read_through_the_mapping_by_root_and_not_confused_by_others() {
    let program = compile(&["-g"]);
    let mut running = program.start();
    fs::remove_file(&program.path).expect("delete");
    fs::copy("/bin/true", &program.path).expect("replace");
    running.mappings = maps::read(running.child.id()).expect("mappings");
    let mapping = maps::find(&running.mappings, running.inside).expect("mapped");
    assert!(mapping.deleted);
    let privileged = maps::map_files_path(running.child.id(), mapping).metadata().is_ok();
    let mut store = FrameStore::default();
    let id = running.intern(&mut store);
    let frames = store.resolve(id);
    if privileged {
        assert_lines(&frames, "through map_files");
    } else {
        assert_eq!(names(&frames), ["?"]);
        let reason = Unresolved::Object(Unreadable::Replaced).describe();
        assert_eq!(store.statistics().unresolved_by_reason, BTreeMap::from([(reason, 1)]));
    }
}

/// A mapping of a file into this very process that exists on paper only: opened by path, as without privileges.
fn paper_mapping(path: &Path) -> Mapping {
    let metadata = path.metadata().expect("file");
    Mapping {
        start: AbsoluteAddress(0x1000_0000),
        end: AbsoluteAddress(0x2000_0000),
        readable: true,
        writable: false,
        executable: true,
        shared: false,
        offset: FileOffset(0),
        device: (0, 0),
        inode: metadata.ino(),
        path: Some(path.to_owned()),
        label: None,
        deleted: false,
    }
}

fn intern_paper(store: &mut FrameStore, path: &Path, offset: u64) -> FrameId {
    let mapping = paper_mapping(path);
    store.intern(std::process::id(), 1, &[mapping], AbsoluteAddress(0x1000_0000 + offset), false)
}

#[test]
fn by_path_only_the_mapped_inode_counts() {
    let program = compile(&["-g"]);
    let mut mapping = paper_mapping(&program.path);
    mapping.inode += 1;
    let mut store = FrameStore::default();
    let id = store.intern(std::process::id(), 1, &[mapping], AbsoluteAddress(0x1000_1000), false);
    assert_eq!(names(&store.resolve(id)), ["?"]);
    let reason = Unresolved::Object(Unreadable::Replaced).describe();
    assert_eq!(store.statistics().unresolved_by_reason, BTreeMap::from([(reason, 1)]));
}

#[test]
fn closed_objects_are_opened_again_unless_they_changed() {
    let programs = [compile(&["-g"]), compile(&["-g", "-O2"]), compile(&[])];
    let mut store = FrameStore::new(Settings { max_open: 1, ..Settings::default() });
    let outer = |program: &Program| {
        let nm = Command::new("nm").arg(&program.path).output().expect("nm").stdout;
        let nm = String::from_utf8_lossy(&nm).into_owned();
        let line = nm.lines().find(|line| line.ends_with(" T outer")).expect("outer").to_owned();
        // In the first pages of a small PIE, file offsets and addresses are the same.
        u64::from_str_radix(line.split(' ').next().expect("address"), 16).expect("hexadecimal")
    };
    let ids: Vec<FrameId> =
        programs.iter().map(|program| intern_paper(&mut store, &program.path, outer(program))).collect();
    assert_eq!(store.statistics().open_objects, 1);
    fs::write(&programs[1].path, "changed").expect("overwrite");
    let found: Vec<bool> = ids.iter().map(|&id| names(&store.resolve(id)).contains(&"outer")).collect();
    assert_eq!(found, [true, false, true]);
    let reason = Unresolved::Object(Unreadable::Changed).describe();
    assert_eq!(store.statistics().unresolved_by_reason, BTreeMap::from([(reason, 1)]));
    assert_eq!(store.statistics().open_objects, 1);
}

#[test]
fn hostile_objects_cost_their_own_names_and_nothing_else() {
    let program = compile(&["-g"]);
    let whole = fs::read(&program.path).expect("read");
    let path = program.directory.path().join("hostile");
    let mut store = FrameStore::default();
    for length in [0, 1, 64, 1000, whole.len() / 2, whole.len() - 100] {
        fs::write(&path, &whole[..length]).expect("write");
        let id = intern_paper(&mut store, &path, 0x1150);
        assert_eq!(store.resolve(id).len(), 1);
    }
    fs::write(&path, &whole).expect("write");
    File::options().write(true).open(&path).expect("open").set_len(4 << 30).expect("sparse");
    let id = intern_paper(&mut store, &path, 0x3fff_0000);
    assert_eq!(names(&store.resolve(id)), ["?"]);
    // Every byte of the DWARF and of the symbol tables wrong in turn, a prime distance apart.
    for step in 0..40_usize {
        let mut broken = whole.clone();
        for at in (0x1000 + step * 7..broken.len()).step_by(97) {
            broken[at] ^= 0x55;
        }
        fs::write(&path, &broken).expect("write");
        let id = intern_paper(&mut store, &path, 0x1150 + step as u64);
        assert!(!store.resolve(id).is_empty());
    }
}

/// DWARF of one function that contains an inlined call, that contains an inlined call, two hundred thousand times.
const ABYSS: &str = r#"
.section .debug_line,"",@progbits
.Lline:
.text
.globl _start
_start:
.file 1 "abyss.c"
.loc 1 1
nop
nop
.loc 1 2
nop
.Lend:
.section .debug_abbrev,"",@progbits
.byte 1,0x11,1, 0x11,1, 0x12,7, 0x10,0x17, 0,0
.byte 2,0x2e,1, 3,8, 0x11,1, 0x12,7, 0,0
.byte 3,0x1d,1, 0x11,1, 0x12,7, 0,0
.byte 0
.section .debug_info,"",@progbits
.long .Linfo_end - .Linfo
.Linfo:
.short 4
.long .debug_abbrev
.byte 8
.byte 1
.quad _start
.quad .Lend - _start
.long .Lline
.byte 2
.asciz "abyss"
.quad _start
.quad .Lend - _start
.rept 200000
.byte 3
.quad _start
.quad .Lend - _start
.endr
.fill 200002,1,0
.Linfo_end:
"#;

#[test]
fn debug_information_of_endless_depth_does_not_overflow_our_stack() {
    let directory = tempfile::tempdir().expect("directory");
    fs::write(directory.path().join("abyss.s"), ABYSS).expect("source");
    run_tool("gcc", &["-nostdlib", "-static", "-o", "abyss", "abyss.s"], directory.path());
    let path = directory.path().join("abyss");
    let outline = Outline::read(&File::open(&path).expect("open")).expect("ELF");
    let text = outline.sections.iter().find(|section| section.name == ".text").expect(".text").offset;
    let mut store = FrameStore::default();
    let id = intern_paper(&mut store, &path, text + 1);
    assert_eq!(names(&store.resolve(id)), ["_start"], "the symbol table still names it");
    assert_eq!(store.statistics().debug_left_out, 1);
}

#[test]
fn an_object_truncated_after_it_was_seen_does_not_kill_us() {
    let program = compile(&["-g"]);
    let path = program.directory.path().join("victim");
    fs::copy(&program.path, &path).expect("copy");
    let mut store = FrameStore::default();
    let id = intern_paper(&mut store, &path, 0x1150);
    File::options().write(true).open(&path).expect("open").set_len(4096).expect("truncate");
    assert_eq!(names(&store.resolve(id)), ["?"]);
    let reason = Unresolved::Damaged.describe();
    assert_eq!(store.statistics().unresolved_by_reason, BTreeMap::from([(reason, 1)]));
}

#[test]
fn the_store_may_be_moved_to_another_thread() {
    fn movable<T: Send>(value: T) -> T {
        value
    }
    let mut store = movable(FrameStore::default());
    let frames = std::thread::spawn(move || store.resolve(FrameId::OVERFLOW)).join().expect("thread");
    assert_eq!(frames.len(), 1);
}

#[test]
fn memory_without_a_file_says_what_it_is() {
    let text = b"1000-2000 rwxp 0 0:0 0 \n3000-4000 r-xp 0 0:0 0 [vdso]\n5000-6000 rwxp 0 0:0 0 [anon:jit]\n";
    let mappings = maps::parse(text).expect("sample");
    let mut store = FrameStore::default();
    let mut object = |address| {
        let id = store.intern(1, 1, &mappings, AbsoluteAddress(address), true);
        store.resolve(id).remove(0).object
    };
    assert_eq!(object(0x1010).as_deref(), Some("[anonymous]"));
    assert_eq!(object(0x3010).as_deref(), Some("[vdso]"));
    assert_eq!(object(0x5010).as_deref(), Some("[anon:jit]"));
    assert_eq!(object(0x9010), None);
    let reasons = store.statistics().unresolved_by_reason;
    assert_eq!(reasons.get(Unresolved::Anonymous.describe()), Some(&2));
    assert_eq!(reasons.get(Unresolved::KernelProvided.describe()), Some(&1));
    assert_eq!(reasons.get(Unresolved::Unmapped.describe()), Some(&1));
}

#[test]
fn full_tables_refuse_and_count() {
    let mut store = FrameStore::new(Settings { max_frames: 2, ..Settings::default() });
    let ids: Vec<FrameId> = (1..=4).map(|at| store.intern(1, 1, &[], AbsoluteAddress(at), false)).collect();
    assert!(ids[..2].iter().all(|&id| id != FrameId::OVERFLOW));
    assert_eq!(ids[2..], [FrameId::OVERFLOW; 2]);
    assert_eq!(store.intern(1, 1, &[], AbsoluteAddress(2), false), ids[1], "what is known stays known");
    assert_eq!((store.statistics().frames, store.statistics().refused_frames), (2, 2));
    assert_eq!(store.resolve(FrameId::OVERFLOW).len(), 1);

    let program = compile(&["-g"]);
    let running = program.start();
    let mut store = FrameStore::new(Settings { max_text: 10, ..Settings::default() });
    let id = running.intern(&mut store);
    assert_eq!(names(&store.resolve(id)), ["?"]);
    assert_eq!(
        store.statistics().unresolved_by_reason,
        BTreeMap::from([(Unresolved::TextCap.describe(), 1)])
    );
}

#[test]
fn processes_share_objects_and_forgetting_one_keeps_its_frames() {
    let program = compile(&["-g"]);
    let (one, other) = (program.start(), program.start());
    let mut store = FrameStore::default();
    let first = one.intern(&mut store);
    let second = store.intern(other.child.id(), 2, &other.mappings, other.inside, true);
    assert_eq!(store.statistics().objects, 1);
    store.forget_process(1);
    assert_lines(&store.resolve(first), "forgotten");
    assert_lines(&store.resolve(second), "other process");
    assert_ne!(store.resolve(first)[0].address, 0);
}

#[test]
fn the_c_library_of_the_system_has_names() {
    let running_program = compile(&[]);
    let running = running_program.start();
    let libc = running.mappings.iter().find(|mapping| {
        mapping.executable
            && mapping.path.as_deref().is_some_and(|path| path.to_string_lossy().contains("libc.so"))
    });
    let libc = libc.expect("linked with the C library");
    let outline =
        Outline::read(&File::open(libc.path.as_deref().expect("file")).expect("open")).expect("ELF");
    assert!(outline.build_id.is_some());
    // The child waits in `pause`, so some return address in the library is on its stack; `write` was called before.
    let mut store = FrameStore::default();
    let all: Vec<FrameId> = (0..libc.len())
        .step_by(4096)
        .filter_map(|at| libc.start.checked_add(at))
        .map(|address| store.intern(running.child.id(), 1, &running.mappings, address, false))
        .collect();
    let named = all.iter().filter(|&&id| store.resolve(id)[0].function.is_some()).count();
    assert!(named > all.len() / 4, "{named} of {}", all.len());
}
