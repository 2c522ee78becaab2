//! The daemon's time. Everything is judged by a clock that never jumps; the wall clock only names its moments. When the wall clock is
//! set, that is said once and everything remembered is moved along, so that no series has a hole or a fold in it.

use std::time::Instant;

use crate::process::host::unix_now;

/// A wall clock that differs by more from what was expected has been set; less is how clocks are kept in step.
const JUMP: f64 = 5.0;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begun: Instant,
    /// What the wall clock would have said then.
    begun_unix_s: f64,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self { begun: Instant::now(), begun_unix_s: unix_now() }
    }

    /// Seconds since the Unix epoch. Never goes back, but for what [`Self::jump`] returns.
    pub fn now(&self) -> f64 {
        self.begun_unix_s + self.begun.elapsed().as_secs_f64()
    }

    /// If the wall clock was set since the last call: by how many seconds [`Self::now`] differs from now on.
    pub fn jump(&mut self) -> Option<f64> {
        self.follow(unix_now())
    }

    fn follow(&mut self, wall: f64) -> Option<f64> {
        let by = wall - self.now();
        (by.abs() > JUMP).then(|| {
            self.begun_unix_s += by;
            by
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_followed_once_in_both_directions() {
        let mut clock = Clock::start();
        let before = clock.now();
        for by in [3600.0, -86_400.0] {
            let now = clock.now();
            let jumped = clock.follow(now + by).unwrap();
            assert!((jumped - by).abs() < 1.0, "{jumped}");
            let now = clock.now();
            assert_eq!(clock.follow(now + 1.0), None);
        }
        assert!((clock.now() - before + 82_800.0).abs() < 2.0);
    }
}
