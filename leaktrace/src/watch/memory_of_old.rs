//! What the daemon knew before it was started anew, read from the history: memory, sites, alerts. What cannot be read is begun anew.

use std::path::Path;

use super::pending::History;
use super::subject::Watched;
use crate::alert::Alert;

/// How far back memory is read, seconds: what [`super::curve`] can hold.
const MEMORY_S: f64 = 30.0 * 86_400.0;
/// How far back sites are read, seconds.
const SITES_S: f64 = 7.0 * 86_400.0;
/// How far back alerts are read, seconds: no cool-down is longer.
const ALERTS_S: f64 = 7.0 * 86_400.0;

/// Gives a subject what was known of it.
pub(super) fn restore(watched: &mut Watched, history: &Path, now: f64) {
    let Ok(history) = History::open(history) else { return };
    let key = watched.subject.key.clone();
    if let Ok(readings) = history.memory(&key, now - MEMORY_S, now) {
        watched.restore(&readings);
    }
    if let Ok(sites) = history.site_readings(&key, now - SITES_S) {
        for (site, readings, stack) in sites {
            watched.book_mut().restore(site, readings, stack);
        }
    }
}

/// Alerts that were raised lately.
pub(super) fn alerts(history: &Path, now: f64) -> Vec<Alert> {
    let history = History::open(history);
    history.and_then(|history| history.alerts(now - ALERTS_S, now)).unwrap_or_default()
}
