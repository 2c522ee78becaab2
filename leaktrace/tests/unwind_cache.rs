//! Promise: a full or read-only disk costs time, never a table. The disk is a real one, in memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use leaktrace::unwind::{Cache, Table, TableKey};
use leaktrace_common::unwind::{Page, Rule, row};

/// A small file system in memory; unmounted when dropped.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn mount(options: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = Self { directory };
        disk.run("mount", &["-t", "tmpfs", "-o", options, "leaktrace-test"]);
        disk
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.path().join("unwind"), Cache::DEFAULT_BYTES).expect("usable")
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path().join("unwind")).expect("readable");
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(self.path()).status().expect("started");
        assert!(status.success(), "{program} {arguments:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// A table of 64 KiB: as many rows as its one page can have, four bytes apart.
fn table() -> Table {
    let rows: Vec<u32> = (0..1 << 14).map(|n: u16| row(n * 4, n % 2)).collect();
    Table {
        pages: vec![Page { first: 0, count: 1 << 14 }],
        rows,
        rules: vec![Rule::NONE, Rule::END],
        ..Table::default()
    }
}

fn key(number: u8) -> TableKey {
    TableKey([number; 16])
}

#[test]
#[ignore = "needs root to mount a file system: cargo xtask test"]
fn root_a_full_disk_is_counted_and_leaves_nothing_behind() {
    let disk = Disk::mount("size=160k");
    let cache = disk.cache();
    (0..4).for_each(|number| cache.save(key(number), None, &table()));
    let statistics = cache.statistics();
    assert_eq!((statistics.saved, statistics.not_saved), (2, 2));
    assert_eq!(disk.files().len(), 2, "{:?}", disk.files());
    let loaded: Vec<_> = (0..4).map(|number| cache.load(key(number), None)).collect();
    assert_eq!(loaded, [Some(table()), Some(table()), None, None]);
}

#[test]
#[ignore = "needs root to mount a file system: cargo xtask test"]
fn root_a_read_only_disk_still_gives_what_is_there() {
    let disk = Disk::mount("size=1m");
    disk.cache().save(key(1), None, &table());
    disk.run("mount", &["-o", "remount,ro"]);
    let cache = disk.cache();
    assert_eq!(cache.load(key(1), None), Some(table()));
    cache.save(key(2), None, &table());
    assert_eq!(cache.load(key(2), None), None);
    let statistics = cache.statistics();
    assert_eq!((statistics.hits, statistics.not_saved, statistics.misses), (1, 1, 1));
}
