//! What a report says of a Python interpreter: which it is, what of its allocations is seen, and how far that agrees with
//! what the interpreter itself counts.

use std::collections::BTreeMap;

use super::human::{count, plural, printable};
use super::model::{Detail, ProcessReport, PythonReport};

/// Processes with an interpreter that have a sentence each; of more, those with alike interpreters share one.
const SENTENCES: usize = 3;

/// What the truth line says of the interpreters of a report.
pub(super) fn sentences(processes: &[ProcessReport], detail: Detail) -> Vec<String> {
    let pythons = || processes.iter().filter_map(|process| Some((process.pid, process.python.as_ref()?)));
    if pythons().count() > SENTENCES {
        return sums(pythons().map(|(_, python)| python), detail);
    }
    let said = |(pid, python): (u32, &PythonReport)| {
        let said = sentence(python, detail);
        if processes.len() > 1 { format!("PID {pid}: {said}") } else { said }
    };
    pythons().map(said).collect()
}

/// One sentence for all interpreters of a kind, the most frequent kinds first.
fn sums<'a>(pythons: impl Iterator<Item = &'a PythonReport>, detail: Detail) -> Vec<String> {
    let mut kinds: BTreeMap<_, (u64, PythonReport)> = BTreeMap::new();
    for python in pythons {
        let kind = (
            how(python),
            &python.version,
            python.counted_blocks.is_some() && python.counted_at_attach.is_some(),
        );
        kinds
            .entry(kind)
            .and_modify(|(processes, sum)| {
                *processes += 1;
                add(sum, python);
            })
            .or_insert_with(|| (1, python.clone()));
    }
    let mut kinds: Vec<(u64, PythonReport)> = kinds.into_values().collect();
    kinds.sort_by_key(|(processes, _)| std::cmp::Reverse(*processes));
    let rest: u64 = kinds.iter().skip(SENTENCES).map(|(processes, _)| processes).sum();
    let said = |(processes, sum): &(u64, PythonReport)| {
        format!("{}: {}", plural(*processes, "process"), sentence(sum, detail))
    };
    let mut said: Vec<String> = kinds.iter().take(SENTENCES).map(said).collect();
    if rest > 0 {
        said.push(format!("{} with other interpreters", plural(rest, "process")));
    }
    said
}

/// Adds the numbers of an interpreter of the same kind.
fn add(sum: &mut PythonReport, python: &PythonReport) {
    let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
    sum.tracked_blocks = sum.tracked_blocks.saturating_add(python.tracked_blocks);
    sum.freed_from_before = sum.freed_from_before.saturating_add(python.freed_from_before);
    sum.counted_blocks = both(sum.counted_blocks, python.counted_blocks);
    sum.counted_at_attach = both(sum.counted_at_attach, python.counted_at_attach);
}

/// One sentence of the truth line.
fn sentence(python: &PythonReport, detail: Detail) -> String {
    let who = format!("python {} ({})", printable(&python.version), how(python));
    if detail == Detail::Light {
        return who;
    }
    let mut parts = Vec::new();
    if python.inlined_unseen {
        parts.push("allocations that the interpreter inlines are not seen".to_owned());
    }
    parts.push(format!(
        "{} tracked, {} from before freed",
        plural(python.tracked_blocks, "small block"),
        count(python.freed_from_before)
    ));
    parts.push(compared(python));
    // Where no block is tracked, none can be booked wrongly.
    if !python.free_lists_closed && python.tracked_blocks > 0 {
        parts.push(
            "free lists are open: a block that one of them handed on stays booked on its first line"
                .to_owned(),
        );
    }
    format!("{who}: {}", parts.join("; "))
}

fn how(python: &PythonReport) -> String {
    let mut how = vec![printable(&python.allocator)];
    match (python.redirected, python.inlined_unseen) {
        (true, false) => how.push("redirected".to_owned()),
        (true, true) => how.push("redirected in part".to_owned()),
        (false, true) => how.push("not redirected".to_owned()),
        (false, false) => {}
    }
    if python.free_lists_closed {
        how.push("free lists closed".to_owned());
    }
    how.join(", ")
}

/// How the change in blocks that leaktrace saw agrees with the change that the interpreter counts.
fn compared(python: &PythonReport) -> String {
    let (Some(now), Some(before)) = (python.counted_blocks, python.counted_at_attach) else {
        return "the interpreter's own count of blocks could not be read".to_owned();
    };
    let seen = i128::from(python.tracked_blocks) - i128::from(python.freed_from_before);
    let counted = i128::from(now) - i128::from(before);
    if counted <= 0 {
        let seen = more_or_fewer(seen);
        return format!(
            "the interpreter counts {} than when tracing began, leaktrace {seen}",
            more_or_fewer(counted)
        );
    }
    let explained = share(seen, counted);
    format!(
        "the interpreter counts {} than when tracing began: {explained} explained",
        more_or_fewer(counted)
    )
}

