//! The report for people: what survives, where it was allocated, how fast it grows, and what the report does not
//! know. Read at night by somebody who did not write the program, so every line stands on its own.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use super::group::{Group, group};
use super::human::{base_name, bytes, count, duration, plural, printable, rate, signed_bytes, signed_count};
use super::model::{AgeClass, Amount, Frame, GroupBy, Growth, ProcessReport, Reason, Report};

/// Frames shown of one stack; `verbose` shows all.
const FRAMES_SHOWN: usize = 24;

/// How the text is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// All frames, plumbing, whole paths, ages, counters.
    pub verbose: bool,
    /// Columns of the terminal: frames are cut, the truth line is wrapped. `None`: as long as they are.
    pub width: Option<usize>,
    /// Whether headlines are bold, with terminal escapes.
    pub colour: bool,
}

/// Writes the report as text.
pub fn render(report: &Report, options: &TextOptions, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Text { report, options, out };
    text.header()?;
    let processes: Vec<Ranked<'_>> = rank(report, options.verbose);
    for process in &processes {
        text.process(process)?;
    }
    text.not_shown(&processes)?;
    text.truth()
}

/// A process with its groups; only the first `shown` are printed.
struct Ranked<'a> {
    process: &'a ProcessReport,
    groups: Vec<Group<'a>>,
    /// Rank in the whole report (from 1) of each group that is printed.
    ranks: Vec<usize>,
}

/// Gives the groups with survivors one ranking over all processes, and cuts it at `report.top`.
fn rank(report: &Report, verbose: bool) -> Vec<Ranked<'_>> {
    let mut ranked: Vec<Ranked<'_>> = report
        .processes
        .iter()
        .map(|process| {
            let mut groups = group(process, report.group_by, report.sort, verbose);
            groups.retain(|group| !group.survivors.is_zero());
            Ranked { process, groups, ranks: Vec::new() }
        })
        .collect();
    let mut order: Vec<(usize, &Group<'_>)> = Vec::new();
    for (index, process) in ranked.iter().enumerate() {
        order.extend(process.groups.iter().map(|group| (index, group)));
    }
    order.sort_by(|(a_index, a), (b_index, b)| a.cmp_by(b, report.sort).then(a_index.cmp(b_index)));
    // Groups of a process are already in that order: the ranks it gets are those of its first groups.
    let owners: Vec<usize> = order.into_iter().take(report.top).map(|(index, _)| index).collect();
    for (rank, owner) in owners.into_iter().enumerate() {
        ranked[owner].ranks.push(rank + 1);
    }
    ranked
}

struct Text<'a> {
    report: &'a Report,
    options: &'a TextOptions,
    out: &'a mut dyn Write,
}

