//! What the truth line says of processes that came into scope while tracing: how many were traced, how late, and why
//! others were not.

use crate::report::human::{count, plural, printable};
use crate::report::model::{Gaps, Newcomers};

/// `12 frees of blocks inherited by forked processes`.
pub(super) fn inherited(frees: u64) -> Option<String> {
    (frees > 0).then(|| format!("{} of blocks inherited by forked processes", plural(frees, "free")))
}

/// `2,217 processes came while tracing: 12 traced from their first allocation on, ...`; `None` if none came.
pub(super) fn sentence(newcomers: &Newcomers) -> Option<String> {
    let Newcomers { entered, from_birth, short_lived, refused, waiting, .. } = *newcomers;
    let came = [entered, short_lived, refused, waiting].into_iter().fold(0, u64::saturating_add);
    if came == 0 {
        return None;
    }
    let later = entered.saturating_sub(from_birth);
    let said = [
        (from_birth, "traced from their first allocation on".to_owned()),
        (later, format!("traced later{}", newcomers.gaps.map(lateness).unwrap_or_default())),
        (short_lived, "gone before that (what they allocated is not known)".to_owned()),
        (waiting, "too young to be traced yet".to_owned()),
        (refused, format!("NOT TRACED{}", last(newcomers.last_refusal.as_deref()))),
    ];
    let said = said.into_iter().filter(|(number, _)| *number > 0);
    let said: Vec<String> = said.map(|(number, what)| format!("{} {what}", count(number))).collect();
    Some(format!("{} came while tracing: {}", plural(came, "process"), said.join(", ")))
}

fn lateness(gaps: Gaps) -> String {
    let Gaps { p50_ms, p99_ms, max_ms } = gaps;
    format!(" (p50 {}, p99 {}, at most {} after they were made)", time(p50_ms), time(p99_ms), time(max_ms))
}

/// Milliseconds below ten seconds, seconds above.
fn time(milliseconds: f64) -> String {
    match milliseconds {
        short if short < 10_000.0 => format!("{short:.0} ms"),
        long => format!("{:.1} s", long / 1e3),
    }
}

fn last(refusal: Option<&str>) -> String {
    refusal
        .map(|why| format!(" (the last: {})", printable(why.trim().trim_end_matches('.'))))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_said() {
        assert_eq!((sentence(&Newcomers::default()), inherited(0)), (None, None));
        let one = Newcomers { entered: 1, from_birth: 1, ..Newcomers::default() };
        let said = sentence(&one).expect("one came");
        assert_eq!(said, "1 process came while tracing: 1 traced from their first allocation on");
        assert_eq!(inherited(3).as_deref(), Some("3 frees of blocks inherited by forked processes"));
    }

    #[test]
    fn gaps_and_refusals_are_said_with_their_numbers() {
        let many = Newcomers {
            entered: 412,
            from_birth: 12,
            short_lived: 1_800,
            refused: 3,
            last_refusal: Some("process 7 has no libc.\n".into()),
            waiting: 2,
            gaps: Some(Gaps { p50_ms: 104.2, p99_ms: 118.0, max_ms: 14_000.0 }),
        };
        assert_eq!(
            sentence(&many).expect("many came"),
            "2,217 processes came while tracing: 12 traced from their first allocation on, 400 traced later (p50 104 ms, \
             p99 118 ms, at most 14.0 s after they were made), 1,800 gone before that (what they allocated is not known), \
             2 too young to be traced yet, 3 NOT TRACED (the last: process 7 has no libc)"
        );
    }
}
