//! Target programs: prebuilt ones where a directory of them is named, else compiled from `tests/targets`. How a
//! program is built stands in the first lines of its source: `// build: FLAGS`, or several `// build[VARIANT]: FLAGS`. The
//! first word may name another compiler than `cc`.

use super::Outcomes;
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// Endings of sources.
const LANGUAGES: [&str; 3] = ["c", "cpp", "rs"];
/// Compilers that a build line may name.
const COMPILERS: [&str; 3] = ["musl-gcc", "g++", "rustc"];

/// The path of a built program or library: `exact`, `exact-static`, `size_class.so`, `unwind/deep`.
pub fn path(name: &str) -> Outcomes<PathBuf> {
    if let Some(directory) = env::var_os("LEAKTRACE_TEST_TARGETS") {
        let built = Path::new(&directory).join(name);
        return if built.exists() { Ok(built) } else { Err(format!("{} is not there", built.display())) };
    }
    let stem = name.trim_end_matches(".so");
    let (source, variant) = match stem.split_once('-') {
        Some((source, variant)) => (source, Some(variant)),
        None => (stem, None),
    };
    compile(source, variant, name)
}

/// A program as a file that nobody else runs: only who traces it has probes in it.
pub fn copy(name: &str, directory: &Path) -> Outcomes<PathBuf> {
    let (built, copy) = (path(name)?, directory.join(name));
    fs::copy(&built, &copy).map_err(|e| format!("{}: {e}", copy.display()))?;
    Ok(copy)
}

/// Where the sources of target programs lie.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets")
}

/// Compiles unless a build that is younger than every source exists. One test at a time, in whichever process: a build that
/// took the place of one that is running already would leave debuggers without its file.
fn compile(source: &str, variant: Option<&str>, name: &str) -> Outcomes<PathBuf> {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets").join(name);
    let directory = built.parent().ok_or("a program without a directory")?;
    fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let file = source_file(source)?;
    let lock = built.with_extension("lock");
    let turn = File::create(&lock).and_then(|lock| lock.lock().map(|()| lock));
    let _turn = turn.map_err(|e| format!("{}: {e}", lock.display()))?;
    if is_fresh(&built, &file) {
        return Ok(built);
    }
    let (compiler, flags) = build_line(&file, variant)?;
    let mut unfinished = built.clone().into_os_string();
    unfinished.push(format!(".{}.{:?}", std::process::id(), std::thread::current().id()));
    let output = Command::new(&compiler)
        .arg("-o")
        .arg(&unfinished)
        .arg(&file)
        .args(&flags)
        .output()
        .map_err(|e| format!("{compiler}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{compiler} {name}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&unfinished, &built).map_err(|e| format!("{}: {e}", built.display()))?;
    Ok(built)
}

fn source_file(source: &str) -> Outcomes<PathBuf> {
    let endings = LANGUAGES.iter().map(|language| sources().join(format!("{source}.{language}")));
    endings.into_iter().find(|file| file.exists()).ok_or_else(|| format!("{source} has no source"))
}

/// Whether a build is younger than its source and everything beside it, headers among them.
fn is_fresh(built: &Path, file: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let Ok(built) = modified(built) else { return false };
    let beside = file.parent().map(fs::read_dir);
    beside.is_some_and(|entries| {
        entries.is_ok_and(|entries| {
            entries.flatten().all(|entry| modified(&entry.path()).is_ok_and(|source| source < built))
        })
    })
}

/// The compiler and its flags, from the source's own build line.
fn build_line(file: &Path, variant: Option<&str>) -> Outcomes<(String, Vec<String>)> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let prefix = match variant {
        Some(variant) => format!("// build[{variant}]: "),
        None => "// build: ".to_owned(),
    };
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .ok_or_else(|| format!("{} has no line {prefix:?}", file.display()))?;
    let mut words = line.split_whitespace().map(str::to_owned).peekable();
    let compiler =
        words.next_if(|word| COMPILERS.contains(&word.as_str())).unwrap_or_else(|| "cc".to_owned());
    Ok((compiler, words.collect()))
}
