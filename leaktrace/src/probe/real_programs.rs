//! Discovery and planning against real programs: compiled here, started as our own children, no root needed.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use leaktrace_common::hook::kind;

use super::allocator::{AllocatorError, Allocators, ExtraReason, ResolvedHook};
use super::command::{self, CommandError};
use super::cost::{CostTable, InstructionClass};
use super::loaded::Scope;
use super::plan::Plan;
use super::view::{LiveView, View};
use crate::object::address::AbsoluteAddress;
use crate::object::elf::ElfError;
use crate::process::Mapping;

/// Says that it is up, then waits until its standard input is closed.
const MAIN: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef PLUGIN
#include <dlfcn.h>
#endif
int main(void) {
    void *p = malloc(100);
    p = realloc(p, 200);
    free(p);
    free(calloc(1, 1));
#ifdef PLUGIN
    if (!dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL)) return 1;
#endif
    puts("up");
    fflush(stdout);
    char c;
    return (int)read(0, &c, 1);
}
"#;

/// An allocator that never gives anything back.
const ALLOCATOR: &str = r#"
#include <stddef.h>
#include <string.h>
#ifndef VISIBILITY
#define VISIBILITY
#endif
static char pool[1 << 20] __attribute__((aligned(16)));
static size_t used;
VISIBILITY void *malloc(size_t n) { void *p = pool + used; used += (n + 31) & ~(size_t)15; return p; }
VISIBILITY void free(void *p) { (void)p; }
VISIBILITY void *calloc(size_t n, size_t m) { return malloc(n * m); }
VISIBILITY void *realloc(void *p, size_t n) { void *q = malloc(n); if (p) memcpy(q, p, n); return q; }
"#;

/// A directory to compile in.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Compiles `sources`, put one after the other, to `name`.
    fn compile(&self, compiler: &str, name: &str, sources: &[&str], options: &[&str]) -> PathBuf {
        let (source, output) = (self.path(&format!("{name}.c")), self.path(name));
        std::fs::write(&source, sources.concat()).expect("source");
        let mut command = Command::new(compiler);
        command.args(["-O2", "-fno-builtin", "-o"]).args([&output, &source]).args(options);
        assert!(command.status().expect("compiler runs").success(), "{command:?}");
        output
    }
}

/// A running program; ends with this value.
struct Running(Child);

impl Running {
    fn start(program: &Path, preload: Option<&Path>) -> Self {
        Self::start_command(Command::new(program), preload)
    }

