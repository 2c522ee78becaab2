//! Output files: format by name, checked before tracing begins, replaced in one step when it ends, so that nobody
//! ever reads half a report and a failed run leaves the last one alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use tempfile::Builder;
use thiserror::Error;

use super::model::Report;
use super::text::TextOptions;
use super::{flamegraph, folded, json, pprof, text};

/// What an output file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// `.folded`: folded stacks.
    Folded,
    /// `.svg`: flamegraph.
    Svg,
    /// `.pb.gz`: pprof.
    Pprof,
    /// `.json`: everything.
    Json,
    /// `.txt`: the verbose text report.
    Text,
}

/// Why an output file cannot be written.
#[derive(Debug, Error)]
pub enum OutputError {
    /// The name says nothing about the format.
    #[error(
        "cannot tell the format of output file {}: its name must end in .folded, .svg, .pb.gz, .json or .txt",
        .path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file's directory is missing.
    #[error("cannot write {}: there is no directory {}; create it or name another", .path.display(), .directory.display())]
    NoDirectory {
        /// The file.
        path: PathBuf,
        /// Where it should go.
        directory: PathBuf,
    },
    /// A directory has that name.
    #[error("cannot write {}: it is a directory; name a file in it", .path.display())]
    IsDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot write {}: {source}; name a place that this user can write to", .path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Writing failed half-way; an existing file is untouched.
    #[error("writing {} failed: {source}; free space there or name another place", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OutputFormat {
    /// Format by file name.
    pub fn from_path(path: &Path) -> Result<Self, OutputError> {
        let name =
            path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let endings = [
            (".folded", Self::Folded),
            (".svg", Self::Svg),
            (".pb.gz", Self::Pprof),
            (".json", Self::Json),
            (".txt", Self::Text),
        ];
        let found = endings.into_iter().find(|(ending, _)| name.ends_with(ending));
        found.map(|(_, format)| format).ok_or_else(|| OutputError::UnknownFormat { path: path.to_owned() })
    }

    /// Writes the report in this format.
    pub fn write(self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Folded => folded::write(report, out),
            Self::Svg => flamegraph::write(report, out),
            Self::Pprof => pprof::write(report, out),
            Self::Json => json::write_pretty(report, out),
            Self::Text => text::render(report, &TextOptions { verbose: true, ..TextOptions::default() }, out),
        }
    }
}

/// How a path is going to be written.
enum Plan {
    /// A temporary file in `directory` takes the place of `file`.
    Replace { file: PathBuf, directory: PathBuf },
    /// A device, a FIFO, or another process's open file: only writing into it makes sense.
    Direct,
}

/// Finds out before tracing begins whether `path` can be written. Changes nothing and leaves nothing behind.
pub fn check_writable(path: &Path) -> Result<(), OutputError> {
    let not_writable = |source: io::Error| OutputError::NotWritable { path: path.to_owned(), source };
    match plan(path)? {
        // Opening would block on a FIFO that nobody reads yet, or disturb a device.
        Plan::Direct => access(path, Access::WRITE_OK).map_err(|error| not_writable(error.into())),
        // A file without a name: gone as soon as it is closed, even if we are killed.
        Plan::Replace { directory, .. } => tempfile::tempfile_in(directory).map(drop).map_err(not_writable),
    }
}

/// Writes the report to `path`. A regular file appears whole or not at all.
pub fn write_file(report: &Report, path: &Path, format: OutputFormat) -> Result<(), OutputError> {
    let failed = |source: io::Error| OutputError::Write { path: path.to_owned(), source };
    match plan(path)? {
        Plan::Direct => {
            // Append: /dev/stdout may be a file that the shell has already begun.
            let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
            fill(report, format, &file).map_err(failed)
        }
        Plan::Replace { file, directory } => replace(report, format, &file, &directory).map_err(failed),
    }
}

fn replace(report: &Report, format: OutputFormat, file: &Path, directory: &Path) -> io::Result<()> {
    // The mode of the file that is replaced, or what the umask leaves of rw-rw-rw-.
    let old_mode = fs::metadata(file).ok().map(|old| old.permissions());
    let temporary = Builder::new()
        .prefix(".leaktrace-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)?;
    if let Some(mode) = old_mode {
        temporary.as_file().set_permissions(mode)?;
    }
    fill(report, format, temporary.as_file())?;
    temporary.persist(file).map_err(|error| error.error)?;
    Ok(())
}

fn fill(report: &Report, format: OutputFormat, file: &File) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    format.write(report, &mut out)?;
    out.flush()
}

