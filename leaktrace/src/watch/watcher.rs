//! The daemon's one loop: looks, decides, traces, listens, and hands what it has found to everybody else. It never waits for any of
//! them: history, alerts and HTTP have threads of their own, what takes long is done beside.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use super::{
    clock::Clock,
    config::Config,
    evidence::Keeper,
    kills::Kills,
    memory_of_old::Memory,
    own::Own,
    schedule::{self, Phase, Step},
    signals::{Asked, Signals},
    subject::Watched,
    survey::Survey,
    systemd,
    trace::{Heard, Trace},
};
use crate::{
    alert::{Alert, Rules, Sinks},
    cli::Failure,
    daemon::until,
    report::{aside::say, model::Detail},
    serve::Server,
    session::{
        Event,
        prediction::{Prediction, PredictionError, predict},
    },
    store::{Entry, Writer},
    verdict::Options,
    watched::{Decision, Published, SessionInfo, State, Subject, SubjectState},
};

/// Events of traces that wait to be looked at.
const WAITING: usize = 64;
/// How long traces have to end in an orderly way when the daemon ends.
const LAST_REPORTS: Duration = Duration::from_secs(20);
/// How long history and alerts have for what is under way then.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A subject that was not seen for so many ticks is gone.
const GONE_AFTER_TICKS: f64 = 3.0;

/// What was predicted for which subject.
type Predicted = (String, Result<Prediction, PredictionError>);

/// See the module.
pub struct Watcher {
    pub(super) config: Config,
    file: PathBuf,
    pub(super) options: Options,
    pub(super) clock: Clock,
    started_unix_s: f64,
    pub(super) survey: Survey,
    pub(super) subjects: HashMap<String, Watched>,
    pub(super) writer: Writer,
    pub(super) rules: Rules,
    sinks: Sinks,
    server: Server,
    pub(super) keeper: Arc<Keeper>,
    pub(super) kills: Kills,
    published: Published,
    own: Own,
    /// What was known before the start.
    memory: Memory,
    heard: (Sender<Heard>, Receiver<Heard>),
    predicted: (Sender<Predicted>, Receiver<Predicted>),
    pub(super) written: (Sender<super::kills::Written>, Receiver<super::kills::Written>),
}

