//! One cgroup and everything below it: who is in it, and whether it is still the one that was meant.

use std::{
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Hierarchy, Mounts, Place, places};
use crate::process;

/// Most processes that are listed; the kernel allows four million, nobody traces that many.
const MAX_MEMBERS: usize = 65_536;
/// Most cgroups below one that are looked into.
const MAX_CGROUPS: usize = 16_384;
/// Longest list of members that is read of one cgroup.
const MAX_LIST: u64 = 1 << 20;
/// Threads of a process whose own places are looked at, where threads may be apart.
const MAX_THREADS: usize = 64;

/// A cgroup. Its name can be given to another one once it is removed; its inode cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Where it is.
    pub place: Place,
    /// Its directory, and that one's device and inode; `None` where its hierarchy is not mounted.
    directory: Option<(PathBuf, u64, u64)>,
}

impl Cgroup {
    /// The cgroup at a place; `None`: there is none.
    pub fn at(place: Place, mounts: &Mounts) -> Option<Self> {
        let directory = match mounts.directory(&place) {
            Some(directory) => {
                let data = fs::symlink_metadata(&directory).ok().filter(fs::Metadata::is_dir)?;
                Some((directory, data.dev(), data.ino()))
            }
            None => None,
        };
        Some(Self { place, directory })
    }

    /// Whether it still exists. One that was made anew under its name is another.
    pub fn exists(&self) -> bool {
        let Some((directory, device, inode)) = &self.directory else { return true };
        fs::symlink_metadata(directory).is_ok_and(|data| data.dev() == *device && data.ino() == *inode)
    }

    /// Its directory, where its hierarchy is mounted.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_ref().map(|(directory, ..)| directory.as_path())
    }

    /// Processes in it and below, each once, in no order.
    pub fn members(&self) -> Vec<u32> {
        if !self.exists() {
            return Vec::new();
        }
        let mut members = match self.directory() {
            Some(directory) => listed(directory),
            None => process::all().into_iter().filter(|pid| self.contains(*pid)).collect(),
        };
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Whether a process, or one of its threads, is in it or below.
    pub fn contains(&self, pid: u32) -> bool {
        let Ok(places) = places(pid) else { return false };
        self.exists() && (self.holds(&places) || (self.parts_threads() && self.holds_thread(pid)))
    }

    /// Whether one of these places is in it or below.
    pub fn holds(&self, places: &[Place]) -> bool {
        let here = |place: &&Place| place.hierarchy == self.place.hierarchy;
        places.iter().find(here).is_some_and(|place| place.path.starts_with(&self.place.path))
    }

    /// Whether threads of one process can be in different cgroups here: always in v1, in v2 in threaded cgroups.
    fn parts_threads(&self) -> bool {
        match self.place.hierarchy {
            Hierarchy::Legacy(_) => true,
            Hierarchy::Unified => self
                .directory()
                .and_then(|directory| read(&directory.join("cgroup.type")).ok())
                .is_some_and(|kind| kind.trim_ascii() == b"threaded"),
        }
    }

    fn holds_thread(&self, pid: u32) -> bool {
        let Ok(tasks) = fs::read_dir(process::directory(pid).join("task")) else { return false };
        let threads = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse::<u32>().ok());
        // The thread of the process's own number has been looked at.
        threads
            .filter(|tid| *tid != pid)
            .take(MAX_THREADS)
            .any(|tid| places(tid).is_ok_and(|places| self.holds(&places)))
    }
}

/// The processes of a directory and everything below it.
fn listed(directory: &Path) -> Vec<u32> {
    let mut members = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    let mut seen = 0;
    while let Some(directory) = waiting.pop() {
        seen += 1;
        if members.len() >= MAX_MEMBERS || seen > MAX_CGROUPS {
            tracing::warn!(
                "a cgroup with more than {MAX_MEMBERS} processes or {MAX_CGROUPS} cgroups below it is not listed whole"
            );
            break;
        }
        members.extend(processes(&directory));
        waiting.extend(children(&directory).take(MAX_CGROUPS));
    }
    members.truncate(MAX_MEMBERS);
    members
}

/// Processes of one cgroup. That of a threaded one cannot be read (EOPNOTSUPP): there the threads are.
fn processes(directory: &Path) -> Vec<u32> {
    match read(&directory.join("cgroup.procs")) {
        Ok(text) => numbers(&text),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let threads = numbers(&read(&directory.join("cgroup.threads")).unwrap_or_default());
            threads.into_iter().filter_map(|tid| Some(process::status::read(tid).ok()?.tgid)).collect()
        }
        Err(_) => Vec::new(),
    }
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(MAX_LIST).read_to_end(&mut text)?;
    Ok(text)
}

/// PIDs, one a line. A process of a namespace that we cannot see is 0.
fn numbers(text: &[u8]) -> Vec<u32> {
    let lines = text.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of plain directories that looks like a mounted hierarchy.
    fn fixture() -> (tempfile::TempDir, Mounts) {
        let root = tempfile::tempdir().expect("directory");
        for (path, pids) in [("", "1\n"), ("web", "10\n0\n11\n"), ("web/nested", "12\n"), ("other", "20\n")] {
            fs::create_dir_all(root.path().join(path)).expect("directory");
            fs::write(root.path().join(path).join("cgroup.procs"), pids).expect("list");
        }
        let line = format!("1 2 0:26 / {} rw - cgroup2 cgroup rw\n", root.path().display());
        let mounts = Mounts::parse(line.as_bytes());
        (root, mounts)
    }

    fn at(path: &str, mounts: &Mounts) -> Option<Cgroup> {
        Cgroup::at(Place { hierarchy: Hierarchy::Unified, path: path.into() }, mounts)
    }

    #[test]
    fn members_are_those_of_the_whole_subtree() {
        let (_root, mounts) = fixture();
        assert_eq!(at("/web", &mounts).expect("there").members(), [10, 11, 12]);
        assert_eq!(at("/", &mounts).expect("there").members(), [1, 10, 11, 12, 20]);
        assert_eq!(at("/absent", &mounts), None);
    }

    #[test]
    fn a_cgroup_made_anew_is_another_one() {
        let (root, mounts) = fixture();
        let web = at("/web", &mounts).expect("there");
        assert!(web.exists());
        fs::rename(root.path().join("web"), root.path().join("old")).expect("rename");
        assert!(!web.exists() && web.members().is_empty());
        fs::create_dir(root.path().join("web")).expect("directory");
        fs::write(root.path().join("web/cgroup.procs"), "30\n").expect("list");
        assert!(!web.exists() && web.members().is_empty());
    }

    #[test]
    fn a_name_that_begins_alike_is_not_below() {
        let (_root, mounts) = fixture();
        let web = at("/web", &mounts).expect("there");
        let place = |path: &str| [Place { hierarchy: Hierarchy::Unified, path: path.into() }];
        assert!(web.holds(&place("/web")) && web.holds(&place("/web/nested")));
        assert!(!web.holds(&place("/web2")) && !web.holds(&place("/")));
        let legacy = Place { hierarchy: Hierarchy::Legacy("pids".into()), path: "/web".into() };
        assert!(!web.holds(&[legacy]));
    }

    #[test]
    fn we_are_in_our_own_cgroups() {
        let (own, mounts) = (std::process::id(), Mounts::own());
        for place in places(own).expect("own") {
            let cgroup = Cgroup::at(place.clone(), &mounts).expect("own cgroup");
            assert!(cgroup.contains(own), "{place:?}");
            assert!(cgroup.members().contains(&own), "{place:?}");
        }
    }
}
