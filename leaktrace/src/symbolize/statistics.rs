//! What became of the frames: numbers, and why some have no name.

use std::collections::BTreeMap;

use super::debug_file;
use super::generated;
use super::lookup::{Call, Nameless};
use super::objects::Unreadable;
use super::python::PythonStatistics;
use super::snapshot::SnapshotError;
use crate::python::code::Gone;

/// Why frames have no name, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unresolved {
    /// The address was in no mapping when the frame was seen.
    Unmapped,
    /// It lies in memory without a file: generated code, or no code at all.
    Anonymous,
    /// It lies in a mapping that the kernel provides, such as `[vdso]`.
    KernelProvided,
    /// The object's file cannot be read.
    Object(Unreadable),
    /// The object has no symbol for it (stripped, and no debug file found).
    NoSymbol,
    /// The object's symbols are damaged.
    Damaged,
    /// The object's symbol tables are too large to be copied.
    TooLarge,
    /// The code object of a Python frame could not be read.
    Code(Gone),
    /// The cap on names was reached.
    TextCap,
    /// The table of frames was full.
    FrameCap,
}

impl Unresolved {
    /// In words, for the truth line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Unmapped => "address was not mapped any more",
            Self::Anonymous => "generated code or memory without a file",
            Self::KernelProvided => "mapping provided by the kernel",
            Self::Object(reason) => reason.describe(),
            Self::NoSymbol => "object has no symbol there",
            Self::Damaged => "object's symbols are damaged",
            Self::TooLarge => "object's symbol tables are too large",
            Self::Code(reason) => reason.describe(),
            Self::TextCap => "too many names",
            Self::FrameCap => "too many frames",
        }
    }

    /// For an address in a mapping that is no file.
    pub(super) fn of_memory(label: Option<&str>) -> Self {
        match label {
            Some(label) if label.starts_with("[v") || label.starts_with("[uprobes") => Self::KernelProvided,
            _ => Self::Anonymous,
        }
    }
}

impl From<SnapshotError> for Unresolved {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::TooLarge => Self::TooLarge,
            SnapshotError::Outline(_) | SnapshotError::Io(_) => Self::Damaged,
        }
    }
}

/// Numbers for the truth line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Distinct frames.
    pub frames: u64,
    /// Of these, how many were found to have no name; frames that were never shown do not count.
    pub unresolved_frames: u64,
    /// The same by reason.
    pub unresolved_by_reason: BTreeMap<&'static str, u64>,
    /// Frames refused because the table is full (each time one is seen again counts).
    pub refused_frames: u64,
    /// Objects.
    pub objects: u64,
    /// Object files held open.
    pub open_objects: u64,
    /// Objects whose debug information was left out: too large, damaged, or compressed in an unsupported way.
    pub debug_left_out: u64,
    /// Files that were looked at for names and not believed, by reason: debug files, perf maps.
    pub refused_files: BTreeMap<&'static str, u64>,
    /// Lines of perf maps that name no code.
    pub malformed_lines: u64,
    /// Bytes of names and paths.
    pub text_bytes: u64,
    /// Python code.
    pub python: PythonStatistics,
}

impl Statistics {
    /// What the reader of a report should know about its names, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let refused = self.refused_files.iter().map(|(reason, count)| format!("names: {reason} ({count})"));
        let mut notes: Vec<String> = refused.collect();
        if self.malformed_lines > 0 {
            notes.push(format!("names: {} lines of perf maps name no code", self.malformed_lines));
        }
        if self.debug_left_out > 0 {
            notes.push(format!(
                "names: debug information of {} objects left out (too large or damaged)",
                self.debug_left_out
            ));
        }
        if self.python.without_lines > 0 {
            notes.push(format!(
                "names: {} Python functions show no line, their line tables are too large or not readable",
                self.python.without_lines
            ));
        }
        notes
    }
}

/// Counts of refused files by reason, in words.
pub(super) fn refused_files(
    debug_files: &BTreeMap<debug_file::Refused, u64>,
    perf_maps: &BTreeMap<generated::Refused, u64>,
) -> BTreeMap<&'static str, u64> {
    let debug_files = debug_files.iter().map(|(reason, &count)| (reason.describe(), count));
    debug_files.chain(perf_maps.iter().map(|(reason, &count)| (reason.describe(), count))).collect()
}

/// A line without a function is no name.
pub(super) fn accepted(found: Result<Vec<Call>, Nameless>) -> Result<Vec<Call>, Unresolved> {
    match found {
        Ok(calls) if calls.iter().any(|call| call.function.is_some()) => Ok(calls),
        Ok(_) | Err(Nameless::NoSymbol) => Err(Unresolved::NoSymbol),
        Err(Nameless::Damaged) => Err(Unresolved::Damaged),
    }
}
