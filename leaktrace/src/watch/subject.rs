//! One subject under watch: its memory over time, its trace, its sites, and the step that comes next.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    config::Config,
    curve::Curve,
    schedule::{self, Known, Phase, Step},
    sites::SiteBook,
    trace::Trace,
};
use crate::{
    report::{fingerprint::SiteKey, model::Detail, model::Report},
    session::{SessionPlan, prediction::Prediction},
    target::TargetSpec,
    verdict::{
        MemoryTrend, Options, ProcessReading, Unexplained, Verdict, memory_trend, readings, unexplained,
    },
    watched::{Decision, MemoryReading, Subject, SubjectKind, SubjectState},
};

/// Sentences of a trace that are kept to say why it ended.
const KEPT_SENTENCES: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Watched {
    /// Who.
    pub subject: Subject,
    /// The latest reading.
    pub memory: MemoryReading,
    /// Its memory over time.
    pub curve: Curve,
    /// How that develops.
    pub trend: MemoryTrend,
    /// Where it stands.
    pub phase: Phase,
    /// Its running trace.
    pub trace: Option<Trace>,
    /// The latest report.
    pub report: Option<Arc<Report>>,
    /// What tracing was predicted to cost.
    pub prediction: Option<Prediction>,
    /// Before this moment it is left alone.
    pub rests_until: f64,
    /// The latest decision about it.
    pub decision: Option<Decision>,
    /// Growth that tracked memory does not explain.
    pub unexplained: Option<Unexplained>,
    /// Whether evidence of being near the limit was written, and it has not been far from it since.
    pub near_limit_told: bool,
    /// When it was last seen, seconds since the Unix epoch.
    pub seen: f64,
    book: SiteBook,
    said: VecDeque<String>,
}

impl Watched {
    /// Somebody new, whose memory is read every `tick_s` seconds.
    pub fn new(subject: Subject, tick_s: f64) -> Self {
        Self {
            subject,
            memory: MemoryReading::default(),
            curve: Curve::new(tick_s),
            trend: MemoryTrend::default(),
            phase: Phase::Watched,
            trace: None,
            report: None,
            prediction: None,
            rests_until: 0.0,
            decision: None,
            unexplained: None,
            near_limit_told: false,
            seen: 0.0,
            book: SiteBook::default(),
            said: VecDeque::new(),
        }
    }

    /// What was known before a restart of the daemon.
    pub fn restore(&mut self, memory: &[MemoryReading]) {
        memory.iter().for_each(|reading| self.curve.record(reading));
    }

    /// The book of its sites, to restore it.
    pub fn book_mut(&mut self) -> &mut SiteBook {
        &mut self.book
    }

    /// Takes a reading of its memory.
    pub fn read(&mut self, subject: Subject, memory: MemoryReading, options: &Options) {
        self.seen = memory.at_unix_s;
        self.subject = subject;
        self.memory = memory;
        self.curve.record(&memory);
        let limit = memory.cgroup.and_then(|cgroup| cgroup.limit_bytes);
        self.trend = memory_trend(&self.curve.points(), limit, memory.at_unix_s, options);
    }

    /// The step that comes next.
    pub fn step(&self, now: f64, config: &Config, room: bool) -> Step {
        let known = Known {
            now,
            trend: self.trend.clone(),
            share_of_limit: self.share_of_limit(),
            rests_until: self.rests_until,
            prediction: self.prediction,
            explained: self.book.explained(),
        };
        schedule::step(&self.phase, &known, &config.tracing, room)
    }

    /// What it cannot give back, as a share of its limit.
    pub fn share_of_limit(&self) -> Option<f64> {
        self.memory.cgroup.and_then(|cgroup| cgroup.share_of_limit())
    }

    /// Whose turn comes first: those near a limit, then those that grow most surely and most.
    pub fn urgency(&self, near_limit: f64) -> (bool, f64) {
        let leading = self.trend.leading.filter(|_| self.trend.grows).unwrap_or_default();
        let is_near = self.share_of_limit().is_some_and(|share| share >= near_limit);
        (is_near, leading.confidence * leading.bytes_per_hour.max(0.0))
    }

    /// How it is traced.
    pub fn plan(&self, detail: Detail, config: &Config, left: Duration) -> SessionPlan {
        let tracing = &config.tracing;
        let target = match self.subject.kind {
            SubjectKind::Process => TargetSpec::Pids(vec![self.subject.pid]),
            SubjectKind::Container => {
                let id = self.subject.container.as_ref().map(|container| container.id.clone());
                TargetSpec::Container(id.unwrap_or_default())
            }
            SubjectKind::Cgroup => TargetSpec::Cgroup(self.subject.name.clone().into()),
        };
        SessionPlan {
            detail,
            min_age: tracing.min_age.map_or(tracing.interval.0, |age| age.0),
            // The daemon ends it; this is for a daemon that is stuck.
            duration: Some(left + tracing.interval.0 * 4 + Duration::from_secs(60)),
            max_live_blocks: tracing.max_live_blocks,
            target_writes: tracing.target_writes,
            strict_scope: tracing.strict_scope,
            ..SessionPlan::of(target, tracing.interval.0)
        }
    }

    /// Takes a report of its trace; returns the verdicts that have changed.
    pub fn take(
        &mut self,
        at: f64,
        session: u64,
        report: Arc<Report>,
        options: &Options,
    ) -> Vec<(SiteKey, Verdict)> {
        let reading = self.process_reading(at, session, &report);
        self.book.take(session, &report, reading);
        if let Some(trace) = &mut self.trace {
            trace.truth = report.truth.clone();
        }
        let changed = self.book.judge(options);
        self.unexplained = unexplained(self.book.processes(), &readings::facts(&report), options);
        self.report = Some(report);
        changed
    }

    fn process_reading(&self, at_unix_s: f64, session: u64, report: &Report) -> ProcessReading {
        let running = report.processes.iter().filter(|process| process.ended.is_none());
        let reading = readings::process(report, session, self.memory.private_bytes(), self.memory.cpu_s);
        // What somebody held who has ended is no growth.
        ProcessReading {
            at_unix_s,
            tracked_bytes: running.map(|process| process.live.bytes).sum(),
            ..reading
        }
    }

    /// Takes a sentence of its trace.
    pub fn hear(&mut self, sentence: String) {
        self.said.push_back(sentence);
        if self.said.len() > KEPT_SENTENCES {
            self.said.pop_front();
        }
    }

    /// What its trace has said last, for the history.
    pub fn last_words(&mut self) -> Option<String> {
        let last = self.said.pop_back();
        self.said.clear();
        last
    }

    /// What is known of it, for everybody.
    pub fn state(&self) -> SubjectState {
        SubjectState {
            subject: self.subject.clone(),
            memory: self.memory,
            trend: self.trend.clone(),
            session: self.trace.as_ref().map(|trace| trace.info.clone()),
            report: self.report.clone(),
            suspects: self.book.suspects().to_vec(),
            unexplained: self.unexplained.clone(),
            decision: self.decision.clone(),
        }
    }

    /// Moves everything in time: the wall clock was set.
    pub fn shift(&mut self, by: f64) {
        self.curve.shift(by);
        self.book.shift(by);
        self.rests_until += by;
        self.seen += by;
        self.memory.at_unix_s += by;
        self.phase.shift(by);
    }
}
