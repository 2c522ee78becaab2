//! `[alerts]` of the configuration: who is told of what, and where.

use serde::Deserialize;

use super::{rule::RuleConfig, sinks::SinkConfig};
use crate::setting::Time;

/// Most rules, and most sinks: each costs work or a thread.
const MOST: usize = 64;

/// Most attempts that make sense.
const MOST_ATTEMPTS: u32 = 100;

/// `[alerts]`: rules, sinks, and how patient they are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertConfig {
    /// At least that long between two alerts of one fingerprint.
    pub cool_down: Time,
    /// What goes on is told again after that long; never, if it is zero.
    pub remind_after: Time,
    /// What one attempt to deliver may take.
    pub timeout: Time,
    /// How often delivery is attempted before an alert is given up.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles each time, up to five minutes.
    pub first_retry: Time,
    /// Rules; some that suit most if none are named. An empty list (`rule = []`) means the same.
    pub rule: Vec<RuleConfig>,
    /// Sinks.
    pub sink: Vec<SinkConfig>,
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            cool_down: Time::seconds(3600),
            remind_after: Time::seconds(86_400),
            timeout: Time::seconds(10),
            attempts: 10,
            first_retry: Time::seconds(2),
            rule: Vec::new(),
            sink: Vec::new(),
        }
    }
}

impl AlertConfig {
    /// What is wrong with it, one sentence each; nothing is opened, read or sent.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = self.numbers();
        mistakes.extend(self.rule.iter().take(MOST).flat_map(RuleConfig::mistakes));
        mistakes.extend(self.sink.iter().take(MOST).flat_map(SinkConfig::mistakes));
        mistakes.extend(twice("rule", self.rule.iter().map(|rule| rule.name.as_str())));
        mistakes.extend(twice("sink", self.sink.iter().map(|sink| sink.name.as_str())));
        mistakes
    }

    fn numbers(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.timeout.0.is_zero() {
            mistakes
                .push("alerts.timeout is zero, which no delivery can keep: write one such as \"10s\"".into());
        }
        if !(1..=MOST_ATTEMPTS).contains(&self.attempts) {
            mistakes.push(format!("alerts.attempts is {}: write 1 to {MOST_ATTEMPTS}", self.attempts));
        }
        for (kind, number) in [("rules", self.rule.len()), ("sinks", self.sink.len())] {
            if number > MOST {
                mistakes.push(format!("there are {number} alert {kind}: at most {MOST} are allowed"));
            }
        }
        mistakes
    }
}

/// Names that occur more than once.
fn twice<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let repeated = names.chunk_by(|one, other| one == other).filter(|same| same.len() > 1);
    let named = repeated.filter_map(|same| same.first());
    named
        .map(|name| format!("several alert {kind}s are called \"{name}\": give each a name of its own"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> AlertConfig {
        toml::from_str(text).expect("valid TOML")
    }

    #[test]
    fn nothing_at_all_is_a_valid_section() {
        assert_eq!(read(""), AlertConfig::default());
        assert_eq!(AlertConfig::default().mistakes(), Vec::<String>::new());
    }

    #[test]
    fn a_section_with_every_key_is_valid() {
        let config = read(
            r#"
            cool_down = "30m"
            remind_after = "0s"
            timeout = "5s"
            attempts = 3
            first_retry = "1s"
            rule = [
                { name = "big", memory_above = "2GiB", subjects = ["web-*"] },
                { name = "full", share_of_limit = 0.9 },
                { name = "soon", time_to_limit = "6h" },
                { name = "leak", suspect = true, least_confidence = 0.9, least_growth = "1MiB" },
                { name = "killed", oom_kill = true },
            ]
            sink = [
                { name = "hook", webhook = "https://example.org/in", body = "json", headers = { "X-Key" = "a" } },
                { name = "chat", webhook_file = "/etc/leaktrace/chat", body = "chat", header_files = { Authorization = "/etc/k" } },
                { name = "page", command = ["/usr/local/bin/page", "--now"] },
                { name = "log", syslog = true },
                { name = "journal", journal = true },
                { name = "file", file = "/var/log/leaktrace/alerts.jsonl" },
            ]
            "#,
        );
        assert_eq!(config.mistakes(), Vec::<String>::new());
    }

    #[test]
    fn every_mistake_is_told_in_a_sentence_that_names_the_place() {
        for (text, told) in [
            ("timeout = '0s'", "alerts.timeout is zero"),
            ("attempts = 0", "alerts.attempts is 0"),
            ("rule = [{ name = 'a', oom_kill = true }, { name = 'a', oom_kill = true }]", "called \"a\""),
            ("rule = [{ name = '', oom_kill = true }]", "has no name"),
            ("rule = [{ name = 'a' }]", "rule \"a\" says nothing"),
            ("rule = [{ name = 'a', oom_kill = true, memory_above = 1 }]", "memory_above and oom_kill"),
            ("rule = [{ name = 'a', memory_above = 0 }]", "memory_above"),
            ("rule = [{ name = 'a', oom_kill = true, least_growth = 1 }]", "least_growth"),
            ("rule = [{ name = 'a', oom_kill = true, subjects = ['[a'] }]", "[a"),
            ("rule = [{ name = 'a', oom_kill = true, subjects = [] }]", "subjects"),
            ("sink = [{ name = 's' }]", "sink \"s\" goes nowhere"),
            ("sink = [{ name = 's', syslog = true, file = '/x' }]", "syslog and file"),
            ("sink = [{ name = 's', webhook = 'ftp://x/' }]", "http"),
            ("sink = [{ name = 's', webhook = 'https:///x' }]", "host"),
            ("sink = [{ name = 's', command = [] }]", "command"),
            ("sink = [{ name = 's', command = ['page'] }]", "absolute"),
            ("sink = [{ name = 's', file = 'x' }]", "absolute"),
            ("sink = [{ name = 's', file = '/x', body = 'chat' }]", "body"),
            ("sink = [{ name = 's', webhook = 'http://x/', headers = { 'a b' = 'c' } }]", "a b"),
            ("sink = [{ name = 's', webhook = 'http://x/', headers = { 'a' = \"c\\nd\" } }]", "header \"a\""),
            ("sink = [{ name = 's', journal = false }]", "goes nowhere"),
        ] {
            let mistakes = read(text).mistakes();
            assert!(mistakes.iter().any(|mistake| mistake.contains(told)), "{text}: {mistakes:?}");
            assert!(mistakes.iter().all(|mistake| mistake.contains("alert")), "{text}: {mistakes:?}");
        }
    }

    #[test]
    fn wrong_types_and_unknown_keys_are_refused() {
        for text in ["cool_down = 5", "what = 1", "rule = [{ nam = 'a' }]", "sink = [{ name = 1 }]"] {
            assert!(toml::from_str::<AlertConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config =
            read("sink = [{ name = 's', webhook = 'https://x/T0PSECRET', headers = { a = 'T0PSECRET' } }]");
        assert!(!format!("{config:?}").contains("T0PSECRET"));
    }
}
