//! The words of the text report: one function per phrase, values in, text out.

use std::time::{Duration, UNIX_EPOCH};

use super::group::Group;
use super::human::{base_name, bytes, duration, plural, printable, rate, signed_bytes};
use super::model::{AgeClass, Amount, Frame, Growth, ProcessReport, Reason, Report};

pub(super) fn process_title(process: &ProcessReport) -> String {
    let title = format!("{} (PID {})", printable(&process.name), process.pid);
    match &process.ended {
        Some(how) => format!("{title}: {}", printable(how)),
        None => title,
    }
}

pub(super) fn survivors(process: &ProcessReport) -> String {
    format!(
        "survivors {} ({} since the last report), {}",
        amount(process.survivors),
        signed_bytes(process.survivors_change.bytes),
        growth(process.growth)
    )
}

pub(super) fn resident(process: &ProcessReport) -> String {
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
pub(super) fn nothing_survives(process: &ProcessReport, report: &Report) -> String {
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
    if report.elapsed_s < report.min_age_s {
        return format!(
            "No survivors yet: too early. A block counts once it is older than {min_age}, and tracing began {} ago.",
            duration(report.elapsed_s)
        );
    }
    format!("No survivors: everything live is younger than {min_age}; what was older has been freed.")
}

pub(super) fn headline(rank: usize, group: &Group<'_>, min_age_s: f64) -> String {
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

pub(super) fn sum(amounts: impl Iterator<Item = Amount>) -> (u64, Amount) {
    amounts.fold((0, Amount::default()), |(count, sum), amount| (count + 1, sum.plus(amount)))
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

pub(super) fn amount(amount: Amount) -> String {
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

pub(super) fn time_of_day(unix_s: f64) -> String {
    let since = Duration::try_from_secs_f64(unix_s).unwrap_or_default();
    // Beyond the year 9999 there is no RFC 3339; the clock of a broken host must not panic us.
    let time = UNIX_EPOCH.checked_add(since).filter(|_| unix_s < 253_402_300_800.0).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// `file.c:128 function`, `function (libfoo.so)` or `libfoo.so+0x1234`.
pub(super) fn spell(frame: &Frame, verbose: bool) -> String {
    if frame.function.as_deref() == Some(Frame::SIGNAL_RETURN) {
        // As debuggers say it: the frames before it are the handler's, those behind it what the signal interrupted.
        return "<signal handler called>".to_owned();
    }
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
        let signal = Frame { function: Some(Frame::SIGNAL_RETURN.into()), ..object };
        assert_eq!(spell(&signal, false), "<signal handler called>");
    }

    #[test]
    fn a_broken_clock_does_not_panic() {
        assert_eq!(time_of_day(1_700_000_000.4), "2023-11-14T22:13:20Z");
        assert_eq!(time_of_day(f64::NAN), "1970-01-01T00:00:00Z");
        assert_eq!(time_of_day(1e300), "1970-01-01T00:00:00Z");
    }
}
