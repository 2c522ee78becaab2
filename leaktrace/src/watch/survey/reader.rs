//! Files of `/proc` that are read for every process at every look: into one buffer, by few system calls.

use std::{
    fmt::Write as _,
    fs::File,
    io::{ErrorKind, Read},
};

use crate::process::status::{self, Memory, Stat};

/// Most that is read of one file; `status` grows with the number of CPUs and of groups, but its memory comes first.
const BUFFER: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub struct Reader {
    path: String,
    buffer: Vec<u8>,
}

impl Reader {
    /// With room for one file.
    pub fn new() -> Self {
        Self { path: String::with_capacity(32), buffer: vec![0; BUFFER] }
    }

    /// `/proc/PID/stat`, and the short name in it. `None`: the process is gone.
    pub fn stat(&mut self, pid: u32) -> Option<(Stat, &[u8])> {
        let text = self.read(pid, "stat")?;
        Some((status::parse_stat(text)?, status::parse_name(text)?))
    }

    /// The memory in `/proc/PID/status`. `None`: the process is gone.
    pub fn memory(&mut self, pid: u32) -> Option<Memory> {
        self.read(pid, "status").map(status::parse_memory)
    }

    fn read(&mut self, pid: u32, name: &str) -> Option<&[u8]> {
        self.path.clear();
        write!(self.path, "/proc/{pid}/{name}").ok()?;
        let mut file = File::open(&self.path).ok()?;
        let mut length = 0;
        while let Some(room) = self.buffer.get_mut(length..).filter(|room| !room.is_empty()) {
            match file.read(room) {
                Ok(0) => break,
                // All there is, in one piece: these files are made in whole when they are read.
                Ok(bytes) if bytes < room.len() => {
                    length += bytes;
                    break;
                }
                Ok(bytes) => length += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It ended between opening and reading.
                Err(_) => return None,
            }
        }
        self.buffer.get(..length).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_ourselves_is_what_the_thorough_reader_says() {
        let own = std::process::id();
        let mut reader = Reader::new();
        let (stat, name) = reader.stat(own).expect("own stat");
        let thorough = status::read(own).expect("own status");
        assert_eq!(name, thorough.name.as_bytes());
        assert_eq!(stat.start_ticks, status::read_stat(own).expect("own stat").start_ticks);
        assert!(reader.memory(own).expect("own memory").anonymous_bytes > 0);
        assert!(reader.stat(4_194_305).is_none() && reader.memory(4_194_305).is_none());
    }
}
