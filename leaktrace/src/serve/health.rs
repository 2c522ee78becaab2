//! Whether the daemon does its work. Pure.

use serde::Serialize;

use crate::{
    report::human::{duration, printable},
    watched::State,
};

/// Looks at memory that may fail to come before that is called ill.
const MISSED_LOOKS: f64 = 3.0;

/// On a machine that is busy, a look may be late by so much, seconds, however short the interval is.
const LATE_S: f64 = 5.0;

/// See the module.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Health {
    /// `ok`, or `ill`.
    status: &'static str,
    /// What is wrong, one sentence each.
    reasons: Vec<String>,
    /// Seconds since the last look at memory; `null`: there was none.
    last_look_s: Option<f64>,
    /// Who is watched.
    subjects: usize,
    /// Of these, how many are being traced.
    traced: usize,
    /// Version of the daemon.
    version: &'static str,
}

impl Health {
    pub(super) fn of(state: &State, now_unix_s: f64) -> Self {
        let last_look_s = (state.at_unix_s > 0.0).then_some((now_unix_s - state.at_unix_s).max(0.0));
        let reasons: Vec<String> =
            [late(last_look_s, state.interval_s), unwritten(state)].into_iter().flatten().collect();
        Self {
            status: if reasons.is_empty() { "ok" } else { "ill" },
            reasons,
            last_look_s,
            subjects: state.subjects.len(),
            traced: state.subjects.iter().filter(|subject| subject.session.is_some()).count(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.reasons.is_empty()
    }
}

fn late(last_look_s: Option<f64>, interval_s: f64) -> Option<String> {
    let Some(last_look_s) = last_look_s else { return Some("no memory has been looked at yet".to_owned()) };
    let told = || {
        let (ago, interval) = (duration(last_look_s), duration(interval_s));
        format!("memory was looked at {ago} ago, and should be every {interval}")
    };
    (last_look_s > (MISSED_LOOKS * interval_s).max(LATE_S)).then(told)
}

fn unwritten(state: &State) -> Option<String> {
    let error = state.own.history_error.as_ref()?;
    Some(format!("the history cannot be written: {}", printable(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(at_unix_s: f64) -> State {
        State { at_unix_s, interval_s: 10.0, ..State::default() }
    }

    #[test]
    fn a_daemon_that_looks_and_writes_is_well() {
        assert!(Health::of(&state(1000.0), 1030.0).is_well());
        assert!(Health::of(&state(1000.0), 900.0).is_well(), "the clock was set back");
    }

    #[test]
    fn one_that_does_not_says_why() {
        let mut unwritten = state(1000.0);
        unwritten.own.history_error = Some("No space left on device".into());
        for (state, why) in [
            (state(0.0), "no memory has been looked at yet"),
            (state(1000.0), "looked at 31 s ago"),
            (unwritten, "No space left"),
        ] {
            let health = Health::of(&state, 1031.0);
            assert!(
                !health.is_well() && health.reasons.iter().any(|reason| reason.contains(why)),
                "{health:?}"
            );
        }
    }
}
