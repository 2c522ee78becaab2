//! Builds the program whose calls go as deep as one likes, `xtask/bench/depth.c`: from one object with four
//! thousand functions that call each other, copied until there are enough of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// How the functions are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frames {
    /// With frame pointers.
    Pointers,
    /// As distributions do: without.
    None,
}

impl Frames {
    fn name(self) -> &'static str {
        match self {
            Self::Pointers => "frame-pointers",
            Self::None => "no-frame-pointers",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Pointers => "-fno-omit-frame-pointer",
            Self::None => "-fomit-frame-pointer",
        }
    }

    /// How many copies of the four thousand functions. Without frame pointers their return addresses must be far more
    /// than the walker's cache has entries (65,536): of 160,000 that come in turn, 9 in 100 are still there.
    fn copies(self) -> usize {
        match self {
            Self::Pointers => 1,
            Self::None => 40,
        }
    }
}

/// The program, built unless it is there and younger than its sources.
pub fn program(frames: Frames) -> Result<PathBuf> {
    let directory = workspace::cache(&format!("bench/{}", frames.name()))?;
    let sources = workspace::root().join("xtask/bench");
    let (links, main) = (sources.join("links.c"), sources.join("depth.c"));
    let program = directory.join("depth");
    if !is_younger(&program, &[&links, &main]) {
        build(frames, &links, &main, &program)?;
    }
    Ok(program)
}

fn is_younger(program: &Path, sources: &[&Path]) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let Ok(built) = modified(program) else { return false };
    sources.iter().all(|source| modified(source).is_ok_and(|source| source < built))
}

fn build(frames: Frames, links: &Path, main: &Path, program: &Path) -> Result<()> {
    let object = program.with_file_name("links.o");
    command::run(gcc(frames).arg("-c").arg(links).arg("-o").arg(&object))?;
    let copies: Vec<PathBuf> =
        (0..frames.copies()).map(|number| copy(&object, number, frames.copies())).collect::<Result<_>>()?;
    // One that is half written must not look built.
    let unfinished = program.with_extension("unfinished");
    command::run(
        gcc(frames)
            .args(["-pthread", "-Wl,--defsym=after=first_0"])
            .arg(main)
            .args(&copies)
            .arg("-o")
            .arg(&unfinished),
    )?;
    fs::rename(&unfinished, program).with_context(|| format!("cannot rename {}", unfinished.display()))
}

fn gcc(frames: Frames) -> Command {
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-g0", frames.flag(), "-fno-optimize-sibling-calls", "-fno-builtin"]);
    gcc
}

/// A copy of the object that goes on in the next one; the last one goes on in the first.
fn copy(object: &Path, number: usize, of: usize) -> Result<PathBuf> {
    let copied = object.with_file_name(format!("links-{number}.o"));
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["--wildcard", "--localize-symbol=link_*"]);
    objcopy.arg(format!("--redefine-sym=first=first_{number}"));
    // Two symbols cannot get one name here: a single copy goes on in itself when it is linked.
    if of > 1 {
        objcopy.arg(format!("--redefine-sym=after=first_{}", (number + 1) % of));
    }
    command::run(objcopy.arg(object).arg(&copied))?;
    Ok(copied)
}
