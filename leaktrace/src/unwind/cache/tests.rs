//! The cache in real directories: what it keeps, what it refuses, what it survives.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use leaktrace_common::unwind::{Page, Rule, row};
use tempfile::TempDir;

use super::*;
use crate::unwind::{Limits, Sections, compile};

const KEY: TableKey = TableKey([0xab; 16]);

fn table(rows: u32) -> Table {
    let rows: Vec<_> = (0..rows).map(|n| row((n * 4) as u16, (n % 2) as u16)).collect();
    Table {
        pages: vec![Page { first: 0, count: rows.len() as u32 }],
        rows,
        rules: vec![Rule::NONE, Rule::END],
        ..Table::default()
    }
}

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    set_mode(directory.path(), 0o700);
    directory
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

fn open(directory: &TempDir) -> Cache {
    Cache::open(directory.path(), Cache::DEFAULT_BYTES).expect("usable")
}

/// The one file of a cache with [`table`] in it.
fn saved(directory: &TempDir) -> std::path::PathBuf {
    open(directory).save(KEY, None, &table(9));
    let path = directory.path().join(file_name(KEY, None));
    assert!(path.exists());
    path
}

#[test]
fn a_missing_directory_is_made_for_us_alone() {
    let parent = directory();
    let path = parent.path().join("a/b");
    let cache = Cache::open(&path, 1 << 20).expect("made");
    cache.save(KEY, None, &table(3));
    for path in [parent.path().join("a"), path] {
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o700);
    }
}

#[test]
fn a_table_is_found_by_the_next_process() {
    let directory = directory();
    let cache = open(&directory);
    assert_eq!(cache.load(KEY, None), None);
    cache.save(KEY, None, &table(9));
    assert_eq!((cache.statistics().misses, cache.statistics().saved), (1, 1));
    let next = open(&directory);
    assert_eq!(next.statistics().bytes, cache.statistics().bytes);
    assert_eq!(next.load(KEY, None), Some(table(9)));
    assert_eq!(next.load(TableKey([1; 16]), None), None);
    assert_eq!((next.statistics().hits, next.statistics().misses), (1, 1));
}

#[test]
fn whatever_byte_of_a_file_is_changed_the_table_is_refused_and_the_file_removed() {
    let directory = directory();
    let path = saved(&directory);
    let sound = fs::read(&path).expect("readable");
    let cache = open(&directory);
    for index in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[index] ^= 0x10;
        fs::write(&path, bytes).expect("writable");
        assert_eq!(cache.load(KEY, None), None, "byte {index}");
        assert!(!path.exists(), "byte {index}");
    }
    for length in 0..sound.len() {
        fs::write(&path, &sound[..length]).expect("writable");
        assert_eq!(cache.load(KEY, None), None, "{length} bytes");
        assert!(!path.exists(), "{length} bytes");
    }
    let refused = cache.statistics().refused;
    assert_eq!(refused.values().sum::<u64>(), 2 * sound.len() as u64);
    for flaw in [Flaw::Version, Flaw::Architecture, Flaw::Object, Flaw::Length, Flaw::Checksum] {
        assert!(refused.contains_key(&flaw), "{refused:?}");
    }
}

/// The table of the smallest library that this test has mapped.
fn real_table() -> Table {
    let maps = fs::read_to_string("/proc/self/maps").expect("readable");
    let paths =
        maps.lines().filter_map(|line| Some(&line[line.find('/')?..])).filter(|path| path.contains(".so"));
    let smallest = paths.min_by_key(|path| fs::metadata(path).map_or(u64::MAX, |metadata| metadata.len()));
    let path = Path::new(smallest.expect("a library"));
    let sections = Sections::read(&fs::File::open(path).expect("readable"), path).expect("an object");
    compile(&sections, &Limits::default()).expect("compiles")
}

#[test]
fn every_damage_to_the_file_of_a_real_table_is_noticed() {
    let table = real_table();
    assert!(table.rows.len() > 500, "{} rows", table.rows.len());
    let mut bytes = format::encode(KEY, &table).expect("small");
    assert_eq!(format::decode(KEY, &bytes), Ok(table));
    for index in 0..bytes.len() {
        let flip = 1 << (index % 8);
        bytes[index] ^= flip;
        assert!(format::decode(KEY, &bytes).is_err(), "byte {index}");
        bytes[index] ^= flip;
        assert!(format::decode(KEY, &bytes[..index]).is_err(), "{index} bytes");
    }
}

