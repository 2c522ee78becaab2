//! Folded stacks, the input of every flamegraph tool: `process;outermost;...;innermost WEIGHT`, one line per distinct
//! stack, weight in bytes of survivors. The format has no place for anything else, so the truth line is missing.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use super::human::{MAX_NAME, base_name, cut_middle};
use super::merge::{Bond, Unit, units};
use super::model::{Frame, FrameKind, ProcessReport, Report, SiteReport};
use super::path::ShortPaths;
use super::plumbing;

/// What a folded frame stands for; decides its colour in a flamegraph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoldedKind {
    /// The process at the root.
    Process,
    /// Machine code of programs and libraries.
    Native,
    /// Machine code of a Python interpreter.
    Interpreter,
    /// A Python function.
    Python,
    /// Kernel or other code.
    Other,
    /// Neither: why a stack ends early, a stack that is not known.
    Note,
}

/// One frame as it is spelled in folded output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoldedFrame {
    /// The name, free of `;`, line breaks and anything else that ends a frame or a line.
    pub name: String,
    /// What it stands for.
    pub kind: FoldedKind,
}

/// One stack, outermost first, the process at the root.
pub type FoldedStack = Vec<FoldedFrame>;

/// Survivors' bytes of every distinct stack, in a fixed order.
pub fn stacks(report: &Report) -> BTreeMap<FoldedStack, u64> {
    let mut stacks = BTreeMap::new();
    let frames = report.processes.iter().flat_map(drawn).flat_map(|site| &site.frames);
    let paths = ShortPaths::new(&report.application_roots(), frames.filter(|frame| is_python(frame)));
    let units = units(report);
    for (unit, root) in units.iter().zip(roots(&units)) {
        for site in unit.processes.iter().flat_map(|process| drawn(process)) {
            let weight: &mut u64 = stacks.entry(stack(&root, site, &paths)).or_default();
            *weight = weight.saturating_add(site.survivors.bytes);
        }
    }
    stacks
}

/// The root frame of each unit: `service-77` for a process, the name of what is seen as one. No two have the same, or a
/// drawing would add them up.
fn roots(units: &[Unit<'_>]) -> Vec<FoldedFrame> {
    let plain: Vec<String> = units.iter().map(root).collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    plain.iter().for_each(|root| *uses.entry(root).or_default() += 1);
    let named = units.iter().zip(&plain).map(|(unit, root)| match uses.get(root.as_str()) {
        Some(2..) => format!("{root}-{}", distinction(unit)),
        _ => root.clone(),
    });
    named.map(|root| frame(FoldedKind::Process, &root)).collect()
}

fn root(unit: &Unit<'_>) -> String {
    let root = match unit.single() {
        Some(process) => format!("{}-{}", process.name, process.pid),
        None => unit.name(),
    };
    // No space in the root: some tools cut it at the first one, and "# " at the start of a line is a comment.
    root.replace(char::is_whitespace, "_")
}

/// What tells a unit from another one of that name: two images of one PID, two containers of different engines.
fn distinction(unit: &Unit<'_>) -> String {
    match (unit.bond, unit.processes.first()) {
        (Bond::Container(container), _) => container.id.replace(char::is_whitespace, "_"),
        (_, Some(process)) => process.serial.to_string(),
        (_, None) => String::new(),
    }
}

fn drawn(process: &ProcessReport) -> impl Iterator<Item = &SiteReport> {
    process.sites.iter().filter(|site| site.survivors.bytes > 0)
}

/// One stack as text, without its weight.
pub fn join(stack: &[FoldedFrame]) -> String {
    stack.iter().map(|frame| frame.name.as_str()).collect::<Vec<_>>().join(";")
}

/// Writes folded stacks.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for (stack, weight) in stacks(report) {
        writeln!(out, "{} {weight}", join(&stack))?;
    }
    Ok(())
}

fn stack(root: &FoldedFrame, site: &SiteReport, paths: &ShortPaths<'_>) -> FoldedStack {
    let mut stack = vec![root.clone()];
    if let Some(reason) = &site.truncated {
        stack.push(frame(FoldedKind::Note, &format!("[truncated: {reason}]")));
    }
    if site.frames.is_empty() && site.truncated.is_none() {
        stack.push(frame(FoldedKind::Note, "[no stack]"));
    }
    stack.extend(shown(site).into_iter().rev().map(|entry| frame(kind(entry), &name(entry, paths))));
    stack
}

/// The frames of a stack, innermost first: every one; of a stack with Python in it those that tell, since an interpreter
/// puts several of its own around each Python function.
pub(super) fn shown(site: &SiteReport) -> Vec<&Frame> {
    match site.frames.iter().any(is_python) {
        true => plumbing::telling(&site.frames).collect(),
        false => site.frames.iter().collect(),
    }
}

fn is_python(frame: &Frame) -> bool {
    frame.kind == FrameKind::Python
}

fn kind(frame: &Frame) -> FoldedKind {
    match frame.kind {
        FrameKind::Python => FoldedKind::Python,
        FrameKind::Other => FoldedKind::Other,
        FrameKind::Native if frame.interpreter => FoldedKind::Interpreter,
        FrameKind::Native => FoldedKind::Native,
    }
}

fn frame(kind: FoldedKind, name: &str) -> FoldedFrame {
    FoldedFrame { name: safe(name), kind }
}

fn name(frame: &Frame, paths: &ShortPaths<'_>) -> String {
    if is_python(frame) { python_name(frame, paths) } else { native_name(frame) }
}

