//! Who maps the files that are to be probed: processes in scope, and others, which pay for probes that are shared.

use std::{collections::HashSet, ffi::OsStr, path::Path};

use crate::process::{self, Mapping, maps};

/// Processes looked at; more than that many are beyond counting one by one.
const MAX_PROCESSES: usize = 32_768;

/// A file, as the mappings of processes tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Device.
    pub device: (u32, u32),
    /// Inode.
    pub inode: u64,
    /// Path in one of the processes.
    pub path: std::path::PathBuf,
}

impl MappedFile {
    /// Whether that is the file behind a mapping. Overlay file systems show one file under a device of their own for each
    /// container, mostly with its inode number: that and the same name will do.
    fn is_behind(&self, mapping: &Mapping) -> bool {
        mapping.inode == self.inode
            && (mapping.device == self.device
                || mapping.path.as_deref().is_some_and(|path| name(path) == name(&self.path)))
    }
}

fn name(path: &Path) -> Option<&OsStr> {
    path.file_name()
}

/// How many processes map a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// That are to be traced.
    pub in_scope: usize,
    /// That are not.
    pub others: usize,
}

/// Counts the users of each file among all processes of the host, leaktrace left out. What cannot be looked at is not counted.
pub fn users(files: &[MappedFile], scope: &HashSet<u32>) -> Vec<Users> {
    let own = std::process::id();
    let pids = process::all().into_iter().filter(|pid| *pid != own).take(MAX_PROCESSES);
    count(files, scope, pids.filter_map(|pid| Some((pid, maps::read(pid).ok()?))))
}

fn count(
    files: &[MappedFile],
    scope: &HashSet<u32>,
    processes: impl Iterator<Item = (u32, Vec<Mapping>)>,
) -> Vec<Users> {
    let mut users = vec![Users::default(); files.len()];
    for (pid, mappings) in processes {
        let code: Vec<&Mapping> = mappings.iter().filter(|mapping| mapping.executable).collect();
        for (file, users) in files.iter().zip(&mut users) {
            if code.iter().any(|mapping| file.is_behind(mapping)) {
                *(if scope.contains(&pid) { &mut users.in_scope } else { &mut users.others }) += 1;
            }
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(line: &str) -> Vec<Mapping> {
        maps::parse(line.as_bytes()).expect("a line of maps")
    }

    #[test]
    fn users_are_counted_by_file_once_each_and_through_overlays() {
        let libc = MappedFile { device: (8, 1), inode: 77, path: "/lib/libc.so.6".into() };
        let processes = [
            (
                1,
                mapped(
                    "1000-2000 r-xp 0 08:01 77 /lib/libc.so.6\n3000-4000 r-xp 0 08:01 77 /lib/libc.so.6\n",
                ),
            ),
            (2, mapped("1000-2000 r-xp 0 00:2f 77 /usr/lib/libc.so.6\n")),
            (3, mapped("1000-2000 r-xp 0 00:2f 77 /usr/lib/other.so\n")),
            (4, mapped("1000-2000 r--p 0 08:01 77 /lib/libc.so.6\n")),
            (5, mapped("1000-2000 r-xp 0 08:01 77 /lib/libc.so.6\n")),
        ];
        let users = count(&[libc], &HashSet::from([1, 9]), processes.into_iter());
        assert_eq!(users, [Users { in_scope: 1, others: 2 }]);
    }

    #[test]
    fn our_own_executable_is_used_by_nobody_else_than_us_who_are_not_counted() {
        let own = maps::read(std::process::id()).expect("own maps");
        let code = own.into_iter().find(|mapping| mapping.executable && mapping.is_file()).expect("own code");
        let file = MappedFile {
            device: code.device,
            inode: code.inode,
            path: code.path.expect("a file has a path"),
        };
        let all = HashSet::from([std::process::id()]);
        assert_eq!(users(&[file], &all)[0].in_scope, 0);
    }
}
