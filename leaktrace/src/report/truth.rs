//! The truth line: what a report does not know, in one line for people. Every report ends with it, and says "nothing
//! lost" only where that is so: a cap that was hit comes before anything else.

mod condensed;
mod newcomers;

use self::condensed::condensed;
use super::human::{bytes, count, duration, percent, plural, printable};
use super::model::{CapHit, Detail, Fullness, Loss, Report, Truth};
use super::python;

/// Notes and blind windows said at most, each.
const NOTES_SAID: usize = 12;

/// What light detail leaves out.
const LIGHT: &str = "light detail: Python's blocks of up to 512 bytes are seen only as the pools they are cut from, each \
                     booked whole on the line that happened to need it, so their lines are an estimate";

impl Report {
    /// The truth line of the whole report: no line break, no label in front.
    pub fn truth_line(&self) -> String {
        let mut parts = vec![self.truth.line()];
        if self.detail == Detail::Light {
            parts.push(LIGHT.to_owned());
        }
        parts.extend(python::sentences(&self.processes, self.detail));
        parts.join("; ")
    }
}

impl Truth {
    /// The part of the truth line that is about all processes together.
    pub fn line(&self) -> String {
        let mut parts = self.cap_parts();
        parts.push(self.lost_part());
        parts.push(plural(self.unmatched_frees, "unmatched free"));
        parts.extend(newcomers::inherited(self.inherited_frees));
        parts.push(self.truncated_part());
        parts.push(format!(
            "{} of {} unresolved",
            count(self.unresolved_frames),
            plural(self.frames, "frame")
        ));
        parts.extend(self.live_map_part());
        parts.extend(newcomers::sentence(&self.newcomers));
        parts.push(self.blind_part());
        parts.push(self.memory_part());
        parts.extend(condensed(self.notes.iter().map(|note| sentence(note)), NOTES_SAID, "note"));
        parts.join("; ")
    }

    /// What makes everything else in the report less than it says: caps that were hit, events that were lost. Empty: nothing.
    pub fn warnings(&self) -> Vec<String> {
        let lost = (!self.nothing_lost()).then(|| self.lost_part());
        self.cap_parts().into_iter().chain(lost).collect()
    }

    /// What the line leaves out, one entry a line: reasons, counters, leaktrace's own cost.
    pub fn verbose_lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "leaktrace itself: {:.2} s of CPU, {} resident, {} of kernel maps",
                self.own_cpu_s,
                bytes(self.own_rss_bytes),
                bytes(self.map_bytes)
            ),
            format!("live map: {}", filled(&self.live_map, "block")),
            format!("site table: {}", filled(&self.rows, "row")),
        ];
        lines.extend(self.anonymous_bytes.map(|anonymous| {
            format!(
                "heap and anonymous mappings: {}, tracked: {}",
                bytes(anonymous),
                bytes(self.tracked_bytes)
            )
        }));
        lines.extend(self.truncated_stacks.iter().map(|(reason, stacks)| {
            format!("truncated, {}: {}", printable(reason), plural(*stacks, "stack"))
        }));
        lines.extend(
            self.counters
                .iter()
                .map(|(name, value)| format!("counter {}: {}", printable(name), count(*value))),
        );
        lines
    }

    /// Whether every allocation and free of the time traced was recorded, as far as leaktrace can know.
    pub fn nothing_lost(&self) -> bool {
        self.lost_events() == 0
    }

    /// Whether any table has refused anything.
    pub fn any_cap_hit(&self) -> bool {
        self.live_map.full_since_s.is_some() || self.rows.full_since_s.is_some() || !self.caps.is_empty()
    }

    fn cap_parts(&self) -> Vec<String> {
        let mut parts: Vec<String> = self.full_live_map().into_iter().chain(self.full_rows()).collect();
        parts.extend(self.caps.iter().map(cap_hit));
        parts
    }

    fn lost_part(&self) -> String {
        match (self.nothing_lost(), self.any_cap_hit()) {
            (true, false) => return "nothing lost".to_owned(),
            (true, true) => return "no event lost".to_owned(),
            (false, _) => {}
        }
        let causes: Vec<String> = self.lost.iter().filter(|loss| loss.events > 0).map(cause).collect();
        let events = self.lost_events();
        format!("LOST {}: {}", plural(events, "event"), causes.join(", "))
    }

    fn truncated_part(&self) -> String {
        let truncated = self.truncated_stacks.values().fold(0u64, |sum, stacks| sum.saturating_add(*stacks));
        format!("{} of {} truncated", count(truncated), plural(self.stacks, "stack"))
    }

    /// How full the live map is, while that is not said in front.
    fn live_map_part(&self) -> Option<String> {
        let share = percent(self.live_map.used, self.live_map.capacity);
        self.live_map.full_since_s.is_none().then(|| format!("live map {share} full"))
    }

    fn full_live_map(&self) -> Option<String> {
        let since = self.live_map.full_since_s?;
        let missing = self.lost.iter().find(|loss| loss.cause == Loss::LIVE_MAP_FULL);
        let missing = missing.map_or_else(
            || "how much is missing is not known".to_owned(),
            |loss| match loss.bytes {
                Some(lost) => format!("{} in {} missing", bytes(lost), plural(loss.events, "block")),
                None => format!("{} missing", plural(loss.events, "block")),
            },
        );
        Some(format!(
            "LIVE MAP FULL since {} into tracing (cap {}; {missing}; raise --max-live-blocks)",
            duration(since),
            plural(self.live_map.capacity, "block"),
        ))
    }

    fn full_rows(&self) -> Option<String> {
        let since = self.rows.full_since_s?;
        Some(format!(
            "SITE TABLE FULL since {} into tracing (cap {}; newer sites are booked together, without a stack; raise \
             --max-sites)",
            duration(since),
            plural(self.rows.capacity, "row")
        ))
    }

    fn blind_part(&self) -> String {
        if self.blind_windows.is_empty() {
            // A process that was traced late was not seen before.
            let other = if self.newcomers.gaps.is_some() { "other " } else { "" };
            return format!("no {other}blind windows");
        }
        let windows = self.blind_windows.iter().map(|window| sentence(window));
        format!("blind: {}", condensed(windows, NOTES_SAID, "blind window").join(", "))
    }

    fn memory_part(&self) -> String {
        let tracked = bytes(self.tracked_bytes);
        let resident = match self.rss_bytes {
            Some(rss) => format!("tracked {tracked} of {} RSS", bytes(rss)),
            None => format!("tracked {tracked}, RSS unknown"),
        };
        match self.before_attach_bytes {
            Some(before) => format!("{resident}, {} were there before attaching", bytes(before)),
            None => format!("{resident}, memory before attaching unknown"),
        }
    }
}

