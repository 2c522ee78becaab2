//! A cpio archive in the "newc" form, which is what a kernel unpacks as its first file system.

use std::io::{self, Write};

/// File type and permissions of a directory.
const DIRECTORY: u32 = 0o040_755;
/// File type and permissions of a program; data may have them too in here.
const PROGRAM: u32 = 0o100_755;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Writes an archive entry by entry.
pub struct Archive<W: Write> {
    output: W,
    /// Inode numbers only need to differ.
    next_inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(output: W) -> Self {
        Self { output, next_inode: 1 }
    }

    /// Adds a directory; its parent must be there already.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// Adds an executable file.
    pub fn program(&mut self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.entry(path, PROGRAM, contents)
    }

    /// Ends the archive and gives its output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, &[])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        let size = u32::try_from(contents.len())
            .map_err(|_| io::Error::other(format!("{path} is too large for a cpio archive")))?;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let (inode, links, time) = (self.next_inode, 1, 0);
        self.next_inode += 1;
        write!(self.output, "070701")?;
        for field in [inode, mode, 0, 0, links, time, size, 0, 0, 0, 0, name_size, 0] {
            write!(self.output, "{field:08X}")?;
        }
        self.output.write_all(name.as_bytes())?;
        // 110 bytes of header; the name carries its terminator and is padded together with the header.
        self.zeros(1 + padding(110 + name.len() + 1))?;
        self.output.write_all(contents)?;
        self.zeros(padding(contents.len()))
    }

    fn zeros(&mut self, count: usize) -> io::Result<()> {
        self.output.write_all(&[0; 4][..count])
    }
}

/// Bytes up to the next multiple of four.
fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_archive_ends_with_its_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("/d").expect("memory");
        archive.program("/d/p", b"hello").expect("memory");
        let bytes = archive.finish().expect("memory");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.match_indices("070701").map(|(at, _)| at % 4).collect::<Vec<_>>(), [0, 0, 0]);
        assert!(text.contains(concat!("hello\0\0\0", "070701")), "contents are padded to four bytes");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
    }

    #[test]
    fn padding_fills_up_to_four() {
        assert_eq!([0, 1, 2, 3, 4].map(padding), [0, 3, 2, 1, 0]);
    }
}