    fn start_command(mut command: Command, preload: Option<&Path>) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        let mut child = command.spawn().expect("program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("readable");
        assert_eq!(line, "up\n");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn allocators(&self) -> Allocators {
        Allocators::discover(self.pid()).expect("an allocator")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn name_of(found: &Allocators, object: usize) -> String {
    let path = &found.objects[object].path;
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// File name of the object that provides a function.
fn provider(found: &Allocators, function: &str) -> Option<String> {
    let hook: &ResolvedHook = found.primary.iter().find(|found| found.hook.hook().name == function)?;
    Some(name_of(found, hook.object))
}

fn plan(found: &Allocators) -> Plan {
    Plan::new(found, &CostTable::default()).expect("a plan")
}

/// What lies in the process's memory at each planned address is what the plan says of the file there.
fn assert_memory_matches(running: &Running, found: &Allocators, plan: &Plan) {
    let view = LiveView::open(running.pid()).expect("the process");
    for probe in &plan.probes {
        let planned = &plan.objects[probe.object];
        let object = found.objects.iter().find(|object| object.path == planned.path).expect("an object");
        let address = probe.function.0 + probe.site.offset;
        let file = object.elf.code_at(crate::object::address::VirtualOffset(address), 1).expect("code");
        assert_eq!(
            object.elf.file_offset(crate::object::address::VirtualOffset(address)),
            Some(probe.offset)
        );
        let mut memory = [0];
        let bias = object.load_bias.expect("known");
        assert!(view.read(AbsoluteAddress(address.wrapping_add(bias)), &mut memory));
        assert_eq!(memory[..], file[..], "{}", probe.hook.hook().name);
    }
}

#[test]
fn a_dynamic_program_uses_the_c_library() {
    let workshop = Workshop::new();
    let running = Running::start(&workshop.compile("gcc", "plain", &[MAIN], &[]), None);
    let found = running.allocators();
    for function in ["malloc", "calloc", "realloc", "free", "posix_memalign", "mmap", "munmap", "mremap"] {
        assert_eq!(provider(&found, function).as_deref(), Some("libc.so.6"), "{function}");
    }
    assert_eq!(found.consistent, Some(true));
    assert!(found.extra.is_empty() && !found.is_layered(), "{:?}", found.extra);
    assert!(found.objects.iter().all(|object| object.scope == Scope::Startup));
    assert_eq!(found.notes, Vec::<String>::new());
    let linker = found.linker.expect("the linker's notification");
    assert_eq!(name_of(&found, linker.object), "ld-linux-x86-64.so.2");
    assert_memory_matches(&running, &found, &plan(&found));
}

#[test]
fn a_plan_has_one_probe_per_place_and_frees_come_first() {
    let workshop = Workshop::new();
    let running = Running::start(&workshop.compile("gcc", "plain", &[MAIN], &[]), None);
    let plan = plan(&running.allocators());
    let mut places: Vec<_> = plan.probes.iter().map(|probe| (probe.object, probe.offset)).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), plan.probes.len());
    let position =
        |kind: u8| plan.probes.iter().position(|probe| probe.cookie.kind == kind).expect("planned");
    assert!(position(kind::FREE) < position(kind::REALLOC));
    assert!(position(kind::REALLOC) < position(kind::ALLOC));
    let rows = plan.rows();
    let row = |function: &str| {
        rows.iter().find(|row| row.function.split(", ").any(|name| name == function)).expect("a row")
    };
    assert_eq!(row("memalign").function, row("aligned_alloc").function, "the same code in glibc 2.36");
    assert!(row("mmap").function.contains("mmap64"));
    assert_eq!(row("malloc").cost_ns, CostTable::default().cost(row("malloc").class).return_ns);
    assert!(row("free").emulated && !row("free").needs_return);
    let planned: usize = plan.by_object().map(|(_, probes)| probes.len()).sum();
    assert_eq!(planned, plan.probes.len());
}

#[test]
fn a_static_program_brings_its_own() {
    let workshop = Workshop::new();
    for (compiler, name) in [("gcc", "static-glibc"), ("musl-gcc", "static-musl")] {
        let running = Running::start(&workshop.compile(compiler, name, &[MAIN], &["-static"]), None);
        let found = running.allocators();
        for function in ["malloc", "calloc", "realloc", "free"] {
            assert_eq!(provider(&found, function).as_deref(), Some(name), "{function}");
        }
        assert!(found.linker.is_none() && found.consistent.is_none());
        assert_memory_matches(&running, &found, &plan(&found));
    }
}

#[test]
fn a_stripped_static_program_is_refused_by_name() {
    let workshop = Workshop::new();
    let running = Running::start(&workshop.compile("gcc", "stripped", &[MAIN], &["-static", "-s"]), None);
    let error = Allocators::discover(running.pid()).expect_err("nothing to find");
    assert!(matches!(error, AllocatorError::None { .. }));
    let message = error.to_string();
    assert!(message.contains(&running.pid().to_string()) && message.contains("/stripped"), "{message}");
}

#[test]
fn an_executable_with_its_own_malloc_wins_over_the_c_library() {
    let workshop = Workshop::new();
    let program = workshop.compile("gcc", "own", &[ALLOCATOR, MAIN], &[]);
    let running = Running::start(&program, None);
    let found = running.allocators();
    for function in ["malloc", "calloc", "realloc", "free"] {
        assert_eq!(provider(&found, function).as_deref(), Some("own"), "{function}");
    }
    // What it does not define comes from the next object, as the linker would have it.
    assert_eq!(provider(&found, "posix_memalign").as_deref(), Some("libc.so.6"));
    assert_eq!(provider(&found, "mmap").as_deref(), Some("libc.so.6"));
    assert!(found.is_layered());
    assert_memory_matches(&running, &found, &plan(&found));
}

#[test]
fn an_allocator_that_the_executable_keeps_to_itself_is_an_extra_one() {
    let workshop = Workshop::new();
    let hidden = "-DVISIBILITY=__attribute__((visibility(\"hidden\")))";
    let running = Running::start(&workshop.compile("gcc", "private", &[ALLOCATOR, MAIN], &[hidden]), None);
    let found = running.allocators();
    assert_eq!(provider(&found, "malloc").as_deref(), Some("libc.so.6"));
    assert_eq!(found.extra.len(), 1);
    assert_eq!(found.extra[0].reason, ExtraReason::PrivateToExecutable);
    assert_eq!(name_of(&found, found.extra[0].object), "private");
    assert_memory_matches(&running, &found, &plan(&found));
}

#[test]
fn a_preloaded_allocator_wins() {
    let workshop = Workshop::new();
    let program = workshop.compile("gcc", "plain", &[MAIN], &[]);
    let library = workshop.compile("gcc", "libmine.so", &[ALLOCATOR], &["-shared", "-fPIC"]);
    let running = Running::start(&program, Some(&library));
    let found = running.allocators();
    assert_eq!(provider(&found, "malloc").as_deref(), Some("libmine.so"));
    assert_eq!(provider(&found, "free").as_deref(), Some("libmine.so"));
    assert!(found.extra.is_empty());
    assert_memory_matches(&running, &found, &plan(&found));
}

#[test]
fn a_library_loaded_later_with_its_own_allocator_is_an_extra_one() {
    let workshop = Workshop::new();
    let library = workshop.compile("gcc", "plugin.so", &[ALLOCATOR], &["-shared", "-fPIC"]);
    let define = format!("-DPLUGIN=\"{}\"", library.display());
    let running = Running::start(&workshop.compile("gcc", "host", &[MAIN], &[&define]), None);
    let found = running.allocators();
    assert_eq!(provider(&found, "malloc").as_deref(), Some("libc.so.6"));
    assert_eq!(found.extra.len(), 1);
    assert_eq!(found.extra[0].reason, ExtraReason::LoadedLater);
    assert_eq!(name_of(&found, found.extra[0].object), "plugin.so");
    let plan = plan(&found);
    assert!(plan.layered);
    let mallocs = plan.probes.iter().filter(|probe| probe.hook.hook().name == "malloc").count();
    assert_eq!(mallocs, 2);
    assert_memory_matches(&running, &found, &plan);
}

#[test]
fn a_dynamic_program_of_musl_uses_musl() {
    let workshop = Workshop::new();
    let running = Running::start(&workshop.compile("musl-gcc", "musl", &[MAIN], &[]), None);
    let found = running.allocators();
    let library = provider(&found, "malloc").expect("malloc");
    assert!(library.contains("musl") || library == "libc.so", "{library}");
    assert_eq!(provider(&found, "mmap"), Some(library.clone()));
    let linker = found.linker.expect("the linker's notification");
    assert_eq!(name_of(&found, linker.object), library, "in musl the C library is the linker");
    let plan = plan(&found);
    let malloc = plan.probes.iter().find(|probe| probe.hook.hook().name == "malloc").expect("planned");
    assert!(matches!(malloc.site.class, InstructionClass::Jmp | InstructionClass::Push), "{:?}", malloc.site);
    assert_memory_matches(&running, &found, &plan);
}

#[test]
fn a_program_whose_file_is_gone_is_still_read() {
    let workshop = Workshop::new();
    let program = workshop.compile("gcc", "gone", &[ALLOCATOR, MAIN], &[]);
    let running = Running::start(&program, None);
    std::fs::remove_file(&program).expect("removed");
    let found = running.allocators();
    assert_eq!(provider(&found, "malloc").as_deref(), Some("gone"));
    assert_memory_matches(&running, &found, &plan(&found));
}

/// A process whose memory cannot be read.
struct Opaque(LiveView);

impl View for Opaque {
    fn read(&self, _: AbsoluteAddress, _: &mut [u8]) -> bool {
        false
    }
    fn mappings(&self) -> &[Mapping] {
        self.0.mappings()
    }
    fn auxiliary(&self, kind: u64) -> Option<u64> {
        self.0.auxiliary(kind)
    }
    fn executable(&self) -> PathBuf {
        self.0.executable()
    }
    fn openable(&self, mapping: &Mapping) -> PathBuf {
        self.0.openable(mapping)
    }
}

#[test]
fn without_the_linkers_list_a_preloaded_allocator_still_wins_and_the_report_says_so() {
    let workshop = Workshop::new();
    let program = workshop.compile("gcc", "plain", &[MAIN], &[]);
    let library = workshop.compile("gcc", "libmine.so", &[ALLOCATOR], &["-shared", "-fPIC"]);
    let running = Running::start(&program, Some(&library));
    let found =
        Allocators::of(&Opaque(LiveView::open(running.pid()).expect("the process"))).expect("readable");
    assert_eq!(provider(&found, "malloc").as_deref(), Some("libmine.so"));
    assert_eq!(provider(&found, "mmap").as_deref(), Some("libc.so.6"));
    assert_eq!(found.consistent, None);
    assert!(found.notes.iter().any(|note| note.contains("order of their addresses")), "{:?}", found.notes);
}

#[test]
fn a_program_started_through_the_linker_by_hand_is_found() {
    let workshop = Workshop::new();
    let program = workshop.compile("gcc", "plain", &[MAIN], &[]);
    let mut command = Command::new("/lib64/ld-linux-x86-64.so.2");
    command.arg(&program);
    let running = Running::start_command(command, None);
    let found = running.allocators();
    assert_eq!(provider(&found, "malloc").as_deref(), Some("libc.so.6"));
    assert_eq!(provider(&found, "munmap").as_deref(), Some("libc.so.6"));
    assert!(found.linker.is_some());
    assert!(found.objects.iter().any(|object| object.path == program));
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    assert!(
        matches!(Allocators::discover(4_194_305), Err(AllocatorError::Process(error)) if error.is_gone())
    );
}

fn resolve(program: &Path) -> Result<command::Command, CommandError> {
    command::Command::resolve(program.as_os_str(), None)
}

#[test]
fn a_dynamic_command_is_stopped_in_its_linker() {
    let workshop = Workshop::new();
    for compiler in ["gcc", "musl-gcc"] {
        let program = workshop.compile(compiler, compiler, &[MAIN], &[]);
        let found = resolve(&program).expect("a command");
        assert_eq!(found.executable, program);
        assert!(found.linker.is_some());
        let plan = plan(&found.before_start);
        assert_eq!(plan.probes.len(), 1);
        assert_eq!((plan.probes[0].cookie.kind, plan.probes[0].needs_return), (kind::LINK_MAP, false));
        assert_eq!(Some(&plan.objects[0].attach_path), found.linker.as_ref());
    }
}

#[test]
fn a_static_command_is_probed_in_itself() {
    let workshop = Workshop::new();
    let found = resolve(&workshop.compile("gcc", "static", &[MAIN], &["-static"])).expect("a command");
    assert!(found.linker.is_none());
    let plan = plan(&found.before_start);
    assert!(plan.probes.iter().any(|probe| probe.hook.hook().name == "malloc"));
    let stripped = workshop.compile("gcc", "stripped", &[MAIN], &["-static", "-s"]);
    assert!(matches!(resolve(&stripped), Err(CommandError::NoAllocator { .. })));
}

#[test]
fn scripts_lead_to_their_interpreter() {
    let workshop = Workshop::new();
    let program = workshop.compile("gcc", "interpreter", &[MAIN], &[]);
    let script = |name: &str, interpreter: &str, mode: u32| {
        let path = workshop.path(name);
        std::fs::write(&path, format!("#! {interpreter} -x\nrest\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        path
    };
    let first = script("first", &program.display().to_string(), 0o755);
    let second = script("second", &first.display().to_string(), 0o755);
    let found = resolve(&second).expect("a command");
    assert_eq!((found.program, found.executable), (second, program));
    let endless = workshop.path("endless").display().to_string();
    assert!(matches!(resolve(&script("endless", &endless, 0o755)), Err(CommandError::TooManyScripts(_))));
    assert!(matches!(resolve(&script("plain", "/bin/sh", 0o644)), Err(CommandError::NotExecutable(_))));
    let lost = script("lost", "/no/such/interpreter", 0o755);
    assert!(matches!(resolve(&lost), Err(CommandError::NotExecutable(_))));
}

#[test]
fn commands_are_searched_in_path() {
    let workshop = Workshop::new();
    let program = workshop.compile("gcc", "findme", &[MAIN], &[]);
    let path = std::env::join_paths([Path::new("/no/such/place"), workshop.0.path()]).expect("joined");
    let found = command::Command::resolve(OsStr::new("findme"), Some(&path)).expect("a command");
    assert_eq!(found.program, program);
    let nothing = command::Command::resolve(OsStr::new("findme"), Some(OsStr::new("/no/such/place")));
    assert!(matches!(nothing, Err(CommandError::NotFound(_))));
    assert!(matches!(command::Command::resolve(OsStr::new(""), Some(&path)), Err(CommandError::NotFound(_))));
}

#[test]
fn a_32_bit_command_is_refused_by_name() {
    let workshop = Workshop::new();
    let path = workshop.path("old");
    let mut bytes = std::fs::read(workshop.compile("gcc", "new", &[MAIN], &[])).expect("compiled");
    bytes[4] = 1;
    std::fs::write(&path, bytes).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let error = resolve(&path).expect_err("refused");
    assert!(matches!(error, CommandError::Object(ElfError::ThirtyTwoBit { .. })));
    assert!(error.to_string().contains("32-bit"));
}