/// `CAP HIT: table of processes: 12 processes are not traced`.
fn cap_hit(hit: &CapHit) -> String {
    format!("CAP HIT: {}: {} {}", sentence(&hit.cap), count(hit.refused), sentence(&hit.consequence))
}

fn cause(loss: &Loss) -> String {
    let cause = printable(&loss.cause);
    match loss.bytes {
        Some(lost) => format!("{cause} {} ({})", count(loss.events), bytes(lost)),
        None => format!("{cause} {}", count(loss.events)),
    }
}

fn filled(table: &Fullness, noun: &str) -> String {
    let refused = match table.full_since_s {
        Some(since) => format!(", full since {} into tracing", duration(since)),
        None => String::new(),
    };
    let share = percent(table.used, table.capacity);
    format!("{} of {} ({share}){refused}", count(table.used), plural(table.capacity, noun))
}

/// A sentence as part of a longer one: printable and without its full stop.
fn sentence(text: &str) -> String {
    printable(text.trim().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_plainly_when_nothing_was_lost() {
        let truth = Truth {
            lost: vec![Loss { cause: "ring buffer full".into(), events: 0, bytes: None }],
            ..Truth::default()
        };
        assert_eq!(
            truth.line(),
            "nothing lost; 0 unmatched frees; 0 of 0 stacks truncated; 0 of 0 frames unresolved; live map 0 % full; \
             no blind windows; tracked 0 B, RSS unknown, memory before attaching unknown"
        );
    }

    #[test]
    fn there_is_a_warning_for_every_cap_and_loss_and_none_without() {
        assert!(Truth::default().warnings().is_empty());
        let truth = Truth {
            lost: vec![Loss { cause: "ring buffer full".into(), events: 7, bytes: None }],
            rows: Fullness { used: 5, capacity: 5, full_since_s: Some(1.0) },
            ..Truth::default()
        };
        let warnings = truth.warnings();
        assert!(warnings[0].starts_with("SITE TABLE FULL"), "{warnings:?}");
        assert_eq!(warnings[1], "LOST 7 events: ring buffer full 7");
    }

    #[test]
    fn a_full_live_map_says_since_when_and_how_much_is_missing() {
        let truth = Truth {
            lost: vec![Loss { cause: Loss::LIVE_MAP_FULL.into(), events: 2_000, bytes: Some(65_536) }],
            live_map: Fullness { used: 500, capacity: 500, full_since_s: Some(125.0) },
            ..Truth::default()
        };
        let line = truth.line();
        assert!(line.contains("; LOST 2,000 events: live map full 2,000 (64.0 KiB)"), "{line}");
        assert!(
            line.starts_with(
                "LIVE MAP FULL since 2 min 5 s into tracing (cap 500 blocks; 64.0 KiB in 2,000 blocks missing"
            ),
            "{line}"
        );
    }

    #[test]
    fn a_cap_that_was_hit_comes_first_and_nothing_lost_is_not_said_then() {
        let full = Fullness { used: 500, capacity: 500, full_since_s: Some(1.0) };
        let line = Truth { rows: full, ..Truth::default() }.line();
        assert!(
            line.starts_with("SITE TABLE FULL since 1 s into tracing (cap 500 rows; newer sites"),
            "{line}"
        );
        assert!(line.contains("; no event lost; ") && !line.contains("nothing lost"), "{line}");
        let hit = CapHit {
            cap: "table of processes".into(),
            refused: 12,
            consequence: "processes are not traced".into(),
        };
        let line = Truth { caps: vec![hit], ..Truth::default() }.line();
        assert!(
            line.starts_with("CAP HIT: table of processes: 12 processes are not traced; no event lost;"),
            "{line}"
        );
    }

    #[test]
    fn what_is_said_of_hundreds_of_processes_is_said_once() {
        let truth = Truth {
            notes: (1..=500).map(|pid| format!("process {pid}: it has no libc.")).collect(),
            blind_windows: (1..=500).map(|gap| format!("{gap} ms after exec")).collect(),
            ..Truth::default()
        };
        let line = truth.line();
        assert!(line.ends_with("; it has no libc (500 processes)"), "{line}");
        assert!(line.contains("12 ms after exec, and 488 more blind windows; "), "{line}");
    }

    #[test]
    fn no_text_from_outside_can_break_the_line() {
        let truth = Truth {
            notes: vec!["two\nlines.".into()],
            blind_windows: vec!["a\rb".into()],
            ..Truth::default()
        };
        assert!(!truth.line().contains(char::is_control));
    }
}
