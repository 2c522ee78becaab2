//! A file with one JSON object per line. It is opened for each alert, so that whoever rotates it need not tell us.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::PathBuf,
};

use super::{Deliver, failure::Failure};
use crate::alert::{Alert, json};

/// See the module.
pub(super) struct Lines {
    pub path: PathBuf,
}

impl Deliver for Lines {
    fn deliver(&mut self, alert: &Alert) -> Result<(), Failure> {
        self.append(alert)
            .map_err(|error| Failure::of_io(&format!("cannot write to {}", self.path.display()), &error))
    }
}

impl Lines {
    fn append(&self, alert: &Alert) -> io::Result<()> {
        // A FIFO that nobody reads must be an error and not a wait.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(&self.path)?;
        let mut line = json::line(alert);
        line.push('\n');
        let before = file.metadata()?;
        let written = file.write_all(line.as_bytes());
        if written.is_err() && !before.file_type().is_fifo() {
            undo(&file, before.len());
        }
        written
    }
}

/// Half a line (of a full disk) would spoil the next one as well.
fn undo(file: &File, length: u64) {
    if let Err(error) = file.set_len(length) {
        tracing::debug!("what was written of an alert cannot be taken back: {error}");
    }
}