impl Text<'_> {
    fn header(&mut self) -> io::Result<()> {
        let report = self.report;
        let title = format!(
            "leaktrace report {}, {}, {} of tracing{}",
            count(report.sequence),
            time_of_day(report.at_unix_s),
            duration(report.elapsed_s),
            reason(&report.reason)
        );
        self.bold(&title)?;
        if self.options.verbose {
            writeln!(
                self.out,
                "leaktrace {}, kernel {}, every {}, survivors are blocks alive > {}",
                printable(&report.leaktrace_version),
                printable(&report.kernel),
                duration(report.interval_s),
                duration(report.min_age_s)
            )?;
        }
        if report.processes.is_empty() {
            writeln!(self.out, "\nNo process is being traced.")?;
        }
        Ok(())
    }

    fn process(&mut self, ranked: &Ranked<'_>) -> io::Result<()> {
        let process = ranked.process;
        writeln!(self.out)?;
        self.bold(&process_title(process))?;
        self.wrapped("    ", &process_summary(process))?;
        if self.options.verbose && !process.command.is_empty() {
            self.cut(&format!("    command: {}", printable(&process.command.join(" "))))?;
        }
        if process.survivors.is_zero() {
            return self.wrapped("    ", &nothing_survives(process, self.report));
        }
        for (rank, group) in ranked.ranks.iter().zip(&ranked.groups) {
            self.group(*rank, group)?;
        }
        Ok(())
    }

    fn group(&mut self, rank: usize, group: &Group<'_>) -> io::Result<()> {
        writeln!(self.out)?;
        self.bold(&headline(rank, group, self.report.min_age_s))?;
        if self.options.verbose {
            self.details(group)?;
        }
        let frames = group.frames;
        match frames.split_first() {
            None => writeln!(self.out, "    [no stack]")?,
            Some((named_after, callers)) if self.report.group_by != GroupBy::Stack => {
                self.cut(&format!("    {}", self.name_of_group(named_after)))?;
                self.callers_of_largest(group, callers)?;
            }
            Some(_) => self.frames("    ", frames)?,
        }
        if let Some(reason) = &group.largest.truncated {
            writeln!(self.out, "    [the stack ends here: {}]", printable(reason))?;
        }
        Ok(())
    }

    /// For groups by function or line: the callers of the biggest member, said to be just that.
    fn callers_of_largest(&mut self, group: &Group<'_>, callers: &[Frame]) -> io::Result<()> {
        if group.sites > 1 {
            let largest = bytes(group.largest.survivors.bytes);
            writeln!(
                self.out,
                "      from {} stacks; {largest} from the largest:",
                count(group.sites as u64)
            )?;
        }
        self.frames("      ", callers)
    }

    fn name_of_group(&self, frame: &Frame) -> String {
        if self.report.group_by == GroupBy::Function && frame.function.is_some() {
            let whole = Frame { line: None, file: None, ..frame.clone() };
            return spell(&whole, self.options.verbose);
        }
        spell(frame, self.options.verbose)
    }

    fn frames(&mut self, indent: &str, frames: &[Frame]) -> io::Result<()> {
        let shown = if self.options.verbose { frames.len() } else { FRAMES_SHOWN };
        for frame in frames.iter().take(shown) {
            self.cut(&format!("{indent}{}", spell(frame, self.options.verbose)))?;
        }
        if frames.len() > shown {
            let more = plural((frames.len() - shown) as u64, "more frame");
            writeln!(self.out, "{indent}... {more} (--verbose shows them)")?;
        }
        Ok(())
    }

    fn details(&mut self, group: &Group<'_>) -> io::Result<()> {
        let id = match group.sites {
            1 => format!("stack {:#018x}", group.largest.stack_id),
            sites => format!("{} sites", count(sites as u64)),
        };
        let details = format!(
            "{}, {id}; live {}; allocated {}; survivors {} ({} blocks) since the last report",
            printable(&group.largest.domain),
            amount(group.live),
            amount(group.allocated),
            signed_bytes(group.survivors_change.bytes),
            signed_count(group.survivors_change.blocks)
        );
        self.wrapped("    | ", &details)?;
        for age in group.largest.ages.iter().filter(|age| !age.live.is_zero()) {
            writeln!(self.out, "    | {}", age_line(age))?;
        }
        Ok(())
    }

    fn not_shown(&mut self, ranked: &[Ranked<'_>]) -> io::Result<()> {
        let mut sites = 0u64;
        let mut held = Amount::default();
        for group in ranked.iter().flat_map(|process| process.groups.iter().skip(process.ranks.len())) {
            sites += 1;
            held = held.plus(group.survivors);
        }
        if sites == 0 {
            return writeln!(self.out);
        }
        let noun = match self.report.group_by {
            GroupBy::Stack => "more site",
            GroupBy::Function => "more function",
            GroupBy::Line => "more line",
        };
        let verb = if sites == 1 { "holds" } else { "hold" };
        writeln!(self.out, "\n{} not shown {verb} {} (see --top)\n", plural(sites, noun), amount(held))
    }

    fn truth(&mut self) -> io::Result<()> {
        if self.options.verbose {
            for line in self.report.truth.verbose_lines() {
                self.wrapped("", &line)?;
            }
        }
        self.wrapped("", &format!("truth: {}", self.report.truth.line()))
    }

    fn bold(&mut self, line: &str) -> io::Result<()> {
        if self.options.colour {
            return writeln!(self.out, "\u{1b}[1m{line}\u{1b}[0m");
        }
        writeln!(self.out, "{line}")
    }

    /// A line cut at the width of the terminal.
    fn cut(&mut self, line: &str) -> io::Result<()> {
        match self.options.width {
            Some(width) if width > 0 && line.chars().count() > width => {
                let kept: String = line.chars().take(width - 1).collect();
                writeln!(self.out, "{kept}…")
            }
            _ => writeln!(self.out, "{line}"),
        }
    }

    /// A paragraph broken between words at the width of the terminal.
    fn wrapped(&mut self, indent: &str, paragraph: &str) -> io::Result<()> {
        let width = self.options.width.unwrap_or(usize::MAX).saturating_sub(indent.len()).max(20);
        for line in wrap(paragraph, width) {
            writeln!(self.out, "{indent}{line}")?;
        }
        Ok(())
    }
}

