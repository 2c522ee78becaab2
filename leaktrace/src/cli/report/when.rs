//! Moments as people type them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::Failure;

/// A moment, seconds since the Unix epoch: a time of day in UTC, or how long ago.
pub(super) fn moment(option: &str, text: &str) -> Result<f64, Failure> {
    read(text, SystemTime::now()).ok_or_else(|| {
        Failure::Usage(format!(
            "{option} {text}: no moment: write a time such as 2026-05-01T12:00:00Z or \"2026-05-01 12:00\" (UTC), or how long ago, \
             such as 2h"
        ))
    })
}

fn read(text: &str, now: SystemTime) -> Option<f64> {
    let text = text.trim();
    let time = match text.strip_suffix("ago").unwrap_or(text).trim() {
        "now" => now,
        time => match humantime::parse_duration(time) {
            Ok(ago) => now.checked_sub(ago)?,
            Err(_) => ["", ":00", " 00:00:00"]
                .iter()
                .find_map(|rest| humantime::parse_rfc3339_weak(&format!("{time}{rest}")).ok())?,
        },
    };
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_times_or_so_long_ago() {
        let now = UNIX_EPOCH + Duration::from_secs(1_777_640_400);
        for (text, expected) in [
            ("2026-05-01T12:00:00Z", 1_777_636_800.0),
            ("2026-05-01T12:00:00.5Z", 1_777_636_800.5),
            ("2026-05-01 12:00:00", 1_777_636_800.0),
            ("2026-05-01 12:00", 1_777_636_800.0),
            ("2026-05-01", 1_777_593_600.0),
            ("1h", 1_777_636_800.0),
            ("1h 30m ago", 1_777_635_000.0),
            ("now", 1_777_640_400.0),
        ] {
            assert_eq!(read(text, now), Some(expected), "{text}");
        }
        for text in ["", "yesterday", "12:00", "2026-13-01", "-1h", "9999999999999y"] {
            assert_eq!(read(text, now), None, "{text}");
        }
    }
}