fn plan(path: &Path) -> Result<Plan, OutputError> {
    let not_writable = |source: io::Error| OutputError::NotWritable { path: path.to_owned(), source };
    let file = match fs::metadata(path) {
        Ok(existing) if existing.is_dir() => return Err(OutputError::IsDirectory { path: path.to_owned() }),
        Ok(existing) if is_special(existing.file_type()) || is_kernel_path(path) => return Ok(Plan::Direct),
        // The file behind a symbolic link is replaced, not the link.
        Ok(_) => fs::canonicalize(path).map_err(not_writable)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(not_writable(error)),
    };
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if !directory.is_dir() {
        return Err(OutputError::NoDirectory { path: path.to_owned(), directory });
    }
    Ok(Plan::Replace { file, directory })
}

fn is_special(kind: fs::FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
}

/// `/dev/stdout` and `/proc/self/fd/1` lead to whatever is open there; replacing that file would lose what the shell
/// writes to it next.
fn is_kernel_path(path: &Path) -> bool {
    let first = fs::read_link(path).unwrap_or_default();
    let places = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
    places.iter().any(|place| path.starts_with(place) || first.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a readable directory");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_format_follows_the_name() {
        let format = |name: &str| OutputFormat::from_path(Path::new(name));
        assert_eq!(format("a.b/leak.pb.gz").expect("known"), OutputFormat::Pprof);
        assert_eq!(format("LEAK.SVG").expect("known"), OutputFormat::Svg);
        for unknown in ["leak", "leak.gz", "dir.svg/", "dir.svg/..", ""] {
            let known = format(unknown).is_ok();
            assert_eq!(known, unknown == "dir.svg/", "{unknown:?}");
        }
    }

    #[test]
    fn checking_leaves_nothing_behind_and_existing_contents_alone() {
        let directory = directory();
        let file = directory.path().join("leak.json");
        check_writable(&file).expect("writable");
        assert!(names(directory.path()).is_empty());
        fs::write(&file, "yesterday").expect("a file");
        check_writable(&file).expect("writable");
        assert_eq!(fs::read_to_string(&file).expect("still there"), "yesterday");
    }

    #[test]
    fn what_cannot_be_written_is_refused_with_path_and_remedy() {
        let directory = directory();
        let missing = directory.path().join("nowhere/leak.json");
        let error = check_writable(&missing).expect_err("no directory").to_string();
        assert!(error.contains("nowhere/leak.json") && error.contains("create it"), "{error}");
        let error = check_writable(directory.path()).expect_err("a directory").to_string();
        assert!(error.contains("name a file in it"), "{error}");
        let error = check_writable(Path::new("/proc/self/leak.json")).expect_err("not in /proc").to_string();
        assert!(error.contains("/proc/self/leak.json"), "{error}");
        fs::write(directory.path().join("file"), "").expect("a file");
        let below_a_file = directory.path().join("file/leak.json");
        assert!(check_writable(&below_a_file).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let directory = directory();
        let file = directory.path().join("leak.folded");
        fs::write(&file, "yesterday").expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("a mode");
        write_file(&Report::default(), &file, OutputFormat::Json).expect("written");
        assert!(fs::read_to_string(&file).expect("readable").contains("\"schema\": 1"));
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(names(directory.path()), ["leak.folded"]);
    }

    #[test]
    fn a_symbolic_link_keeps_pointing_to_the_file_that_is_replaced() {
        let directory = directory();
        let (file, link) = (directory.path().join("real.json"), directory.path().join("link.json"));
        fs::write(&file, "").expect("a file");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        write_file(&Report::default(), &link, OutputFormat::Json).expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").file_type().is_symlink());
        assert!(fs::read_to_string(&file).expect("readable").contains("schema"));
    }

    #[test]
    fn a_full_device_is_an_error_and_stays_a_device() {
        let full = Path::new("/dev/full");
        check_writable(full).expect("anybody may write to it");
        let error = write_file(&Report::default(), full, OutputFormat::Text).expect_err("no space");
        assert!(matches!(error, OutputError::Write { .. }), "{error}");
        assert!(fs::metadata(full).expect("there").file_type().is_char_device());
    }

    #[test]
    fn a_fifo_is_written_into_and_not_opened_by_the_check() {
        let directory = directory();
        let fifo = directory.path().join("pipe.json");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a FIFO");
        // Would block for ever if it opened a FIFO that nobody reads.
        check_writable(&fifo).expect("writable");
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read_to_string(fifo).expect("readable")
        });
        write_file(&Report::default(), &fifo, OutputFormat::Json).expect("written");
        assert!(reader.join().expect("read").contains("schema"));
        assert!(fs::metadata(&fifo).expect("there").file_type().is_fifo());
    }
}
