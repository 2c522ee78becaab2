//! What of a report the user wants to see, and in which order.

use crate::report::model::{Frame, GroupBy, MergeBy, ProcessReport, SiteReport, SortKey};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// Order of suspects.
    pub sort: SortKey,
    /// What is one suspect.
    pub group_by: GroupBy,
    /// How processes are put together in their list.
    pub merge: MergeBy,
    /// Only this process, or only this container; `None`: all of them together.
    pub only: Option<UnitKey>,
    /// Only sites with this in their stacks.
    pub search: String,
    /// Whether frames that say little are shown too.
    pub plumbing: bool,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            sort: SortKey::Bytes,
            group_by: GroupBy::Line,
            merge: MergeBy::Process,
            only: None,
            search: String::new(),
            plumbing: false,
        }
    }
}

/// What identifies an entry of the list of processes from one report to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnitKey {
    /// PID and serial.
    Process(u32, u32),
    /// The container's ID.
    Container(String),
}

impl UnitKey {
    /// Whether a process belongs to it.
    pub(super) fn holds(&self, process: &ProcessReport) -> bool {
        match self {
            Self::Process(pid, serial) => (process.pid, process.serial) == (*pid, *serial),
            Self::Container(id) => process.container.as_ref().is_some_and(|container| container.id == *id),
        }
    }
}

/// Whether a site has the text in a name or a path of its stack, its kind of memory included. Case does not matter in ASCII.
pub(super) fn mentions(site: &SiteReport, text: &str) -> bool {
    let found = |name: &Option<String>| name.as_deref().is_some_and(|name| contains(name, text));
    let in_frame = |frame: &Frame| found(&frame.function) || found(&frame.file) || found(&frame.object);
    text.is_empty() || found(&site.label) || contains(&site.domain, text) || site.frames.iter().any(in_frame)
}

fn contains(name: &str, text: &str) -> bool {
    name.as_bytes().windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_looks_at_every_name_of_the_stack() {
        let frame =
            Frame { function: Some("Record".into()), file: Some("/srv/log.py".into()), ..Frame::default() };
        let site = SiteReport { frames: vec![Frame::default(), frame], ..SiteReport::default() };
        assert!(mentions(&site, "") && mentions(&site, "record") && mentions(&site, "LOG.PY"));
        assert!(!mentions(&site, "recorder"));
    }
}
