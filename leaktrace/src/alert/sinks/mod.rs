//! Where alerts go: each sink has a thread, a bounded queue and attempts of its own.

mod carrier;
mod command;
pub mod config;
mod datagram;
mod failure;
mod file;
mod journal;
mod retry;
mod syslog;
mod webhook;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub use config::{Body, SinkConfig};

use self::{carrier::Carrier, config::Place, failure::Failure, retry::Retry};
use super::{Alert, AlertConfig};
use crate::watched::SinkState;

/// A way to tell people. Called by one thread only; may block for as long as its time limit says.
trait Deliver: Send {
    /// One attempt.
    fn deliver(&mut self, alert: &Alert) -> Result<(), Failure>;
}

/// All sinks of a configuration.
pub struct Sinks(Vec<Carrier>);

impl Sinks {
    /// Starts a thread for each. Nothing is opened before there is an alert.
    ///
    /// # Errors
    /// One sentence: a sink is not valid ([`AlertConfig::mistakes`]), or the kernel has no thread to give.
    pub fn start(config: &AlertConfig) -> Result<Self, String> {
        let retry = Retry { attempts: config.attempts.max(1), first: config.first_retry.0 };
        let start = |sink: &SinkConfig| {
            let carrier = Carrier::start(&sink.name, sink_of(sink.place()?, config.timeout.0), retry);
            carrier.map_err(|error: io::Error| format!("alert sink \"{}\" cannot start: {error}", sink.name))
        };
        config.sink.iter().map(start).collect::<Result<_, _>>().map(Self)
    }

    /// Hands an alert to every sink. Never blocks on one.
    pub fn raise(&self, alert: &Alert) {
        if self.0.is_empty() {
            return;
        }
        let alert = Arc::new(alert.clone());
        self.0.iter().for_each(|carrier| carrier.add(Arc::clone(&alert)));
    }

    /// How they fare.
    pub fn health(&self) -> Vec<SinkState> {
        self.0.iter().map(Carrier::state).collect()
    }

    /// Lets each sink try once more what waits, for at most `patience` in all; what hangs is left behind. What was not
    /// delivered is counted as lost in the states that are given back.
    pub fn stop(self, patience: Duration) -> Vec<SinkState> {
        let now = Instant::now();
        let deadline = now.checked_add(patience).unwrap_or(now);
        self.0.iter().for_each(Carrier::end);
        self.0.iter().map(|carrier| carrier.ended_by(deadline)).collect()
    }
}

impl Drop for Sinks {
    /// Threads that nobody waits for end by themselves, after what they are at.
    fn drop(&mut self) {
        self.0.iter().for_each(Carrier::end);
    }
}

fn sink_of(place: Place, limit: Duration) -> Box<dyn Deliver> {
    match place {
        Place::Webhook { address, body, headers, certificates } => {
            Box::new(webhook::Webhook { address, body, headers, certificates, limit })
        }
        Place::Command(words) => Box::new(command::Program { words, limit }),
        Place::Syslog(path) => Box::new(syslog::Syslog { path, limit }),
        Place::Journal(path) => Box::new(journal::Journal { path, limit }),
        Place::File(path) => Box::new(file::Lines { path }),
    }
}
