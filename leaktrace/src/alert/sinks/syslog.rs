//! The syslog socket, in the form that the C library's `syslog()` has always sent, which every daemon behind that socket reads:
//! priority, time, tag, text. One line, cut to what all of them take.

use std::{path::PathBuf, process, time::Duration};

use super::{Deliver, datagram, failure::Failure};
use crate::{
    alert::{Alert, text},
    report::human::moment,
};

/// Facility `daemon`.
const FACILITY: u8 = 3;

/// Most bytes of a message: RFC 3164 wants 1,024 to be safe, today's daemons take 8,192 by default.
const MOST: usize = 2000;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// See the module.
pub(super) struct Syslog {
    pub path: PathBuf,
    pub limit: Duration,
}

impl Deliver for Syslog {
    fn deliver(&mut self, alert: &Alert) -> Result<(), Failure> {
        datagram::send(&self.path, message(alert, process::id()).as_bytes(), self.limit)
    }
}

fn message(alert: &Alert, pid: u32) -> String {
    let priority = FACILITY * 8 + text::priority(alert.kind);
    let mut message =
        format!("<{priority}>{} leaktrace[{pid}]: {}", stamp(alert.at_unix_s), text::one_line(alert));
    text::cut(&mut message, MOST);
    message
}

/// `May  1 12:00:00`, UTC: daemons put their own time in its place.
fn stamp(unix_s: f64) -> String {
    let time = moment(unix_s);
    let part = |range| time.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
    let day = part(8..10).trim_start_matches('0');
    format!("{} {day:>2} {}", month.unwrap_or(&"Jan"), part(11..19))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::AlertKind;

    #[test]
    fn a_message_is_one_line_with_priority_time_and_tag() {
        let alert = Alert {
            kind: AlertKind::OomKill,
            at_unix_s: 1_777_636_800.0,
            sentence: "a\nb".into(),
            ..Alert::default()
        };
        assert_eq!(message(&alert, 7), "<26>May  1 12:00:00 leaktrace[7]: a\u{fffd}b");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let alert = Alert { sentence: "ä".repeat(5000), ..Alert::default() };
        assert!(message(&alert, 7).len() <= MOST);
    }
}
