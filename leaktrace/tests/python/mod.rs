//! Plain builds of the interpreter, as pyenv makes them, and programs that run on them. Where things lie in their
//! structures is written down here a second time, by hand from their own headers: what finds it out for itself is not what is
//! tested with it.
#![allow(dead_code, reason = "each test file uses its share")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use leaktrace::kernel::{AttachPoint, Rings, StackRecord};
use leaktrace::object::address::AbsoluteAddress;
use leaktrace::object::{elf::Elf, symbols::Table};
use leaktrace::process::MemoryReader;
use leaktrace_common::hook::{HookCookie, domain, kind};
use leaktrace_common::python::{Layout, Runtime, chain, entry};

/// A version, its layout, and where in `_PyRuntime` or in the interpreter (by pointer) the lock's holder is.
pub struct Version {
    pub name: &'static str,
    interpreters: u64,
    holder: Holder,
    layout: Layout,
}

/// Where the word lies that points to who holds the lock.
#[derive(Clone, Copy)]
enum Holder {
    InRuntime(u64),
    InLock(u64),
}

const BY_OBJECT: Layout = Layout {
    chain: chain::FRAME_OBJECT,
    entry: entry::EVERY_FRAME,
    interpreter_next: 0,
    interpreter_threads: 8,
    thread_next: 8,
    thread_id: 176,
    thread_frame: 24,
    cframe_frame: 0,
    frame_bytes: 112,
    frame_code: 32,
    code_tag: 0,
    frame_previous: 24,
    frame_instruction: 104,
    instruction_scale: 1,
    frame_owner: 0,
    frame_is_entry: 0,
    generator_owner: 0,
    shim_owner: u32::MAX,
    code_flags: 36,
    code_first_line: 40,
    code_name: 112,
    code_file: 104,
    code_first_traceable: 0,
    code_instructions: 0,
};

const FROM_3_11: Layout = Layout {
    chain: chain::CFRAME,
    entry: entry::FLAG,
    interpreter_next: 0,
    interpreter_threads: 16,
    thread_next: 8,
    thread_id: 152,
    thread_frame: 56,
    cframe_frame: 8,
    frame_bytes: 72,
    frame_code: 32,
    code_tag: 0,
    frame_previous: 48,
    frame_instruction: 56,
    instruction_scale: 0,
    frame_owner: 69,
    frame_is_entry: 68,
    generator_owner: 1,
    shim_owner: u32::MAX,
    code_flags: 48,
    code_first_line: 72,
    code_name: 120,
    code_file: 112,
    code_first_traceable: 168,
    code_instructions: 184,
};

const FROM_3_12: Layout = Layout {
    entry: entry::SHIM,
    interpreter_threads: 72,
    thread_id: 136,
    cframe_frame: 0,
    frame_code: 0,
    frame_previous: 8,
    frame_owner: 70,
    shim_owner: 3,
    code_first_line: 68,
    code_first_traceable: 176,
    code_instructions: 192,
    ..FROM_3_11
};

const FROM_3_13: Layout = Layout {
    chain: chain::CURRENT_FRAME,
    interpreter_next: 7264,
    interpreter_threads: 7344,
    thread_id: 152,
    thread_frame: 72,
    code_first_traceable: 184,
    code_instructions: 200,
    ..FROM_3_12
};

/// Every version there is a plain build of.
pub const VERSIONS: [Version; 6] = [
    Version { name: "3.8", interpreters: 32, holder: Holder::InRuntime(1368), layout: BY_OBJECT },
    Version { name: "3.9", interpreters: 32, holder: Holder::InRuntime(568), layout: BY_OBJECT },
    Version {
        name: "3.10",
        interpreters: 32,
        holder: Holder::InRuntime(568),
        layout: Layout { frame_instruction: 96, instruction_scale: 2, ..BY_OBJECT },
    },
    Version { name: "3.11", interpreters: 40, holder: Holder::InRuntime(576), layout: FROM_3_11 },
    Version { name: "3.12", interpreters: 40, holder: Holder::InLock(384), layout: FROM_3_12 },
    Version { name: "3.13", interpreters: 632, holder: Holder::InLock(16), layout: FROM_3_13 },
];

/// The interpreter of a version under pyenv's directory.
pub fn installed(version: &str) -> PathBuf {
    let home = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")))
        .expect("a home directory");
    let prefix = format!("{version}.");
    let entries = std::fs::read_dir(home.join("versions")).expect("pyenv's versions");
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("pyenv has no Python {version}"))
}

