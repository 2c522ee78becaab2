//! The words of the text report: one function per phrase, values in, text out.

use super::group::Group;
use super::human::{MAX_NAME, base_name, bytes, cut_middle, duration, plural, printable, rate};
use super::model::{AgeClass, Amount, Frame, Growth, Reason};
use super::path::ShortPaths;

pub(super) fn headline(rank: usize, group: &Group<'_>, min_age_s: f64) -> String {
    let survivors = group.survivors;
    let mut line = format!("#{rank}  +{}  (+{}", bytes(survivors.bytes), plural(survivors.blocks, "block"));
    if let Some(average) = survivors.average_bytes().filter(|_| survivors.blocks > 1) {
        line.push_str(&format!(", {} avg", bytes(average)));
    }
    line.push_str(&format!(")  alive > {}, {}", duration(min_age_s), growth(group.growth)));
    line.push_str(&kind_of_memory(group, true));
    line
}

/// `  [thread stack]`, `  [mmap]`; which heap it is only where groups tell heaps apart.
pub(crate) fn kind_of_memory(group: &Group<'_>, heaps: bool) -> String {
    match (&group.largest.label, group.largest.domain.as_str()) {
        (Some(label), _) => format!("  [{}]", printable(label)),
        (None, "" | "malloc") => String::new(),
        (None, domain) if heaps || domain == "mmap" => format!("  [{}]", printable(domain)),
        _ => String::new(),
    }
}

/// What is to be said of a group whose blocks may have changed hands unseen.
pub(crate) fn recycled(group: &Group<'_>) -> Option<String> {
    let (part, whole) = (u128::from(group.recycled_blocks), u128::from(group.live.blocks));
    if part == 0 || whole == 0 {
        return None;
    }
    let percent = (part * 100).div_ceil(whole).min(100);
    Some(format!(
        "up to {percent} % of these blocks hold lists, dicts or the like, whose memory Python hands on without asking: they may be \
         another line's"
    ))
}

pub(super) fn sum(amounts: impl Iterator<Item = Amount>) -> (u64, Amount) {
    amounts.fold((0, Amount::default()), |(count, sum), amount| (count + 1, sum.plus(amount)))
}

pub(crate) fn growth(growth: Option<Growth>) -> String {
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

pub(crate) fn amount(amount: Amount) -> String {
    format!("{} in {}", bytes(amount.bytes), plural(amount.blocks, "block"))
}

pub(super) fn age_line(age: &AgeClass) -> String {
    let range = format!("{} to {} old", duration(age.youngest_s), duration(age.oldest_s));
    format!("{range}: {}", amount(age.live))
}

pub(super) fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Interval => String::new(),
        Reason::Requested => ": requested".to_owned(),
        Reason::ProcessEnded => ": a process ended".to_owned(),
        Reason::Final(why) => format!(": final, {}", printable(why)),
    }
}

/// How much of a path is shown.
#[derive(Clone, Copy)]
pub(crate) enum Naming<'a> {
    /// All of it.
    Whole,
    /// Source files by their short names, objects by their last part.
    Short(&'a ShortPaths<'a>),
}

impl Naming<'_> {
    fn source(self, file: &str) -> String {
        match self {
            Self::Whole => shown(file),
            Self::Short(paths) => shown(paths.short(file)),
        }
    }

    fn object(self, path: &str) -> String {
        match self {
            Self::Whole => shown(path),
            Self::Short(_) => shown(base_name(path)),
        }
    }
}

/// A name as it may reach a terminal: a target may make it as odd and as long as it likes.
fn shown(name: &str) -> String {
    printable(&cut_middle(name, MAX_NAME))
}

/// `file.py:128 function`, `function (libfoo.so)` or `libfoo.so+0x1234`.
pub(crate) fn spell(frame: &Frame, naming: Naming<'_>) -> String {
    if frame.function.as_deref() == Some(Frame::SIGNAL_RETURN) {
        // As debuggers say it: the frames before it are the handler's, those behind it what the signal interrupted.
        return "<signal handler called>".to_owned();
    }
    let function = frame.function.as_deref().map(shown);
    let mut spelled = match (&frame.file, frame.line, function) {
        (Some(file), Some(line), Some(function)) => format!("{}:{line} {function}", naming.source(file)),
        (Some(file), Some(line), None) => format!("{}:{line}", naming.source(file)),
        (Some(file), None, Some(function)) => format!("{} {function}", naming.source(file)),
        (_, _, Some(function)) => match &frame.object {
            Some(object) => format!("{function} ({})", naming.object(object)),
            None => function,
        },
        _ => place(frame, naming),
    };
    if frame.inlined {
        spelled.push_str(" (inlined)");
    }
    spelled
}

/// `file.py function`, `function (libfoo.so)`: what a group by function is called.
pub(crate) fn spell_function(frame: &Frame, naming: Naming<'_>) -> String {
    if frame.function.is_none() {
        return spell(frame, naming);
    }
    spell(&Frame { line: None, inlined: false, ..frame.clone() }, naming)
}

/// `file.py:128`; without a line `libfoo.so+0x1234 function`: what a group by line is called.
pub(crate) fn spell_line(frame: &Frame, naming: Naming<'_>) -> String {
    match (&frame.file, frame.line, &frame.function) {
        (Some(file), Some(line), _) => format!("{}:{line}", naming.source(file)),
        (Some(_), None, _) => spell_function(frame, naming),
        (None, _, Some(function)) if frame.object.is_some() => {
            format!("{} {}", place(frame, naming), shown(function))
        }
        (None, _, Some(function)) => shown(function),
        _ => place(frame, naming),
    }
}

fn place(frame: &Frame, naming: Naming<'_>) -> String {
    match (&frame.object, frame.virtual_offset.or(frame.file_offset)) {
        (Some(object), Some(offset)) => format!("{}+{offset:#x}", naming.object(object)),
        (Some(object), None) => format!("{} at {:#x}", naming.object(object), frame.address),
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
        let object =
            Frame { object: Some("/lib/libfoo.so".into()), virtual_offset: Some(0x1234), ..nothing.clone() };
        let named = Frame { function: Some("get".into()), ..object.clone() };
        let line = Frame { file: Some("/src/a.c".into()), line: Some(128), inlined: true, ..named.clone() };
        let signal = Frame { function: Some(Frame::SIGNAL_RETURN.into()), ..object.clone() };
        let paths = ShortPaths::new(&[], [&line]);
        let short = Naming::Short(&paths);
        assert_eq!(spell(&nothing, short), "[unknown] 0xdead");
        assert_eq!(spell(&object, short), "libfoo.so+0x1234");
        assert_eq!(spell(&named, short), "get (libfoo.so)");
        assert_eq!(spell(&line, short), "a.c:128 get (inlined)");
        assert_eq!(spell(&line, Naming::Whole), "/src/a.c:128 get (inlined)");
        assert_eq!(spell(&signal, short), "<signal handler called>");
        assert_eq!(spell_function(&line, short), "a.c get");
        assert_eq!(spell_function(&named, short), "get (libfoo.so)");
        assert_eq!(spell_line(&line, short), "a.c:128");
        assert_eq!(spell_line(&named, short), "libfoo.so+0x1234 get");
        assert_eq!(spell_line(&nothing, short), "[unknown] 0xdead");
    }

    #[test]
    fn names_of_any_length_fit_a_line() {
        let endless = Frame { function: Some("f".repeat(1 << 20)), ..Frame::default() };
        assert_eq!(spell(&endless, Naming::Whole).chars().count(), MAX_NAME);
    }
}
