//! Whom to trace, how closely, and until when. Pure: what is known goes in, what is to be done comes out, with the reason.

use crate::{
    report::{human, model::Detail},
    session::prediction::Prediction,
    verdict::MemoryTrend,
};

use super::config::TracingConfig;

/// Where a subject stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Phase {
    /// Only its memory is looked at.
    #[default]
    Watched,
    /// What tracing would cost is being measured.
    Measured {
        /// Why it is to be traced.
        reason: String,
    },
    /// It is traced.
    Traced {
        /// How closely.
        detail: Detail,
        /// When that began, seconds since the Unix epoch.
        since: f64,
        /// When tracing began at all, before closer tracing followed.
        first: f64,
        /// Whether closer tracing was decided upon already.
        decided: bool,
    },
    /// Its trace is ending, and is followed by another.
    Ending {
        /// When tracing began at all.
        first: f64,
        /// Whether exact tracing is next.
        exact_next: bool,
    },
}

impl Phase {
    /// Moves it in time: the wall clock was set.
    pub fn shift(&mut self, by: f64) {
        match self {
            Self::Traced { since, first, .. } => {
                *since += by;
                *first += by;
            }
            Self::Ending { first, .. } => *first += by,
            Self::Watched | Self::Measured { .. } => {}
        }
    }
}

/// What is known of a subject when its turn comes.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Seconds since the Unix epoch.
    pub now: f64,
    /// How its memory develops.
    pub trend: MemoryTrend,
    /// What it cannot give back, as a share of its limit.
    pub share_of_limit: Option<f64>,
    /// Before this moment it is left alone, unless it is near its limit.
    pub rests_until: f64,
    /// What tracing was predicted to cost.
    pub prediction: Option<Prediction>,
    /// How much of its growth while traced leaks at known sites explain, 0 to 1.
    pub explained: f64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    None,
    /// Find out what tracing would cost.
    Measure(String),
    /// Begin tracing.
    Begin(Detail, String),
    /// End tracing, and rest.
    End(String),
    /// End tracing, and trace exactly.
    TraceExactly(String),
    /// Leave it at what is done, and say why.
    Stay(String),
    /// Leave it alone for a while, and say why.
    Rest(String),
}

/// The next step for a subject. `room`: whether one more may be traced.
pub fn step(phase: &Phase, known: &Known, config: &TracingConfig, room: bool) -> Step {
    match phase {
        Phase::Watched => watched(known, config, room),
        Phase::Traced { detail, since, first, decided } => {
            traced(*detail, *since, *first, *decided, known, config)
        }
        Phase::Measured { .. } | Phase::Ending { .. } => Step::None,
    }
}

fn watched(known: &Known, config: &TracingConfig, room: bool) -> Step {
    let near = known.share_of_limit.is_some_and(|share| share >= config.near_limit.0);
    let due = known.trend.grows && known.now >= known.rests_until;
    // Near the limit nothing is to be waited for; but one that lives there is not traced for ever.
    let urgent = near && known.now >= known.rests_until - config.cool_down.0.as_secs_f64() / 2.0;
    if !config.enabled || !room || !(due || urgent) {
        return Step::None;
    }
    // Measuring takes ten seconds, which somebody near a limit may not have.
    match near {
        true => Step::Begin(Detail::Light, near_limit(known)),
        false => Step::Measure(growing(&known.trend)),
    }
}

fn near_limit(known: &Known) -> String {
    format!("it uses {:.0} % of its memory limit", known.share_of_limit.unwrap_or_default() * 100.0)
}

fn growing(trend: &MemoryTrend) -> String {
    let leading = trend.leading.unwrap_or_default();
    format!(
        "its memory has grown by {} in {}, {}, confidence {:.0} %",
        human::signed_bytes(leading.change_bytes),
        human::duration(leading.over_s),
        human::rate(leading.bytes_per_hour),
        leading.confidence * 100.0
    )
}

/// What follows from a prediction; `None`: none could be made.
pub fn begin(prediction: Option<&Prediction>, reason: &str, config: &TracingConfig) -> Step {
    let light = prediction.map_or(1.0, |prediction| prediction.light.factor);
    if light > config.max_slowdown_light {
        return Step::Rest(format!(
            "not traced although {reason}: even light tracing is predicted to slow it down {light:.2} times, \
             max_slowdown_light is {}",
            config.max_slowdown_light
        ));
    }
    Step::Begin(Detail::Light, reason.to_owned())
}

fn traced(
    detail: Detail,
    since: f64,
    first: f64,
    decided: bool,
    known: &Known,
    config: &TracingConfig,
) -> Step {
    if known.now - first >= config.max_duration.0.as_secs_f64() {
        return Step::End(format!("max_duration, {}, is over", human::duration(known.now - first)));
    }
    if detail == Detail::Exact || decided || known.now - since < config.light_for.0.as_secs_f64() {
        return Step::None;
    }
    closer(known, config)
}