fn wrap(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in paragraph.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            // The rest is indented, so that it is not taken for a line of its own.
            lines.push("  ".to_owned());
            used = 2;
        } else if used > 0 {
            lines.last_mut().into_iter().for_each(|line| line.push(' '));
            used += 1;
        }
        lines.last_mut().into_iter().for_each(|line| line.push_str(word));
        used += length;
    }
    lines
}

fn process_title(process: &ProcessReport) -> String {
    let title = format!("{} (PID {})", printable(&process.name), process.pid);
    match &process.ended {
        Some(how) => format!("{title}: {}", printable(how)),
        None => title,
    }
}

fn process_summary(process: &ProcessReport) -> String {
    format!(
        "survivors {} ({} since the last report), {}; live {}; {}",
        amount(process.survivors),
        signed_bytes(process.survivors_change.bytes),
        growth(process.growth),
        amount(process.live),
        resident(process)
    )
}

fn resident(process: &ProcessReport) -> String {
    let now = if process.ended.is_some() { "last RSS" } else { "RSS" };
    match (process.rss_bytes, process.rss_at_attach_bytes) {
        (Some(rss), Some(before)) => {
            let change = i128::from(rss) - i128::from(before);
            let change = i64::try_from(change).unwrap_or(i64::MAX);
            format!("{now} {} ({} since tracing began)", bytes(rss), signed_bytes(change))
        }
        (Some(rss), None) => format!("{now} {}", bytes(rss)),
        _ => "RSS unknown".to_owned(),
    }
}

/// Why there is nothing to show: the reader must be able to tell "too early" from "no leak" from "not seen".
fn nothing_survives(process: &ProcessReport, report: &Report) -> String {
    let min_age = duration(report.min_age_s);
    if process.allocated.is_zero() {
        return format!(
            "No survivors: not one allocation was seen. The process is idle, or it allocates in a way that is not \
             hooked; `leaktrace doctor -p {}` shows what is.",
            process.pid
        );
    }
    if process.live.is_zero() {
        let allocated = plural(process.allocated.blocks, "block");
        return format!("No survivors: of the {allocated} allocated while traced, every one was freed.");
    }
    let live = amount(process.live);
    if report.elapsed_s < report.min_age_s {
        return format!(
            "No survivors yet: too early. A block counts once it is older than {min_age}, and tracing began {} ago; \
             {live} are live.",
            duration(report.elapsed_s)
        );
    }
    format!("No survivors: everything live ({live}) is younger than {min_age}; what is older has been freed.")
}

fn headline(rank: usize, group: &Group<'_>, min_age_s: f64) -> String {
    let survivors = group.survivors;
    let mut line = format!("#{rank}  +{}  (+{}", bytes(survivors.bytes), plural(survivors.blocks, "block"));
    if let Some(average) = survivors.average_bytes().filter(|_| survivors.blocks > 1) {
        line.push_str(&format!(", {} avg", bytes(average)));
    }
    line.push_str(&format!(")  alive > {}, {}", duration(min_age_s), growth(group.growth)));
    if let Some(label) = &group.largest.label {
        line.push_str(&format!("  [{}]", printable(label)));
    } else if group.largest.domain != "malloc" {
        line.push_str(&format!("  [{}]", printable(&group.largest.domain)));
    }
    line
}

fn growth(growth: Option<Growth>) -> String {
    let Some(growth) = growth else { return "too early to tell growth".to_owned() };
    let slope = rate(growth.bytes_per_hour);
    // Less than a byte an hour is the noise of a fit through a flat line.
    match growth.bytes_per_hour {
        up if up >= 1.0 && growth.steady_s > 0.0 => {
            format!("growing {slope}, steady for {}", duration(growth.steady_s))
        }
        up if up >= 1.0 => format!("up {slope} over {}, but falling back", duration(growth.observed_s)),
        down if down <= -1.0 => format!("shrinking {slope}"),
        _ => format!("not growing for {}", duration(growth.observed_s)),
    }
}

