//! Where hierarchies are mounted, and so which directory a cgroup is.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::{Hierarchy, Place};

/// Longest list of mounts that is read.
const MAX_TEXT: usize = 16 << 20;

/// One mount of a hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which cgroup of the hierarchy is seen at the mount point.
    pub root: PathBuf,
    /// The mount point.
    pub point: PathBuf,
    /// What the hierarchy was mounted with (v1: its controllers are among them); `None`: v2.
    options: Option<Vec<String>>,
}

impl Mount {
    /// Whether it shows that hierarchy.
    pub fn shows(&self, hierarchy: &Hierarchy) -> bool {
        match (hierarchy, &self.options) {
            (Hierarchy::Unified, None) => true,
            (Hierarchy::Legacy(controllers), Some(options)) => {
                controllers.split(',').all(|controller| options.iter().any(|option| option == controller))
            }
            _ => false,
        }
    }

    /// The directory of a cgroup, if it lies below what is mounted.
    fn directory(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.root).ok()?;
        Some(if below.as_os_str().is_empty() { self.point.clone() } else { self.point.join(below) })
    }

    /// The cgroup of a directory below its mount point.
    fn path(&self, directory: &Path) -> Option<PathBuf> {
        let below = directory.strip_prefix(&self.point).ok()?;
        Some(if below.as_os_str().is_empty() { self.root.clone() } else { self.root.join(below) })
    }
}

