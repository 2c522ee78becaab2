//! A site in the words of people who have no report before them: the line that it is known by, and its stack without plumbing.

use super::{
    group::named_after,
    model::{GroupBy, SiteReport},
    path::ShortPaths,
    plumbing,
    wording::{Naming, spell},
};

/// Lines of a stack that are kept.
pub const MAX_LINES: usize = 32;

/// `file.py:12 function`, else function and object: of the innermost Python frame, else of the innermost frame outside the
/// allocator that has a line. Paths are shortened as in the text report.
pub fn line(site: &SiteReport, application_roots: &[&str]) -> String {
    let paths = ShortPaths::new(application_roots, &site.frames);
    match named_after(site, GroupBy::Line) {
        Some(frame) => spell(frame, Naming::Short(&paths)),
        None => "[no stack]".to_owned(),
    }
}

/// The stack, innermost first, without plumbing; at most [`MAX_LINES`].
pub fn stack(site: &SiteReport, application_roots: &[&str]) -> Vec<String> {
    let paths = ShortPaths::new(application_roots, &site.frames);
    plumbing::telling(&site.frames).take(MAX_LINES).map(|frame| spell(frame, Naming::Short(&paths))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Frame, FrameKind};

    #[test]
    fn a_site_is_known_by_its_python_line_and_shown_with_its_callers() {
        let python = |function: &str, line| Frame {
            kind: FrameKind::Python,
            function: Some(function.into()),
            file: Some("/srv/app/log.py".into()),
            line: Some(line),
            ..Frame::default()
        };
        let native = Frame {
            function: Some("list_resize".into()),
            object: Some("/usr/bin/python3".into()),
            interpreter: true,
            ..Frame::default()
        };
        let site = SiteReport {
            frames: vec![native, python("record", 7), python("get", 9)],
            ..SiteReport::default()
        };
        assert_eq!(line(&site, &["/srv/app"]), "log.py:7 record");
        assert_eq!(stack(&site, &["/srv/app"]), ["log.py:7 record", "log.py:9 get"]);
        assert_eq!(line(&SiteReport::default(), &[]), "[no stack]");
    }
}