fn amount(amount: Amount) -> String {
    format!("{} in {}", bytes(amount.bytes), plural(amount.blocks, "block"))
}

fn age_line(age: &AgeClass) -> String {
    let range = format!("{} to {} old", duration(age.youngest_s), duration(age.oldest_s));
    format!("{range}: {}", amount(age.live))
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Interval => String::new(),
        Reason::Requested => ": requested".to_owned(),
        Reason::ProcessEnded => ": a process ended".to_owned(),
        Reason::Final(why) => format!(": final, {}", printable(why)),
    }
}

fn time_of_day(unix_s: f64) -> String {
    let since = Duration::try_from_secs_f64(unix_s).unwrap_or_default();
    // Beyond the year 9999 there is no RFC 3339; the clock of a broken host must not panic us.
    let time = UNIX_EPOCH.checked_add(since).filter(|_| unix_s < 253_402_300_800.0).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// `file.c:128 function`, `function (libfoo.so)` or `libfoo.so+0x1234`.
fn spell(frame: &Frame, verbose: bool) -> String {
    let short = |path: &str| printable(if verbose { path } else { base_name(path) });
    let function = frame.function.as_deref().map(printable);
    let mut spelled = match (&frame.file, frame.line, function) {
        (Some(file), Some(line), Some(function)) => format!("{}:{line} {function}", short(file)),
        (Some(file), Some(line), None) => format!("{}:{line}", short(file)),
        (Some(file), None, Some(function)) => format!("{} {function}", short(file)),
        (_, _, Some(function)) => match &frame.object {
            Some(object) => format!("{function} ({})", short(object)),
            None => function,
        },
        _ => place(frame, short),
    };
    if frame.inlined {
        spelled.push_str(" (inlined)");
    }
    spelled
}

fn place(frame: &Frame, short: impl Fn(&str) -> String) -> String {
    match (&frame.object, frame.virtual_offset.or(frame.file_offset)) {
        (Some(object), Some(offset)) => format!("{}+{offset:#x}", short(object)),
        (Some(object), None) => format!("{} at {:#x}", short(object), frame.address),
        _ => format!("[unknown] {:#x}", frame.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growing(bytes_per_hour: f64, steady_s: f64) -> String {
        growth(Some(Growth { bytes_per_hour, observed_s: 90.0, steady_s }))
    }

    #[test]
    fn growth_is_said_in_words_that_cannot_be_misread() {
        assert_eq!(growing(1_677_721.6, 2460.0), "growing 1.6 MiB/h, steady for 41 min");
        assert_eq!(growing(5000.0, 0.0), "up 4.9 KiB/h over 1 min 30 s, but falling back");
        assert_eq!(growing(-5000.0, 0.0), "shrinking 4.9 KiB/h");
        assert_eq!(growing(0.2, 9.0), "not growing for 1 min 30 s");
        assert_eq!(growth(None), "too early to tell growth");
    }

    #[test]
    fn frames_are_spelled_by_what_is_known_of_them() {
        let nothing = Frame { address: 0xdead, ..Frame::default() };
        assert_eq!(spell(&nothing, false), "[unknown] 0xdead");
        let object =
            Frame { object: Some("/lib/libfoo.so".into()), virtual_offset: Some(0x1234), ..nothing.clone() };
        assert_eq!(spell(&object, false), "libfoo.so+0x1234");
        let named = Frame { function: Some("get".into()), ..object.clone() };
        assert_eq!(spell(&named, false), "get (libfoo.so)");
        let line = Frame { file: Some("/src/a.c".into()), line: Some(128), inlined: true, ..named };
        assert_eq!(spell(&line, false), "a.c:128 get (inlined)");
        assert_eq!(spell(&line, true), "/src/a.c:128 get (inlined)");
    }

    #[test]
    fn long_paragraphs_break_between_words_within_the_width() {
        let lines = wrap("one two three four five", 11);
        assert_eq!(lines, ["one two", "  three", "  four five"]);
    }

    #[test]
    fn a_broken_clock_does_not_panic() {
        assert_eq!(time_of_day(1_700_000_000.4), "2023-11-14T22:13:20Z");
        assert_eq!(time_of_day(f64::NAN), "1970-01-01T00:00:00Z");
        assert_eq!(time_of_day(1e300), "1970-01-01T00:00:00Z");
    }
}