/// The program, and what it says.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    /// Starts a script of this directory.
    pub fn start(root: &Path, script: &str, rounds: u32) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
        let mut child = Command::new(root.join("bin/python3"))
            .arg(script)
            .arg(rounds.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("written");
    }

    /// What it says next; stacks are drained meanwhile.
    pub fn says(&self, rings: &mut Rings, stacks: &mut Vec<StackRecord>) -> serde_json::Value {
        self.says_to(|_| {}, rings, stacks)
    }

    /// What it says next; stacks are drained meanwhile, and `often` is called every 10 ms.
    pub fn says_to(
        &self,
        often: impl Fn(&mut Rings),
        rings: &mut Rings,
        stacks: &mut Vec<StackRecord>,
    ) -> serde_json::Value {
        for _ in 0..12_000 {
            often(rings);
            while let Some(record) = rings.next_stack() {
                stacks.push(record);
            }
            match self.lines.recv_timeout(Duration::from_millis(10)) {
                Ok(line) => return serde_json::from_str(&line).expect("JSON"),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(error) => panic!("the program ended: {error}"),
            }
        }
        panic!("the program says nothing");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter's library.
pub fn library(root: &Path, version: &str) -> PathBuf {
    root.join(format!("lib/libpython{version}.so.1.0"))
}

/// A probe on a function of an object, by its symbol.
pub fn point(path: &Path, symbol: &str, cookie: HookCookie) -> AttachPoint {
    let elf = Elf::open(path).expect("an object");
    let find = |table| elf.symbol(table, symbol).expect("symbols").ok();
    let address = find(Table::Full).or_else(|| find(Table::Dynamic)).expect(symbol).address;
    let offset = elf.file_offset(address).expect("in the file");
    let needs_return = cookie.kind != kind::FREE;
    AttachPoint { path: path.to_owned(), offset, cookie, needs_return }
}

/// Probes on the interpreter's allocator of objects.
pub fn interpreter_points(library: &Path) -> Vec<AttachPoint> {
    let base = HookCookie { domain: domain::PY, ..HookCookie::default() };
    let alloc = HookCookie { kind: kind::ALLOC, size_arg: 2, ..base };
    let realloc = HookCookie { kind: kind::REALLOC, ptr_arg: 2, size_arg: 3, ..base };
    let free = HookCookie { kind: kind::FREE, ptr_arg: 2, ..base };
    vec![
        point(library, "_PyObject_Malloc", HookCookie { hook: 1, ..alloc }),
        point(library, "_PyObject_Calloc", HookCookie { factor_arg: 3, hook: 2, ..alloc }),
        point(library, "_PyObject_Realloc", HookCookie { hook: 3, ..realloc }),
        point(library, "_PyObject_Free", HookCookie { hook: 4, ..free }),
    ]
}

/// Probes on the C library's allocator.
pub fn libc_points(pid: u32) -> Vec<AttachPoint> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("readable");
    let mut files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let libc = files.find(|path| path.contains("libc.so") || path.contains("libc-")).expect("a C library");
    let libc = Path::new(libc);
    let alloc = HookCookie { kind: kind::ALLOC, size_arg: 1, ..HookCookie::default() };
    let realloc = HookCookie { kind: kind::REALLOC, ptr_arg: 1, size_arg: 2, ..HookCookie::default() };
    let free = HookCookie { kind: kind::FREE, ptr_arg: 1, ..HookCookie::default() };
    vec![
        point(libc, "malloc", HookCookie { hook: 5, ..alloc }),
        point(libc, "calloc", HookCookie { factor_arg: 2, hook: 6, ..alloc }),
        point(libc, "realloc", HookCookie { hook: 7, ..realloc }),
        point(libc, "free", HookCookie { hook: 8, ..free }),
    ]
}

/// What the kernel side is told of a process's interpreter, whose `_PyRuntime` lies at `address`.
pub fn runtime(version: &Version, pid: u32, address: u64) -> Runtime {
    let word = |address| MemoryReader::new(pid).read_u64(AbsoluteAddress(address)).expect("readable");
    let holder = match version.holder {
        Holder::InRuntime(offset) => address + offset,
        Holder::InLock(offset) => word(word(address + version.interpreters) + offset) + 8,
    };
    let interpreters = address + version.interpreters;
    Runtime { holder, interpreters, layout: version.layout, pool_bytes: 16384, ..Runtime::default() }
}
