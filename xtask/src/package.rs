//! Debian packages: what is installed, installing what is missing, and unpacking without installing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// A package and what it is for.
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// What needs it, in words.
    pub why: &'static str,
}

/// Installs those packages that are missing and says which and why.
pub fn ensure(packages: &[Package]) -> Result<()> {
    let (present, missing): (Vec<_>, Vec<_>) =
        packages.iter().partition(|package| is_installed(package.name));
    for package in present {
        println!("  already there  {:<20} {}", package.name, package.why);
    }
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("  installing     {:<20} {}", package.name, package.why);
    }
    install(&missing.iter().map(|package| package.name).collect::<Vec<_>>())
}

/// Like [`ensure`] for names that are only known at run time.
pub fn ensure_names(names: &[&str], why: &str) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        println!("  already there  {:<20} {why}", names.join(" "));
        return Ok(());
    }
    println!("  installing     {:<20} {why}", missing.join(" "));
    install(&missing)
}

fn install(names: &[&str]) -> Result<()> {
    if command::find("apt-get").is_none() {
        bail!("this machine has no apt-get: install what Debian calls {} by hand", names.join(", "));
    }
    refresh()?;
    let mut install = command::as_root("apt-get")?;
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(names);
    command::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("cannot install {}", names.join(", ")))
}

/// Brings the package lists up to date. Some source of the machine may be broken without any of ours being so:
/// then the lists that could be fetched do.
fn refresh() -> Result<()> {
    let mut update = command::as_root("apt-get")?;
    if command::run(update.args(["update", "--quiet", "--quiet"])).is_err() {
        eprintln!("xtask: some package lists could not be fetched; going on with those that could");
    }
    Ok(())
}

/// Whether a package is installed.
pub fn is_installed(name: &str) -> bool {
    let status = command::output(Command::new("dpkg-query").args(["--show", "--showformat=${Status}", name]));
    status.is_ok_and(|text| text == "install ok installed")
}

/// Whether the package lists offer a package; they are fetched when they do not.
pub fn is_offered(name: &str) -> bool {
    has_candidate(name) || (refresh().is_ok() && has_candidate(name))
}

fn has_candidate(name: &str) -> bool {
    let policy = command::output(Command::new("apt-cache").args(["policy", name]));
    policy.is_ok_and(|text| candidate(&text).is_some())
}

/// The version that `apt-cache policy` would install.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then_some(version)
}

/// The newest offered package whose name is `prefix`, a version, `suffix`.
pub fn newest(prefix: &str, suffix: &str) -> Result<String> {
    let find = || -> Result<Option<String>> {
        let names = command::output(Command::new("apt-cache").args(["pkgnames", prefix]))?;
        Ok(newest_name(names.lines(), prefix, suffix).map(str::to_owned))
    };
    if let Some(name) = find()? {
        return Ok(name);
    }
    refresh()?;
    find()?.with_context(|| {
        format!("no package {prefix}...{suffix} is offered: add Debian 12's security or backports suite to the package sources")
    })
}

fn newest_name<'a>(names: impl Iterator<Item = &'a str>, prefix: &str, suffix: &str) -> Option<&'a str> {
    names
        .filter_map(|name| Some((version(name.strip_prefix(prefix)?.strip_suffix(suffix)?)?, name)))
        .max()
        .map(|(_, name)| name)
}

/// The numbers of a version such as `0-56` or `117+deb12`; `None` when there is anything else in it.
fn version(text: &str) -> Option<Vec<u64>> {
    let text = text.strip_suffix("+deb12").unwrap_or(text);
    text.split(['.', '-']).map(|part| part.parse().ok()).collect()
}

/// Downloads a package and unpacks it below `target/packages`, once. Nothing is installed.
pub fn unpack(name: &str) -> Result<PathBuf> {
    let packages = workspace::cache("packages")?;
    let unpacked = packages.join(name);
    if unpacked.exists() {
        return Ok(unpacked);
    }
    println!("fetching {name}");
    let scratch = workspace::directory(packages.join(format!("{name}.part")))?;
    command::run(
        Command::new("apt-get")
            .args(["-o", "APT::Sandbox::User=root", "--quiet", "download", name])
            .current_dir(&scratch),
    )
    .with_context(|| format!("cannot download the package {name}"))?;
    let contents = scratch.join("contents");
    command::run(Command::new("dpkg-deb").arg("--extract").arg(downloaded(&scratch)?).arg(&contents))?;
    // Last step: what carries the final name is complete.
    fs::rename(&contents, &unpacked).with_context(|| format!("cannot rename {}", contents.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(unpacked)
}

fn downloaded(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no package to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_is_by_number_not_by_letter() {
        let names =
            ["k-0-9-cloud", "k-0-56-cloud", "k-0-56-cloud-dbg", "k-0-x-cloud", "k-0-57-cloud-unsigned"];
        assert_eq!(newest_name(names.into_iter(), "k-", "-cloud"), Some("k-0-56-cloud"));
    }

    #[test]
    fn backported_versions_are_compared_by_their_numbers() {
        let names = ["i-6.12.9+deb12-c", "i-6.12.117+deb12-c"];
        assert_eq!(newest_name(names.into_iter(), "i-6.12.", "-c"), Some("i-6.12.117+deb12-c"));
    }

    #[test]
    fn candidate_none_means_not_offered() {
        assert_eq!(candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate("x:\n  Candidate: 1.2-3\n"), Some("1.2-3"));
    }
}
