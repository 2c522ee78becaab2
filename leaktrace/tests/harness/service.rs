//! Services as they run in production, of real packages in a virtual environment, and the requests that keep them busy.

use super::{Outcomes, Target, Tracer, interpreters, longest_wait};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Connections that requests come on.
const CONNECTIONS: u32 = 2;

/// Programs of `behave.py` that look like leaks for a while, and are none.
pub const INNOCENTS: [&str; 6] =
    ["CacheThatFills", "WarmUp", "Sawtooth", "GrowthWithLoad", "Fragmentation", "ConnectionPool"];

/// The virtual environment that `cargo xtask setup --for test` makes.
fn python() -> Outcomes<PathBuf> {
    let python = interpreters::directory().join("services/bin/python3");
    if python.exists() {
        return Ok(python);
    }
    Err(format!("no {}: run `cargo xtask setup --for test`", python.display()))
}

/// Starts a script of `targets/python` under the environment's interpreter.
pub fn start(script: &str, arguments: &[&str]) -> Outcomes<Target> {
    let mut command = Command::new(python()?);
    command.arg(interpreters::scripts().join(script)).args(arguments);
    interpreters::forget_environment(&mut command);
    Target::command(command).start()
}

/// What a service says of its leak.
#[derive(Clone, Debug, Deserialize)]
pub struct Leak {
    /// Objects that nothing will let go of.
    pub leaked: i64,
    /// Its lines, by what they do.
    pub lines: BTreeMap<String, u32>,
}

impl Leak {
    /// A line.
    pub fn line(&self, name: &str) -> Outcomes<u32> {
        self.lines.get(name).copied().ok_or_else(|| format!("no line {name:?}: {:?}", self.lines))
    }
}

/// Requests, from a process of their own.
pub struct Load {
    clients: Target,
}

/// How many there were.
#[derive(Clone, Debug, Deserialize)]
pub struct Count {
    /// Answered well.
    pub done: u64,
    /// Not answered, or not well.
    pub failed: u64,
    /// The first of these, in words.
    pub failure: Option<String>,
}

impl Load {
    /// Begins to ask; each connection waits for `pause` between two requests.
    pub fn start(service: &mut Target, pause: Duration) -> Outcomes<Self> {
        Self::begin(service, CONNECTIONS, pause, &[])
    }

    /// The same on `connections` at a time, each for one request.
    pub fn knock(service: &mut Target, connections: u32, pause: Duration) -> Outcomes<Self> {
        Self::begin(service, connections, pause, &["once"])
    }

    fn begin(service: &mut Target, connections: u32, pause: Duration, more: &[&str]) -> Outcomes<Self> {
        let port: u16 = service.ask_json("port")?;
        let arguments = [port.to_string(), connections.to_string(), pause.as_secs_f64().to_string()];
        let arguments = [&arguments.each_ref().map(String::as_str), more].concat();
        let mut load = Self { clients: start("load.py", &arguments)? };
        load.await_more(1)?;
        Ok(load)
    }

    /// How many there have been.
    pub fn count(&mut self) -> Outcomes<Count> {
        self.clients.ask_json("count")
    }

    /// Waits until so many more have been answered.
    pub fn await_more(&mut self, more: u64) -> Outcomes<()> {
        let (deadline, enough) = (Instant::now() + longest_wait(), self.count()?.done + more);
        while self.count()?.done < enough {
            if Instant::now() > deadline {
                return Err(format!("the service answers no more: {:?}", self.count()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Fails if any request was not answered well.
    pub fn check(&mut self) -> Outcomes<Count> {
        let count = self.count()?;
        Self::check_count(count)
    }

    /// Asks no more; fails if any request was not answered well.
    pub fn finish(mut self) -> Outcomes<Count> {
        let count = self.clients.ask_json("finish")?;
        Self::check_count(count)
    }

    fn check_count(count: Count) -> Outcomes<Count> {
        if count.failed > 0 { Err(format!("requests failed: {count:?}")) } else { Ok(count) }
    }
}

/// The source line that the last report of a text output by lines ranks first: `metrics.py`, 25.
pub fn ranked_first(text: &str) -> Option<(String, u32)> {
    let last = &text[text.rfind("leaktrace report ")?..];
    let first = last.lines().find_map(|line| line.strip_prefix("#1 "))?;
    let (path, line) = first.split_whitespace().next()?.trim_end_matches(':').rsplit_once(':')?;
    Some((path.rsplit('/').next()?.to_owned(), line.parse().ok()?))
}
