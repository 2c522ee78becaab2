//! Which cgroup a user means by a path: a directory, a path below a mount point with or without its controller's name, or what
//! `/proc/PID/cgroup` says.

use std::{
    fs,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, fstatfs, open};

use crate::{
    cli::Failure,
    process::{
        Cgroup,
        cgroup::{self, Hierarchy, Mounts, Place, mounts::climbs},
    },
};

/// File system types of the two kinds of cgroups.
const CGROUP: [i64; 2] = [0x0027_e0eb, 0x6367_7270];

/// Finds the cgroup.
///
/// # Errors
/// If there is none by that name.
pub fn find(named: &Path) -> Result<Cgroup, Failure> {
    if named.as_os_str().is_empty() {
        return Err(Failure::Usage("--cgroup needs a path: / is the whole tree".to_owned()));
    }
    let own = cgroup::places(std::process::id()).map_err(|error| Failure::Failed(error.to_string()))?;
    let hierarchies: Vec<Hierarchy> = own.into_iter().map(|place| place.hierarchy).collect();
    let mounts = Mounts::own();
    let mut found: Vec<Cgroup> = places(named, &hierarchies, &mounts)
        .into_iter()
        .filter_map(|place| Cgroup::at(place, &mounts))
        .collect();
    // In v1 a path may name a cgroup of each controller: the one that something runs in is meant.
    let used = found.iter().position(|cgroup| !cgroup.members().is_empty()).unwrap_or(0);
    if used < found.len() { Ok(found.swap_remove(used)) } else { Err(Failure::NoTarget(absent(named))) }
}

fn absent(named: &Path) -> String {
    let how = "name it as /proc/PID/cgroup does, or by its directory below /sys/fs/cgroup";
    match fs::symlink_metadata(named) {
        Ok(_) => format!("{} is no cgroup: {how}", named.display()),
        Err(_) => format!("there is no cgroup {}: {how}", named.display()),
    }
}

/// Every place that may be meant, the likeliest first.
fn places(named: &Path, hierarchies: &[Hierarchy], mounts: &Mounts) -> Vec<Place> {
    if let Some(place) = as_proc_says(named, hierarchies) {
        return vec![place];
    }
    let place = |directory: PathBuf| mounts.place(&real_directory(&directory)?, hierarchies);
    if let Some(place) = place(named.to_owned()) {
        return vec![place];
    }
    if climbs(named) {
        return Vec::new();
    }
    let below = named.strip_prefix("/").unwrap_or(named);
    let points = mounts.points(hierarchies);
    // `memory/x`: below the directory that all mount points of v1 lie in.
    let parents = points.iter().filter_map(|point| point.parent());
    points.iter().copied().chain(parents.take(1)).filter_map(|point| place(point.join(below))).collect()
}

/// `4:memory:/docker/x`, `0::/x`, or `memory:/x`.
fn as_proc_says(named: &Path, hierarchies: &[Hierarchy]) -> Option<Place> {
    let text = named.as_os_str().as_bytes();
    let numbered = cgroup::parse_line(text);
    let place = numbered.or_else(|| cgroup::parse_line(&[b"1:", text].concat()))?;
    hierarchies.contains(&place.hierarchy).then_some(place)
}

/// The path of a directory of cgroups, without symbolic links. It is only looked at, never opened.
fn real_directory(directory: &Path) -> Option<PathBuf> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let looked_at = open(directory, flags, Mode::empty()).ok()?;
    let kind = fstatfs(&looked_at).ok()?.f_type;
    if !CGROUP.contains(&kind) {
        return None;
    }
    fs::read_link(format!("/proc/self/fd/{}", looked_at.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cgroups_are_found_by_every_spelling() {
        let own = std::process::id();
        let mounts = Mounts::own();
        for place in cgroup::places(own).expect("own") {
            let Some(directory) = mounts.directory(&place) else { continue };
            let line = match &place.hierarchy {
                Hierarchy::Unified => format!("0::{}", place.path.display()),
                Hierarchy::Legacy(controllers) => format!("7:{controllers}:{}", place.path.display()),
            };
            for spelling in [PathBuf::from(line.clone()), directory.clone()] {
                let found = find(&spelling).expect("own cgroup");
                assert_eq!(found.place, place, "{}", spelling.display());
                assert!(found.members().contains(&own));
            }
        }
    }

    #[test]
    fn what_is_no_cgroup_is_refused_in_a_sentence() {
        for path in ["/etc/passwd", "/no/such/cgroup", "../../etc", "x:/y", "9:nonsense:/"] {
            let refused = find(Path::new(path)).map(|_| ());
            assert!(
                matches!(refused, Err(Failure::NoTarget(text)) if text.contains("/proc/PID/cgroup")),
                "{path}"
            );
        }
    }
}
