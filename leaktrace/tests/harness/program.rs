//! Target programs: prebuilt ones where a directory of them is named, else compiled from `tests/targets`. How a
//! program is built stands in the first lines of its source: `// build: FLAGS`, or several `// build[VARIANT]: FLAGS`.

use super::Outcomes;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The path of a built program or library: `exact`, `exact-static`, `size_class.so`.
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

/// Where the sources of target programs lie.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets")
}

/// Compiles unless a build that is younger than every source exists; tests of several processes may do so at once.
fn compile(source: &str, variant: Option<&str>, name: &str) -> Outcomes<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets");
    fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let built = directory.join(name);
    if is_fresh(&built) {
        return Ok(built);
    }
    let file = sources().join(format!("{source}.c"));
    let (compiler, flags) = build_line(&file, variant)?;
    let unfinished =
        directory.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
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

fn is_fresh(built: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let Ok(built) = modified(built) else { return false };
    fs::read_dir(sources()).is_ok_and(|entries| {
        entries.flatten().all(|entry| modified(&entry.path()).is_ok_and(|source| source < built))
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
    let compiler = words.next_if(|word| word == "musl-gcc").unwrap_or_else(|| "cc".to_owned());
    Ok((compiler, words.collect()))
}
