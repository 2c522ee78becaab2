//! A command that leaktrace is to start: which file the kernel will run in the end, and what must be probed before
//! its first instruction.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::allocator::Allocators;
use super::loaded::{LoadedObject, Scope};
use crate::object::elf::{Elf, ElfError};

/// Scripts that are run by scripts: the kernel gives up after so many.
const MAX_SCRIPTS: usize = 5;

/// The kernel looks at so many bytes of a script's first line.
const MAX_SCRIPT_LINE: u64 = 256;

/// What `execvp` uses when PATH is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What starting a command will run.
#[derive(Debug)]
pub struct Command {
    /// The file found for the command as typed.
    pub program: PathBuf,
    /// The executable that runs: the program, or the interpreter of a script.
    pub executable: PathBuf,
    /// The dynamic linker, `None` for a static executable.
    pub linker: Option<PathBuf>,
    /// What to probe before the first instruction: the linker's notification, or the static executable's functions.
    pub before_start: Allocators,
}

/// Why a command cannot be traced from its start.
#[derive(Debug, Error)]
pub enum CommandError {
    /// Not found in PATH.
    #[error("command not found: {}", .0.display())]
    NotFound(PathBuf),
    /// Found, but may not be executed.
    #[error("{} is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// Script upon script.
    #[error("{} is a script whose interpreter is a script, more than {MAX_SCRIPTS} deep", .0.display())]
    TooManyScripts(PathBuf),
    /// `#!` without anything.
    #[error("{} is a script that names no interpreter", .0.display())]
    NoInterpreter(PathBuf),
    /// Could not be read.
    #[error(transparent)]
    Object(#[from] ElfError),
    /// The linker cannot tell when the libraries are there.
    #[error("{} has no function {}: it cannot be told when the libraries are loaded", .0.display(), super::hooks::LINK_MAP_CHANGED)]
    SilentLinker(PathBuf),
    /// No allocator in a static executable.
    #[error(
        "no known allocator: {} is a static executable and its symbol table, if it has one, does not define {missing}",
        .executable.display()
    )]
    NoAllocator {
        /// The executable.
        executable: PathBuf,
        /// What is missing.
        missing: String,
    },
}

impl Command {
    /// Finds out what running `program` would run. `path` is the PATH variable.
    pub fn resolve(program: &OsStr, path: Option<&OsStr>) -> Result<Self, CommandError> {
        let program = find_program(program, path)?;
        let executable = follow_scripts(&program)?;
        let elf = Elf::open(&executable)?;
        let linker = elf.interpreter()?;
        let before_start = match &linker {
            Some(linker) => notification(linker)?,
            None => own_functions(elf, &executable)?,
        };
        Ok(Self { program, executable, linker, before_start })
    }
}

fn notification(linker: &Path) -> Result<Allocators, CommandError> {
    let found = Allocators::of_linker(object(Elf::open(linker)?, linker)?)?;
    match found.linker {
        Some(_) => Ok(found),
        None => Err(CommandError::SilentLinker(linker.to_owned())),
    }
}

fn own_functions(elf: Elf, executable: &Path) -> Result<Allocators, CommandError> {
    let found = Allocators::of_executable(object(elf, executable)?);
    let missing = found.missing();
    match missing.is_empty() {
        true => Ok(found),
        false => Err(CommandError::NoAllocator {
            executable: executable.to_owned(),
            missing: missing.join(" and "),
        }),
    }
}

fn object(elf: Elf, path: &Path) -> Result<LoadedObject, ElfError> {
    let metadata = path.metadata().map_err(|source| ElfError::Io { path: path.to_owned(), source })?;
    let device = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    Ok(LoadedObject {
        path: path.to_owned(),
        attach_path: path.to_owned(),
        load_bias: None,
        device,
        inode: metadata.ino(),
        scope: Scope::Startup,
        elf,
    })
}

fn find_program(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, CommandError> {
    if program.as_bytes().contains(&b'/') {
        let program = PathBuf::from(program);
        return match program.exists() {
            true => executable(&program).map(|()| program),
            false => Err(CommandError::NotFound(program)),
        };
    }
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    // An empty entry stands for the current directory.
    let places: Vec<PathBuf> = std::env::split_paths(path)
        .map(|place| if place.as_os_str().is_empty() { PathBuf::from(".") } else { place })
        .map(|place| place.join(program))
        .filter(|place| place.is_file())
        .collect();
    match places.iter().find(|place| executable(place).is_ok()).or(places.first()) {
        Some(found) if !program.is_empty() => executable(found).map(|()| found.clone()),
        _ => Err(CommandError::NotFound(PathBuf::from(program))),
    }
}

fn executable(path: &Path) -> Result<(), CommandError> {
    let allowed = path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    allowed.then_some(()).ok_or_else(|| CommandError::NotExecutable(path.to_owned()))
}

fn follow_scripts(program: &Path) -> Result<PathBuf, CommandError> {
    let mut current = program.to_owned();
    for _ in 0..=MAX_SCRIPTS {
        match script_interpreter(&current)? {
            None => return Ok(current),
            Some(interpreter) => {
                executable(&interpreter)?;
                current = interpreter;
            }
        }
    }
    Err(CommandError::TooManyScripts(program.to_owned()))
}

fn script_interpreter(path: &Path) -> Result<Option<PathBuf>, CommandError> {
    let failed = |source| ElfError::Io { path: path.to_owned(), source };
    let mut start = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_SCRIPT_LINE).read_to_end(&mut start).map_err(failed)?;
    let Some(rest) = start.strip_prefix(b"#!") else { return Ok(None) };
    match interpreter_in(rest) {
        Some(interpreter) => Ok(Some(PathBuf::from(OsString::from_vec(interpreter.to_vec())))),
        None => Err(CommandError::NoInterpreter(path.to_owned())),
    }
}

/// The first word of a script's first line, behind `#!`.
fn interpreter_in(line: &[u8]) -> Option<&[u8]> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).find(|word| !word.is_empty())
}
