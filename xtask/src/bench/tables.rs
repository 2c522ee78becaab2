//! What unwind tables cost to make, and to get from the disk cache: for libraries as Debian ships them, the largest
//! included that programs commonly load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::statistics::{median, number};
use crate::{command, package, toolchain, workspace};

/// Deepest directory of a package that is searched.
const MAX_DEPTH: usize = 6;

/// A library: its package, and how the name of its file begins.
struct Library {
    package: Name,
    file: &'static str,
}

enum Name {
    Exact(&'static str),
    /// The newest whose name is this and a version.
    Newest(&'static str),
}

const LIBRARIES: &[Library] = &[
    Library { package: Name::Exact("libc6"), file: "libc.so." },
    Library { package: Name::Exact("libstdc++6"), file: "libstdc++.so." },
    Library { package: Name::Newest("libpython3."), file: "libpython3." },
    Library { package: Name::Newest("libllvm"), file: "libLLVM" },
];

/// Fetches the libraries, measures, and prints.
pub fn run(rounds: usize) -> Result<()> {
    let libraries = LIBRARIES.iter().map(Library::fetch).collect::<Result<Vec<_>>>()?;
    let mut measure = Command::new(example()?);
    measure.arg(rounds.to_string()).args(&libraries);
    let text = command::output(&mut measure)?;
    let results = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let results = results.context("table_times printed something else than JSON")?;
    if results.len() != libraries.len() {
        bail!("{} libraries were given and {} measured", libraries.len(), results.len());
    }
    print(&results, rounds)
}

/// The program that measures, optimised.
fn example() -> Result<PathBuf> {
    let mut build = toolchain::cargo("build")?;
    command::run(build.args(["--release", "--package", "leaktrace", "--example", "table_times"]))?;
    Ok(workspace::target().join("release/examples/table_times"))
}

impl Library {
    /// The library's file, out of its package.
    fn fetch(&self) -> Result<PathBuf> {
        let name = match self.package {
            Name::Exact(name) => name.to_owned(),
            Name::Newest(prefix) => package::newest(prefix, "")?,
        };
        let directory = package::unpack(&name)?;
        let mut found = Vec::new();
        find(&directory, self.file, MAX_DEPTH, &mut found)?;
        // Linker scripts and plug-ins may have similar names.
        let largest = found.into_iter().max().map(|(_, path)| path);
        largest.with_context(|| format!("the package {name} has no {}*", self.file))
    }
}

/// Regular files whose name begins so, with their sizes.
fn find(directory: &Path, name: &str, depth: usize, found: &mut Vec<(u64, PathBuf)>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries.filter_map(Result::ok) {
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            find(&entry.path(), name, depth - 1, found)?;
        } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with(name) {
            found.push((entry.metadata()?.len(), entry.path()));
        }
    }
    Ok(())
}

fn print(results: &[Value], rounds: usize) -> Result<()> {
    println!(
        "\nunwind tables: one thread, median of {rounds} rounds, reading and digesting the library included"
    );
    println!(
        "{:<28} {:>12} {:>9} {:>10} {:>6} {:>12} {:>10} {:>10}",
        "library", ".eh_frame, B", "functions", "rows", "rules", "table, B", "built, ms", "disk, ms"
    );
    let mut totals = [0.0; 4];
    for result in results {
        let file = Path::new(result["file"].as_str().unwrap_or_default());
        let figures = Figures::read(result).with_context(|| format!("no figures for {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        println!(
            "{name:<28} {:>12} {:>9} {:>10} {:>6} {:>12} {:>10} {:>10}",
            number(figures.frame_bytes),
            number(figures.functions),
            number(figures.rows),
            figures.rules,
            number(figures.bytes),
            number(figures.built * 1000.0),
            number(figures.disk * 1000.0),
        );
        let add = [figures.rows, figures.bytes, figures.built, figures.disk];
        totals.iter_mut().zip(add).for_each(|(total, add)| *total += add);
    }
    let [rows, bytes, built, disk] = totals;
    println!(
        "together: {} rows, {} bytes; built in {built:.3} s, from disk in {disk:.3} s",
        number(rows),
        number(bytes)
    );
    Ok(())
}

/// What was measured of one library.
struct Figures {
    frame_bytes: f64,
    functions: f64,
    rows: f64,
    rules: u64,
    bytes: f64,
    /// Seconds.
    built: f64,
    /// Seconds.
    disk: f64,
}

impl Figures {
    fn read(result: &Value) -> Option<Self> {
        Some(Self {
            frame_bytes: result["frame_bytes"].as_f64()?,
            functions: result["functions"].as_f64()?,
            rows: result["rows"].as_f64()?,
            rules: result["rules"].as_u64()?,
            bytes: result["bytes"].as_f64()?,
            built: seconds(&result["built_seconds"])?,
            disk: seconds(&result["disk_seconds"])?,
        })
    }
}

fn seconds(rounds: &Value) -> Option<f64> {
    let rounds: Option<Vec<f64>> = rounds.as_array()?.iter().map(Value::as_f64).collect();
    median(&rounds?)
}
