//! Separate debug files: where distributions put the symbols that they strip from what they ship.
//!
//! Looked for by build ID (`/usr/lib/debug/.build-id/xx/yyy.debug`), then by debug link (beside the object, in `.debug`
//! below it, and under `/usr/lib/debug`), in the target's own root directory first, then on the host. A file counts only
//! if its build ID is the same, or its checksum the one in the link; else it is refused, and that is counted. What
//! several debug files share (`dwz`) is found in the same way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use flate2::Crc;

use super::outline::Outline;
use crate::object::open::{open_below, open_regular};

/// Largest file whose checksum is computed.
const MAX_CHECKED: u64 = 1 << 30;

/// Why a file that lies where a debug file is looked for is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// It belongs to another object.
    BuildId,
    /// It is not the file that the link was made for.
    Checksum,
    /// It is no ELF file.
    NotElf,
}

impl Refused {
    /// In words, for the truth line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::BuildId => "debug file has another build ID",
            Self::Checksum => "debug file has another checksum than its link says",
            Self::NotElf => "debug file is no readable ELF file",
        }
    }
}

/// A debug file.
#[derive(Debug)]
pub struct Found {
    /// Open for reading.
    pub file: File,
    /// Its headers.
    pub outline: Outline,
    /// Under which path, in the root that it was found in.
    pub path: PathBuf,
}

/// What is known of the object whose debug file is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its build ID.
    pub build_id: Option<&'a [u8]>,
    /// Name and CRC-32 in its `.gnu_debuglink`.
    pub link: Option<(&'a str, u32)>,
    /// Its path as the target sees it.
    pub path: Option<&'a Path>,
}

/// A search.
#[derive(Debug)]
pub struct Search<'a> {
    /// The target's root directory, if it is another one than the host's.
    pub root: Option<&'a OwnedFd>,
    /// The debug directories to look in (`/usr/lib/debug`).
    pub directories: &'a [PathBuf],
    /// What was refused, by reason.
    pub refused: &'a mut BTreeMap<Refused, u64>,
}

impl Search<'_> {
    /// The debug file of an object.
    pub fn find(&mut self, wanted: &Wanted<'_>) -> Option<Found> {
        self.find_by_build_id(wanted.build_id).or_else(|| self.find_by_link(wanted))
    }

    /// The file that the debug file at `from` shares with others: `path` and `build_id` are what its link says.
    pub fn find_shared(&mut self, from: &Path, path: &Path, build_id: &[u8]) -> Option<Found> {
        let candidates = shared_paths(from, path, self.directories);
        let same = |_: &File, outline: &Outline| has_build_id(outline, build_id);
        self.find_by_build_id(Some(build_id))
            .or_else(|| candidates.iter().find_map(|path| self.first(path, same)))
    }

    fn find_by_build_id(&mut self, build_id: Option<&[u8]>) -> Option<Found> {
        let build_id = build_id?;
        let name = build_id_path(build_id)?;
        let same = |_: &File, outline: &Outline| has_build_id(outline, build_id);
        self.directories.iter().find_map(|directory| self.first(&directory.join(&name), same))
    }

    fn find_by_link(&mut self, wanted: &Wanted<'_>) -> Option<Found> {
        let (name, checksum) = wanted.link?;
        let folder = wanted.path?.parent()?;
        let same = |file: &File, _: &Outline| match crc32(file) {
            Some(found) if found == checksum => Ok(()),
            _ => Err(Refused::Checksum),
        };
        let mut paths = link_paths(folder, name, self.directories);
        // The debug file may have the object's own name, in another directory.
        paths.retain(|path| Some(path.as_path()) != wanted.path);
        paths.iter().find_map(|path| self.first(path, same))
    }

    /// Tries the path in the target's root, then on the host: there only where debug files are kept if the target has a
    /// root of its own, for nothing in it may say what else of the host is opened.
    fn first(
        &mut self,
        path: &Path,
        check: impl Fn(&File, &Outline) -> Result<(), Refused>,
    ) -> Option<Found> {
        let inside = self.root.map(|root| open_below(root, path));
        let inside = inside.and_then(|opened| self.checked(opened, path, &check));
        if inside.is_some() || (self.root.is_some() && !is_below(path, self.directories)) {
            return inside;
        }
        self.checked(open_regular(path), path, &check)
    }

    /// The file, if there is one that fits; another one is counted.
    fn checked(
        &mut self,
        opened: io::Result<File>,
        path: &Path,
        check: impl Fn(&File, &Outline) -> Result<(), Refused>,
    ) -> Option<Found> {
        let file = opened.ok()?;
        let outline = Outline::read(&file).map_err(|_| Refused::NotElf);
        let fitting = outline.and_then(|outline| check(&file, &outline).map(|()| outline));
        match fitting {
            Ok(outline) => Some(Found { file, outline, path: path.to_owned() }),
            Err(reason) => {
                *self.refused.entry(reason).or_default() += 1;
                None
            }
        }
    }
}

