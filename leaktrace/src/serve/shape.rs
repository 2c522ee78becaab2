//! Shapes of the API's answers, as `docs/api.md` describes them. They live apart from the state, so that the state can change
//! without breaking a reader.

use serde::Serialize;

use crate::{
    alert::json::WireAlert,
    verdict::{MemoryTrend, Unexplained},
    watched::{Decision, MemoryReading, OwnState, SessionInfo, State, Subject, SubjectState, Suspect},
};

/// Version of the shapes. Goes up when a field changes its meaning or goes away; new fields do not raise it.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
pub(super) struct IndexShape {
    leaktrace: &'static str,
    addresses: [&'static str; 11],
}

impl Default for IndexShape {
    fn default() -> Self {
        Self {
            leaktrace: env!("CARGO_PKG_VERSION"),
            addresses: [
                "/metrics",
                "/healthz",
                "/api/v1/state",
                "/api/v1/alerts",
                "/api/v1/subjects",
                "/api/v1/subjects/{subject}",
                "/api/v1/subjects/{subject}/report",
                "/api/v1/subjects/{subject}/report.txt",
                "/api/v1/subjects/{subject}/profile.pb.gz",
                "/api/v1/subjects/{subject}/flamegraph.svg",
                "/api/v1/subjects/{subject}/stacks.folded",
            ],
        }
    }
}

#[derive(Serialize)]
pub(super) struct StateShape<'a> {
    schema: u32,
    version: &'static str,
    at_unix_s: f64,
    started_unix_s: f64,
    interval_s: f64,
    subjects: usize,
    growing: usize,
    traced: usize,
    own: OwnShape<'a>,
}

#[derive(Serialize)]
struct OwnShape<'a> {
    cpu_s: f64,
    rss_bytes: u64,
    map_bytes: u64,
    reading_s: f64,
    processes: u64,
    subjects_left_out: u64,
    history_lost: u64,
    history_error: Option<&'a str>,
    sinks: Vec<SinkShape<'a>>,
}

#[derive(Serialize)]
struct SinkShape<'a> {
    name: &'a str,
    delivered: u64,
    lost: u64,
    waiting: u64,
    last_error: Option<&'a str>,
}

impl<'a> From<&'a State> for StateShape<'a> {
    fn from(state: &'a State) -> Self {
        let count = |wanted: fn(&SubjectState) -> bool| {
            state.subjects.iter().filter(|subject| wanted(subject)).count()
        };
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            at_unix_s: state.at_unix_s,
            started_unix_s: state.started_unix_s,
            interval_s: state.interval_s,
            subjects: state.subjects.len(),
            growing: count(|subject| subject.trend.grows),
            traced: count(|subject| subject.session.is_some()),
            own: (&state.own).into(),
        }
    }
}

impl<'a> From<&'a OwnState> for OwnShape<'a> {
    fn from(own: &'a OwnState) -> Self {
        let sink = |sink: &'a crate::watched::SinkState| SinkShape {
            name: &sink.name,
            delivered: sink.delivered,
            lost: sink.lost,
            waiting: sink.waiting,
            last_error: sink.last_error.as_deref(),
        };
        Self {
            cpu_s: own.cpu_s,
            rss_bytes: own.rss_bytes,
            map_bytes: own.map_bytes,
            reading_s: own.reading_s,
            processes: own.processes,
            subjects_left_out: own.subjects_left_out,
            history_lost: own.history_lost,
            history_error: own.history_error.as_deref(),
            sinks: own.alerts.iter().map(sink).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct SubjectsShape<'a> {
    schema: u32,
    at_unix_s: f64,
    subjects: Vec<BriefShape<'a>>,
}

/// What a list has of each.
#[derive(Serialize)]
struct BriefShape<'a> {
    #[serde(flatten)]
    subject: &'a Subject,
    memory: MemoryReading,
    grows: bool,
    bytes_per_hour: Option<f64>,
    confidence: Option<f64>,
    to_limit_s: Option<f64>,
    traced: bool,
    has_report: bool,
    suspects: usize,
    worst: Option<&'a str>,
}

impl<'a> From<&'a State> for SubjectsShape<'a> {
    fn from(state: &'a State) -> Self {
        let subjects = state.subjects.iter().map(BriefShape::from).collect();
        Self { schema: SCHEMA, at_unix_s: state.at_unix_s, subjects }
    }
}

impl<'a> From<&'a SubjectState> for BriefShape<'a> {
    fn from(state: &'a SubjectState) -> Self {
        Self {
            subject: &state.subject,
            memory: state.memory,
            grows: state.trend.grows,
            bytes_per_hour: state.trend.leading.map(|leading| leading.bytes_per_hour),
            confidence: state.trend.leading.map(|leading| leading.confidence),
            to_limit_s: state.trend.to_limit_s,
            traced: state.session.is_some(),
            has_report: state.report.is_some(),
            suspects: state.suspects.len(),
            worst: state.suspects.first().map(|suspect| suspect.line.as_str()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct SubjectShape<'a> {
    schema: u32,
    subject: &'a Subject,
    memory: MemoryReading,
    trend: &'a MemoryTrend,
    session: Option<&'a SessionInfo>,
    has_report: bool,
    suspects: &'a [Suspect],
    unexplained: Option<&'a Unexplained>,
    decision: Option<&'a Decision>,
}

impl<'a> From<&'a SubjectState> for SubjectShape<'a> {
    fn from(state: &'a SubjectState) -> Self {
        Self {
            schema: SCHEMA,
            subject: &state.subject,
            memory: state.memory,
            trend: &state.trend,
            session: state.session.as_ref(),
            has_report: state.report.is_some(),
            suspects: &state.suspects,
            unexplained: state.unexplained.as_ref(),
            decision: state.decision.as_ref(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct AlertsShape<'a> {
    schema: u32,
    alerts: Vec<WireAlert<'a>>,
}

impl<'a> From<&'a State> for AlertsShape<'a> {
    fn from(state: &'a State) -> Self {
        Self { schema: SCHEMA, alerts: state.alerts.iter().map(|alert| alert.as_ref().into()).collect() }
    }
}
