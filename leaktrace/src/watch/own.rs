//! What the daemon itself costs: its own process, and those that trace for it.

use crate::{
    process::{identity, status},
    report::model::Truth,
    watched::OwnState,
};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// CPU seconds of traces that have ended.
    ended_cpu_s: f64,
    /// Events that they had lost.
    ended_lost: u64,
}

impl Own {
    /// A trace has ended; this was its last word.
    pub fn trace_ended(&mut self, truth: &Truth) {
        self.ended_cpu_s += truth.own_cpu_s;
        self.ended_lost = self.ended_lost.saturating_add(truth.lost_events());
    }

    /// The sums over the daemon and the traces that run.
    pub fn state<'a>(&self, traces: impl Iterator<Item = &'a Truth>) -> OwnState {
        let pid = std::process::id();
        let stat = status::read_stat(pid).ok();
        let mut own = OwnState {
            cpu_s: self.ended_cpu_s + stat.map_or(0.0, |stat| identity::seconds(stat.cpu_ticks)),
            rss_bytes: status::read(pid).ok().and_then(|status| status.rss_bytes).unwrap_or(0),
            lost_events: self.ended_lost,
            ..OwnState::default()
        };
        for truth in traces {
            own.cpu_s += truth.own_cpu_s;
            own.rss_bytes = own.rss_bytes.saturating_add(truth.own_rss_bytes);
            own.map_bytes = own.map_bytes.saturating_add(truth.map_bytes);
            own.lost_events = own.lost_events.saturating_add(truth.lost_events());
        }
        own
    }
}
