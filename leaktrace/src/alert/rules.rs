//! All rules together: the daemon's state in, alerts out. No I/O and no clock; what it remembers is what people were told.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Alert, AlertConfig, AlertKind,
    finding::{Finding, findings, fingerprint},
    rule::{Condition, Rule, RuleConfig},
    text,
    told::{Patience, Told},
};
use crate::{
    report::human::{self, plural, printable},
    store,
    watched::{State, SubjectState, Suspect},
};

/// Most alerts of one look at the state; the others come with the next.
const MOST_AT_ONCE: usize = 50;

/// Most suspects that an alert carries.
const MOST_SUSPECTS: usize = 5;

/// Most alerts that are kept to be looked at.
const MOST_RECENT: usize = 100;

/// How long whoever sees a kill itself has to tell us of it before the cgroup's count does, seconds.
const KILL_TOLD_S: f64 = 10.0;

/// How far back a report goes where nobody knows since when memory grows, seconds.
const USUAL_STRETCH_S: f64 = 86_400.0;

/// See the module.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    host: String,
    history: Option<PathBuf>,
    told: Told,
    /// OOM kills by [`crate::watched::Subject::key`].
    kills: HashMap<String, Kills>,
    /// The latest first.
    recent: VecDeque<Arc<Alert>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kills {
    /// As the cgroup counts them.
    counted: u64,
    /// Since when they have grown without anybody having told us of a kill, seconds since the Unix epoch.
    untold_since: Option<f64>,
}

/// Whom the kernel killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Victim {
    /// As the host saw it.
    pub pid: u32,
    /// Its short name.
    pub name: String,
}

impl Rules {
    /// Rules of a valid configuration ([`AlertConfig::mistakes`]), else those that suit most. `host` is the name that alerts
    /// carry, `history` the file that commands in alerts are to name.
    pub fn new(config: &AlertConfig, host: &str, history: &Path) -> Self {
        let mut rules: Vec<Rule> = config.rule.iter().map(RuleConfig::rule).filter_map(Result::ok).collect();
        if config.rule.is_empty() {
            rules = Rule::defaults();
        }
        let remind = config.remind_after.as_secs_f64();
        let patience = Patience {
            cool_down_s: config.cool_down.as_secs_f64(),
            remind_after_s: (remind > 0.0).then_some(remind),
        };
        Self {
            rules,
            host: host.to_owned(),
            history: (history != Path::new(store::DEFAULT_FILE)).then(|| history.to_owned()),
            told: Told::new(patience),
            kills: HashMap::new(),
            recent: VecDeque::new(),
        }
    }

    /// What the history says that people were told, the oldest first: it is not repeated.
    pub fn restore(&mut self, alerts: impl IntoIterator<Item = Alert>) {
        for alert in alerts {
            self.told.remember(&alert.fingerprint, alert.at_unix_s);
            self.keep(alert);
        }
    }

    /// What people were told lately, the latest first.
    pub fn recent(&self) -> Vec<Arc<Alert>> {
        self.recent.iter().cloned().collect()
    }

    fn keep(&mut self, alert: Alert) {
        self.recent.push_front(Arc::new(alert));
        self.recent.truncate(MOST_RECENT);
    }

    /// Takes over what an older configuration's rules have told: for a reload.
    pub fn take_over(&mut self, older: Self) {
        self.told.take_over(older.told);
        self.kills = older.kills;
        self.recent = older.recent;
    }

    /// The clock was set by so many seconds: what is remembered moves along.
    pub fn shift(&mut self, by_s: f64) {
        self.told.shift(by_s);
        let kills = self.kills.values_mut();
        kills.filter_map(|kills| kills.untold_since.as_mut()).for_each(|since| *since += by_s);
    }

