//! The directory that cases lie in: each appears whole, under its name; and when there is too much, the oldest goes.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::EvidenceConfig;

/// How names begin of what is not finished; our PID and a number follow.
const UNFINISHED: &str = ".unfinished-";
/// Cases of one second and one name.
const MAX_ALIKE: u32 = 1000;
/// Most entries that are looked at.
const MAX_ENTRIES: usize = 65_536;
/// `2026-11-21T19-30-00Z-`: how names of cases begin, digits as zeros.
const STAMP: &str = "0000-00-00T00-00-00Z-";

static BEGUN: AtomicU32 = AtomicU32::new(0);

/// See the module.
#[derive(Clone, Debug)]
pub struct Shelf {
    directory: PathBuf,
    max_size: u64,
    max_count: usize,
}

impl Shelf {
    /// With these bounds.
    pub fn new(directory: PathBuf, config: &EvidenceConfig) -> Self {
        Self { directory, max_size: config.max_size.0, max_count: config.max_count.max(1) }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A directory for a case, which nobody takes for one yet. Stacks and command lines are nobody's business but root's.
    pub fn begin(&self) -> io::Result<PathBuf> {
        let mut private = fs::DirBuilder::new();
        private.mode(0o700).recursive(true).create(&self.directory)?;
        let number = BEGUN.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        private.recursive(false).create(&path)?;
        Ok(path)
    }

    /// Gives a finished case its name, with a number if another one has it.
    pub fn finish(&self, unfinished: &Path, name: &str) -> io::Result<PathBuf> {
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 1..=MAX_ALIKE {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let path = self.directory.join(name);
            // A directory takes the place of an empty one only, and none of ours is.
            match fs::rename(unfinished, &path) {
                Ok(()) => {
                    sync(&self.directory);
                    return Ok(path);
                }
                Err(error) if is_taken(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Removes the oldest cases until all are within the bounds; never the newest.
    pub fn make_room(&self, newest: &Path) {
        let mut cases: Vec<(PathBuf, u64)> =
            self.cases().into_iter().map(|path| (path.clone(), size(&path))).collect();
        cases.sort();
        let mut count = cases.len();
        let mut total: u64 = cases.iter().map(|(_, size)| size).sum();
        for (path, size) in cases.iter().filter(|(path, _)| path != newest) {
            if count <= self.max_count && total <= self.max_size {
                break;
            }
            if let Err(error) = fs::remove_dir_all(path) {
                tracing::warn!("could not remove the old evidence {}: {error}", path.display());
                continue;
            }
            count -= 1;
            total = total.saturating_sub(*size);
        }
    }

    /// Removes what a daemon that is no more has left half-written.
    pub fn remove_unfinished(&self) {
        let own = format!("{UNFINISHED}{}-", std::process::id());
        let is_left = |name: &str| name.starts_with(UNFINISHED) && !name.starts_with(&own);
        for path in self.named(is_left) {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!("could not remove {}: {error}", path.display());
            }
        }
    }

    /// Cases; whatever else people put there is left alone.
    fn cases(&self) -> Vec<PathBuf> {
        self.named(is_case)
    }

    fn named(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().take(MAX_ENTRIES);
        let is_wanted = |entry: &fs::DirEntry| {
            entry.file_name().to_str().is_some_and(&wanted)
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        };
        entries.filter(is_wanted).map(|entry| entry.path()).collect()
    }
}

/// Whether a name begins with a moment.
fn is_case(name: &str) -> bool {
    let shape = name.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    name.len() > STAMP.len() && shape.take(STAMP.len()).eq(STAMP.bytes())
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
        || error.raw_os_error() == Some(libc::ENOTDIR)
}

/// Bytes that the files of a case take on the disk. There are no directories in it.
fn size(case: &Path) -> u64 {
    let entries = fs::read_dir(case).into_iter().flatten().flatten().take(MAX_ENTRIES);
    entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.len().max(data.blocks() * 512)).sum()
}

/// Best effort: what matters is in the files, which were synced one by one.
pub fn sync(directory: &Path) {
    let _ = fs::File::open(directory).and_then(|directory| directory.sync_all());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::Size;

    fn shelf(max_size: u64, max_count: usize) -> (tempfile::TempDir, Shelf) {
        let directory = tempfile::tempdir().expect("a directory");
        let config = EvidenceConfig { max_size: Size(max_size), max_count };
        let shelf = Shelf::new(directory.path().join("evidence"), &config);
        (directory, shelf)
    }

    fn put(shelf: &Shelf, name: &str, bytes: usize) -> PathBuf {
        let unfinished = shelf.begin().expect("begun");
        fs::write(unfinished.join("report.txt"), vec![0; bytes]).expect("written");
        shelf.finish(&unfinished, name).expect("finished")
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        let entries = fs::read_dir(&shelf.directory).expect("there").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_go_first_and_what_is_no_case_stays() {
        let (_directory, shelf) = shelf(u64::MAX, 2);
        let newest = put(&shelf, "2026-01-03T00-00-00Z-c", 10);
        put(&shelf, "2026-01-01T00-00-00Z-a", 10);
        put(&shelf, "2026-01-02T00-00-00Z-b", 10);
        fs::create_dir(shelf.directory.join("notes-of-mine")).expect("made");
        shelf.make_room(&newest);
        assert_eq!(names(&shelf), ["2026-01-02T00-00-00Z-b", "2026-01-03T00-00-00Z-c", "notes-of-mine"]);
    }

    #[test]
    fn bytes_are_bounded_but_the_newest_stays_whatever_its_name_says() {
        let (_directory, shelf) = shelf(100_000, 100);
        put(&shelf, "2026-01-02T00-00-00Z-b", 60_000);
        put(&shelf, "2026-01-03T00-00-00Z-c", 60_000);
        // The clock was set back.
        let newest = put(&shelf, "2025-01-01T00-00-00Z-z", 200_000);
        shelf.make_room(&newest);
        assert_eq!(names(&shelf), ["2025-01-01T00-00-00Z-z"]);
    }

    #[test]
    fn cases_of_one_second_have_numbers() {
        let (_directory, shelf) = shelf(u64::MAX, 100);
        let name = "2026-01-01T00-00-00Z-a";
        (0..3).for_each(|_| drop(put(&shelf, name, 1)));
        assert_eq!(names(&shelf), [name.to_owned(), format!("{name}-2"), format!("{name}-3")]);
    }

    #[test]
    fn what_another_daemon_has_left_half_written_is_removed_and_ours_is_not() {
        let (_directory, shelf) = shelf(u64::MAX, 100);
        let ours = shelf.begin().expect("begun");
        fs::create_dir(shelf.directory.join(".unfinished-0-7")).expect("made");
        shelf.remove_unfinished();
        assert_eq!(names(&shelf), [ours.file_name().expect("a name").to_string_lossy()]);
    }

    #[test]
    fn only_names_with_a_moment_are_cases() {
        assert!(is_case("2026-11-21T19-30-00Z-web-oom"));
        for name in
            ["2026-11-21", "web", ".unfinished-1-1", "2026-11-21T19-30-00Z-", "2026-11-21 19-30-00Z-web"]
        {
            assert!(!is_case(name), "{name}");
        }
    }
}