impl Watcher {
    /// Opens everything that is needed. Nothing is traced yet.
    ///
    /// # Errors
    /// If the history belongs to another daemon or cannot be had, or nobody can listen where that was asked for.
    pub fn begin(file: &Path, config: Config) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
        let history = config.history_file();
        let writer = Writer::start(&history, &config.history).map_err(|error| failed(&error))?;
        let notice = writer.notice().map(str::to_owned);
        let clock = Clock::start();
        let published = Published::default();
        let server = Server::start(&config.serve, published.clone()).map_err(|error| failed(&error))?;
        let mut watcher = Self {
            options: Options::from(&config.verdict),
            memory: Memory::open(&history, clock.now()),
            started_unix_s: clock.now(),
            survey: Survey::new(&config.scope).map_err(|error| failed(&error))?,
            subjects: HashMap::new(),
            rules: config.rules(),
            sinks: Sinks::start(&config.alerts).map_err(|error| failed(&error))?,
            keeper: Arc::new(Keeper::new(config.evidence_directory(), &config.evidence)),
            kills: Kills::start(),
            own: Own::default(),
            heard: channel(WAITING),
            predicted: channel(WAITING),
            written: channel(WAITING),
            file: file.to_owned(),
            config,
            clock,
            writer,
            server,
            published,
        };
        if let Some(notice) = notice {
            watcher.decide(None, notice);
        }
        watcher.restore_alerts();
        Ok(watcher)
    }

    /// The loop. Returns when it is told to end.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let mut ticks = self.ticks();
        systemd::ready();
        self.tell_of_the_beginning();
        loop {
            let due = self.kills.due();
            tokio::select! {
                biased;
                asked = signals.next() => match asked {
                    Asked::End => break,
                    Asked::Reload => {
                        self.reload();
                        ticks = self.ticks();
                    }
                },
                kill = self.kills.next() => self.killed(&kill),
                Some((id, event)) = self.heard.1.recv() => self.hear(id, event),
                Some((key, prediction)) = self.predicted.1.recv() => self.begin_predicted(&key, &prediction),
                Some(written) = self.written.1.recv() => self.evidence_written(written),
                () = until(due) => self.write_due_evidence(),
                _ = ticks.tick() => self.tick(),
            }
        }
        self.end().await;
        Ok(())
    }

    fn ticks(&self) -> Interval {
        let mut ticks = interval(self.config.interval.0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    fn tell_of_the_beginning(&self) {
        let served: Vec<String> = self.server.addresses().iter().map(ToString::to_string).collect();
        let served = if served.is_empty() {
            "nothing is served".to_owned()
        } else {
            format!("served at {}", served.join(", "))
        };
        let history = self.config.history_file();
        say(format!("watching; the history is {}, {served}", history.display()));
    }

    /// Looks at everybody, and does what follows.
    fn tick(&mut self) {
        if let Some(by) = self.clock.jump() {
            self.follow_clock(by);
        }
        let now = self.clock.now();
        let looked = self.survey.look(now);
        let readings = looked.iter().map(|(subject, memory)| (subject.key.clone(), *memory)).collect();
        self.kills.count(&looked);
        for (subject, memory) in looked {
            self.read(subject, memory);
        }
        self.writer.send(Entry::Memory(readings));
        self.forget_gone(now);
        self.take_steps(now);
        self.watch_limits();
        let state = self.publish(now);
        for alert in self.rules.evaluate(&state, now) {
            self.raise(alert);
        }
        systemd::alive();
    }

    fn read(&mut self, subject: Subject, memory: crate::watched::MemoryReading) {
        let key = subject.key.clone();
        let tick_s = self.config.interval.0.as_secs_f64();
        let is_new = !self.subjects.contains_key(&key);
        let watched = self.subjects.entry(key).or_insert_with(|| Watched::new(subject.clone(), tick_s));
        if is_new {
            self.memory.restore(watched);
        }
        if is_new || watched.subject != subject {
            self.writer.send(Entry::Subject(subject.clone()));
        }
        watched.read(subject, memory, &self.options);
    }

    /// Drops those that are gone and whose trace has ended.
    fn forget_gone(&mut self, now: f64) {
        let patience = GONE_AFTER_TICKS * self.config.interval.0.as_secs_f64();
        let kills = &self.kills;
        self.subjects.retain(|key, watched| {
            watched.trace.is_some() || kills.concerns(key) || now - watched.seen < patience
        });
    }

    /// The next step of everybody, those near a limit first, then those that grow most surely.
    fn take_steps(&mut self, now: f64) {
        let near = self.config.tracing.near_limit.0;
        let mut keys: Vec<((bool, f64), String)> =
            self.subjects.iter().map(|(key, watched)| (watched.urgency(near), key.clone())).collect();
        keys.sort_by(|(a, first), (b, second)| {
            b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)).then_with(|| first.cmp(second))
        });
        for (_, key) in keys {
            let room = self.busy() < self.config.tracing.at_once;
            let Some(watched) = self.subjects.get(&key) else { continue };
            let step = watched.step(now, &self.config, room);
            self.take_step(&key, now, step);
        }
    }

    /// How many are traced, or will be in a moment.
    fn busy(&self) -> usize {
        self.subjects.values().filter(|watched| watched.phase != Phase::Watched).count()
    }

    fn take_step(&mut self, key: &str, now: f64, step: Step) {
        match step {
            Step::None => {}
            Step::Measure(reason) => self.measure(key, reason),
            Step::Begin(detail, reason) => self.begin_trace(key, now, now, detail, &reason),
            Step::End(reason) => self.end_trace(key, reason, false),
            Step::TraceExactly(reason) => self.end_trace(key, reason, true),
            Step::Stay(reason) => {
                if let Some(Phase::Traced { decided, .. }) =
                    self.subjects.get_mut(key).map(|watched| &mut watched.phase)
                {
                    *decided = true;
                }
                self.decide(Some(key), reason);
            }
            Step::Rest(reason) => {
                self.rest(key, now);
                self.decide(Some(key), reason);
            }
        }
    }

    /// Finds out what tracing would cost, beside everything else.
    fn measure(&mut self, key: &str, reason: String) {
        let Some(watched) = self.subjects.get_mut(key) else { return };
        watched.phase = Phase::Measured { reason };
        let pid = watched.subject.pid;
        let (key, tell) = (key.to_owned(), self.predicted.0.clone());
        let measure = self.config.tracing.measure;
        tokio::spawn(async move {
            let prediction = match measure {
                true => predict(pid).await,
                false => Err(PredictionError::NotAsked),
            };
            let _ = tell.send((key, prediction)).await;
        });
    }

    fn begin_predicted(&mut self, key: &str, prediction: &Result<Prediction, PredictionError>) {
        let Some(watched) = self.subjects.get_mut(key) else { return };
        let Phase::Measured { reason } = std::mem::take(&mut watched.phase) else { return };
        watched.prediction = prediction.as_ref().ok().copied();
        if let Err(error @ PredictionError::Failed { .. }) = prediction {
            let sentence = error.to_string();
            self.decide(Some(key), sentence);
        }
        let step = schedule::begin(prediction.as_ref().ok(), &reason, &self.config.tracing);
        self.take_step(key, self.clock.now(), step);
    }

    fn begin_trace(&mut self, key: &str, now: f64, first: f64, detail: Detail, reason: &str) {
        let Some(watched) = self.subjects.get_mut(key) else { return };
        let spent = Duration::try_from_secs_f64(now - first).unwrap_or_default();
        let left = self.config.tracing.max_duration.0.saturating_sub(spent);
        let plan = watched.plan(detail, &self.config, left);
        let predicted = watched.prediction.map(|prediction| match detail {
            Detail::Light => prediction.light.factor,
            Detail::Exact => prediction.exact.factor,
        });
        let info = SessionInfo {
            id: self.writer.next_session_id(),
            subject: key.to_owned(),
            detail,
            began_unix_s: now,
            reason: reason.to_owned(),
            predicted_slowdown: predicted,
            ..SessionInfo::default()
        };
        match Trace::start(info.clone(), &plan, self.heard.0.clone()) {
            Ok(trace) => {
                watched.phase = Phase::Traced { detail, since: now, first, decided: false };
                watched.trace = Some(trace);
                self.writer.send(Entry::Session(info));
                let how = if detail == Detail::Exact { "exactly" } else { "lightly" };
                self.decide(Some(key), format!("traced {how}: {reason}"));
            }
            Err(error) => {
                self.rest(key, now);
                self.decide(Some(key), error.to_string());
            }
        }
    }

    fn end_trace(&mut self, key: &str, reason: String, exact_next: bool) {
        let Some(watched) = self.subjects.get_mut(key) else { return };
        let Phase::Traced { first, .. } = watched.phase else { return };
        watched.phase = Phase::Ending { first, exact_next };
        if let Some(trace) = &mut watched.trace {
            trace.info.outcome = Some(reason);
            trace.end();
        }
    }

    /// Something came from a trace.
    fn hear(&mut self, id: u64, event: Event) {
        let now = self.clock.now();
        let of_it = |watched: &Watched| watched.trace.as_ref().is_some_and(|trace| trace.info.id == id);
        let Some((key, watched)) = self.subjects.iter_mut().find(|(_, watched)| of_it(watched)) else {
            return;
        };
        let key = key.clone();
        match event {
            Event::Said(sentence) => watched.hear(sentence),
            Event::Report(report) => {
                let report = Arc::new(*report);
                let changed = watched.take(now, id, Arc::clone(&report), &self.options);
                self.writer.send(Entry::Report { session: id, report });
                if !changed.is_empty() {
                    self.writer.send(Entry::Verdicts {
                        subject: key.clone(),
                        at_unix_s: now,
                        verdicts: changed,
                    });
                }
                let unexplained = watched.unexplained.clone();
                self.writer.send(Entry::Unexplained { subject: key.clone(), at_unix_s: now, unexplained });
                self.report_came(&key);
            }
            Event::Ended(status) => self.trace_ended(&key, now, &status),
        }
    }

    fn trace_ended(&mut self, key: &str, now: f64, status: &std::io::Result<std::process::ExitStatus>) {
        let Some(watched) = self.subjects.get_mut(key) else { return };
        let Some(mut trace) = watched.trace.take() else { return };
        let said = watched.last_words();
        let phase = std::mem::take(&mut watched.phase);
        trace.info.ended_unix_s = Some(now);
        let failed = !matches!(status, Ok(status) if status.success());
        if failed || trace.info.outcome.is_none() {
            trace.info.outcome = Some(said.unwrap_or_else(|| "the process that traced has ended".to_owned()));
        }
        let outcome = trace.info.outcome.clone().unwrap_or_default();
        self.own.trace_ended(&trace.truth);
        self.writer.send(Entry::Session(trace.info.clone()));
        match phase {
            Phase::Ending { first, exact_next: true } if !failed => {
                self.begin_trace(key, now, first, Detail::Exact, &outcome);
            }
            _ => {
                self.rest(key, now);
                self.decide(Some(key), format!("tracing has ended: {outcome}"));
            }
        }
    }

    fn rest(&mut self, key: &str, now: f64) {
        if let Some(watched) = self.subjects.get_mut(key) {
            watched.phase = Phase::Watched;
            watched.rests_until = now + self.config.tracing.cool_down.0.as_secs_f64();
        }
    }

    /// Remembers why something was done or not done.
    pub(super) fn decide(&mut self, key: Option<&str>, sentence: String) {
        let decision = Decision { at_unix_s: self.clock.now(), subject: key.map(str::to_owned), sentence };
        let name = key.and_then(|key| self.subjects.get(key)).map(|watched| watched.subject.name.clone());
        match name {
            Some(name) => say(format!("{name}: {}", decision.sentence)),
            None => say(&decision.sentence),
        }
        if let Some(watched) = key.and_then(|key| self.subjects.get_mut(key)) {
            watched.decision = Some(decision.clone());
        }
        self.writer.send(Entry::Decision(decision));
    }

    /// Tells people, and remembers that.
    pub(super) fn raise(&mut self, alert: Alert) {
        say(&alert.sentence);
        self.sinks.raise(&alert);
        self.writer.send(Entry::Alert(alert));
    }

    fn restore_alerts(&mut self) {
        self.rules.restore(self.memory.alerts());
    }

    fn publish(&mut self, now: f64) -> Arc<State> {
        let mut subjects: Vec<SubjectState> = self.subjects.values().map(Watched::state).collect();
        subjects.sort_by(|a, b| {
            let size = |state: &SubjectState| state.memory.private_bytes();
            size(b).cmp(&size(a)).then_with(|| a.subject.key.cmp(&b.subject.key))
        });
        let traces = self.subjects.values().filter_map(|watched| watched.trace.as_ref());
        let mut own = self.own.state(traces.map(|trace| &trace.truth));
        let health = self.writer.health();
        own.history_lost = health.lost;
        own.history_error = health.error.filter(|_| health.failing);
        own.alerts = self.sinks.health();
        own.reading_s = self.survey.took().as_secs_f64();
        own.processes = self.survey.processes();
        own.subjects_left_out = self.survey.left_out();
        self.published.set(State {
            at_unix_s: now,
            started_unix_s: self.started_unix_s,
            interval_s: self.config.interval.0.as_secs_f64(),
            subjects,
            alerts: self.rules.recent(),
            own,
        });
        self.published.get()
    }

    fn follow_clock(&mut self, by: f64) {
        self.subjects.values_mut().for_each(|watched| watched.shift(by));
        self.started_unix_s += by;
        self.rules.shift(by);
        let way = if by > 0.0 { "forward" } else { "back" };
        self.decide(
            None,
            format!("the clock was set {way} by {:.0} s; what is remembered was moved along", by.abs()),
        );
    }

    /// Takes the configuration anew. What is wrong with it is said, and the old one stays in force.
    fn reload(&mut self) {
        systemd::reloading();
        let sentence = match self.reloaded() {
            Ok(()) => format!("the configuration {} was read anew", self.file.display()),
            Err(why) => format!("{why}; the configuration stays as it was"),
        };
        self.decide(None, sentence);
        systemd::ready();
    }

    /// What can fail comes first: a configuration is taken whole or not at all.
    fn reloaded(&mut self) -> Result<(), String> {
        let config = Config::read(&self.file).map_err(|error| error.to_string())?;
        let sinks = Sinks::start(&config.alerts)?;
        self.survey.set_scopes(&config.scope).map_err(|error| error.to_string())?;
        self.options = Options::from(&config.verdict);
        let older = std::mem::replace(&mut self.rules, config.rules());
        self.rules.take_over(older);
        // Dropped, the old ones deliver what waits.
        self.sinks = sinks;
        if config.serve != self.config.serve
            && let Err(error) = self.server.restart(&config.serve)
        {
            self.decide(None, format!("{error}; the API stays where it was"));
        }
        self.keeper = Arc::new(Keeper::new(config.evidence_directory(), &config.evidence));
        // The history stays open as it is.
        let state_directory = std::mem::take(&mut self.config.state_directory);
        let history = std::mem::take(&mut self.config.history);
        self.config = Config { state_directory, history, ..config };
        Ok(())
    }

    /// Ends every trace, waits for the last reports, and lets everybody finish.
    async fn end(mut self) {
        systemd::stopping();
        let keys: Vec<String> = self.subjects.keys().cloned().collect();
        for key in &keys {
            self.end_trace(key, "the daemon was told to end".to_owned(), false);
        }
        let ends = async {
            while self.subjects.values().any(|watched| watched.trace.is_some()) {
                let Some((id, event)) = self.heard.1.recv().await else { return };
                self.hear(id, event);
            }
        };
        if timeout(LAST_REPORTS, ends).await.is_err() {
            say("some processes that trace have not ended in time; they end by themselves");
        }
        self.server.stop();
        self.sinks.stop(LAST_WORDS);
        if !self.writer.flush(LAST_WORDS) {
            say("the history could not be written to the end");
        }
        // Who closes the history last moves its log into it: that must be somebody who writes. At rest it is one file.
        let Self { memory, writer, .. } = self;
        drop(memory);
        drop(writer);
    }
}
