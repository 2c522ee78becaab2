//! A long run of the daemon in accelerated life: it looks once a second, programs come and go, some of them leak, and it is killed again
//! and again. It must neither grow, nor forget, nor harm anybody, nor leave anything behind.

mod fleet;
mod judge;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use self::fleet::Fleet;
use self::judge::Kill;
use crate::daemon::{Daemon, Place};
use crate::history::History;
use crate::setup::Purpose;
use crate::statistics::number;
use crate::{build, command, setup, workspace};

/// Between two looks at the daemon.
const STEP: Duration = Duration::from_millis(250);
/// Between two readings of the daemon, seconds.
const INTERVAL: f64 = 1.0;
/// Most bytes of its history.
const MAX_HISTORY: u64 = 16 << 20;
/// How far back readings tell how late the daemon usually is, seconds.
const USUAL: f64 = 30.0;
/// Where tracers keep records of what they have written into targets.
const RECORDS: &str = "/run/leaktrace";
/// Programs that come in the time between two kills.
const COMERS_A_LIFE: u32 = 2;

/// A life in which minutes are seconds.
const TOP: &str = "interval = \"1s\"";
const REST: &str = r#"
[[scope]]
name = "scripts"
command = ["*/targets/python/*.py*"]
[[scope]]
name = "native"
process = ["workload"]
[tracing]
interval = "1s"
light_for = "10s"
max_duration = "30s"
cool_down = "10s"
max_slowdown = 50.0
max_slowdown_light = 50.0
[verdict]
least_watched = "10s"
least_readings = 5
least_memory = "64KiB"
stretches = ["15s", "2m", "20m"]
[history]
max_size = "16MiB"
"#;

/// Reads a duration such as `90s`, `30m` or `8h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor)
    });
    match parsed {
        Some(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(format!("{text:?} is no duration: write for example 90s, 30m or 8h")),
    }
}

/// Runs for that long, with so many kills, and judges. `binary`: what is run, if it is not to be built.
pub fn run(length: Duration, kills: u32, binary: Option<PathBuf>) -> Result<()> {
    command::require_root("soak")?;
    setup::run(Purpose::Demo)?;
    let binary = binary.map_or_else(|| build::leaktrace(false), Ok)?;
    let place = Place::anew(workspace::target().join("soak"))?;
    place.configure(TOP, REST)?;
    let fleet = Fleet::start()?;
    let mut soak = Soak::begin(&binary, &place, fleet)?;
    soak.live(length, kills)?;
    soak.judge()
}

/// A soak under way, and what was noted so far.
struct Soak<'a> {
    binary: &'a Path,
    place: &'a Place,
    history: History,
    fleet: Fleet,
    /// `None` only while one is being replaced.
    daemon: Option<Daemon>,
    begun: Instant,
    kills: Vec<Kill>,
    /// The daemon's largest size in each life, bytes.
    lives: Vec<f64>,
    /// Largest size of the history, bytes.
    largest_history: u64,
    /// Most that traced for it at once.
    most_traces: usize,
    /// Seconds in which no daemon ran.
    dead: f64,
    /// When the daemon that runs was started, seconds since the Unix epoch.
    born: f64,
    /// Readings of one process that were there at the end of each life: later the oldest make room.
    readings: usize,
}

impl<'a> Soak<'a> {
    fn begin(binary: &'a Path, place: &'a Place, fleet: Fleet) -> Result<Self> {
        Ok(Self {
            binary,
            place,
            history: place.history(),
            fleet,
            daemon: Some(Daemon::start(binary, place)?),
            begun: Instant::now(),
            kills: Vec::new(),
            lives: vec![0.0],
            largest_history: 0,
            most_traces: 0,
            dead: 0.0,
            born: unix_now(),
            readings: 0,
        })
    }

    fn live(&mut self, length: Duration, kills: u32) -> Result<()> {
        let life = length / (kills + 1);
        let (mut next_kill, mut next_comer) = (life, life / (2 * COMERS_A_LIFE));
        let mut last_step = Instant::now();
        while self.begun.elapsed() < length {
            thread::sleep(STEP);
            self.note()?;
            if last_step.elapsed().as_secs_f64() >= INTERVAL {
                last_step = Instant::now();
                self.fleet.step()?;
            }
            if self.begun.elapsed() >= next_comer {
                next_comer += life / COMERS_A_LIFE;
                self.fleet.change()?;
            }
            if self.begun.elapsed() >= next_kill && next_kill + life / 2 < length {
                next_kill += life;
                self.kill()?;
            }
        }
        Ok(())
    }

