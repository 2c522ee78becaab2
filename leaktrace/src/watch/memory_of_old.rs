//! What the daemon knew before it was started anew, read from the history: memory, sites, alerts. What cannot be read is begun anew.

use std::path::Path;

use super::subject::Watched;
use crate::{
    alert::Alert,
    store::{History, StoreError, history::Span},
};

/// How far back memory is read, seconds: what [`super::curve`] can hold.
const MEMORY_S: f64 = 30.0 * 86_400.0;
/// How far back sites are read, seconds.
const SITES_S: f64 = 7.0 * 86_400.0;
/// How far back alerts are read, seconds: few cool-downs are longer.
const ALERTS_S: f64 = 7.0 * 86_400.0;

/// What was known when the daemon was started.
pub(super) struct Memory {
    history: Option<History>,
    now: f64,
}

impl Memory {
    /// Opens the history as it is at `now`, seconds since the Unix epoch.
    pub(super) fn open(file: &Path, now: f64) -> Self {
        let history = History::open(file).inspect_err(|error| tracing::warn!("{error}")).ok();
        Self { history, now }
    }

    /// Gives a subject what was known of it.
    pub(super) fn restore(&self, watched: &mut Watched) {
        let Some(history) = &self.history else { return };
        if let Err(error) = self.restore_from(history, watched) {
            tracing::warn!("{error}");
        }
    }

    fn restore_from(&self, history: &History, watched: &mut Watched) -> Result<(), StoreError> {
        let key = watched.subject.key.clone();
        watched.restore(&history.memory(&key, self.span(MEMORY_S))?);
        let readings = history.site_readings(&key, self.now - SITES_S)?;
        let judged = history.suspects(&key, self.span(SITES_S))?;
        watched.book_mut().restore(readings, history.stacks(&key)?, judged);
        Ok(())
    }

    /// Alerts that were raised lately.
    pub(super) fn alerts(&self) -> Vec<Alert> {
        let alerts = self.history.as_ref().map(|history| history.alerts(None, self.span(ALERTS_S)));
        alerts.and_then(Result::ok).unwrap_or_default()
    }

    fn span(&self, seconds: f64) -> Span {
        Span { since_unix_s: self.now - seconds, until_unix_s: self.now }
    }
}
