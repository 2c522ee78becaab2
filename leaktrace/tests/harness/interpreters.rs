//! Python interpreters to trace: plain builds of pyenv's, where the machine has them; Debian's own, in the roots that
//! `cargo xtask setup --for test` fetches; the machine's. Scripts of `targets/python` run under each of them.

use super::{Outcomes, Target, program, target::TargetBuilder};
use serde::Deserialize;
use std::{
    env,
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

/// Debian's suites whose interpreters are traced.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "sid"];
/// The one that changes from day to day and may be broken for a while: tests do without it then.
const MOVING_SUITE: &str = "sid";
/// A build as in official container images, made by `cargo xtask interpreter`.
const CONTAINER_BUILD: &str = "shared311";
/// Where scripts lie in a root.
const SCRIPTS_IN_ROOT: &str = "/mnt";
/// How many are traced at the same time.
const AT_A_TIME: usize = 2;

/// Where it comes from, and so how it was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// pyenv: no profile-guided optimisation, a shared library.
    Pyenv,
    /// Debian: profile-guided and link-time optimisation, all in the executable, stripped.
    Debian,
    /// As in official container images: like Debian's, but a shared library.
    Container,
}

impl Origin {
    /// As the table of interpreters says it.
    pub fn build(self) -> &'static str {
        match self {
            Self::Pyenv => "plain, shared library",
            Self::Debian => "PGO, LTO, static",
            Self::Container => "PGO, LTO, shared library",
        }
    }
}

/// An interpreter.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// How the table of interpreters calls it.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// 9 in 3.9.
    pub minor: u32,
    program: PathBuf,
    root: Option<PathBuf>,
}

/// What an interpreter says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Identity {
    /// Version.
    pub version: String,
    /// Whether it knows of profile-guided optimisation.
    pub optimized: bool,
    /// Whether it knows of link-time optimisation.
    pub lto: bool,
}

/// What tracing must leave as it was, as the interpreter itself reads it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct State {
    /// Context and functions of the raw, mem and object domains.
    pub allocators: Vec<u64>,
    /// Its free lists.
    pub free_lists: FreeLists,
}

/// Free lists of an interpreter.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct FreeLists {
    /// How many it tells of.
    pub known: u64,
    /// Objects in the longest.
    pub longest: u64,
}

/// More than any free list can hold: such a length is a mark.
const NO_LENGTH: u64 = 1 << 20;

impl State {
    /// Fails unless tracing has left everything as it was.
    pub fn check_unchanged(&self, now: &Self) -> Outcomes<()> {
        if self.allocators != now.allocators {
            return Err(format!(
                "the allocator tables were {:x?}, are {:x?}",
                self.allocators, now.allocators
            ));
        }
        if now.free_lists.known == 0 || now.free_lists.longest > NO_LENGTH {
            return Err(format!("free lists are left in disorder: {:?}", now.free_lists));
        }
        Ok(())
    }
}

/// Every interpreter at hand; one of Debian's that is missing is an error. `LEAKTRACE_TEST_INTERPRETER` keeps those whose
/// names contain it.
pub fn found() -> Outcomes<Vec<Interpreter>> {
    let mut all = pyenv()?;
    for suite in SUITES {
        match in_root(suite) {
            Some(interpreter) => all.push(interpreter),
            None if suite == MOVING_SUITE => println!("no root of {suite}: its interpreter is left out"),
            None => {
                return Err(format!(
                    "no python3 in {}: run `cargo xtask setup --for test`",
                    directory().join(suite).display()
                ));
            }
        }
    }
    all.extend(container_build());
    let wanted = env::var("LEAKTRACE_TEST_INTERPRETER").unwrap_or_default();
    all.retain(|interpreter| interpreter.name.contains(&wanted));
    if all.is_empty() { Err(format!("no interpreter has {wanted:?} in its name")) } else { Ok(all) }
}

/// Those of Debian's, one a version, and what pyenv has of versions that Debian's do not cover.
pub fn one_of_each_version() -> Outcomes<Vec<Interpreter>> {
    let mut all = found()?;
    all.sort_by_key(|interpreter| (interpreter.minor, interpreter.origin != Origin::Debian));
    all.dedup_by_key(|interpreter| interpreter.minor);
    Ok(all)
}