    fn note(&mut self) -> Result<()> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        #[expect(clippy::cast_precision_loss, reason = "bytes of one process")]
        let resident = daemon.resident_bytes()? as f64;
        if let Some(life) = self.lives.last_mut() {
            *life = life.max(resident);
        }
        self.largest_history = self.largest_history.max(self.history.bytes());
        self.most_traces = self.most_traces.max(daemon.traces().len());
        Ok(())
    }

    /// Kills the daemon, sees what it has kept, and starts the next.
    fn kill(&mut self) -> Result<()> {
        let usual = self.usual_gap()?;
        let seen = self.history.newest()?.unwrap_or(0.0);
        let (at, dead) = (unix_now(), Instant::now());
        self.daemon.take().map_or(Ok(()), Daemon::kill)?;
        let kept = self.history.newest()?.unwrap_or(0.0);
        let kill = Kill { at, seen, kept, usual };
        self.kills.push(kill);
        self.count_readings()?;
        self.born = unix_now();
        self.daemon = Some(Daemon::start(self.binary, self.place)?);
        self.dead += dead.elapsed().as_secs_f64();
        if !self.history.has(kept)? {
            bail!("the reading of {kept} was there before the restart, and is gone after it");
        }
        println!(
            "{:>6} s  kill {:>2}: {:>4} s of history lost, daemon {:>6} KiB, history {:>6} KiB, {} traces at most so far",
            self.begun.elapsed().as_secs(),
            self.kills.len(),
            number(kill.lost()),
            number(self.lives.last().copied().unwrap_or(0.0) / 1024.0),
            self.history.bytes() / 1024,
            self.most_traces
        );
        self.lives.push(0.0);
        Ok(())
    }

    /// Adds what was read of one process in the life that has just ended.
    fn count_readings(&mut self) -> Result<()> {
        let readings = self.history.readings_of(self.fleet.resident())?;
        self.readings += readings.iter().filter(|at| **at >= self.born).count();
        Ok(())
    }

    /// The longest time between two readings of late.
    fn usual_gap(&self) -> Result<f64> {
        let readings = self.history.readings_of(self.fleet.resident())?;
        let since = readings.last().copied().unwrap_or(0.0) - USUAL;
        // The time in which no daemon ran is no gap of its making.
        let since = self.kills.last().map_or(since, |kill| since.max(kill.at));
        let late = readings.windows(2).filter(|pair| pair[0] >= since).map(|pair| pair[1] - pair[0]);
        Ok(late.fold(INTERVAL, f64::max))
    }

    fn judge(mut self) -> Result<()> {
        let ran = self.begun.elapsed().as_secs_f64() - self.dead;
        self.daemon.take().map_or(Ok(()), Daemon::stop)?;
        self.count_readings()?;
        judge::kills(&self.kills, INTERVAL)?;
        let (early, late) = judge::memory(&self.lives)?;
        if self.largest_history > MAX_HISTORY {
            bail!("the history took {} bytes, more than the {MAX_HISTORY} it may", self.largest_history);
        }
        match self.history.soundness()?.as_str() {
            "ok" => {}
            unsound => bail!("the history is damaged: {unsound}"),
        }
        let share = judge::readings(self.readings, ran, INTERVAL)?;
        let come = self.fleet.come();
        nothing_left(self.binary, &self.fleet.pids())?;
        let answered = self.fleet.check()?;
        let worst = self.kills.iter().map(Kill::lost).fold(0.0, f64::max);
        println!("\nkilled {} times; the worst has cost {} s of history", self.kills.len(), number(worst));
        println!(
            "daemon: {} KiB in early lives, {} KiB in late ones",
            number(early / 1024.0),
            number(late / 1024.0)
        );
        println!(
            "history: {} KiB at most, of {} KiB; sound",
            self.largest_history / 1024,
            MAX_HISTORY / 1024
        );
        println!(
            "readings: {} of one process, {} % of the daemon's seconds",
            self.readings,
            number(share * 100.0)
        );
        for table in ["sessions", "reports", "verdicts", "alerts"] {
            println!("{table}: {}", self.history.count(table)?);
        }
        println!(
            "targets: {come} came beside 3 that stayed; {} requests answered, none failed; nobody harmed",
            number(answered)
        );
        Ok(())
    }
}

/// No process of this binary may run any more: with it go its probes and maps. Nor may there be a record of something written into a
/// target: a tracer keeps one until it has taken that back.
fn nothing_left(binary: &Path, targets: &[u32]) -> Result<()> {
    let records = fs::read_dir(RECORDS).into_iter().flatten().flatten();
    for name in records.map(|record| record.file_name().to_string_lossy().into_owned()) {
        if targets.iter().any(|pid| name.starts_with(&format!("{pid}-"))) {
            bail!("{RECORDS}/{name} was left behind");
        }
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Ok(()) };
    for entry in entries.flatten() {
        if fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == binary) {
            bail!("process {} of leaktrace still runs", entry.file_name().display());
        }
    }
    Ok(())
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("8h"), Ok(Duration::from_secs(8 * 3600)));
        assert!(duration("0s").is_err());
        assert!(duration("10").is_err());
    }
}
