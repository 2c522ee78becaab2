//! The report for people: what survives, where it was allocated, how fast it grows, and what the report does not
//! know. Read at night by somebody who did not write the program, so every line stands on its own.

use std::collections::HashSet;
use std::io::{self, Write};

use super::group::{Group, group};
use super::heading::{self, nothing_survives, resident, survivors};
use super::human::{bytes, count, duration, moment, plural, printable, signed_bytes, signed_count};
use super::merge::{Bond, Unit, units};
use super::model::{AgeClass, Amount, GroupBy, MergeBy, Report};
use super::wording::{
    Naming, age_line, amount, headline, reason, recycled, spell, spell_function, spell_line, sum,
};
use super::{path::ShortPaths, table};

/// Frames shown of one stack; `verbose` shows all.
const FRAMES_SHOWN: usize = 24;

/// Processes (or what is seen as one) that are shown however small [`Report::top`] is; never more than the larger of both.
const UNITS_SHOWN: usize = 8;

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
    let units: Vec<Ranked<'_>> = rank(report);
    let paths = short_paths(report, &units);
    let naming = if options.verbose { Naming::Whole } else { Naming::Short(&paths) };
    let mut text = Text { report, options, naming, containers: HashSet::new(), out };
    text.header()?;
    let most = report.top.max(UNITS_SHOWN);
    let (shown, hidden) = choose(&units, most);
    for unit in shown {
        text.unit(unit)?;
    }
    text.hidden(&hidden)?;
    text.ended()?;
    text.not_shown(&units)?;
    text.truth()
}

/// A process, or what is seen as one, with its groups; as many of the first ones are printed as there are ranks.
struct Ranked<'a> {
    unit: Unit<'a>,
    /// Groups with survivors, in the order of the report.
    groups: Vec<Group<'a>>,
    /// Rank in the whole report (from 1) of each group that is printed.
    ranks: Vec<usize>,
    /// What is live in each group that has no survivors.
    young: Vec<Amount>,
}

/// Gives the groups with survivors one ranking over all units, and cuts it at `report.top`.
fn rank(report: &Report) -> Vec<Ranked<'_>> {
    let mut ranked: Vec<Ranked<'_>> = units(report)
        .into_iter()
        .map(|unit| {
            let groups = group(&unit, report.group_by, report.sort);
            let (groups, young): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|group| !group.survivors.is_zero());
            let young = young.iter().map(|group| group.live).filter(|live| !live.is_zero()).collect();
            Ranked { unit, groups, ranks: Vec::new(), young }
        })
        .collect();
    let mut order: Vec<(usize, &Group<'_>)> = Vec::new();
    for (index, unit) in ranked.iter().enumerate() {
        order.extend(unit.groups.iter().map(|group| (index, group)));
    }
    order.sort_by(|(a_index, a), (b_index, b)| a.cmp_by(b, report.sort).then(a_index.cmp(b_index)));
    // Groups of a unit are already in that order: the ranks it gets are those of its first groups.
    let owners: Vec<usize> = order.into_iter().take(report.top).map(|(index, _)| index).collect();
    for (rank, owner) in owners.into_iter().enumerate() {
        ranked[owner].ranks.push(rank + 1);
    }
    ranked
}

/// At most so many units: those with a group that is shown, then those with the largest survivors; and the others.
fn choose<'r, 'a>(units: &'r [Ranked<'a>], most: usize) -> (Vec<&'r Ranked<'a>>, Vec<&'r Ranked<'a>>) {
    let ranked = units.iter().filter(|unit| !unit.ranks.is_empty()).count();
    let mut room = most.saturating_sub(ranked);
    units.iter().partition(|unit| {
        let fits = room > 0 && unit.ranks.is_empty();
        room -= usize::from(fits);
        fits || !unit.ranks.is_empty()
    })
}

/// Short names for the source files of everything that is shown.
fn short_paths<'a>(report: &'a Report, units: &[Ranked<'a>]) -> ShortPaths<'a> {
    let shown = units.iter().flat_map(|unit| unit.groups.iter().take(unit.ranks.len()));
    ShortPaths::new(&report.application_roots(), shown.flat_map(|group| &group.largest.frames))
}

struct Text<'a> {
    report: &'a Report,
    options: &'a TextOptions,
    naming: Naming<'a>,
    /// IDs of the containers that were introduced.
    containers: HashSet<&'a str>,
    out: &'a mut dyn Write,
}

