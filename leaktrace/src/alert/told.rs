//! What people have been told, so that they are not told again and again. Pure: clock values in, decisions out.

use std::collections::HashMap;

use super::finding::Standing;

/// Most fingerprints that are remembered; of more, those that were told longest ago are forgotten.
const MOST: usize = 20_000;

/// How long to hold one's tongue, seconds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two alerts of one fingerprint, and how long an estimate must say "over" before that is believed.
    pub cool_down_s: f64,
    /// Until what goes on is told again; `None`: never.
    pub remind_after_s: Option<f64>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Told {
    patience: Patience,
    known: HashMap<String, Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Told, and not over since.
    standing: bool,
    /// When it was told last.
    told_unix_s: Option<f64>,
    /// Since when it has seemed to be over.
    over_since_unix_s: Option<f64>,
    /// When anything was last said about it.
    seen_unix_s: f64,
}

impl Told {
    /// Nobody has been told anything.
    pub fn new(patience: Patience) -> Self {
        Self { patience, known: HashMap::new() }
    }

    /// This was told before we were started.
    pub fn remember(&mut self, fingerprint: &str, told_unix_s: f64) {
        let known = self.known.entry(fingerprint.to_owned()).or_default();
        known.standing = true;
        known.told_unix_s = Some(known.told_unix_s.map_or(told_unix_s, |earlier| earlier.max(told_unix_s)));
        known.seen_unix_s = known.seen_unix_s.max(told_unix_s);
    }

    /// What older rules have told counts as told.
    pub fn take_over(&mut self, older: Self) {
        self.known.extend(older.known);
    }

    /// The clock was set by so many seconds.
    pub fn shift(&mut self, by_s: f64) {
        for known in self.known.values_mut() {
            known.told_unix_s = known.told_unix_s.map(|told| told + by_s);
            known.over_since_unix_s = known.over_since_unix_s.map(|since| since + by_s);
            known.seen_unix_s += by_s;
        }
    }

    /// Takes note of how something stands. Whether people are to be told.
    pub fn is_news(&mut self, fingerprint: &str, standing: Standing, now_unix_s: f64) -> bool {
        if standing != Standing::Holds && !self.known.contains_key(fingerprint) {
            return false;
        }
        let patience = self.patience;
        let known = self.known.entry(fingerprint.to_owned()).or_default();
        known.seen_unix_s = now_unix_s;
        known.stand(standing, now_unix_s, patience.cool_down_s);
        let news = standing == Standing::Holds && known.is_due(now_unix_s, patience);
        if news {
            known.standing = true;
            known.told_unix_s = Some(now_unix_s);
        }
        news
    }

    /// An event, which does not last: told unless the cool-down runs.
    pub fn is_new_event(&mut self, fingerprint: &str, now_unix_s: f64) -> bool {
        self.is_news(fingerprint, Standing::Over, now_unix_s);
        self.is_news(fingerprint, Standing::Holds, now_unix_s)
    }

    /// Whether that was told within the cool-down.
    pub fn was_told_lately(&self, fingerprint: &str, now_unix_s: f64) -> bool {
        let told = self.known.get(fingerprint).and_then(|known| known.told_unix_s);
        told.is_some_and(|told| passed(told, now_unix_s) < self.patience.cool_down_s)
    }

    /// What nothing was said about in this round seems over. What has been over for long is forgotten.
    pub fn end_round(&mut self, now_unix_s: f64) {
        let patience = self.patience;
        self.known.retain(|_, known| {
            if known.seen_unix_s == now_unix_s {
                return true;
            }
            known.stand(Standing::SeemsOver, now_unix_s, patience.cool_down_s);
            let resting =
                known.told_unix_s.is_some_and(|told| passed(told, now_unix_s) < patience.cool_down_s);
            known.standing || resting
        });
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.known.len() <= MOST {
            return;
        }
        let mut times: Vec<f64> = self.known.values().map(|known| known.told_unix_s.unwrap_or(0.0)).collect();
        times.sort_unstable_by(|one, other| other.total_cmp(one));
        // The half, so that this is not done at every tick.
        let oldest = times.get(MOST / 2).copied().unwrap_or(0.0);
        self.known.retain(|_, known| known.told_unix_s.is_some_and(|told| told > oldest));
    }
}

