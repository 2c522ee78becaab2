//! The line on stderr that tells where a thread was stopped for a test (`--stop-one-in`): one JSON object.

use leaktrace_common::{event::STOPPED, walk::end};
use serde::Serialize;

use crate::kernel::StackRecord;

#[derive(Serialize)]
struct Line {
    /// The thread.
    stopped: u32,
    /// Stack pointer at the first instruction of the allocating function.
    entry_sp: String,
    /// Why the walk ended.
    walk_end: &'static str,
    /// As the kernel side sent them, innermost first; bit 63 is set where the address itself was interrupted.
    frames: Vec<String>,
}

/// The line for a record of a stop. `None` for every other record.
pub fn line(record: &StackRecord) -> Option<String> {
    let header = &record.header;
    if header.walk_end & STOPPED == 0 {
        return None;
    }
    let reason = usize::try_from(header.walk_end & !STOPPED).ok();
    let line = Line {
        stopped: header.tid,
        entry_sp: format!("{:#x}", header.stack_id),
        walk_end: reason.and_then(|reason| end::NAMES.get(reason)).unwrap_or(&"unknown reason"),
        frames: record.frames.iter().map(|frame| format!("{:#x}", frame.0)).collect(),
    };
    serde_json::to_string(&line).ok()
}

#[cfg(test)]
mod tests {
    use leaktrace_common::event::StackHeader;

    use super::*;
    use crate::object::address::AbsoluteAddress;

    #[test]
    fn only_a_stop_has_a_line() {
        let header = StackHeader { stack_id: 0x7ff8, tid: 9, ..StackHeader::default() };
        let mut record =
            StackRecord { header, frames: vec![AbsoluteAddress(0x8000_0000_0000_1000)], python: Vec::new() };
        assert_eq!(line(&record), None);
        record.header.walk_end = STOPPED | u32::from(end::TOO_DEEP);
        let expected = r#"{"stopped":9,"entry_sp":"0x7ff8","walk_end":"deeper than 127 frames","frames":["0x8000000000001000"]}"#;
        assert_eq!(line(&record).as_deref(), Some(expected));
    }
}