/// Whether light tracing is enough, and if not, whether exact tracing may follow.
fn closer(known: &Known, config: &TracingConfig) -> Step {
    if known.explained >= config.explained_enough.0 {
        return Step::Stay(format!(
            "light tracing explains {:.0} % of the growth: nothing closer is needed",
            known.explained * 100.0
        ));
    }
    let explained = format!("light tracing explains {:.0} % of the growth", known.explained * 100.0);
    let Some(prediction) = &known.prediction else {
        return Step::Stay(format!(
            "not traced exactly, although {explained}: what that would cost is not known"
        ));
    };
    let least = if prediction.exact.at_least { "at least " } else { "" };
    let factor = prediction.exact.factor;
    if factor > config.max_slowdown {
        return Step::Stay(format!(
            "not traced exactly, although {explained}: the predicted slowdown is {least}{factor:.2} times, max_slowdown is {}",
            config.max_slowdown
        ));
    }
    Step::TraceExactly(format!(
        "{explained}, and exact tracing is predicted to slow it down {least}{factor:.2} times"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{session::prediction::Slowdown, verdict::Trend};

    fn growing_subject() -> Known {
        let leading = Trend { over_s: 600.0, bytes_per_hour: 3e6, confidence: 0.97, change_bytes: 500_000 };
        Known {
            now: 1000.0,
            trend: MemoryTrend { grows: true, leading: Some(leading), ..MemoryTrend::default() },
            ..Known::default()
        }
    }

    fn predicted(light: f64, exact: f64) -> Option<Prediction> {
        let slowdown = |factor| Slowdown { factor, at_least: false };
        Some(Prediction { light: slowdown(light), exact: slowdown(exact), ..Prediction::default() })
    }

    fn light_since(since: f64) -> Phase {
        Phase::Traced { detail: Detail::Light, since, first: since, decided: false }
    }

    #[test]
    fn what_grows_is_measured_unless_it_rests_or_there_is_no_room() {
        let config = TracingConfig::default();
        let known = growing_subject();
        let Step::Measure(reason) = step(&Phase::Watched, &known, &config, true) else { panic!("measured") };
        assert!(reason.contains("97 %"), "{reason}");
        assert_eq!(step(&Phase::Watched, &known, &config, false), Step::None);
        let resting = Known { rests_until: 1001.0, ..known };
        assert_eq!(step(&Phase::Watched, &resting, &config, true), Step::None);
        assert_eq!(step(&Phase::Watched, &Known { now: 1e6, ..Known::default() }, &config, true), Step::None);
    }

    #[test]
    fn near_its_limit_nothing_is_waited_for() {
        let known = Known { now: 1e6, share_of_limit: Some(0.95), ..Known::default() };
        assert!(matches!(
            step(&Phase::Watched, &known, &TracingConfig::default(), true),
            Step::Begin(Detail::Light, reason) if reason.contains("95 %")
        ));
    }

    #[test]
    fn light_comes_first_and_not_where_even_that_is_too_much() {
        let config = TracingConfig::default();
        assert_eq!(begin(None, "it grows", &config), Step::Begin(Detail::Light, "it grows".into()));
        assert!(matches!(begin(predicted(9.0, 90.0).as_ref(), "it grows", &config), Step::Rest(_)));
    }

    #[test]
    fn exact_tracing_follows_only_below_the_slowdown_that_is_allowed() {
        let config = TracingConfig::default();
        let now = 10_000.0;
        let known = Known { now, ..growing_subject() };
        let phase = light_since(now - config.light_for.0.as_secs_f64());
        let next = |known: &Known| step(&phase, known, &config, true);
        let dear = Known { prediction: predicted(1.1, 18.0), ..known.clone() };
        assert!(matches!(next(&dear), Step::Stay(why) if why.contains("18.00 times")));
        let cheap = Known { prediction: predicted(1.01, 1.05), ..known.clone() };
        assert!(matches!(next(&cheap), Step::TraceExactly(_)));
        let explained = Known { explained: 0.9, ..cheap };
        assert!(matches!(next(&explained), Step::Stay(why) if why.contains("90 %")));
        assert_eq!(step(&light_since(now - 1.0), &dear, &config, true), Step::None);
    }

    #[test]
    fn tracing_ends_when_its_time_is_over() {
        let config = TracingConfig::default();
        let phase = light_since(1000.0 - config.max_duration.0.as_secs_f64());
        assert!(matches!(step(&phase, &growing_subject(), &config, true), Step::End(_)));
    }
}
