//! Separate debug files: where distributions put the symbols that they strip from what they ship.
//!
//! Looked for by build ID (`/usr/lib/debug/.build-id/xx/yyy.debug`), then by debug link (beside the object, in `.debug`
//! below it, and under `/usr/lib/debug`), in the target's own root directory first, then on the host. A file counts only
//! if its build ID is the same, or its checksum the one in the link.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::open::{open_in_root, open_regular};
use super::outline::Outline;

/// Largest file whose checksum is computed.
const MAX_CHECKED: u64 = 1 << 30;

/// What is known of the object whose debug file is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its build ID.
    pub build_id: Option<&'a [u8]>,
    /// Name and CRC-32 in its `.gnu_debuglink`.
    pub link: Option<(&'a str, u32)>,
    /// Its path as the target sees it.
    pub path: Option<&'a Path>,
    /// The target's root directory, as this process can open it (`/proc/PID/root`).
    pub root: &'a Path,
}

/// The debug file and its outline. `directories` are the debug directories to look in (`/usr/lib/debug`).
pub fn find(wanted: &Wanted<'_>, directories: &[PathBuf]) -> Option<(File, Outline)> {
    find_by_build_id(wanted, directories).or_else(|| find_by_link(wanted, directories))
}

fn find_by_build_id(wanted: &Wanted<'_>, directories: &[PathBuf]) -> Option<(File, Outline)> {
    let build_id = wanted.build_id?;
    let name = build_id_path(build_id)?;
    let matching = |file: File| {
        let outline = Outline::read(&file).ok()?;
        (outline.build_id.as_deref() == Some(build_id)).then_some((file, outline))
    };
    directories
        .iter()
        .map(|directory| directory.join(&name))
        .find_map(|path| first(wanted.root, &path, matching))
}

fn find_by_link(wanted: &Wanted<'_>, directories: &[PathBuf]) -> Option<(File, Outline)> {
    let (name, checksum) = wanted.link?;
    let folder = wanted.path?.parent()?;
    let matching = |file: File| {
        let outline = Outline::read(&file).ok()?;
        (crc32(&file)? == checksum).then_some((file, outline))
    };
    link_paths(folder, name, directories).iter().find_map(|path| first(wanted.root, path, matching))
}

/// Tries the path in the target's root, then on the host.
fn first<T>(root: &Path, path: &Path, matching: impl Fn(File) -> Option<T>) -> Option<T> {
    let inside = open_in_root(root, path).ok().and_then(&matching);
    inside.or_else(|| open_regular(path).ok().and_then(&matching))
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

fn crc32(file: &File) -> Option<u32> {
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
    fn debug_files_have_the_names_that_distributions_give_them() {
        assert_eq!(build_id_path(&[0xab, 0x01, 0xff]), Some(PathBuf::from(".build-id/ab/01ff.debug")));
        assert_eq!(build_id_path(&[0xab]), None);
        let paths = link_paths(Path::new("/usr/bin"), "x.debug", &[PathBuf::from("/usr/lib/debug")]);
        let expected = ["/usr/bin/x.debug", "/usr/bin/.debug/x.debug", "/usr/lib/debug/usr/bin/x.debug"];
        assert_eq!(paths, expected.map(PathBuf::from));
    }
}