impl Known {
    fn stand(&mut self, standing: Standing, now_unix_s: f64, lasting_s: f64) {
        // A clock that was set back must not make us wait for the hour to come again.
        self.told_unix_s = self.told_unix_s.map(|told| told.min(now_unix_s));
        match standing {
            Standing::Holds | Standing::Lingers => self.over_since_unix_s = None,
            Standing::Over => self.standing = false,
            Standing::SeemsOver => {
                let since = self.over_since_unix_s.map_or(now_unix_s, |since| since.min(now_unix_s));
                self.over_since_unix_s = Some(since);
                self.standing &= passed(since, now_unix_s) < lasting_s;
            }
        }
    }

    fn is_due(&self, now_unix_s: f64, patience: Patience) -> bool {
        let Some(told) = self.told_unix_s else { return true };
        let passed = passed(told, now_unix_s);
        match self.standing {
            true => patience.remind_after_s.is_some_and(|after| passed >= after),
            false => passed >= patience.cool_down_s,
        }
    }
}

fn passed(since_unix_s: f64, now_unix_s: f64) -> f64 {
    (now_unix_s - since_unix_s).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Told {
        Told::new(Patience { cool_down_s: 100.0, remind_after_s: Some(1000.0) })
    }

    #[test]
    fn what_goes_on_is_told_once_and_then_as_a_reminder() {
        let mut told = told();
        let news: Vec<bool> =
            [0.0, 1.0, 999.0, 1000.0, 1001.0].map(|now| told.is_news("a", Standing::Holds, now)).into();
        assert_eq!(news, [true, false, false, true, false]);
    }

    #[test]
    fn what_is_over_and_comes_back_is_told_when_the_cool_down_has_passed() {
        let mut told = told();
        assert!(told.is_news("a", Standing::Holds, 0.0));
        assert!(!told.is_news("a", Standing::Over, 10.0));
        assert!(!told.is_news("a", Standing::Holds, 20.0), "cooling down");
        assert!(told.is_news("a", Standing::Holds, 100.0), "still pending when it has passed");
    }

    #[test]
    fn what_only_lingers_is_not_over() {
        let mut told = told();
        assert!(told.is_news("a", Standing::Holds, 0.0));
        assert!(!told.is_news("a", Standing::Lingers, 200.0));
        assert!(!told.is_news("a", Standing::Holds, 300.0));
        // The twin: with the same times, but over, it is told.
        assert!(!told.is_news("a", Standing::Over, 400.0));
        assert!(told.is_news("a", Standing::Holds, 500.0));
    }

    #[test]
    fn an_estimate_must_say_for_long_that_it_is_over() {
        let mut told = told();
        assert!(told.is_news("a", Standing::Holds, 0.0));
        for now in [200.0, 250.0] {
            assert!(!told.is_news("a", Standing::SeemsOver, now));
            assert!(!told.is_news("a", Standing::Holds, now + 1.0));
        }
        assert!(!told.is_news("a", Standing::SeemsOver, 300.0));
        assert!(!told.is_news("a", Standing::SeemsOver, 400.0));
        assert!(told.is_news("a", Standing::Holds, 401.0));
    }

    #[test]
    fn a_restart_repeats_nothing_and_a_clock_that_jumps_silences_nothing() {
        let mut told = told();
        told.remember("a", 1_000_000.0);
        assert!(!told.is_news("a", Standing::Holds, 1_000_010.0));
        assert!(!told.is_news("a", Standing::Over, 10.0), "the clock was set back");
        assert!(told.is_news("a", Standing::Holds, 120.0));
    }

    #[test]
    fn those_who_are_gone_are_forgotten() {
        let mut told = told();
        assert!(told.is_news("a", Standing::Holds, 0.0));
        told.end_round(0.0);
        for now in [10.0, 50.0, 109.0] {
            told.end_round(now);
            assert_eq!(told.known.len(), 1, "{now}");
        }
        told.end_round(110.0);
        assert!(told.known.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut told = told();
        (0..=MOST).for_each(|number| told.remember(&number.to_string(), number as f64));
        told.end_round(MOST as f64);
        assert!(told.known.len() <= MOST);
        assert!(told.known.contains_key(&MOST.to_string()));
    }

    #[test]
    fn events_are_told_again_after_the_cool_down() {
        let mut told = told();
        let news: Vec<bool> = [0.0, 50.0, 101.0].map(|now| told.is_new_event("kill", now)).into();
        assert_eq!(news, [true, false, true]);
    }
}
