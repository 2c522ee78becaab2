//! Rules over states that are made up: who is told what, and who is not.

use std::path::Path;

use super::{Alert, AlertConfig, AlertKind, Rules, rules::Victim};
use crate::{
    report::{fingerprint::SiteKey, model::Amount},
    store,
    verdict::{MemoryTrend, Shape, Verdict},
    watched::{CgroupReading, MemoryReading, State, Subject, SubjectState, Suspect},
};

const MIB: u64 = 1 << 20;

fn rules(text: &str) -> Rules {
    let config: AlertConfig = toml::from_str(text).expect("valid TOML");
    assert_eq!(config.mistakes(), Vec::<String>::new());
    Rules::new(&config, "host-1", Path::new(store::DEFAULT_FILE))
}

fn subject(name: &str, used_mib: u64) -> SubjectState {
    let cgroup = CgroupReading {
        current_bytes: used_mib * MIB,
        limit_bytes: Some(1000 * MIB),
        ..CgroupReading::default()
    };
    SubjectState {
        subject: Subject { key: format!("container:{name}"), name: name.into(), ..Subject::default() },
        memory: MemoryReading {
            anonymous_bytes: used_mib * MIB,
            cgroup: Some(cgroup),
            ..MemoryReading::default()
        },
        ..SubjectState::default()
    }
}

fn suspect(site: u8, shape: Shape, confidence: f64, mib_per_hour: f64) -> Suspect {
    let bytes_per_hour = mib_per_hour * MIB as f64;
    Suspect {
        site: SiteKey([site; 16]),
        line: format!("log.py:{site} record"),
        survivors: Amount { bytes: 3 * MIB, blocks: 7 },
        verdict: Verdict { shape, confidence, bytes_per_hour, since_unix_s: Some(0.0), ..Verdict::default() },
        ..Suspect::default()
    }
}

fn state(subjects: Vec<SubjectState>) -> State {
    State { subjects, ..State::default() }
}

fn told(rules: &mut Rules, subject: SubjectState, now: f64) -> Vec<Alert> {
    rules.evaluate(&state(vec![subject]), now)
}

#[test]
fn memory_above_a_size_is_told_once_until_it_has_fallen_by_a_twentieth() {
    let mut rules = rules("cool_down = '1s'\nrule = [{ name = 'big', memory_above = '100MiB' }]");
    let number: Vec<usize> = [(100, 0), (101, 10), (150, 20), (96, 30), (101, 40), (94, 50), (101, 60)]
        .map(|(used, now)| told(&mut rules, subject("web", used), f64::from(now)).len())
        .into();
    assert_eq!(number, [0, 1, 0, 0, 0, 0, 1]);
}

#[test]
fn alerts_say_who_how_much_and_how_to_see_more() {
    let mut rules = rules("");
    let mut near = subject("web", 950);
    near.suspects = (1..9).map(|site| suspect(site, Shape::Steady, 0.9, 0.0)).collect();
    let alerts = told(&mut rules, near, 86_400.0);
    let [alert] = alerts.as_slice() else { panic!("one alert: {alerts:?}") };
    assert_eq!(alert.kind, AlertKind::ShareOfLimit);
    assert_eq!(alert.sentence, "web uses 95 % of its memory limit (950.0 MiB of 1000.0 MiB)");
    assert_eq!((alert.host.as_str(), alert.fingerprint.as_str()), ("host-1", "near-limit|container:web"));
    assert_eq!(alert.suspects.len(), 5);
    assert_eq!(alert.see_more[0], "leaktrace report --subject container:web --since 1970-01-01T00:00:00Z");
}

#[test]
fn only_leaks_that_are_sure_and_fast_enough_are_told_each_site_once() {
    let mut rules = rules("");
    let mut leaking = subject("web", 1);
    leaking.suspects = vec![
        suspect(1, Shape::Steady, 0.99, 100.0),
        suspect(2, Shape::GrowsSteadily, 0.89, 100.0),
        suspect(3, Shape::GrowsSteadily, 0.99, 0.9),
        suspect(4, Shape::GrowsSteadily, 0.99, 1.0),
        suspect(5, Shape::GrowsWithLoad, 0.99, 100.0),
    ];
    let alerts = told(&mut rules, leaking.clone(), 0.0);
    let [alert] = alerts.as_slice() else { panic!("one alert: {alerts:?}") };
    assert!(alert.sentence.starts_with("web leaks: log.py:4 record holds 3.0 MiB"), "{}", alert.sentence);
    assert_eq!(alert.suspects[0].site, SiteKey([4; 16]), "its own suspect comes first");
    assert!(told(&mut rules, leaking.clone(), 10.0).is_empty());
    leaking.suspects.push(suspect(6, Shape::GrowsSteadily, 0.99, 2.0));
    assert_eq!(told(&mut rules, leaking, 20.0).len(), 1, "another site is another alert");
}