/// `function (path/file.py:line)`, as far as known.
fn python_name(frame: &Frame, paths: &ShortPaths<'_>) -> String {
    let function = frame.function.as_deref().unwrap_or("[unknown]");
    match (frame.file.as_deref().map(|file| paths.short(file)), frame.line) {
        (Some(file), Some(line)) => format!("{function} ({file}:{line})"),
        (Some(file), None) => format!("{function} ({file})"),
        _ => function.to_owned(),
    }
}

/// `symbol`, or `object+0xoffset`, or the address where not even the object is known.
pub(super) fn native_name(frame: &Frame) -> String {
    if let Some(function) = &frame.function {
        return function.clone();
    }
    match (&frame.object, frame.virtual_offset.or(frame.file_offset)) {
        (Some(object), Some(offset)) => format!("{}+{offset:#x}", base_name(object)),
        (Some(object), None) => base_name(object).to_owned(),
        _ => format!("[unknown]+{:#x}", frame.address),
    }
}

/// Makes a name one frame of one line: `;` separates frames, a line break ends the line, a last word that is a number
/// would be read as a weight, and tools give up on lines without end.
fn safe(name: &str) -> String {
    let separated: String = cut_middle(name, MAX_NAME)
        .chars()
        .filter(|c| !matches!(c, '\u{fffe}' | '\u{ffff}'))
        .map(|c| match c {
            ';' => ':',
            c if c.is_control() || c.is_whitespace() => ' ',
            c => c,
        })
        .collect();
    let mut words: Vec<&str> = separated.split(' ').filter(|word| !word.is_empty()).collect();
    let last = words.pop().unwrap_or("[unnamed]");
    let numeric = last.chars().all(|c| c.is_ascii_digit() || c == '.');
    match (words.is_empty(), numeric) {
        (true, _) => last.to_owned(),
        (false, true) => format!("{}_{last}", words.join(" ")),
        (false, false) => format!("{} {last}", words.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_can_end_a_frame_or_a_line() {
        assert_eq!(safe("a;b\nc\td"), "a:b c d");
        assert_eq!(safe("operator new(unsigned long)"), "operator new(unsigned long)");
        assert_eq!(safe("f 12.5"), "f_12.5");
        assert_eq!(safe(" \n"), "[unnamed]");
        assert_eq!(safe("\u{1b}[1m"), "[1m");
    }

    #[test]
    fn distinct_processes_and_containers_are_never_drawn_as_one() {
        use crate::report::model::{Amount, MergeBy};
        use crate::target::Container;

        let process = |serial, name: &str, id: &str| ProcessReport {
            pid: 7,
            serial,
            name: name.into(),
            container: Some(Container { id: id.into(), name: Some("web".into()), ..Container::default() }),
            sites: vec![SiteReport { survivors: Amount { bytes: 1, blocks: 1 }, ..SiteReport::default() }],
            ..ProcessReport::default()
        };
        let processes = vec![process(1, "a", "x1"), process(2, "a", "x2"), process(3, "b", "x2")];
        let roots = |merge| {
            let report = Report { processes: processes.clone(), merge, ..Report::default() };
            stacks(&report)
                .into_iter()
                .map(|(stack, weight)| (stack[0].name.clone(), weight))
                .collect::<Vec<_>>()
        };
        let expected = |roots: &[(&str, u64)]| {
            roots.iter().map(|(root, weight)| ((*root).to_owned(), *weight)).collect::<Vec<_>>()
        };
        assert_eq!(roots(MergeBy::Process), expected(&[("a-7-1", 1), ("a-7-2", 1), ("b-7", 1)]));
        assert_eq!(roots(MergeBy::Container), expected(&[("web-x1", 1), ("web-x2", 2)]));
        assert_eq!(roots(MergeBy::All), expected(&[("all", 3)]));
    }

    #[test]
    fn python_frames_name_file_and_line() {
        let frame = Frame {
            function: Some("get".into()),
            file: Some("/srv/app/predict.py".into()),
            line: Some(57),
            kind: FrameKind::Python,
            ..Frame::default()
        };
        let paths = ShortPaths::new(&["/srv"], [&frame]);
        assert_eq!(python_name(&frame, &paths), "get (app/predict.py:57)");
        assert_eq!(native_name(&frame), "get");
    }

    #[test]
    fn frames_without_a_symbol_are_named_by_their_place() {
        let mut frame = Frame { object: Some("/lib/libfoo.so".into()), ..Frame::default() };
        frame.file_offset = Some(0x1000);
        assert_eq!(native_name(&frame), "libfoo.so+0x1000");
        frame.virtual_offset = Some(0x2000);
        assert_eq!(native_name(&frame), "libfoo.so+0x2000");
    }

    #[test]
    fn endless_names_keep_both_ends() {
        let name = safe(&format!("f{} (a.py:7)", "x".repeat(100_000)));
        assert_eq!(name.chars().count(), MAX_NAME);
        assert!(name.starts_with("fxx") && name.ends_with("xx (a.py:7)") && name.contains('…'));
    }

    proptest::proptest! {
        /// Whatever a target calls its functions: one frame, one line, and no weight but the last word of the line.
        #[test]
        fn any_name_is_safe(name in ".*( [0-9.]+)?") {
            let safe = safe(&name);
            proptest::prop_assert!(!safe.is_empty() && !safe.contains(';') && !safe.contains(char::is_control));
            let mut words: Vec<&str> = safe.split(char::is_whitespace).collect();
            proptest::prop_assert!(words.iter().all(|word| !word.is_empty()));
            let last = words.pop().unwrap_or_default();
            let numeric = last.chars().all(|c| c.is_ascii_digit() || c == '.');
            proptest::prop_assert!(words.is_empty() || !numeric);
        }
    }
}