/// All mounts of hierarchies that our own mount namespace shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Those of this process; none where they cannot be read.
    pub fn own() -> Self {
        Self::read(Path::new("/proc/self/mountinfo"))
    }

    /// Those of a `mountinfo` file.
    pub fn read(path: &Path) -> Self {
        use std::io::Read;
        let mut text = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(MAX_TEXT as u64).read_to_end(&mut text).map(drop));
        if read.is_err() { Self::default() } else { Self::parse(&text) }
    }

    /// Parses `mountinfo`.
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|&byte| byte == b'\n').filter_map(parse_mount).collect())
    }

    /// The directory of a place.
    pub fn directory(&self, place: &Place) -> Option<PathBuf> {
        // A later mount on the same point hides an earlier one.
        self.0
            .iter()
            .rev()
            .filter(|mount| mount.shows(&place.hierarchy))
            .find_map(|mount| mount.directory(&place.path))
    }

    /// The place that a directory is, by the innermost mount it lies below.
    pub fn place(&self, directory: &Path, hierarchies: &[Hierarchy]) -> Option<Place> {
        let around = self.0.iter().rev().filter(|mount| directory.starts_with(&mount.point));
        let mount = around.max_by_key(|mount| mount.point.as_os_str().len())?;
        let hierarchy = hierarchies.iter().find(|hierarchy| mount.shows(hierarchy))?;
        Some(Place { hierarchy: hierarchy.clone(), path: mount.path(directory)? })
    }

    /// Directories that names of cgroups may be meant to lie below: every mount point, those that say most first.
    pub fn points(&self, hierarchies: &[Hierarchy]) -> Vec<&Path> {
        hierarchies
            .iter()
            .filter_map(|hierarchy| self.0.iter().rev().find(|mount| mount.shows(hierarchy)))
            .map(|mount| mount.point.as_path())
            .collect()
    }
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG ...] - KIND SOURCE SUPER-OPTIONS`
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let separator = memchr::memmem::find(line, b" - ")?;
    let (before, behind) = (line.get(..separator)?, line.get(separator + 3..)?);
    let mut before = before.split(|&byte| byte == b' ').skip(3);
    let (root, point) = (unescape(before.next()?), unescape(before.next()?));
    let mut behind = behind.split(|&byte| byte == b' ');
    let options = match behind.next()? {
        b"cgroup2" => None,
        b"cgroup" => {
            let text = String::from_utf8_lossy(behind.nth(1)?).into_owned();
            Some(text.split(',').map(str::to_owned).collect())
        }
        _ => return None,
    };
    Some(Mount { root, point, options })
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| first == b'\\').and_then(octal);
        bytes.push(code.unwrap_or(first));
        rest = code.and_then(|_| behind.get(3..)).unwrap_or(behind);
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// Whether a path names something above where it begins, so that its text says nothing of where it leads.
pub fn climbs(path: &Path) -> bool {
    path.as_os_str().as_bytes().split(|&byte| byte == b'/').any(|part| part == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn legacy(controllers: &str, path: &str) -> Place {
        Place { hierarchy: Hierarchy::Legacy(controllers.to_owned()), path: path.into() }
    }

    fn unified(path: &str) -> Place {
        Place { hierarchy: Hierarchy::Unified, path: path.into() }
    }

    #[test]
    fn each_hierarchy_has_its_own_directory() {
        let mounts = Mounts::parse(HYBRID.as_bytes());
        let directory = |place| mounts.directory(&place);
        assert_eq!(directory(unified("/a/b")), Some("/sys/fs/cgroup/unified/a/b".into()));
        assert_eq!(directory(unified("/")), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(directory(legacy("memory", "/a")), Some("/sys/fs/cgroup/memory/a".into()));
        assert_eq!(directory(legacy("cpu,cpuacct", "/a")), Some("/sys/fs/cgroup/cpu,cpuacct/a".into()));
        assert_eq!(directory(legacy("name=systemd", "/a")), Some("/sys/fs/cgroup/systemd/a".into()));
        assert_eq!(directory(legacy("pids", "/a")), None);
    }

    #[test]
    fn a_directory_leads_back_to_its_place() {
        let mounts = Mounts::parse(HYBRID.as_bytes());
        let hierarchies = [Hierarchy::Unified, Hierarchy::Legacy("memory".to_owned())];
        let place = |directory: &str| mounts.place(Path::new(directory), &hierarchies);
        assert_eq!(place("/sys/fs/cgroup/memory/x/y"), Some(legacy("memory", "/x/y")));
        assert_eq!(place("/sys/fs/cgroup/unified"), Some(unified("/")));
        assert_eq!(place("/sys/fs/cgroup"), None);
        assert_eq!(place("/etc"), None);
    }

    #[test]
    fn a_container_that_sees_a_part_of_the_tree_finds_its_own_part_only() {
        let text = "99 98 0:26 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let mounts = Mounts::parse(text.as_bytes());
        assert_eq!(mounts.directory(&unified("/docker/ab/c")), Some("/sys/fs/cgroup/c".into()));
        assert_eq!(mounts.directory(&unified("/docker/cd")), None);
        let back = mounts.place(Path::new("/sys/fs/cgroup/c"), &[Hierarchy::Unified]);
        assert_eq!(back, Some(unified("/docker/ab/c")));
    }

    #[test]
    fn escaped_names_and_later_mounts_are_understood() {
        let text = "1 2 0:26 / /mnt/a\\040b rw - cgroup2 cgroup rw\n3 2 0:26 / /mnt/c rw - cgroup2 none rw\n";
        let mounts = Mounts::parse(text.as_bytes());
        assert_eq!(mounts.directory(&unified("/x")), Some("/mnt/c/x".into()));
        assert_eq!(mounts.place(Path::new("/mnt/a b/x"), &[Hierarchy::Unified]), Some(unified("/x")));
    }

    #[test]
    fn a_path_that_climbs_is_noticed() {
        assert!(climbs(Path::new("/../x")) && climbs(Path::new("a/..")) && !climbs(Path::new("/a..b/...")));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut line = b"1 2 0:26 ".to_vec();
            line.extend_from_slice(&text);
            line.extend_from_slice(b" - cgroup2 x y");
            let _ = Mounts::parse(&text);
            let _ = Mounts::parse(&line);
        }
    }
}