#[test]
fn what_leaks_little_beside_another_is_told_with_it_and_not_by_itself() {
    let mut rules = rules("");
    let mut leaking = subject("web", 1);
    let with_share = |site, share_of_growth| {
        let mut suspect = suspect(site, Shape::GrowsSteadily, 0.99, 100.0);
        suspect.verdict.share_of_growth = share_of_growth;
        suspect
    };
    leaking.suspects = vec![with_share(1, Some(0.9)), with_share(2, Some(0.04)), with_share(3, None)];
    let alerts = told(&mut rules, leaking, 0.0);
    let first: Vec<SiteKey> = alerts.iter().map(|alert| alert.suspects[0].site).collect();
    assert_eq!(first, [SiteKey([1; 16]), SiteKey([3; 16])], "nobody knows the third one's share");
    assert!(alerts.iter().all(|alert| alert.suspects.len() == 3), "each carries all");
}

#[test]
fn the_limit_that_comes_near_is_told() {
    let mut rules = rules("");
    let mut near = subject("web", 500);
    near.trend = MemoryTrend { to_limit_s: Some(7.0 * 3600.0), ..MemoryTrend::default() };
    assert!(told(&mut rules, near.clone(), 0.0).is_empty());
    near.trend.to_limit_s = Some(3.0 * 3600.0);
    let alerts = told(&mut rules, near, 10.0);
    assert_eq!(alerts[0].kind, AlertKind::TimeToLimit);
    assert!(alerts[0].sentence.contains("in 3 h if it goes on like this"), "{}", alerts[0].sentence);
}

#[test]
fn rules_are_about_those_they_name() {
    let mut rules = rules("rule = [{ name = 'big', memory_above = 1, subjects = ['web-*'] }]");
    let alerts = rules.evaluate(&state(vec![subject("db-1", 9), subject("web-1", 9)]), 0.0);
    assert_eq!(alerts.iter().map(|alert| alert.subject.name.as_str()).collect::<Vec<_>>(), ["web-1"]);
}

#[test]
fn a_restart_repeats_nothing() {
    let mut before = rules("");
    let alerts = told(&mut before, subject("web", 950), 100.0);
    let mut after = rules("");
    after.restore(alerts.clone());
    assert!(told(&mut after, subject("web", 950), 200.0).is_empty());
    assert_eq!(after.recent().len(), 1);
    // The twin: who remembers nothing tells it again.
    assert_eq!(told(&mut rules(""), subject("web", 950), 200.0).len(), 1);
}

#[test]
fn kills_are_told_by_whoever_sees_them_and_else_by_their_count() {
    let killed = |times| {
        let mut state = subject("web", 1);
        state.memory.cgroup = Some(CgroupReading { oom_kills: times, ..CgroupReading::default() });
        state
    };
    let victim = Victim { pid: 7, name: "python3".into() };
    let mut seen = rules("");
    assert!(told(&mut seen, killed(1), 0.0).is_empty(), "that was before we came");
    assert!(told(&mut seen, killed(2), 1.0).is_empty());
    let alert = seen.oom(&killed(2), &victim, Some("/evidence/1".into()), 2.0).expect("an alert");
    assert_eq!(alert.sentence, "the kernel killed process 7 (python3) of web for want of memory");
    assert_eq!(alert.evidence.as_deref(), Some("/evidence/1"));
    assert!(told(&mut seen, killed(2), 100.0).is_empty(), "told already");
    assert!(seen.oom(&killed(3), &victim, None, 101.0).is_none(), "cooling down");

    let mut counted = rules("");
    let number: Vec<usize> = [(1, 0.0), (3, 1.0), (3, 5.0), (3, 11.0), (3, 12.0)]
        .map(|(times, now)| told(&mut counted, killed(times), now).len())
        .into();
    assert_eq!(number, [0, 0, 0, 1, 0]);
    assert!(counted.recent()[0].sentence.contains("(3 kills in its cgroup so far)"));
}

#[test]
fn a_rule_that_does_not_ask_for_kills_is_silent_about_them() {
    let mut rules = rules("rule = [{ name = 'big', memory_above = '1GiB' }]");
    assert!(rules.oom(&subject("web", 1), &Victim::default(), None, 0.0).is_none());
}

#[test]
fn trouble_of_the_daemon_itself_is_told_with_a_cool_down() {
    let mut rules = rules("");
    assert!(rules.daemon("history", "the disk is full", 0.0).is_some());
    assert!(rules.daemon("history", "the disk is full", 10.0).is_none());
    assert!(rules.daemon("clock", "the clock was set", 10.0).is_some());
    assert!(rules.daemon("history", "the disk is full", 3601.0).is_some());
}

#[test]
fn a_flood_is_bounded_and_the_rest_comes_with_the_next_look() {
    let mut rules = rules("rule = [{ name = 'big', memory_above = 1 }]");
    let many = state((0..120).map(|number| subject(&number.to_string(), 1)).collect());
    let number: Vec<usize> = [0.0, 1.0, 2.0, 3.0].map(|now| rules.evaluate(&many, now).len()).into();
    assert_eq!(number, [50, 50, 20, 0]);
    assert_eq!(rules.recent().len(), 100);
}

#[test]
fn names_that_a_shell_would_obey_are_quoted() {
    let mut rules = rules("rule = [{ name = 'big', memory_above = 1 }]");
    let alerts = told(&mut rules, subject("$(reboot)'", 1), 86_400.0);
    assert!(
        alerts[0].see_more[0].contains(r"--subject 'container:$(reboot)'\''' --since"),
        "{:?}",
        alerts[0].see_more
    );
}
