//! Interpreters to test against: plain builds under pyenv, and distributions' own builds in root file systems below
//! `LEAKTRACE_INTERPRETERS` or the workspace's cache directory. A test that needs them fails where there are none.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use leaktrace::python::Version;

/// One interpreter that can be started.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What is printed in messages.
    pub name: String,
    /// The program; inside of `root` if there is one.
    pub program: PathBuf,
    /// Directory to change the root to.
    pub root: Option<PathBuf>,
    /// Directories with its shared libraries.
    pub libraries: Option<PathBuf>,
}

/// A script that runs, is at a known place and can be talked to.
pub struct Script {
    /// The process.
    pub child: Child,
    output: BufReader<std::process::ChildStdout>,
    input: ChildStdin,
}

impl Installed {
    /// Starts a script; it must read its input to stay alive.
    pub fn start(&self, script: &str) -> Script {
        self.start_with(script, &[])
    }

    /// The same with environment variables.
    pub fn start_with(&self, script: &str, environment: &[(&str, &str)]) -> Script {
        let mut command = self.command();
        command.args(["-u", "-c", script]).envs(environment.iter().copied());
        Script::spawn(command)
    }

    /// The interpreter without arguments.
    pub fn command(&self) -> Command {
        let mut command = match &self.root {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Its version, as it prints it.
    pub fn version(&self) -> Version {
        let output = self.command().arg("--version").output().expect("starts");
        let text = [output.stdout, output.stderr].concat();
        let text = text.trim_ascii().strip_prefix(b"Python ").expect("Python X.Y.Z");
        Version::from_text(text).expect("a version")
    }
}

impl Script {
    /// Starts a program that talks by lines.
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let input = child.stdin.take().expect("piped");
        Self { child, output, input }
    }

    /// PID of the process: `chroot` becomes the interpreter.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints, without its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("readable");
        assert!(line.ends_with('\n'), "the script ended after {line:?}");
        line.trim_end().to_owned()
    }

    /// The next eight bytes it writes, a number.
    pub fn word(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.output.read_exact(&mut bytes).expect("readable");
        u64::from_ne_bytes(bytes)
    }

    /// Waits until all of it sleeps.
    pub fn settle(&self) {
        let path = format!("/proc/{}/stat", self.pid());
        // Behind the name, which may hold anything, comes the state.
        let state = |text: String| text.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S"));
        while !state(std::fs::read_to_string(&path).expect("alive")) {
            std::thread::yield_now();
        }
    }

    /// Sends a line, and waits for the line it answers.
    pub fn say(&mut self, command: &str) -> String {
        use std::io::Write;
        writeln!(self.input, "{command}").expect("the script reads");
        self.line()
    }

    /// Lets a script that waits for a line go on.
    pub fn go_on(&mut self) {
        use std::io::Write;
        self.input.write_all(b"\n").expect("the script reads");
        self.input.flush().expect("the script reads");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every interpreter at hand of a supported version.
pub fn supported() -> Vec<Installed> {
    let all: Vec<_> = pyenv(|series| series >= (3, 8)).into_iter().chain(roots()).collect();
    assert!(!all.is_empty(), "no interpreters: install some with pyenv, or set LEAKTRACE_INTERPRETERS");
    all
}

/// Plain builds of the series wanted, from old to new.
pub fn pyenv(wanted: impl Fn((u32, u32)) -> bool) -> Vec<Installed> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = directories(&pyenv_root().join("versions"))
        .into_iter()
        .filter_map(|path| Some((release(&path)?, path)))
        .filter(|(release, path)| wanted((release[0], release[1])) && path.join("bin/python").exists())
        .collect();
    found.sort();
    found.into_iter().map(|(release, path)| plain(&release, &path)).collect()
}

/// `3.11.7`, from a directory's name.
fn release(path: &Path) -> Option<Vec<u32>> {
    let parts = path.file_name()?.to_str()?.split('.').map(|part| part.parse().ok());
    parts.collect::<Option<Vec<u32>>>().filter(|parts| parts.len() == 3)
}

fn plain(release: &[u32], path: &Path) -> Installed {
    Installed {
        name: format!("plain {}.{}.{}", release[0], release[1], release[2]),
        program: path.join("bin/python"),
        root: None,
        libraries: Some(path.join("lib")),
    }
}

/// Distributions' builds in root file systems, and installations with a prefix of their own beside them.
pub fn roots() -> Vec<Installed> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/interpreters");
    let place = std::env::var_os("LEAKTRACE_INTERPRETERS").map_or(default, PathBuf::from);
    directories(&place).into_iter().filter_map(|path| root(&path)).collect()
}

fn root(path: &Path) -> Option<Installed> {
    let name = path.file_name()?.to_str()?.to_owned();
    if path.join("usr/bin/python3").exists() {
        let program = PathBuf::from("/usr/bin/python3");
        return Some(Installed { name, program, root: Some(path.to_owned()), libraries: None });
    }
    let program = path.join("bin/python3");
    let libraries = Some(path.join("lib"));
    program.exists().then_some(Installed { name, program, root: None, libraries })
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn pyenv_root() -> PathBuf {
    let said = Command::new("pyenv").arg("root").output().ok().filter(|output| output.status.success());
    match said {
        Some(output) => PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()),
        None => Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".pyenv"),
    }
}