fn has_build_id(outline: &Outline, build_id: &[u8]) -> Result<(), Refused> {
    match outline.build_id.as_deref() == Some(build_id) {
        true => Ok(()),
        false => Err(Refused::BuildId),
    }
}

/// Whether a path lies below one of the directories, and goes up nowhere.
fn is_below(path: &Path, directories: &[PathBuf]) -> bool {
    let upward = path.components().any(|part| part == Component::ParentDir);
    !upward && directories.iter().any(|directory| path.starts_with(directory))
}

fn build_id_path(build_id: &[u8]) -> Option<PathBuf> {
    let text = super::hexadecimal(build_id);
    let (directory, file) = text.split_at_checked(2).filter(|(_, file)| !file.is_empty())?;
    Some(PathBuf::from(format!(".build-id/{directory}/{file}.debug")))
}

fn link_paths(folder: &Path, name: &str, directories: &[PathBuf]) -> Vec<PathBuf> {
    let relative = folder.strip_prefix("/").unwrap_or(folder);
    let beside = [folder.join(name), folder.join(".debug").join(name)];
    beside
        .into_iter()
        .chain(directories.iter().map(|directory| directory.join(relative).join(name)))
        .collect()
}

/// As it is written, from where it is written; and where distributions keep such files.
fn shared_paths(from: &Path, path: &Path, directories: &[PathBuf]) -> Vec<PathBuf> {
    let written = from.parent().unwrap_or(from).join(path);
    let kept = |directory: &PathBuf| path.file_name().map(|name| directory.join(".dwz").join(name));
    std::iter::once(written).chain(directories.iter().filter_map(kept)).collect()
}

fn crc32(file: &File) -> Option<u32> {
    // Nothing is read in vain of a file that is too long, or made to look so.
    if file.metadata().ok()?.len() > MAX_CHECKED {
        return None;
    }
    let mut file = file.try_clone().ok()?.take(MAX_CHECKED + 1);
    let (mut crc, mut buffer, mut total) = (Crc::new(), vec![0; 256 << 10], 0_u64);
    loop {
        let count = file.read(&mut buffer).ok()?;
        if count == 0 {
            return (total <= MAX_CHECKED).then(|| crc.sum());
        }
        total += count as u64;
        crc.update(buffer.get(..count)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_debug_files_are_kept_is_below() {
        let directories = [PathBuf::from("/usr/lib/debug")];
        assert!(is_below(Path::new("/usr/lib/debug/.dwz/x"), &directories));
        for outside in ["/etc/shadow", "/usr/lib/debug/../../../etc/shadow", "/usr/lib/debugger/x"] {
            assert!(!is_below(Path::new(outside), &directories), "{outside}");
        }
    }

    #[test]
    fn debug_files_have_the_names_that_distributions_give_them() {
        assert_eq!(build_id_path(&[0xab, 0x01, 0xff]), Some(PathBuf::from(".build-id/ab/01ff.debug")));
        assert_eq!(build_id_path(&[0xab]), None);
        let paths = link_paths(Path::new("/usr/bin"), "x.debug", &[PathBuf::from("/usr/lib/debug")]);
        let expected = ["/usr/bin/x.debug", "/usr/bin/.debug/x.debug", "/usr/lib/debug/usr/bin/x.debug"];
        assert_eq!(paths, expected.map(PathBuf::from));
        let from = Path::new("/usr/lib/debug/.build-id/ab/01ff.debug");
        let paths = shared_paths(from, Path::new("../../.dwz/x"), &[PathBuf::from("/usr/lib/debug")]);
        let expected = ["/usr/lib/debug/.build-id/ab/../../.dwz/x", "/usr/lib/debug/.dwz/x"];
        assert_eq!(paths, expected.map(PathBuf::from));
    }
}
