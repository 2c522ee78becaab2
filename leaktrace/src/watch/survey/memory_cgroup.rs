//! What a memory cgroup says of itself, in either version. A limit may lie on any cgroup above: the least one counts.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    process::cgroup::{Hierarchy, Mounts, Place},
    watched::CgroupReading,
};

/// Most that is read of one file.
const MAX_TEXT: u64 = 64 << 10;
/// Most levels above a cgroup that are asked for a limit.
const MAX_LEVELS: usize = 64;
/// v1 has no word for "unlimited", but the largest number of whole pages.
const UNLIMITED: u64 = i64::MAX as u64 / 2;

/// The files of one version.
struct Files {
    current: &'static str,
    limit: &'static str,
    events: &'static str,
    anonymous: &'static str,
    file: &'static str,
    inactive: &'static str,
}

const UNIFIED: Files = Files {
    current: "memory.current",
    limit: "memory.max",
    events: "memory.events",
    anonymous: "anon",
    file: "file",
    inactive: "inactive_file",
};

/// Of v1's amounts, those are meant that include the cgroups below.
const LEGACY: Files = Files {
    current: "memory.usage_in_bytes",
    limit: "memory.limit_in_bytes",
    events: "memory.oom_control",
    anonymous: "total_rss",
    file: "total_cache",
    inactive: "total_inactive_file",
};

/// Reads memory cgroups during one look: limits of those above are asked once.
#[derive(Debug)]
pub struct MemoryCgroups<'a> {
    mounts: &'a Mounts,
    limits: HashMap<PathBuf, Option<u64>>,
}

impl<'a> MemoryCgroups<'a> {
    /// For one look.
    pub fn new(mounts: &'a Mounts) -> Self {
        Self { mounts, limits: HashMap::new() }
    }

    /// What a cgroup says; `None`: it is gone, cannot be seen from here, or does not account for memory.
    pub fn read(&mut self, place: &Place) -> Option<CgroupReading> {
        let files = files(place);
        let directory = self.mounts.directory(place)?;
        let current_bytes = number(&directory, files.current)?;
        let stat = text(&directory, "memory.stat").unwrap_or_default();
        let events = text(&directory, files.events).unwrap_or_default();
        let amount = |name| value(&stat, name).unwrap_or(0);
        Some(CgroupReading {
            current_bytes,
            anonymous_bytes: amount(files.anonymous),
            file_bytes: amount(files.file),
            swap_bytes: swap(&place.hierarchy, &directory, &stat),
            reclaimable_bytes: amount(files.inactive),
            limit_bytes: self.limit(place, files),
            oom_kills: value(&events, "oom_kill").unwrap_or(0),
        })
    }

    /// The least limit of a cgroup and those above it.
    fn limit(&mut self, place: &Place, files: &Files) -> Option<u64> {
        let levels = place.path.ancestors().take(MAX_LEVELS);
        let directories = levels.filter_map(|path| {
            self.mounts.directory(&Place { path: path.to_owned(), hierarchy: place.hierarchy.clone() })
        });
        let directories: Vec<PathBuf> = directories.collect();
        directories.into_iter().filter_map(|directory| self.own_limit(directory, files)).min()
    }

    fn own_limit(&mut self, directory: PathBuf, files: &Files) -> Option<u64> {
        // `max` is no number, and the root has no such file: unlimited both.
        let read = |directory: &PathBuf| number(directory, files.limit).filter(|limit| *limit < UNLIMITED);
        *self.limits.entry(directory).or_insert_with_key(read)
    }
}

/// The whole of a cgroup's `memory.stat`, for people; `None`: it is gone.
pub fn statistics(place: &Place, mounts: &Mounts) -> Option<String> {
    text(&mounts.directory(place)?, "memory.stat")
}

fn files(place: &Place) -> &'static Files {
    match place.hierarchy {
        Hierarchy::Unified => &UNIFIED,
        Hierarchy::Legacy(_) => &LEGACY,
    }
}

/// v1 tells it only where swap is accounted for.
fn swap(hierarchy: &Hierarchy, directory: &Path, stat: &str) -> u64 {
    match hierarchy {
        Hierarchy::Unified => number(directory, "memory.swap.current"),
        Hierarchy::Legacy(_) => value(stat, "total_swap"),
    }
    .unwrap_or(0)
}

/// `NAME VALUE`, one a line.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn number(directory: &Path, name: &str) -> Option<u64> {
    text(directory, name)?.trim().parse().ok()
}

fn text(directory: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(directory.join(name)).ok()?.take(MAX_TEXT).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Directories that look like a mounted hierarchy.
    fn hierarchy(kind: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Mounts) {
        let root = tempfile::tempdir().expect("directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, text).expect("file");
        }
        let line = format!("1 2 0:26 / {} rw - {kind} x rw,memory\n", root.path().display());
        let mounts = Mounts::parse(line.as_bytes());
        (root, mounts)
    }

    fn read(mounts: &Mounts, hierarchy: Hierarchy, path: &str) -> Option<CgroupReading> {
        MemoryCgroups::new(mounts).read(&Place { hierarchy, path: path.into() })
    }

    #[test]
    fn version_two_and_the_least_limit_above() {
        let (_root, mounts) = hierarchy(
            "cgroup2",
            &[
                ("a/memory.max", "5000\n"),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "4000\n"),
                ("a/b/memory.stat", "anon 1000\nfile 2000\nkernel 5\ninactive_file 1500\nanon_thp 7\n"),
                ("a/b/memory.swap.current", "30\n"),
                ("a/b/memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 1\n"),
            ],
        );
        let expected = CgroupReading {
            current_bytes: 4000,
            anonymous_bytes: 1000,
            file_bytes: 2000,
            swap_bytes: 30,
            reclaimable_bytes: 1500,
            limit_bytes: Some(5000),
            oom_kills: 3,
        };
        assert_eq!(read(&mounts, Hierarchy::Unified, "/a/b"), Some(expected));
        assert_eq!(expected.share_of_limit(), Some(0.5));
        assert_eq!(read(&mounts, Hierarchy::Unified, "/a"), None);
        assert_eq!(read(&mounts, Hierarchy::Unified, "/gone"), None);
    }

    #[test]
    fn version_one_with_the_amounts_of_those_below() {
        let (_root, mounts) = hierarchy(
            "cgroup",
            &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("a/memory.limit_in_bytes", "9223372036854771712\n"),
                ("a/memory.usage_in_bytes", "4000\n"),
                (
                    "a/memory.stat",
                    "rss 1\ncache 2\ninactive_file 3\ntotal_cache 2000\ntotal_rss 1000\ntotal_inactive_file 9\n",
                ),
                ("a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ],
        );
        let reading = read(&mounts, Hierarchy::Legacy("memory".into()), "/a").expect("a reading");
        assert_eq!((reading.current_bytes, reading.anonymous_bytes, reading.file_bytes), (4000, 1000, 2000));
        assert_eq!((reading.reclaimable_bytes, reading.limit_bytes, reading.oom_kills), (9, None, 2));
        assert_eq!(reading.share_of_limit(), None);
    }
}
