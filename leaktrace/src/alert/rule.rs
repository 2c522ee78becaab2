//! One rule: when somebody is to be told about a subject. Pure.

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use super::model::AlertKind;
use crate::{
    setting::{Ratio, Size, Time},
    watched::Subject,
};

/// `[[alerts.rule]]`: exactly one condition.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleConfig {
    /// What alerts of it are called; part of their fingerprints.
    pub name: String,
    /// Private memory (anonymous and swap) above so many bytes.
    pub memory_above: Option<Size>,
    /// Memory that the kernel cannot take back above that share of the cgroup's limit.
    pub share_of_limit: Option<Ratio>,
    /// The cgroup's limit will be reached in less than that, if growth goes on.
    pub time_to_limit: Option<Time>,
    /// A site was judged a leak.
    pub suspect: bool,
    /// With `suspect`: with at least that confidence. Default: 0.9.
    pub least_confidence: Option<Ratio>,
    /// With `suspect`: that grows by at least that much in an hour. Default: 1 MiB.
    pub least_growth: Option<Size>,
    /// With `suspect`: that makes up at least that share of the subject's growth, where this is known. Default: 0.05. What leaks beside
    /// another (a dictionary's table, an object's name) is told with it.
    pub least_share: Option<Ratio>,
    /// The kernel killed a process for want of memory.
    pub oom_kill: bool,
    /// Patterns of names, keys or cgroups; everybody if there are none.
    pub subjects: Option<Vec<String>>,
}

/// When to tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    /// Private memory above so many bytes.
    MemoryAbove(u64),
    /// Above a share of the limit, 0 to 1.
    ShareOfLimit(f64),
    /// The limit is so many seconds away, or nearer.
    TimeToLimit(f64),
    /// A leak.
    Suspect {
        /// 0 to 1.
        least_confidence: f64,
        /// Growth.
        least_bytes_per_hour: f64,
        /// Of the subject's growth, 0 to 1.
        least_share: f64,
    },
    /// A kill.
    OomKill,
}

/// A rule as meant.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// When to tell.
    pub condition: Condition,
    subjects: Option<GlobSet>,
}

impl Condition {
    /// The kind of its alerts.
    pub fn kind(self) -> AlertKind {
        match self {
            Self::MemoryAbove(_) => AlertKind::MemoryAbove,
            Self::ShareOfLimit(_) => AlertKind::ShareOfLimit,
            Self::TimeToLimit(_) => AlertKind::TimeToLimit,
            Self::Suspect { .. } => AlertKind::Suspect,
            Self::OomKill => AlertKind::OomKill,
        }
    }
}

impl Rule {
    /// What is used where no rule is configured.
    pub fn defaults() -> Vec<Self> {
        let rule = |name: &str, condition| Self { name: name.to_owned(), condition, subjects: None };
        vec![
            rule("near-limit", Condition::ShareOfLimit(0.9)),
            rule("limit-within-6h", Condition::TimeToLimit(6.0 * 3600.0)),
            rule("leak", leak(None, None, None)),
            rule("oom-kill", Condition::OomKill),
        ]
    }

    /// Whether it is about that subject.
    pub fn is_about(&self, subject: &Subject) -> bool {
        let Some(patterns) = &self.subjects else { return true };
        let names = [Some(&subject.name), Some(&subject.key), subject.cgroup.as_ref()];
        names.into_iter().flatten().any(|name| patterns.is_match(name))
    }
}

fn leak(confidence: Option<Ratio>, growth: Option<Size>, share: Option<Ratio>) -> Condition {
    Condition::Suspect {
        least_confidence: confidence.map_or(0.9, |ratio| ratio.0),
        least_bytes_per_hour: growth.map_or(1_048_576.0, |size| size.0 as f64),
        least_share: share.map_or(0.05, |ratio| ratio.0),
    }
}

impl RuleConfig {
    /// What is wrong with it, one sentence each.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.name.trim().is_empty() {
            mistakes.push("an alert rule has no name: give it one, alerts carry it".to_owned());
        }
        mistakes.extend(self.rule().err());
        if !self.suspect {
            let given = [
                ("least_confidence", self.least_confidence.is_some()),
                ("least_growth", self.least_growth.is_some()),
                ("least_share", self.least_share.is_some()),
            ];
            mistakes.extend(given.iter().filter(|(_, given)| *given).map(|(key, _)| {
                format!("alert rule \"{}\" has {key}, which only goes with suspect = true", self.name)
            }));
        }
        mistakes
    }

    /// The rule that is meant.
    ///
    /// # Errors
    /// One sentence: no condition, several, one that always or never holds, or a pattern that is none.
    pub fn rule(&self) -> Result<Rule, String> {
        Ok(Rule { name: self.name.clone(), condition: self.condition()?, subjects: self.patterns()? })
    }

    fn condition(&self) -> Result<Condition, String> {
        let named = [
            self.memory_above.map(|size| ("memory_above", Condition::MemoryAbove(size.0))),
            self.share_of_limit.map(|share| ("share_of_limit", Condition::ShareOfLimit(share.0))),
            self.time_to_limit.map(|time| ("time_to_limit", Condition::TimeToLimit(time.as_secs_f64()))),
            self.suspect
                .then(|| ("suspect", leak(self.least_confidence, self.least_growth, self.least_share))),
            self.oom_kill.then_some(("oom_kill", Condition::OomKill)),
        ];
        let named: Vec<(&str, Condition)> = named.into_iter().flatten().collect();
        match named.as_slice() {
            [] => Err(format!(
                "alert rule \"{}\" says nothing: give it one of memory_above, share_of_limit, time_to_limit, suspect = true, oom_kill = true",
                self.name
            )),
            [(key, condition)] if always(*condition) => {
                Err(format!("alert rule \"{}\" always holds: {key} is zero; write more than that", self.name))
            }
            [(_, condition)] => Ok(*condition),
            several => {
                let keys: Vec<&str> = several.iter().map(|(key, _)| *key).collect();
                let keys = keys.join(" and ");
                Err(format!("alert rule \"{}\" has {keys}: make a rule of each", self.name))
            }
        }
    }

    fn patterns(&self) -> Result<Option<GlobSet>, String> {
        let Some(patterns) = &self.subjects else { return Ok(None) };
        if patterns.is_empty() {
            return Err(format!(
                "alert rule \"{}\" has an empty list of subjects: leave subjects out",
                self.name
            ));
        }
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = Glob::new(pattern).map_err(|error| {
                format!("alert rule \"{}\": \"{pattern}\" is no pattern: {}", self.name, error.kind())
            })?;
            set.add(glob);
        }
        set.build().map(Some).map_err(|error| format!("alert rule \"{}\": {error}", self.name))
    }
}

fn always(condition: Condition) -> bool {
    match condition {
        Condition::MemoryAbove(bytes) => bytes == 0,
        Condition::ShareOfLimit(number) | Condition::TimeToLimit(number) => number <= 0.0,
        Condition::Suspect { .. } | Condition::OomKill => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_those_whose_name_key_or_cgroup_matches() {
        let config = RuleConfig {
            oom_kill: true,
            subjects: Some(vec!["web-*".into(), "/system.slice/*".into()]),
            ..RuleConfig::default()
        };
        let rule = config.rule().expect("a rule");
        let named = |name: &str| Subject { name: name.into(), ..Subject::default() };
        assert!(rule.is_about(&named("web-1")) && !rule.is_about(&named("db-1")));
        assert!(rule.is_about(&Subject { cgroup: Some("/system.slice/x.service".into()), ..named("x") }));
    }
}
