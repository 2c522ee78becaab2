//! Control groups: which ones a process is in, where they are mounted, who is in them. A host has one hierarchy (cgroup v2), one
//! for each controller (v1), or both at once (hybrid); in each of them a process has one place. Parsers are pure; paths are
//! kept as the bytes that the kernel says.

pub mod mounts;
pub mod tree;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

pub use mounts::{Mount, Mounts};
pub use tree::Cgroup;

use super::{ProcessError, read_file};

/// Longest `/proc/PID/cgroup` that is read: each line may hold a path of 4 KiB.
const MAX_TEXT: usize = 256 << 10;
/// Most hierarchies that are looked at; the kernel has some fifteen controllers, named hierarchies are rare.
const MAX_HIERARCHIES: usize = 64;

/// One tree of cgroups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hierarchy {
    /// cgroup v2: all controllers in one tree.
    Unified,
    /// cgroup v1: the controllers of that tree as the kernel lists them (`memory`, `cpu,cpuacct`, `name=systemd`).
    Legacy(String),
}

impl Hierarchy {
    /// Where a process's place says most about what it belongs to: lower is better. Containers have a place of their own in every
    /// tree that their runtime uses, but a hybrid host's v2 tree may hold all processes at its root.
    pub fn preference(&self) -> usize {
        const ORDER: [&str; 7] = ["name=systemd", "pids", "memory", "devices", "freezer", "cpuset", "blkio"];
        match self {
            Self::Unified => 0,
            Self::Legacy(controllers) => {
                ORDER.iter().position(|name| *name == controllers).map_or(ORDER.len() + 1, |at| at + 1)
            }
        }
    }
}

impl Hierarchy {
    /// Whether it is v1's for that controller.
    pub fn has_controller(&self, name: &str) -> bool {
        matches!(self, Self::Legacy(controllers) if controllers.split(',').any(|own| own == name))
    }
}

impl std::fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unified => f.write_str("v2"),
            Self::Legacy(controllers) => f.write_str(controllers),
        }
    }
}

/// The place of a process in one hierarchy: a line of `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which tree.
    pub hierarchy: Hierarchy,
    /// Where in it, from its root as our own cgroup namespace sees it.
    pub path: PathBuf,
}

impl Place {
    /// Whether it is the root, where everything is that nobody has put anywhere.
    pub fn is_root(&self) -> bool {
        self.path == Path::new("/")
    }
}

/// Reads the places of a process, those first that say most.
pub fn places(pid: u32) -> Result<Vec<Place>, ProcessError> {
    Ok(parse(&read_file(pid, "cgroup", MAX_TEXT)?))
}

/// The place that a process's memory is charged to: v1's if the memory controller is there, else v2's.
pub fn memory_place(places: &[Place]) -> Option<&Place> {
    let legacy = places.iter().find(|place| place.hierarchy.has_controller("memory"));
    legacy.or_else(|| places.iter().find(|place| place.hierarchy == Hierarchy::Unified))
}

/// Parses `/proc/PID/cgroup`; lines that are none are left out.
pub fn parse(text: &[u8]) -> Vec<Place> {
    let lines = text.split(|&byte| byte == b'\n').filter_map(parse_line);
    let mut places: Vec<Place> = lines.take(MAX_HIERARCHIES).collect();
    places.sort_by_key(|place| place.hierarchy.preference());
    places
}

/// `NUMBER:CONTROLLERS:/PATH`; v2 has number 0 and no controllers.
pub fn parse_line(line: &[u8]) -> Option<Place> {
    let mut fields = line.splitn(3, |&byte| byte == b':');
    let number = std::str::from_utf8(fields.next()?).ok()?.parse::<u32>().ok()?;
    let controllers = std::str::from_utf8(fields.next()?).ok()?;
    let path = fields.next().filter(|path| path.first() == Some(&b'/'))?;
    let hierarchy = match (number, controllers) {
        (0, "") => Hierarchy::Unified,
        (_, "") => return None,
        _ => Hierarchy::Legacy(controllers.to_owned()),
    };
    // What the kernel appends when the cgroup was removed under a zombie.
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    Some(Place { hierarchy, path: PathBuf::from(OsStr::from_bytes(path)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(controllers: &str, path: &str) -> Place {
        let hierarchy = match controllers {
            "" => Hierarchy::Unified,
            name => Hierarchy::Legacy(name.to_owned()),
        };
        Place { hierarchy, path: path.into() }
    }

    #[test]
    fn a_unified_host_has_one_line() {
        assert_eq!(parse(b"0::/system.slice/nginx.service\n"), [place("", "/system.slice/nginx.service")]);
    }

    #[test]
    fn a_legacy_host_has_one_line_for_each_hierarchy_and_the_telling_ones_come_first() {
        let text = b"11:cpu,cpuacct:/docker/ab\n5:memory:/docker/ab\n1:name=systemd:/docker/ab\n";
        let expected = [
            place("name=systemd", "/docker/ab"),
            place("memory", "/docker/ab"),
            place("cpu,cpuacct", "/docker/ab"),
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn a_hybrid_host_has_both() {
        let text = b"2:pids:/a\n1:name=systemd:/b\n0::/\n";
        assert_eq!(parse(text), [place("", "/"), place("name=systemd", "/b"), place("pids", "/a")]);
        assert!(parse(text)[0].is_root());
    }

    #[test]
    fn memory_is_charged_to_the_hierarchy_that_has_its_controller() {
        let charged = |text: &[u8]| memory_place(&parse(text)).map(|place| place.path.clone());
        assert_eq!(charged(b"5:memory:/m\n1:name=systemd:/s\n0::/u\n"), Some("/m".into()));
        assert_eq!(charged(b"1:name=systemd:/s\n0::/u\n"), Some("/u".into()));
        assert_eq!(charged(b"1:name=systemd:/s\n"), None);
    }

    #[test]
    fn names_with_colons_stay_whole_and_removed_cgroups_keep_theirs() {
        let text = b"0::/a/pod1.slice:cri-containerd:77 (deleted)\n";
        assert_eq!(parse(text), [place("", "/a/pod1.slice:cri-containerd:77")]);
    }

    #[test]
    fn lines_that_are_none_are_left_out() {
        assert!(parse(b"x::/a\n0:/a\n0::a\n4::/a\n\n:::\n").is_empty());
    }

    #[test]
    fn our_own_places_can_be_read() {
        assert!(!places(std::process::id()).expect("own").is_empty());
        assert!(places(4_194_305).expect_err("no such PID").is_gone());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            for place in parse(&text) {
                prop_assert!(place.path.is_absolute());
            }
        }
    }
}
