//! Every metric there is, with its description; `docs/api.md` has the same list.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Unit,
};

use super::{
    Limits,
    chosen::{Choice, Chosen},
    labels::{self, Labels, Value},
};
use crate::{
    report::model::{Detail, Report},
    verdict::Shape,
    watched::{CgroupReading, SinkState, State, SubjectState, Suspect},
};

const SECONDS_PER_HOUR: f64 = 3600.0;

/// Writes all of them.
pub(super) fn encode(state: &State, limits: Limits, encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let choice = Choice::of(state, limits);
    let mut out = Out(encoder);
    daemon(&mut out, state, &choice)?;
    losses(&mut out, state, &choice)?;
    memory(&mut out, &choice)?;
    cgroups(&mut out, &choice)?;
    growth(&mut out, &choice)?;
    tracing(&mut out, &choice)?;
    suspects(&mut out, &choice)
}

/// Values of one family, with their labels. What is no number is left out.
type Samples<const N: usize> = Vec<(Labels<N>, f64)>;

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge<const N: usize>(
        &mut self,
        name: &str,
        unit: &str,
        help: &str,
        samples: Samples<N>,
    ) -> fmt::Result {
        self.family(MetricType::Gauge, name, unit, help, samples)
    }

    fn counter<const N: usize>(
        &mut self,
        name: &str,
        unit: &str,
        help: &str,
        samples: Samples<N>,
    ) -> fmt::Result {
        self.family(MetricType::Counter, name, unit, help, samples)
    }

    fn family<const N: usize>(
        &mut self,
        kind: MetricType,
        name: &str,
        unit: &str,
        help: &str,
        samples: Samples<N>,
    ) -> fmt::Result {
        let unit = Some(Unit::Other(unit.to_owned())).filter(|unit| !unit.as_str().is_empty());
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in samples.into_iter().filter(|(_, value)| value.is_finite()) {
            if N == 0 {
                sample(&mut family, kind, value)?;
            } else {
                sample(&mut family.encode_family(&labels)?, kind, value)?;
            }
        }
        Ok(())
    }
}

fn sample(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: f64) -> fmt::Result {
    match kind {
        MetricType::Counter => {
            let none: Option<&Exemplar<[(&str, &str); 0], f64>> = None;
            encoder.encode_counter(&value, none)
        }
        _ => encoder.encode_gauge(&value),
    }
}

