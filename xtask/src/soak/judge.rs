//! What a soak promises, as judgements of what was noted. Pure.

use anyhow::{Result, bail};

use crate::statistics::{self, number};

/// How much later lives may exceed early ones, bytes: caches of names still fill.
const TOLERANCE: f64 = 8.0 * 1024.0 * 1024.0;
/// Of the readings that fit into the time that the daemon ran, so many must be there: one that is late is not lost.
const LEAST_READINGS: f64 = 0.8;

/// What was noted of a kill.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// When, seconds since the Unix epoch.
    pub at: f64,
    /// The newest reading that a bystander had seen in the history before.
    pub seen: f64,
    /// The newest that was in it afterwards.
    pub kept: f64,
    /// The longest time between two readings before it: how late the daemon is on this machine.
    pub usual: f64,
}

impl Kill {
    /// What the kill has cost, seconds of history.
    pub fn lost(&self) -> f64 {
        self.at - self.kept
    }
}

/// Nothing but the last interval may be lost: a reading that was due before that is there, and what was ever seen stays.
pub fn kills(kills: &[Kill], interval: f64) -> Result<()> {
    for kill in kills {
        if kill.kept < kill.seen {
            bail!("a reading of {} was in the history and is gone after the kill at {}", kill.seen, kill.at);
        }
        let allowed = interval + kill.usual.max(interval);
        if kill.lost() > allowed {
            bail!(
                "the kill at {} has cost {} s of history, {} s are one interval and the way to the next reading",
                kill.at,
                number(kill.lost()),
                number(allowed)
            );
        }
    }
    Ok(())
}

/// The daemon's largest size in each of its lives must not grow from the second quarter of them to the last.
pub fn memory(lives: &[f64]) -> Result<(f64, f64)> {
    let quarter = lives.len() / 4;
    let early = lives.get(quarter..quarter * 2).and_then(statistics::median);
    let late = lives.get(lives.len() - quarter..).and_then(statistics::median);
    match (early, late) {
        (Some(early), Some(late)) if late <= early + TOLERANCE => Ok((early, late)),
        (Some(early), Some(late)) => {
            bail!("the daemon grew from {} to {} bytes", number(early), number(late))
        }
        _ => bail!("too short to tell: {} lives, at least 4 are needed", lives.len()),
    }
}

/// The readings of somebody who was always there, against the time that the daemon ran.
pub fn readings(readings: usize, ran: f64, interval: f64) -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "readings of a run")]
    let share = readings as f64 * interval / ran;
    if share < LEAST_READINGS {
        bail!("{readings} readings in {} s of the daemon's life: history is missing", number(ran));
    }
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(seen: f64, kept: f64) -> Kill {
        Kill { at: 100.0, seen, kept, usual: 1.1 }
    }

    #[test]
    fn the_last_interval_may_be_lost_and_nothing_else() {
        assert!(kills(&[kill(98.5, 99.5), kill(98.0, 98.0)], 1.0).is_ok());
        assert!(kills(&[kill(97.0, 97.0)], 1.0).is_err(), "three intervals");
        assert!(kills(&[kill(99.5, 99.0)], 1.0).is_err(), "what was seen is gone");
    }

    #[test]
    fn growth_fails_and_a_filling_cache_does_not() {
        let mib = 1024.0 * 1024.0;
        assert!(memory(&[5.0, 20.0, 20.0, 20.5].map(|value| value * mib)).is_ok());
        assert!(memory(&[5.0, 20.0, 40.0, 60.0].map(|value| value * mib)).is_err());
        assert!(memory(&[1.0]).is_err());
    }

    #[test]
    fn missing_readings_are_noticed() {
        assert!(readings(95, 100.0, 1.0).is_ok());
        assert!(readings(50, 100.0, 1.0).is_err());
    }
}
