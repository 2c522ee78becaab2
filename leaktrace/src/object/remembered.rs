//! Answers about what a file holds, remembered for as long as it does not change: hundreds of processes run the same few files.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file and its content: whoever writes to it, or puts another in its place, changes one of these. Nobody but the kernel sets
/// the time of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// That of an open file.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Answers of one kind, by file and question.
#[derive(Debug)]
pub struct Remembered<Q, A> {
    known: Mutex<BTreeMap<(FileIdentity, Q), A>>,
    most: usize,
}

impl<Q: Ord, A: Clone> Remembered<Q, A> {
    /// Remembers at most so many answers; then all are forgotten, and found again.
    pub const fn new(most: usize) -> Self {
        Self { known: Mutex::new(BTreeMap::new()), most }
    }

    /// The answer that is known, else what `find` finds. Failures are not remembered.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn or_find<E>(
        &self,
        file: FileIdentity,
        question: Q,
        find: impl FnOnce() -> Result<A, E>,
    ) -> Result<A, E> {
        let key = (file, question);
        if let Some(answer) = self.lock().get(&key) {
            return Ok(answer.clone());
        }
        // Without the lock: it may take a while, and others ask about other files.
        let answer = find()?;
        let mut known = self.lock();
        if known.len() >= self.most {
            known.clear();
        }
        known.insert(key, answer.clone());
        Ok(answer)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(FileIdentity, Q), A>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_answer_holds_until_the_file_changes() {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        let remembered = Remembered::<u8, u32>::new(8);
        let identity =
            |file: &tempfile::NamedTempFile| FileIdentity::of(&file.as_file().metadata().expect("metadata"));
        let ask = |identity, answer: u32| remembered.or_find(identity, 1, || Ok::<_, ()>(answer));
        assert_eq!(ask(identity(&file), 5), Ok(5));
        assert_eq!(ask(identity(&file), 6), Ok(5));
        file.write_all(b"more").expect("written");
        assert_eq!(ask(identity(&file), 7), Ok(7));
    }

    #[test]
    fn failures_and_more_than_the_cap_are_not_kept() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let identity = FileIdentity::of(&file.as_file().metadata().expect("metadata"));
        let remembered = Remembered::<u8, u8>::new(2);
        assert_eq!(remembered.or_find(identity, 0, || Err("no")), Err("no"));
        for question in 0..3 {
            assert_eq!(remembered.or_find(identity, question, || Ok::<_, ()>(question)), Ok(question));
        }
        assert_eq!(remembered.or_find(identity, 0, || Ok::<_, ()>(9)), Ok(9));
    }
}