fn one(value: f64) -> Samples<0> {
    vec![([], value)]
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn daemon(out: &mut Out<'_>, state: &State, choice: &Choice<'_>) -> fmt::Result {
    let version = [("version", Value::of(env!("CARGO_PKG_VERSION")))];
    let own = &state.own;
    out.gauge("leaktrace_build_info", "", "Always 1; the label has the version.", vec![(version, 1.0)])?;
    out.gauge(
        "leaktrace_start_time",
        "seconds",
        "When the daemon started, since 1970.",
        one(state.started_unix_s),
    )?;
    out.gauge(
        "leaktrace_last_look_timestamp",
        "seconds",
        "When memory was last looked at, since 1970.",
        one(state.at_unix_s),
    )?;
    out.gauge(
        "leaktrace_look_interval",
        "seconds",
        "Time between two looks at memory.",
        one(state.interval_s),
    )?;
    out.gauge(
        "leaktrace_look_duration",
        "seconds",
        "How long the last look at memory took.",
        one(own.reading_s),
    )?;
    out.counter(
        "leaktrace_own_cpu",
        "seconds",
        "CPU time of the daemon and of the processes that trace for it.",
        one(own.cpu_s),
    )?;
    out.gauge(
        "leaktrace_own_resident_memory",
        "bytes",
        "Resident memory of the daemon and of the processes that trace for it.",
        one(own.rss_bytes as f64),
    )?;
    out.gauge("leaktrace_own_map_memory", "bytes", "Kernel memory of eBPF maps.", one(own.map_bytes as f64))?;
    out.gauge("leaktrace_watched_processes", "", "Processes that are watched.", one(own.processes as f64))?;
    out.gauge(
        "leaktrace_watched_subjects",
        "",
        "Subjects (processes, containers, cgroups) that are watched.",
        one(state.subjects.len() as f64),
    )?;
    out.gauge(
        "leaktrace_omitted_subjects",
        "",
        "Subjects that are watched and not among these metrics (serve.max_subjects).",
        one(choice.subjects_omitted as f64),
    )?;
    out.gauge(
        "leaktrace_omitted_suspects",
        "",
        "Suspects that are known and not among these metrics (serve.max_suspects).",
        one(choice.suspects_omitted as f64),
    )
}

fn losses(out: &mut Out<'_>, state: &State, choice: &Choice<'_>) -> fmt::Result {
    let own = &state.own;
    let sinks = |of: fn(&SinkState) -> u64| -> Samples<1> {
        own.alerts.iter().map(|sink| ([("sink", Value::of(&sink.name))], of(sink) as f64)).collect()
    };
    out.gauge(
        "leaktrace_unwatched_subjects",
        "",
        "Subjects that are not watched because there are too many.",
        one(own.subjects_left_out as f64),
    )?;
    out.counter(
        "leaktrace_history_lost_records",
        "",
        "Records that could not be written to the history.",
        one(own.history_lost as f64),
    )?;
    out.gauge(
        "leaktrace_history_writable",
        "",
        "1: the history can be written; 0: it cannot.",
        one(flag(own.history_error.is_none())),
    )?;
    out.counter(
        "leaktrace_alerts_delivered",
        "",
        "Alerts that a sink has taken.",
        sinks(|sink| sink.delivered),
    )?;
    out.counter(
        "leaktrace_alerts_lost",
        "",
        "Alerts given up after all attempts, or for want of room.",
        sinks(|sink| sink.lost),
    )?;
    out.gauge("leaktrace_alerts_waiting", "", "Alerts that wait for a sink.", sinks(|sink| sink.waiting))?;
    let lost = each(choice, |state| {
        let running = state.session.as_ref().filter(|session| session.ended_unix_s.is_none());
        running.and(state.report.as_deref()).map(lost_events)
    });
    out.gauge(
        "leaktrace_session_lost_events",
        "",
        "Allocations and frees that the running trace is known to have missed.",
        lost,
    )
}

fn lost_events(report: &Report) -> f64 {
    report.truth.lost_events() as f64
}

/// A value of each subject that has one.
fn each(choice: &Choice<'_>, value: impl Fn(&SubjectState) -> Option<f64>) -> Samples<4> {
    let labelled = |chosen: &Chosen<'_>| Some((labels::subject(chosen), value(chosen.state)?));
    choice.subjects.iter().filter_map(labelled).collect()
}

fn memory(out: &mut Out<'_>, choice: &Choice<'_>) -> fmt::Result {
    out.gauge(
        "leaktrace_subject_anonymous_memory",
        "bytes",
        "Resident anonymous memory.",
        each(choice, |state| Some(state.memory.anonymous_bytes as f64)),
    )?;
    out.gauge(
        "leaktrace_subject_swap",
        "bytes",
        "Anonymous memory that was swapped out.",
        each(choice, |state| Some(state.memory.swap_bytes as f64)),
    )?;
    out.gauge(
        "leaktrace_subject_resident_memory",
        "bytes",
        "Resident memory of all kinds.",
        each(choice, |state| Some(state.memory.rss_bytes as f64)),
    )?;
    out.gauge(
        "leaktrace_subject_processes",
        "",
        "Processes of the subject.",
        each(choice, |state| Some(f64::from(state.memory.processes))),
    )?;
    out.counter(
        "leaktrace_subject_cpu",
        "seconds",
        "CPU time of the subject's processes.",
        each(choice, |state| Some(state.memory.cpu_s)),
    )
}

fn cgroups(out: &mut Out<'_>, choice: &Choice<'_>) -> fmt::Result {
    let each =
        |value: fn(CgroupReading) -> Option<f64>| each(choice, |state| state.memory.cgroup.and_then(value));
    out.gauge(
        "leaktrace_subject_cgroup_memory",
        "bytes",
        "Memory charged to the subject's cgroup.",
        each(|cgroup| Some(cgroup.current_bytes as f64)),
    )?;
    out.gauge(
        "leaktrace_subject_cgroup_reclaimable",
        "bytes",
        "Memory of the cgroup that the kernel can take back before it kills.",
        each(|cgroup| Some(cgroup.reclaimable_bytes as f64)),
    )?;
    out.gauge(
        "leaktrace_subject_cgroup_limit",
        "bytes",
        "The least memory limit that holds for the cgroup.",
        each(|cgroup| cgroup.limit_bytes.map(|limit| limit as f64)),
    )?;
    out.counter(
        "leaktrace_subject_oom_kills",
        "",
        "Processes of the cgroup that the kernel killed for want of memory.",
        each(|cgroup| Some(cgroup.oom_kills as f64)),
    )
}

fn growth(out: &mut Out<'_>, choice: &Choice<'_>) -> fmt::Result {
    let leading = |of: fn(&crate::verdict::Trend) -> f64| {
        each(choice, move |state| state.trend.leading.as_ref().map(of))
    };
    out.gauge(
        "leaktrace_subject_growing",
        "",
        "1: private memory grows, surely and by enough to matter.",
        each(choice, |state| Some(flag(state.trend.grows))),
    )?;
    out.gauge(
        "leaktrace_subject_growth",
        "bytes_per_second",
        "Growth of private memory over the stretch of time that shows it best.",
        leading(|trend| trend.bytes_per_hour / SECONDS_PER_HOUR),
    )?;
    out.gauge(
        "leaktrace_subject_growth_confidence",
        "ratio",
        "How sure it is that this is growth and no chance.",
        leading(|trend| trend.confidence),
    )?;
    out.gauge(
        "leaktrace_subject_growth_observed",
        "seconds",
        "How long that stretch of time is.",
        leading(|trend| trend.over_s),
    )?;
    out.gauge(
        "leaktrace_subject_time_to_limit",
        "seconds",
        "Time until the memory limit is reached, if growth goes on; absent without growth or limit.",
        each(choice, |state| state.trend.to_limit_s),
    )?;
    out.gauge(
        "leaktrace_subject_unexplained_growth",
        "bytes",
        "Growth of memory while traced that live blocks do not explain.",
        each(choice, |state| {
            state
                .unexplained
                .as_ref()
                .map(|found| found.grown_bytes.saturating_sub(found.tracked_bytes) as f64)
        }),
    )
}

fn tracing(out: &mut Out<'_>, choice: &Choice<'_>) -> fmt::Result {
    let traced = choice.subjects.iter().flat_map(|chosen| {
        let running = chosen.state.session.as_ref().filter(|session| session.ended_unix_s.is_none());
        [("exact", Detail::Exact), ("light", Detail::Light)].map(|(name, detail)| {
            let labels: Labels<5> = labels::with(labels::subject(chosen), "detail", name);
            (labels, flag(running.is_some_and(|session| session.detail == detail)))
        })
    });
    out.gauge(
        "leaktrace_subject_traced",
        "",
        "1: the subject is being traced so closely.",
        traced.collect(),
    )?;
    let slowdown =
        each(choice, |state| state.session.as_ref().and_then(|session| session.predicted_slowdown));
    out.gauge(
        "leaktrace_subject_predicted_slowdown",
        "ratio",
        "Slowdown that was predicted for the trace; 1 is none.",
        slowdown,
    )
}

fn suspects(out: &mut Out<'_>, choice: &Choice<'_>) -> fmt::Result {
    let each = |value: fn(&Suspect) -> f64| -> Samples<6> {
        let of = move |chosen: &Chosen<'_>| -> Samples<6> {
            chosen.suspects.iter().map(|suspect| (labels::suspect(chosen, suspect), value(suspect))).collect()
        };
        choice.subjects.iter().flat_map(of).collect()
    };
    let verdicts = choice.subjects.iter().flat_map(|chosen| {
        chosen.suspects.iter().map(|suspect| {
            let labels: Labels<7> =
                labels::with(labels::suspect(chosen, suspect), "verdict", shape(suspect.verdict.shape));
            (labels, 1.0)
        })
    });
    out.gauge(
        "leaktrace_suspect_survivors",
        "bytes",
        "Memory of the site's blocks that are alive for longer than the least age.",
        each(|suspect| suspect.survivors.bytes as f64),
    )?;
    out.gauge(
        "leaktrace_suspect_survivor_blocks",
        "",
        "Number of these blocks.",
        each(|suspect| suspect.survivors.blocks as f64),
    )?;
    out.gauge(
        "leaktrace_suspect_growth",
        "bytes_per_second",
        "Growth of the survivors.",
        each(|suspect| suspect.verdict.bytes_per_hour / SECONDS_PER_HOUR),
    )?;
    out.gauge(
        "leaktrace_suspect_confidence",
        "ratio",
        "How sure the verdict is.",
        each(|suspect| suspect.verdict.confidence),
    )?;
    out.gauge(
        "leaktrace_suspect_growth_share",
        "ratio",
        "Part of the subject's growth that the site explains; absent without growth.",
        each(|suspect| suspect.verdict.share_of_growth.unwrap_or(f64::NAN)),
    )?;
    out.gauge(
        "leaktrace_suspect_verdict_info",
        "",
        "Always 1; the label verdict says what the survivors do.",
        verdicts.collect(),
    )
}

fn shape(shape: Shape) -> &'static str {
    match shape {
        Shape::TooEarly => "too_early",
        Shape::GrowsSteadily => "grows_steadily",
        Shape::GrowsWithLoad => "grows_with_load",
        Shape::LevelledOff => "levelled_off",
        Shape::Steady => "steady",
        Shape::Bursts => "bursts",
    }
}
