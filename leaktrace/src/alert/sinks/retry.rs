//! When to try again: twice as long each time, a little different for everyone. Pure.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::failure::Next;

/// The longest wait that we choose.
const LONGEST: Duration = Duration::from_secs(300);

/// The longest wait that the other side may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// How often and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// The wait after the first.
    pub first: Duration,
}

impl Retry {
    /// How long to wait after attempt number `attempt` (from 1) failed; `None`: it was the last.
    pub fn wait(self, attempt: u32, next: Next) -> Option<Duration> {
        self.wait_with(attempt, next, RandomState::new().hash_one(attempt))
    }

    fn wait_with(self, attempt: u32, next: Next, random: u64) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        match next {
            Next::Never => None,
            Next::After(asked) => Some(asked.min(LONGEST_ASKED).max(self.first)),
            Next::Later => {
                Some(self.backed_off(attempt).mul_f64(0.5 + random as f64 / u64::MAX as f64 / 2.0))
            }
        }
    }

    fn backed_off(self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry { attempts: 40, first: Duration::from_secs(2) };

    #[test]
    fn waits_double_up_to_five_minutes_and_are_cut_by_at_most_half() {
        let longest = |attempt| RETRY.wait_with(attempt, Next::Later, u64::MAX);
        assert_eq!(longest(1), Some(Duration::from_secs(2)));
        assert_eq!(longest(5), Some(Duration::from_secs(32)));
        assert_eq!(longest(39), Some(LONGEST));
        assert_eq!(RETRY.wait_with(1, Next::Later, 0), Some(Duration::from_secs(1)));
    }

    #[test]
    fn the_last_attempt_and_the_hopeless_are_followed_by_none() {
        assert_eq!(RETRY.wait(40, Next::Later), None);
        assert_eq!(RETRY.wait(1, Next::Never), None);
    }

    #[test]
    fn what_the_other_side_asks_for_is_honoured_within_bounds() {
        let asked = |seconds| RETRY.wait(1, Next::After(Duration::from_secs(seconds)));
        assert_eq!(asked(60), Some(Duration::from_secs(60)));
        assert_eq!(asked(1_000_000), Some(LONGEST_ASKED));
        assert_eq!(asked(0), Some(RETRY.first));
    }
}