#[test]
fn what_others_could_have_written_is_refused() {
    let directory = directory();
    let path = saved(&directory);
    let is_refused = || {
        let error = Cache::open(directory.path(), 1 << 20).expect_err("refused").to_string();
        error.contains("others could have changed")
    };
    set_mode(&path, 0o620);
    assert!(is_refused());
    set_mode(&path, 0o600);
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&path, &elsewhere).expect("ours");
    symlink(&elsewhere, &path).expect("ours");
    assert!(is_refused());
    fs::remove_file(&path).expect("ours");
    set_mode(directory.path(), 0o770);
    assert!(is_refused());
    set_mode(directory.path(), 0o700);
    assert!(!fs::exists(&path).expect("readable") && Cache::open(directory.path(), 1 << 20).is_ok());
}

#[test]
fn a_directory_behind_a_symbolic_link_is_refused() {
    let parent = directory();
    let (real, link) = (parent.path().join("real"), parent.path().join("link"));
    Cache::open(&real, 1 << 20).expect("made");
    symlink(&real, &link).expect("ours");
    assert!(matches!(Cache::open(&link, 1 << 20), Err(CacheError::NotOurs { .. })));
}

#[test]
fn a_file_exchanged_while_the_cache_is_open_is_not_believed() {
    let directory = directory();
    let path = saved(&directory);
    let cache = open(&directory);
    set_mode(&path, 0o602);
    assert_eq!(cache.load(KEY, None), None);
    symlink("/etc/passwd", &path).expect("ours");
    assert_eq!(cache.load(KEY, None), None);
    assert!(path.symlink_metadata().is_err(), "the link is removed, not what it leads to");
    assert_eq!(cache.statistics().refused, [(Flaw::NotOurs, 2)].into());
}

#[test]
fn the_longest_unused_tables_make_room() {
    let directory = directory();
    let one = format::encode(KEY, &table(1000)).expect("small").len() as u64;
    let cache = Cache::open(directory.path(), one * 4 + one / 2).expect("usable");
    let key = |number: u8| TableKey([number; 16]);
    for number in 0..4 {
        cache.save(key(number), None, &table(1000));
        let age = Duration::from_secs(1000 - u64::from(number));
        let file = fs::File::open(directory.path().join(file_name(key(number), None))).expect("there");
        file.set_modified(SystemTime::now() - age).expect("ours");
    }
    assert!(cache.load(key(0), None).is_some());
    cache.save(key(4), None, &table(1000));
    let kept: Vec<_> = (0..5).filter(|number| cache.load(key(*number), None).is_some()).collect();
    assert_eq!(kept, [0, 3, 4]);
    let statistics = cache.statistics();
    assert_eq!((statistics.removed, statistics.bytes), (2, 3 * one));
    cache.save(key(9), None, &table(9000));
    assert_eq!(cache.statistics().not_saved, 1);
}

#[test]
fn other_versions_and_abandoned_files_are_removed_and_strangers_left_alone() {
    let directory = directory();
    let file = |name: &str| directory.path().join(name);
    let kept = saved(&directory);
    let names =
        [file("none-ab.unwind0"), file(".unfinished-1-1"), file(".unfinished-2-2"), file("notes.txt")];
    names.iter().for_each(|path| fs::write(path, "x").expect("ours"));
    let two_hours_ago = SystemTime::now() - Duration::from_secs(7200);
    fs::File::open(&names[1]).and_then(|file| file.set_modified(two_hours_ago)).expect("ours");
    assert_eq!(open(&directory).statistics().outdated, 2);
    assert_eq!(names.each_ref().map(|path| path.exists()), [false, false, true, true]);
    assert!(kept.exists());
}

#[test]
fn a_directory_that_goes_away_is_counted_and_nothing_else() {
    let directory = directory();
    let cache = open(&directory);
    fs::remove_dir_all(directory.path()).expect("ours");
    cache.save(KEY, None, &table(9));
    cache.save(KEY, None, &table(9));
    assert_eq!(cache.load(KEY, None), None);
    let statistics = cache.statistics();
    assert_eq!((statistics.not_saved, statistics.misses, statistics.bytes), (2, 1, 0));
}

#[test]
fn a_name_shows_the_build_id_and_ends_with_the_version() {
    let name = file_name(KEY, None);
    assert_eq!(name, format!("none-{}.unwind{}", "ab".repeat(16), format::VERSION));
}
