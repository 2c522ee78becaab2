//! Numbers and names as people read them: binary units, thousands separators, ages. Names come from the target and
//! end up on a terminal, so nothing here lets a control character through.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Most characters of one name (of a function, of a file) in text and in folded stacks.
pub const MAX_NAME: usize = 512;

/// `24 B`, `3.9 MiB`.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    scaled(bytes as f64)
}

/// `+3.9 MiB`, `-24 B`, `0 B`.
pub fn signed_bytes(change: i64) -> String {
    format!("{}{}", sign(change), bytes(change.unsigned_abs()))
}

/// `168,388`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `+1,024`, `-3`, `0`.
pub fn signed_count(change: i64) -> String {
    format!("{}{}", sign(change), count(change.unsigned_abs()))
}

/// `1 block`, `2,000 blocks`.
pub fn plural(number: u64, noun: &str) -> String {
    format!("{} {}", count(number), noun_of(number, noun))
}

/// The noun for so many: it takes an `s` (`block`) or `es` (`process`) unless there is exactly one.
pub fn noun_of(number: u64, noun: &str) -> String {
    let ending = match number {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{noun}{ending}")
}

/// A rate in bytes per hour, without its sign: `1.6 MiB/h`.
pub fn rate(bytes_per_hour: f64) -> String {
    let rate = bytes_per_hour.abs();
    if !rate.is_finite() {
        return "? B/h".to_owned();
    }
    if rate < 1024.0 {
        return format!("{rate:.0} B/h");
    }
    format!("{}/h", scaled(rate))
}

/// `0.25 s`, `41 min`, `2 h 5 min`, `3 d 4 h`. At most two units; what is left over is cut off.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "? s".to_owned();
    }
    if seconds < 10.0 {
        let text = format!("{seconds:.2}");
        return format!("{} s", text.trim_end_matches('0').trim_end_matches('.'));
    }
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// A moment in seconds since the Unix epoch: `2023-11-14T22:13:20Z`.
pub fn moment(unix_s: f64) -> String {
    let since = Duration::try_from_secs_f64(unix_s).unwrap_or_default();
    // Beyond the year 9999 there is no RFC 3339; the clock of a broken host must not panic us.
    let time = UNIX_EPOCH.checked_add(since).filter(|_| unix_s < 253_402_300_800.0).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Share of `whole` in percent: `3 %`, `0.4 %`, `< 0.1 %`. Empty tables are 0 % full.
pub fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    match share {
        share if share < 0.1 => "< 0.1 %".to_owned(),
        share if share < 10.0 => format!("{share:.1} %"),
        // 99.97 must not read as "100 %": that word means full.
        share if share < 100.0 => format!("{} %", share.floor()),
        share => format!("{share:.0} %"),
    }
}

/// The name with every control character (an escape sequence of a terminal, a line break) made visible.
pub fn printable(name: &str) -> String {
    if !name.chars().any(is_unprintable) {
        return name.to_owned();
    }
    name.chars().map(|c| if is_unprintable(c) { '\u{fffd}' } else { c }).collect()
}

/// Control characters, and the marks that reorder or hide text.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// A name of at most `max` characters: of a longer one the middle gives way to an ellipsis, since names differ at their
/// ends.
pub fn cut_middle(name: &str, max: usize) -> Cow<'_, str> {
    // No character is shorter than a byte.
    if name.len() <= max || name.chars().count() <= max {
        return Cow::Borrowed(name);
    }
    let kept = max.saturating_sub(1);
    let head: String = name.chars().take(kept.div_ceil(2)).collect();
    let tail = name.char_indices().rev().take(kept / 2).last().map_or(name.len(), |(begin, _)| begin);
    Cow::Owned(format!("{head}…{}", name.get(tail..).unwrap_or("")))
}

/// The last component of a path; the whole of it if there is none.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

fn scaled(bytes: f64) -> String {
    let mut value = bytes / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as "1024.0": what rounds up to the next unit belongs to it.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn two(major: u64, major_unit: &str, minor: u64, minor_unit: &str) -> String {
    if minor == 0 {
        return format!("{major} {major_unit}");
    }
    format!("{major} {major_unit} {minor} {minor_unit}")
}

fn sign(change: i64) -> &'static str {
    match change {
        0 => "",
        1.. => "+",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_use_binary_units_and_never_show_1024_of_one() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(4_041_312), "3.9 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn changes_carry_their_sign_and_zero_has_none() {
        assert_eq!(signed_bytes(2048), "+2.0 KiB");
        assert_eq!(signed_bytes(i64::MIN), "-8.0 EiB");
        assert_eq!(signed_bytes(0), "0 B");
        assert_eq!(signed_count(-1_000), "-1,000");
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(count(7), "7");
        assert_eq!(count(999), "999");
        assert_eq!(count(168_388), "168,388");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(plural(1, "block"), "1 block");
        assert_eq!(plural(0, "block"), "0 blocks");
        assert_eq!(plural(1, "more process"), "1 more process");
        assert_eq!(plural(2_000, "process"), "2,000 processes");
    }

    #[test]
    fn durations_name_at_most_two_units() {
        assert_eq!(duration(0.0), "0 s");
        assert_eq!(duration(0.1), "0.1 s");
        assert_eq!(duration(59.9), "59 s");
        assert_eq!(duration(2460.0), "41 min");
        assert_eq!(duration(3725.0), "1 h 2 min");
        assert_eq!(duration(90_000.0), "1 d 1 h");
        assert_eq!(duration(f64::NAN), "? s");
    }

    #[test]
    fn a_table_that_is_nearly_full_does_not_read_as_full() {
        assert_eq!(percent(9_999, 10_000), "99 %");
        assert_eq!(percent(10_000, 10_000), "100 %");
        assert_eq!(percent(1, 1_000_000), "< 0.1 %");
        assert_eq!(percent(0, 0), "0 %");
    }

    #[test]
    fn rates_survive_values_that_are_no_numbers() {
        assert_eq!(rate(-1.6 * 1024.0 * 1024.0), "1.6 MiB/h");
        assert_eq!(rate(f64::INFINITY), "? B/h");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable("größe"), "größe");
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(cut_middle("abcdefgh", 8), "abcdefgh");
        assert_eq!(cut_middle("abcdefghi", 8), "abcd…ghi");
        assert_eq!(cut_middle("äöüäöüäöü", 4), "äö…ü");
        assert_eq!((cut_middle("abc", 1), cut_middle("abc", 0)), ("…".into(), "…".into()));
    }

    #[test]
    fn base_names_ignore_trailing_slashes() {
        assert_eq!(base_name("/usr/lib/libc.so.6"), "libc.so.6");
        assert_eq!(base_name("dir/"), "dir");
        assert_eq!(base_name("/"), "/");
    }

    #[test]
    fn a_broken_clock_does_not_panic() {
        assert_eq!(moment(1_700_000_000.4), "2023-11-14T22:13:20Z");
        assert_eq!(moment(f64::NAN), "1970-01-01T00:00:00Z");
        assert_eq!(moment(1e300), "1970-01-01T00:00:00Z");
    }
}