fn more_or_fewer(change: i128) -> String {
    let number = u64::try_from(change.unsigned_abs()).unwrap_or(u64::MAX);
    format!("{} {}", count(number), if change < 0 { "fewer" } else { "more" })
}

/// A share in percent with one decimal; only what is equal reads as "100.0 %".
fn share(part: i128, whole: i128) -> String {
    let permille = part.max(0) as f64 * 1000.0 / whole as f64;
    let permille = if part < whole { permille.floor().min(999.0) } else { permille.ceil() };
    let permille = if part > whole { permille.max(1001.0) } else { permille };
    format!("{:.1} %", permille / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> PythonReport {
        PythonReport {
            version: "3.11.2".into(),
            allocator: "pymalloc".into(),
            redirected: true,
            inlined_unseen: false,
            free_lists_closed: true,
            tracked_blocks: 168_402,
            freed_from_before: 12,
            counted_blocks: Some(1_168_390),
            counted_at_attach: Some(1_000_000),
        }
    }

    fn said(python: &PythonReport) -> String {
        sentence(python, Detail::Exact)
    }

    #[test]
    fn everything_that_the_interpreter_counts_is_explained() {
        assert_eq!(
            said(&debian()),
            "python 3.11.2 (pymalloc, redirected, free lists closed): 168,402 small blocks tracked, 12 from before freed; \
             the interpreter counts 168,390 more than when tracing began: 100.0 % explained"
        );
    }

    #[test]
    fn without_redirection_it_says_what_is_missing() {
        let python = PythonReport {
            redirected: false,
            inlined_unseen: true,
            free_lists_closed: false,
            tracked_blocks: 7_590,
            freed_from_before: 12,
            ..debian()
        };
        let said = said(&python);
        assert!(
            said.starts_with(
                "python 3.11.2 (pymalloc, not redirected): allocations that the interpreter inlines are not seen; 7,590"
            ),
            "{said}"
        );
        assert!(said.contains(": 4.5 % explained; free lists are open"), "{said}");
        let in_part = PythonReport { redirected: true, tracked_blocks: 0, ..python };
        let said = sentence(&in_part, Detail::Exact);
        assert!(said.starts_with("python 3.11.2 (pymalloc, redirected in part): allocations"), "{said}");
        assert!(said.ends_with(": 0.0 % explained"), "{said}");
    }

    #[test]
    fn a_build_that_inlines_nothing_needs_no_redirection_and_says_nothing_of_it() {
        let said = said(&PythonReport { redirected: false, ..debian() });
        assert!(said.starts_with("python 3.11.2 (pymalloc, free lists closed): 168,402 small"), "{said}");
    }

    #[test]
    fn an_interpreter_that_shrinks_or_cannot_be_read_has_no_share() {
        let shrinking =
            PythonReport { freed_from_before: 168_500, counted_blocks: Some(999_900), ..debian() };
        assert!(said(&shrinking).ends_with("counts 100 fewer than when tracing began, leaktrace 98 fewer"));
        let unread = PythonReport { counted_blocks: None, ..debian() };
        assert!(said(&unread).ends_with("the interpreter's own count of blocks could not be read"));
    }

    #[test]
    fn only_what_is_equal_reads_as_all() {
        assert_eq!(share(999_999, 1_000_000), "99.9 %");
        assert_eq!(share(1_000_001, 1_000_000), "100.1 %");
        assert_eq!((share(7, 7), share(-3, 7)), ("100.0 %".to_owned(), "0.0 %".to_owned()));
    }

    #[test]
    fn light_detail_does_not_count_small_blocks() {
        assert_eq!(
            sentence(&debian(), Detail::Light),
            "python 3.11.2 (pymalloc, redirected, free lists closed)"
        );
    }

    #[test]
    fn many_interpreters_of_a_kind_share_a_sentence() {
        let process = |pid, python| ProcessReport { pid, python: Some(python), ..ProcessReport::default() };
        let mut processes: Vec<ProcessReport> = (1..=3).map(|pid| process(pid, debian())).collect();
        let apart = sentences(&processes, Detail::Exact);
        assert_eq!(apart.len(), 3);
        assert!(apart[1].starts_with("PID 2: python 3.11.2 (pymalloc"), "{apart:?}");
        processes.push(process(4, PythonReport { counted_blocks: None, ..debian() }));
        let together = sentences(&processes, Detail::Exact);
        assert_eq!(together.len(), 2);
        assert_eq!(
            together[0],
            "3 processes: python 3.11.2 (pymalloc, redirected, free lists closed): 505,206 small blocks tracked, 36 from \
             before freed; the interpreter counts 505,170 more than when tracing began: 100.0 % explained"
        );
        assert!(together[1].ends_with("count of blocks could not be read"), "{together:?}");
    }
}
