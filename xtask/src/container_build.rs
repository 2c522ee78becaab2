//! A Python compiled as in official container images: profile-guided and link-time optimised as a distribution's, but a
//! shared library as a developer's. Neither of these shows what the combination does, so it is built once, from Debian's
//! source package; it takes a quarter of an hour, and is no part of the test suite's set-up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::package::{self, Package};
use crate::{command, interpreter, workspace};

/// The source package.
const SOURCE: &str = "python3.11";

/// The suite that has it.
const SUITE: &str = "bookworm";

/// Its name in the directory of interpreters.
const NAME: &str = "shared311";

/// A short profile: what matters is what the compiler does with one, not how good it is.
const PROFILE: &str = "PROFILE_TASK=-m test --pgo test_json test_dict test_list test_re";

const PACKAGES: &[Package] = &[
    Package { name: "build-essential", why: "compiles Python" },
    Package { name: "dpkg-dev", why: "unpacks Debian's source package" },
    Package { name: "libffi-dev", why: "for Python's module ctypes" },
    Package { name: "libsqlite3-dev", why: "for Python's module sqlite3" },
    Package { name: "zlib1g-dev", why: "for Python's module zlib" },
];

/// Builds it, unless that has been done.
pub fn run() -> Result<()> {
    let home = interpreter::directory()?.join(NAME);
    if home.join("bin/python3.11").exists() {
        println!("already there: {}", workspace::shown(&home));
        return Ok(());
    }
    println!("setting up:");
    package::ensure(PACKAGES)?;
    let work = workspace::cache("python")?;
    let source = unpack(&work)?;
    build(&source, &home, &work.join("build.log"))?;
    println!("built: {}", workspace::shown(&home));
    println!(
        "record what leaktrace sees of it: LEAKTRACE_UPDATE_TABLES=1 cargo xtask test root_every_allocation"
    );
    Ok(())
}

/// Fetches the source package and unpacks it, without the distribution's changes: those move files about.
fn unpack(work: &Path) -> Result<PathBuf> {
    let source = work.join("source");
    if source.exists() {
        fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))?;
    }
    fetch(work)?;
    let description = with_ending(work, "dsc")?;
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "--skip-patches", "--extract"]).arg(description).arg(&source);
    command::run(&mut unpack)?;
    Ok(source)
}

/// Downloads by package lists of our own: the machine's need not name sources.
fn fetch(work: &Path) -> Result<()> {
    let lists = workspace::directory(work.join("lists"))?;
    workspace::directory(lists.join("partial"))?;
    let sources = work.join("sources.list");
    fs::write(&sources, source_line()?).with_context(|| format!("cannot write {}", sources.display()))?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet", "-o", "APT::Sandbox::User=root", "-o", "Dir::Etc::SourceParts=/dev/null"]);
        apt.arg("-o").arg(format!("Dir::Etc::SourceList={}", sources.display()));
        apt.arg("-o").arg(format!("Dir::State::Lists={}", lists.display()));
        // The machine's own cache of packages is not for these lists, nor for this user.
        apt.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
        apt.current_dir(work);
        apt
    };
    command::run(apt().arg("update"))?;
    command::run(apt().args(["source", "--download-only", SOURCE]))
        .with_context(|| format!("cannot download the source package {SOURCE}"))
}

/// The line for sources, of the archive that the machine has its packages from.
fn source_line() -> Result<String> {
    let format = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)";
    let targets = command::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let line = targets.lines().find_map(source_of);
    line.with_context(|| format!("this machine has no packages of Debian's {SUITE}: build there"))
}

fn source_of(target: &str) -> Option<String> {
    match target.split(' ').collect::<Vec<_>>()[..] {
        [archive, SUITE, "main", "Debian"] => Some(format!("deb-src {archive} {SUITE} main\n")),
        _ => None,
    }
}

fn with_ending(directory: &Path, ending: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = files.find(|file| file.extension().is_some_and(|found| found == ending));
    found.with_context(|| format!("no .{ending} in {}", directory.display()))
}

/// Configures, compiles twice with a profile taken in between, and installs under a temporary name first.
fn build(source: &Path, home: &Path, log: &Path) -> Result<()> {
    println!("compiling (a quarter of an hour; what it says goes to {})", workspace::shown(log));
    let library = format!("LDFLAGS=-Wl,-rpath,{}", home.join("lib").display());
    let mut configure = Command::new("./configure");
    configure.arg(format!("--prefix={}", home.display())).arg(library);
    configure.args(["--enable-shared", "--enable-optimizations", "--with-lto", "--without-ensurepip"]);
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut make = Command::new("make");
    make.arg(format!("-j{jobs}")).arg(PROFILE);
    let mut install = Command::new("make");
    // Moved into place whole, so that what carries the name is complete.
    let scratch = source.join("installed");
    install.arg("install").arg(format!("DESTDIR={}", scratch.display()));
    let output = fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    for step in [&mut configure, &mut make, &mut install] {
        let (text, errors) = (output.try_clone()?, output.try_clone()?);
        command::run(step.current_dir(source).stdout(text).stderr(errors))
            .with_context(|| format!("cannot build Python: see {}", log.display()))?;
    }
    let installed = scratch.join(home.strip_prefix("/").unwrap_or(home));
    if !installed.join("bin/python3.11").exists() {
        bail!("the build of Python installed no bin/python3.11: see {}", log.display());
    }
    command::run(Command::new("cp").args(["--recursive", "--preserve"]).arg(&installed).arg(home))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_come_from_where_packages_come_from() {
        let line = source_of("http://a/debian/ bookworm main Debian");
        assert_eq!(line.as_deref(), Some("deb-src http://a/debian/ bookworm main\n"));
        assert_eq!(source_of("http://a/debian/ bookworm-updates main Debian"), None);
        assert_eq!(source_of("http://b/node nodistro main Other"), None);
        assert_eq!(source_of(""), None);
    }
}