impl<'a> Text<'a> {
    fn header(&mut self) -> io::Result<()> {
        let report = self.report;
        let title = format!(
            "leaktrace report {}, {}, {} of tracing{}",
            count(report.sequence),
            moment(report.at_unix_s),
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

    fn unit(&mut self, ranked: &Ranked<'a>) -> io::Result<()> {
        let unit = &ranked.unit;
        writeln!(self.out)?;
        self.bold(&heading::title(unit))?;
        self.introduce_container(unit)?;
        let survivors = match unit.survivors().is_zero() {
            true => nothing_survives(unit, self.report),
            false => survivors(unit),
        };
        self.wrapped("    ", &survivors)?;
        self.wrapped("    ", &format!("live {}; {}", amount(unit.live()), resident(unit)))?;
        self.about_processes(unit)?;
        if self.report.group_by != GroupBy::Stack && !ranked.ranks.is_empty() {
            let min_age = duration(self.report.min_age_s);
            let legend =
                format!("size, count: survivors (alive > {min_age}), and their change since the last report");
            self.wrapped("    ", &legend)?;
            writeln!(self.out)?;
        }
        for (rank, group) in ranked.ranks.iter().zip(&ranked.groups) {
            match self.report.group_by {
                GroupBy::Stack => self.stack(*rank, group, unit)?,
                GroupBy::Function | GroupBy::Line => self.row(*rank, group, unit)?,
            }
        }
        Ok(())
    }

    /// What finds the container of a unit again, once in a report.
    fn introduce_container(&mut self, unit: &Unit<'a>) -> io::Result<()> {
        let container = match (unit.bond, unit.only()) {
            (Bond::Container(container), _) => Some(container),
            (_, Some(process)) => process.container.as_ref(),
            _ => None,
        };
        match container.filter(|container| self.containers.insert(&container.id)).and_then(heading::container)
        {
            Some(known) => self.wrapped("    ", &known),
            None => Ok(()),
        }
    }

    fn about_processes(&mut self, unit: &Unit<'_>) -> io::Result<()> {
        if let Some(members) = heading::members(unit) {
            self.wrapped("    ", &members)?;
        }
        let Some(process) = unit.only() else { return Ok(()) };
        if self.options.verbose && !process.command.is_empty() {
            self.cut(&format!("    command: {}", printable(&process.command.join(" "))))?;
        }
        if let Some(late) = process.late_s.filter(|_| self.options.verbose) {
            writeln!(self.out, "    traced from {} after it was made", duration(late))?;
        }
        Ok(())
    }

    /// Units that are not shown, in sum.
    fn hidden(&mut self, hidden: &[&Ranked<'_>]) -> io::Result<()> {
        if hidden.is_empty() {
            return Ok(());
        }
        let units = || hidden.iter().map(|ranked| &ranked.unit);
        let processes: usize = units().map(|unit| unit.processes.len()).sum();
        let (_, survivors) = sum(units().map(Unit::survivors));
        let (_, live) = sum(units().map(Unit::live));
        let rss = units().filter_map(Unit::rss_bytes).fold(0, u64::saturating_add);
        let who = plural(processes as u64, "more process");
        let remedy = match self.report.merge {
            MergeBy::Process => " (--merge container or all shows processes as one)",
            MergeBy::Container | MergeBy::All => "",
        };
        let sums = format!(
            "and {who} not shown: survivors {}, live {}, RSS {} in sum{remedy}",
            amount(survivors),
            amount(live),
            bytes(rss)
        );
        writeln!(self.out)?;
        self.wrapped("", &sums)
    }

    /// Processes that have ended and are listed no more, in sum.
    fn ended(&mut self) -> io::Result<()> {
        let ended = self.report.ended;
        if ended.processes == 0 {
            return Ok(());
        }
        let sums = format!(
            "ended before: {} that had allocated {} while traced; {} not given back went with them",
            plural(ended.processes, "process"),
            amount(ended.allocated),
            amount(ended.live_at_end)
        );
        writeln!(self.out)?;
        self.wrapped("", &sums)
    }

    fn stack(&mut self, rank: usize, group: &Group<'_>, unit: &Unit<'_>) -> io::Result<()> {
        writeln!(self.out)?;
        self.bold(&headline(rank, group, self.report.min_age_s))?;
        self.split(group, unit)?;
        if self.options.verbose {
            self.details(group)?;
            self.ages(&group.ages())?;
        }
        self.recycled(group)?;
        self.frames("    ", group)
    }

    /// A row of the table; its callers only on demand, so that the table stays one.
    fn row(&mut self, rank: usize, group: &Group<'_>, unit: &Unit<'_>) -> io::Result<()> {
        let spell = if self.report.group_by == GroupBy::Line { spell_line } else { spell_function };
        let name = group.named_after.map_or("[no stack]".to_owned(), |frame| spell(frame, self.naming));
        self.bold(&table::row(rank, &name, group))?;
        self.split(group, unit)?;
        if self.options.verbose {
            self.details(group)?;
        }
        self.recycled(group)?;
        if !self.options.verbose {
            return Ok(());
        }
        if group.members.len() > 1 {
            let largest = bytes(group.largest.survivors.bytes);
            let stacks = count(group.members.len() as u64);
            writeln!(self.out, "    from {stacks} stacks; {largest} from the largest:")?;
        }
        self.ages(&group.largest.ages)?;
        self.frames("      ", group)
    }

    /// Whose the blocks of a group are, where that is not plain from the heading.
    fn split(&mut self, group: &Group<'_>, unit: &Unit<'_>) -> io::Result<()> {
        if unit.only().is_some() {
            return Ok(());
        }
        self.wrapped("    ", &heading::split(unit, &group.split(), self.options.verbose))
    }

    fn recycled(&mut self, group: &Group<'_>) -> io::Result<()> {
        match recycled(group) {
            Some(sentence) => self.wrapped("    ", &sentence),
            None => Ok(()),
        }
    }

    fn frames(&mut self, indent: &str, group: &Group<'_>) -> io::Result<()> {
        let frames = group.frames(self.options.verbose);
        if frames.is_empty() {
            writeln!(self.out, "{indent}[no stack]")?;
        }
        let shown = if self.options.verbose { frames.len() } else { FRAMES_SHOWN };
        for frame in frames.iter().take(shown) {
            self.cut(&format!("{indent}{}", spell(frame, self.naming)))?;
        }
        if frames.len() > shown {
            let more = plural((frames.len() - shown) as u64, "more frame");
            writeln!(self.out, "{indent}... {more} (--verbose shows them)")?;
        }
        match &group.largest.truncated {
            Some(reason) => writeln!(self.out, "{indent}[the stack ends here: {}]", printable(reason)),
            None => Ok(()),
        }
    }

    fn details(&mut self, group: &Group<'_>) -> io::Result<()> {
        let id = match group.members.len() {
            1 => format!("{}, stack {:#018x}", printable(&group.largest.domain), group.largest.stack_id),
            sites => format!("{} sites", count(sites as u64)),
        };
        let details = format!(
            "{id}; live {}; allocated {}; survivors {} ({} blocks) since the last report",
            amount(group.live),
            amount(group.allocated),
            signed_bytes(group.survivors_change.bytes),
            signed_count(group.survivors_change.blocks)
        );
        self.wrapped("    | ", &details)
    }

    fn ages(&mut self, ages: &[AgeClass]) -> io::Result<()> {
        for age in ages.iter().filter(|age| !age.live.is_zero()) {
            writeln!(self.out, "    | {}", age_line(age))?;
        }
        Ok(())
    }

    fn not_shown(&mut self, units: &[Ranked<'_>]) -> io::Result<()> {
        writeln!(self.out)?;
        let noun = match self.report.group_by {
            GroupBy::Stack => "site",
            GroupBy::Function => "function",
            GroupBy::Line => "line",
        };
        let cut = units.iter().flat_map(|unit| unit.groups.iter().skip(unit.ranks.len()));
        let (sites, held) = sum(cut.map(|group| group.survivors));
        if sites > 0 {
            let who = plural(sites, &format!("more {noun}"));
            writeln!(self.out, "{who} with survivors not shown: {} (see --top)", amount(held))?;
        }
        let (sites, held) = sum(units.iter().flat_map(|unit| unit.young.iter().copied()));
        if sites > 0 {
            writeln!(self.out, "{} without survivors not shown: {} live", plural(sites, noun), amount(held))?;
        }
        Ok(())
    }

    fn truth(&mut self) -> io::Result<()> {
        if self.options.verbose {
            for line in self.report.truth.verbose_lines() {
                self.wrapped("", &line)?;
            }
        }
        self.wrapped("", &format!("truth: {}", self.report.truth_line()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paragraphs_break_between_words_within_the_width() {
        let lines = wrap("one two three four five", 11);
        assert_eq!(lines, ["one two", "  three", "  four five"]);
    }
}