/// Runs something for every interpreter, a few at a time, and returns what each gave, in order.
pub fn each<T: Send>(
    interpreters: &[Interpreter],
    run: impl Fn(&Interpreter) -> Outcomes<T> + Sync,
) -> Vec<(&Interpreter, Outcomes<T>)> {
    let (todo, done) = (Mutex::new(interpreters.iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().expect("nobody panics in here").next();
                    let Some((index, interpreter)) = next else { break };
                    let outcome = run(interpreter).map_err(|e| format!("{}: {e}", interpreter.name));
                    done.lock().expect("nobody panics in here").push((index, interpreter, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panics in here");
    done.sort_by_key(|(index, _, _)| *index);
    done.into_iter().map(|(_, interpreter, outcome)| (interpreter, outcome)).collect()
}

/// Every failure in one, or what there is.
pub fn all_of<T>(outcomes: Vec<(&Interpreter, Outcomes<T>)>) -> Outcomes<Vec<(&Interpreter, T)>> {
    let (good, bad): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|(_, outcome)| outcome.is_ok());
    let bad: Vec<String> = bad.into_iter().filter_map(|(_, outcome)| outcome.err()).collect();
    if !bad.is_empty() {
        return Err(bad.join("\n"));
    }
    Ok(good.into_iter().filter_map(|(interpreter, outcome)| Some((interpreter, outcome.ok()?))).collect())
}

/// Where `cargo xtask setup` puts interpreters and virtual environments.
pub fn directory() -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let usual = built.parent().unwrap_or(built).join("interpreters");
    env::var_os("LEAKTRACE_INTERPRETERS").map_or(usual, PathBuf::from)
}

/// The root of one of Debian's suites, to be looked at only.
pub fn root(suite: &str) -> Outcomes<PathBuf> {
    let root = directory().join(suite);
    match root.join("usr/bin/python3").exists() {
        true => Ok(root),
        false => Err(format!("no python3 in {}: run `cargo xtask setup --for test`", root.display())),
    }
}

/// Where the packages of the services' virtual environment lie.
pub fn packages() -> Outcomes<PathBuf> {
    let lib = directory().join("services/lib");
    let found = fs::read_dir(&lib).ok().and_then(|mut entries| entries.next()?.ok());
    let found = found.map(|version| version.path().join("site-packages")).filter(|path| path.is_dir());
    found.ok_or_else(|| format!("no packages in {}: run `cargo xtask setup --for test`", lib.display()))
}

/// Where the scripts lie.
pub fn scripts() -> PathBuf {
    program::sources().join("python")
}

/// Keeps what the caller's shell asks of Python from changing what is traced.
pub fn forget_environment(command: &mut Command) {
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"PYTHON")) {
        command.env_remove(name);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONHASHSEED", "0");
}

impl Interpreter {
    /// Prepares a script.
    pub fn prepare(&self, script: &str) -> Outcomes<TargetBuilder> {
        let mut command = Command::new(&self.program);
        match &self.root {
            Some(root) => {
                command.arg(Path::new(SCRIPTS_IN_ROOT).join(script));
                enter_root(&mut command, root)?;
            }
            None => {
                command.arg(scripts().join(script));
            }
        }
        forget_environment(&mut command);
        Ok(Target::command(command))
    }

    /// Starts a script that takes commands.
    pub fn start(&self, script: &str) -> Outcomes<Target> {
        self.prepare(script)?.start()
    }

    /// Asks a running script what it is, and fails when that is not what the table will call it.
    pub fn identity(&self, target: &mut Target) -> Outcomes<Identity> {
        let identity: Identity = target.ask_json("identity")?;
        let maps = format!("/proc/{}/maps", target.pid());
        let maps = fs::read_to_string(&maps).map_err(|e| format!("{maps}: {e}"))?;
        let shared = maps.contains("/libpython3");
        let compiled = identity.optimized && identity.lto;
        let fits = match self.origin {
            Origin::Pyenv => shared && !identity.optimized,
            // Debian leaves its optimisations out of what the interpreter knows of itself.
            Origin::Debian => !shared,
            Origin::Container => shared && compiled,
        };
        let version = identity.version.starts_with(&format!("3.{}.", self.minor));
        if fits && version { Ok(identity) } else { Err(format!("not what it was taken for: {identity:?}")) }
    }
}

/// Makes the command run with another root, where the scripts are seen at a fixed place. The namespace of mounts goes
/// with the process.
fn enter_root(command: &mut Command, root: &Path) -> Outcomes<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string());
    let place = SCRIPTS_IN_ROOT.trim_start_matches('/');
    let (scripts, place, root) = (text(&scripts())?, text(&root.join(place))?, text(root)?);
    let good = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: plain system calls on strings that were made before.
    unsafe {
        command.pre_exec(move || {
            let none = std::ptr::null();
            good(libc::unshare(libc::CLONE_NEWNS))?;
            good(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            good(libc::mount(scripts.as_ptr(), place.as_ptr(), none, libc::MS_BIND, none.cast()))?;
            good(libc::chroot(root.as_ptr()))?;
            good(libc::chdir(c"/".as_ptr()))
        });
    }
    Ok(())
}

fn in_root(suite: &str) -> Option<Interpreter> {
    let root = directory().join(suite);
    // The link says the version: python3 -> python3.11.
    let link = fs::read_link(root.join("usr/bin/python3")).ok()?;
    Some(Interpreter {
        name: format!("Debian {suite}"),
        origin: Origin::Debian,
        minor: minor_of(link.to_str()?.strip_prefix("python")?)?,
        program: PathBuf::from("/usr/bin/python3"),
        root: Some(root),
    })
}

fn container_build() -> Option<Interpreter> {
    let program = directory().join(CONTAINER_BUILD).join("bin/python3.11");
    let name = "Debian's source, as in container images".to_owned();
    program.exists().then_some(Interpreter {
        name,
        origin: Origin::Container,
        minor: 11,
        program,
        root: None,
    })
}

/// What pyenv has, if there is any.
fn pyenv() -> Outcomes<Vec<Interpreter>> {
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let usual = || Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv"));
    let Some(versions) = root.or_else(usual).map(|root| root.join("versions")) else { return Ok(Vec::new()) };
    let entries = match fs::read_dir(&versions) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", versions.display())),
    };
    let mut all: Vec<Interpreter> = entries.flatten().filter_map(|entry| of_pyenv(&entry.path())).collect();
    all.sort_by_key(|interpreter| interpreter.minor);
    Ok(all)
}

fn of_pyenv(home: &Path) -> Option<Interpreter> {
    let version = home.file_name()?.to_str()?;
    let minor = minor_of(version).filter(|minor| (8..=14).contains(minor))?;
    let program = home.join(format!("bin/python3.{minor}"));
    let name = format!("pyenv 3.{minor}");
    program.exists().then_some(Interpreter { name, origin: Origin::Pyenv, minor, program, root: None })
}

/// 9 of `3.9` and of `3.9.18`; nothing of versions with anything else in them, such as `3.13t`.
fn minor_of(version: &str) -> Option<u32> {
    version.strip_prefix("3.")?.split('.').next()?.parse().ok()
}
