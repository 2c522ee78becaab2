//! Bounded reading of a file that belongs to somebody else. Nothing is mapped: a file truncated while mapped kills
//! its reader with SIGBUS. Every read names what it reads and has a cap, so a forged size costs nothing.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::open::open_regular;
use super::remembered::FileIdentity;

/// Why an object could not be read. Every message names the file.
#[derive(Debug, Error)]
pub enum ElfError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, device or pipe.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Something else than an ELF object.
    #[error("{} is not an ELF file", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// A 32-bit object.
    #[error("{} is a 32-bit program or library; leaktrace traces 64-bit programs only", path.display())]
    ThirtyTwoBit {
        /// The file.
        path: PathBuf,
    },
    /// For another kind of machine.
    #[error("{} is made for another kind of machine (ELF machine {machine}, {order}-endian)", path.display())]
    ForeignMachine {
        /// The file.
        path: PathBuf,
        /// `e_machine`.
        machine: u16,
        /// "little" or "big".
        order: &'static str,
    },
    /// Its headers contradict themselves or the file.
    #[error("{} is malformed: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A part of it is larger than leaktrace is willing to read.
    #[error("{} has {what} of {bytes} bytes, more than the {cap} that leaktrace reads", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The cap.
        cap: u64,
    },
}

impl ElfError {
    /// The file is there but can never be an object that leaktrace reads, as opposed to one that it failed to read.
    pub fn is_about_content(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// An open file of untrusted content.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    length: u64,
    identity: FileIdentity,
}

impl Source {
    /// Opens a regular file. Never blocks on a pipe or device that stands in its place.
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        let file = open_regular(path).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => ElfError::NotAFile { path: path.to_owned() },
            _ => ElfError::Io { path: path.to_owned(), source },
        })?;
        Self::from_file(file, path)
    }

    /// Takes over an open file; `path` is only used in messages.
    pub fn from_file(file: File, path: &Path) -> Result<Self, ElfError> {
        let path = path.to_owned();
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(source) => return Err(ElfError::Io { path, source }),
        };
        match metadata.is_file() {
            true => Ok(Self { file, path, length: metadata.len(), identity: FileIdentity::of(&metadata) }),
            false => Err(ElfError::NotAFile { path }),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is, and as of when.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Bytes in the file when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads exactly `length` bytes at `offset`, none of them beyond the end of the file, at most `cap`.
    pub fn read(&self, what: &'static str, offset: u64, length: u64, cap: u64) -> Result<Vec<u8>, ElfError> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(self.malformed(format!("{what} lies outside the file")));
        }
        let size = usize::try_from(length).ok().filter(|_| length <= cap);
        let Some(size) = size else {
            return Err(ElfError::TooLarge { path: self.path.clone(), what, bytes: length, cap });
        };
        let mut bytes = vec![0; size];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.malformed(format!("{what} lies outside the file, which has just become shorter")))
            }
            Err(source) => Err(ElfError::Io { path: self.path.clone(), source }),
        }
    }

    /// An error about the content.
    pub fn malformed(&self, what: impl Into<String>) -> ElfError {
        ElfError::Malformed { path: self.path.clone(), what: what.into() }
    }
}

/// A file that lies in memory, so that an image goes the same way as a file.
pub fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let descriptor = rustix::fs::memfd_create("leaktrace image", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_refused_and_does_not_block() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("pipe");
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL");
        // SAFETY: `name` is a valid C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(matches!(Source::open(&path), Err(ElfError::NotAFile { .. })));
        assert!(matches!(Source::open(directory.path()), Err(ElfError::NotAFile { .. })));
    }

    #[test]
    fn reads_stay_inside_the_file_and_below_the_cap() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(4 << 30).expect("sparse file");
        let source = Source::open(file.path()).expect("opened");
        assert!(matches!(source.read("x", 0, 4 << 30, 1 << 20), Err(ElfError::TooLarge { .. })));
        assert!(matches!(source.read("x", u64::MAX, 2, 1 << 20), Err(ElfError::Malformed { .. })));
        assert_eq!(source.read("x", (4 << 30) - 2, 2, 2).expect("inside"), [0, 0]);
        file.as_file().set_len(10).expect("truncated");
        assert!(matches!(source.read("x", 100, 2, 2), Err(ElfError::Malformed { .. })));
    }
}
