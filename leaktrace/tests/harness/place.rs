//! A program in a directory of its own, which a test may spoil: strip it, remove it, put another in its place; and what
//! its names must be all the same.

use super::{Outcome, Outcomes, Target, Tracer, longest_wait, output::Frame, program};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What `names.c` allocates.
pub const SIZE: i64 = 4321;

/// A directory with a program in it that the test may spoil.
pub struct Place {
    /// Gone at the end of the test.
    pub directory: TempDir,
}

impl Place {
    /// `names.c` compiled with more options.
    pub fn with(options: &[&str]) -> Outcomes<Self> {
        let common = ["-O1", "-g", "-fno-omit-frame-pointer", "-Wl,--build-id=sha1", "-o", "program"];
        let source = program::sources().join("names.c");
        let place = Self::empty()?;
        place.tool("cc", &[&common, options, &[text(&source)]].concat())?;
        Ok(place)
    }

    /// Without a program.
    pub fn empty() -> Outcomes<Self> {
        let directory = tempfile::tempdir().map_err(|error| format!("temporary directory: {error}"))?;
        // Also for programs that run as somebody else.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .map_err(|e| e.to_string())?;
        Ok(Self { directory })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a tool in it.
    pub fn tool(&self, tool: &str, arguments: &[&str]) -> Outcomes<()> {
        // rustc chooses the old mangling for who asks as a nightly would.
        let mut command = Command::new(tool);
        run(command.args(arguments).current_dir(self.directory.path()).env("RUSTC_BOOTSTRAP", "1"))
            .map(|_| ())
    }

    /// Where a debug file is looked for by the program's build ID.
    pub fn path_by_build_id(&self) -> Outcomes<PathBuf> {
        let notes = run(Command::new("readelf").arg("-n").arg(self.path("program")))?;
        let line =
            notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).ok_or("no build ID")?;
        let (directory, file) = line.split_at(2);
        Ok(PathBuf::from(format!("/usr/lib/debug/.build-id/{directory}/{file}.debug")))
    }

    /// A root directory with what the program needs to run.
    pub fn root_with_libraries(&self) -> Outcomes<PathBuf> {
        let root = self.path("root");
        let listed = run(Command::new("ldd").arg(self.path("program")))?;
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
        for library in libraries {
            let inside = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(inside.parent().ok_or("no parent")?).map_err(|e| e.to_string())?;
            fs::copy(library, &inside).map_err(|error| format!("{library}: {error}"))?;
        }
        Ok(root)
    }

    /// Starts the program.
    pub fn start(&self) -> Outcomes<Target> {
        Target::command(Command::new(self.path("program"))).start()
    }

    /// The frames of the allocation of the program, traced from before to after it.
    pub fn frames(&self) -> Outcomes<Vec<Frame>> {
        frames_of(&traced(&mut self.start()?, "go")?, SIZE)
    }
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// Runs a command and returns what it writes.
pub fn run(command: &mut Command) -> Outcomes<String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// Traces a target while it carries out one command.
pub fn traced(target: &mut Target, command: &str) -> Outcomes<Outcome> {
    let pid = target.pid();
    traced_as(target, pid, command)
}

/// The same where the target is another process than the one that takes commands.
pub fn traced_as(target: &mut Target, pid: u32, command: &str) -> Outcomes<Outcome> {
    let mut tracer = Tracer::of(pid).start()?;
    tracer.await_tracing()?;
    target.ask(command)?;
    tracer.interrupt_and_finish()
}

/// The stack of the blocks of that size, innermost first, in the last report.
pub fn frames_of(outcome: &Outcome, size: i64) -> Outcomes<Vec<Frame>> {
    let process = outcome.final_report()?.only_process()?;
    let site = process.sites.iter().find(|site| site.live.bytes == size && site.live.blocks == 1);
    let site = site.ok_or_else(|| format!("no block of {size} bytes:\n{}", process.summary()))?;
    Ok(site.frames.clone())
}

/// Functions of a stack.
pub fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.function.as_deref().unwrap_or("?")).collect()
}

/// Lines of a stack.
pub fn lines(frames: &[Frame]) -> Vec<Option<u32>> {
    frames.iter().map(|frame| frame.line).collect()
}

/// What DWARF must give, wherever it lies.
pub fn assert_rich(frames: &[Frame]) {
    let inner = frames.get(..3).unwrap_or(frames);
    assert_eq!(names(inner), ["names_inlined", "names_site", "names_caller"], "{frames:?}");
    assert_eq!(lines(inner)[..2], [Some(12), Some(18)], "{frames:?}");
    assert_eq!([inner[0].inlined, inner[1].inlined], [true, false]);
    assert!(inner[0].file.as_deref().is_some_and(|file| file.ends_with("names.c")));
}

/// What a program without any symbols gives.
pub fn assert_nameless(frames: &[Frame]) {
    assert_eq!(names(frames).first(), Some(&"?"), "{frames:?}");
    assert!(!names(frames).contains(&"names_caller"), "{frames:?}");
}

/// Asks for reports until every block is old enough to be shown.
pub fn await_survivors(tracer: &Tracer, report: &Path) -> Outcomes<()> {
    let deadline = Instant::now() + longest_wait();
    let mut last = String::new();
    while Instant::now() < deadline {
        tracer.signal(libc::SIGUSR1);
        sleep(Duration::from_millis(200));
        last = fs::read_to_string(report).unwrap_or_default();
        if last.contains("#1 ") && !last.contains("without survivors") && last.contains("truth: ") {
            return Ok(());
        }
    }
    Err(format!("blocks stay young:\n{last}"))
}