    /// What people are to be told now.
    pub fn evaluate(&mut self, state: &State, now_unix_s: f64) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for subject in &state.subjects {
            for rule in self.rules.iter().filter(|rule| rule.is_about(&subject.subject)) {
                for finding in findings(rule, subject) {
                    if alerts.len() < MOST_AT_ONCE
                        && self.told.is_news(&finding.fingerprint, finding.standing, now_unix_s)
                    {
                        alerts.push(self.alert(rule.condition.kind(), subject, finding, now_unix_s));
                    }
                }
            }
        }
        alerts.extend(self.kills(state, now_unix_s));
        self.told.end_round(now_unix_s);
        alerts.iter().for_each(|alert| self.keep(alert.clone()));
        alerts
    }

    /// The kernel has killed, or is about to kill, a process of a subject. `None`: no rule asks for that, or it was told
    /// lately.
    pub fn oom(
        &mut self,
        subject: &SubjectState,
        victim: &Victim,
        evidence: Option<String>,
        now_unix_s: f64,
    ) -> Option<Alert> {
        if let Some(kills) = self.kills.get_mut(&subject.subject.key) {
            kills.untold_since = None;
        }
        let who = format!("process {} ({})", victim.pid, printable(&victim.name));
        let sentence =
            format!("the kernel killed {who} of {} for want of memory", text::name(&subject.subject));
        let mut alert = self.killed(subject, sentence, now_unix_s)?;
        alert.evidence = evidence;
        self.keep(alert.clone());
        Some(alert)
    }

    /// The daemon itself is in trouble. `cause` is a word that tells one trouble from another; `None`: it was told lately.
    pub fn daemon(&mut self, cause: &str, sentence: &str, now_unix_s: f64) -> Option<Alert> {
        let fingerprint = format!("daemon|{cause}");
        if !self.told.is_new_event(&fingerprint, now_unix_s) {
            return None;
        }
        let alert = Alert {
            kind: AlertKind::Daemon,
            fingerprint,
            at_unix_s: now_unix_s,
            host: self.host.clone(),
            sentence: sentence.to_owned(),
            see_more: vec!["journalctl --unit leaktrace".to_owned()],
            ..Alert::default()
        };
        self.keep(alert.clone());
        Some(alert)
    }

    /// Kills that nobody told us of, by the cgroups' own count. They are told a moment later: whoever sees the kill itself
    /// knows more, and may be behind.
    fn kills(&mut self, state: &State, now_unix_s: f64) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let mut seen = HashMap::with_capacity(self.kills.len());
        for subject in &state.subjects {
            let Some(cgroup) = subject.memory.cgroup else { continue };
            let key = &subject.subject.key;
            let before = self.kills.get(key).copied();
            let mut kills = before.unwrap_or(Kills { counted: cgroup.oom_kills, untold_since: None });
            if kills.counted < cgroup.oom_kills && !self.was_killed_lately(key, now_unix_s) {
                kills.untold_since = kills.untold_since.or(Some(now_unix_s));
            }
            kills.counted = cgroup.oom_kills;
            if kills.untold_since.is_some_and(|since| (now_unix_s - since).abs() >= KILL_TOLD_S) {
                kills.untold_since = None;
                alerts.extend(self.killed(subject, counted(subject, cgroup.oom_kills), now_unix_s));
            }
            seen.insert(key.clone(), kills);
        }
        self.kills = seen;
        alerts
    }

    fn was_killed_lately(&self, subject: &str, now_unix_s: f64) -> bool {
        let rules = self.rules.iter().filter(|rule| rule.condition == Condition::OomKill);
        rules
            .into_iter()
            .any(|rule| self.told.was_told_lately(&fingerprint(&rule.name, subject, None), now_unix_s))
    }

    fn killed(&mut self, subject: &SubjectState, sentence: String, now_unix_s: f64) -> Option<Alert> {
        let about = |rule: &&Rule| rule.condition == Condition::OomKill && rule.is_about(&subject.subject);
        let rule = self.rules.iter().find(about)?;
        let fingerprint = fingerprint(&rule.name, &subject.subject.key, None);
        if !self.told.is_new_event(&fingerprint, now_unix_s) {
            return None;
        }
        Some(self.about(AlertKind::OomKill, subject, fingerprint, sentence, now_unix_s))
    }

    fn alert(&self, kind: AlertKind, state: &SubjectState, finding: Finding<'_>, now_unix_s: f64) -> Alert {
        let mut alert = self.about(kind, state, finding.fingerprint, finding.sentence, now_unix_s);
        if let Some(suspect) = finding.suspect {
            alert.suspects = first(suspect, &state.suspects);
            alert.see_more = self.see_more(state, Some(suspect), now_unix_s);
        }
        alert
    }

    fn about(
        &self,
        kind: AlertKind,
        state: &SubjectState,
        fingerprint: String,
        sentence: String,
        now_unix_s: f64,
    ) -> Alert {
        Alert {
            id: 0,
            kind,
            fingerprint,
            at_unix_s: now_unix_s,
            host: self.host.clone(),
            subject: state.subject.clone(),
            memory: state.memory,
            sentence,
            suspects: state.suspects.iter().take(MOST_SUSPECTS).cloned().collect(),
            see_more: self.see_more(state, state.suspects.first(), now_unix_s),
            evidence: None,
        }
    }

    /// As it can be typed.
    fn see_more(&self, state: &SubjectState, suspect: Option<&Suspect>, now_unix_s: f64) -> Vec<String> {
        let since = suspect.and_then(|suspect| suspect.verdict.since_unix_s);
        let since = since.unwrap_or(now_unix_s - USUAL_STRETCH_S);
        let history = self.history.as_ref().map(|file| format!(" --db {}", quoted(&file.to_string_lossy())));
        let history = history.unwrap_or_default();
        let report = format!(
            "leaktrace report{history} --subject {} --since {}",
            quoted(&state.subject.key),
            human::moment(since)
        );
        vec![format!("{report} -o leak.svg"), report].into_iter().rev().collect()
    }
}

fn counted(subject: &SubjectState, oom_kills: u64) -> String {
    format!(
        "the kernel killed a process of {} for want of memory ({} in its cgroup so far)",
        text::name(&subject.subject),
        plural(oom_kills, "kill")
    )
}

/// That suspect first, then the worst of the others.
fn first(suspect: &Suspect, all: &[Suspect]) -> Vec<Suspect> {
    let others = all.iter().filter(|other| other.site != suspect.site);
    std::iter::once(suspect).chain(others).take(MOST_SUSPECTS).cloned().collect()
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", printable(text).replace('\'', r"'\''"))
}
