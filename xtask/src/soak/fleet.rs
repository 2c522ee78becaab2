//! The programs that a soak watches: three that stay, and others that come and go. Each says at the end whether it was harmed.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::script::{Load, Script};
use crate::workload::Workload;

/// Between two requests of a connection, seconds.
const PAUSE: f64 = 0.02;
/// Comers that are there at once.
const COMERS: usize = 3;
/// Blocks that the native program keeps more at each step, and their size.
const KEPT: (u64, usize) = (200, 256);

/// See the module.
pub struct Fleet {
    /// Leaks a float at each request.
    service: Script,
    load: Load,
    /// Churns, and checks what it was given.
    churner: Script,
    /// Leaks blocks.
    native: Workload,
    kept: u64,
    comers: VecDeque<Comer>,
    /// How many have come so far.
    come: u64,
    /// Allocator tables of those that stay, as they were before anybody watched.
    before: [Value; 2],
}

/// One that does not stay.
enum Comer {
    /// Leaks a buffer at each job.
    Pool(Script, Value),
    /// Churns, and checks what it was given.
    Churner(Script, Value),
    /// Allocates and frees, native.
    Native(Workload),
}

impl Fleet {
    /// Starts those that stay.
    pub fn start() -> Result<Self> {
        let mut service = Script::start(&[], "flask_service.py", &["0"])?;
        let mut churner = Script::start(&[], "allocators.py", &[])?;
        let before = [tables(&mut service)?, tables(&mut churner)?];
        let load = Load::start(&mut service, 2, PAUSE)?;
        churner.ask("start")?;
        let native = Workload::start()?;
        Ok(Self { service, load, churner, native, kept: 0, comers: VecDeque::new(), come: 0, before })
    }

    /// A process that is there from the beginning to the end.
    pub fn resident(&self) -> u32 {
        self.service.pid()
    }

    /// Everybody who is there.
    pub fn pids(&self) -> Vec<u32> {
        let stay = [self.service.pid(), self.churner.pid(), self.native.pid()];
        stay.into_iter().chain(self.comers.iter().map(Comer::pid)).collect()
    }

    /// Those that stay do a little.
    pub fn step(&mut self) -> Result<()> {
        self.kept += KEPT.0;
        self.native.live(self.kept, KEPT.1)
    }

    /// Somebody comes; if there are many, the one that came first goes.
    pub fn change(&mut self) -> Result<()> {
        self.comers.push_back(Comer::start(self.come)?);
        self.come += 1;
        if self.comers.len() > COMERS {
            self.comers.pop_front().map_or(Ok(()), Comer::leave)?;
        }
        Ok(())
    }

    /// How many have come and gone, or are there.
    pub fn come(&self) -> u64 {
        self.come
    }

    /// Nobody watches any more: was anybody harmed? Says how many requests were answered.
    pub fn check(mut self) -> Result<f64> {
        let (answered, _) = self.load.count()?;
        let progress = self.churner.ask("stop")?;
        if progress["wrong"] != 0 {
            bail!("what a target wrote into its memory is not what it finds there: {progress}");
        }
        let after = [tables(&mut self.service)?, tables(&mut self.churner)?];
        if after != self.before {
            bail!("allocator tables are not as they were: {:?}, before {:?}", after, self.before);
        }
        self.native.live(self.kept, KEPT.1).context("the native target")?;
        self.comers.drain(..).try_for_each(Comer::check)?;
        Ok(answered)
    }
}

impl Comer {
    fn start(number: u64) -> Result<Self> {
        Ok(match number % 3 {
            0 => {
                let mut pool = Script::start(&[], "worker_pool.py", &[])?;
                let before = tables(&mut pool)?;
                Self::Pool(pool, before)
            }
            1 => {
                let mut churner = Script::start(&[], "allocators.py", &[])?;
                let before = tables(&mut churner)?;
                churner.ask("start")?;
                Self::Churner(churner, before)
            }
            _ => Self::Native(Workload::start()?),
        })
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Pool(script, _) | Self::Churner(script, _) => script.pid(),
            Self::Native(native) => native.pid(),
        }
    }

    /// It goes while it is perhaps being traced.
    fn leave(self) -> Result<()> {
        match self {
            Self::Pool(mut script, _) => script.ask("leaked").map(drop),
            Self::Churner(mut script, _) => sound(&script.ask("stop")?),
            Self::Native(mut native) => native.live(100, 64),
        }
        .context("a target that came and went")
    }

    /// It is still there, and nobody watches any more.
    fn check(self) -> Result<()> {
        match self {
            Self::Pool(mut script, before) => unchanged(&mut script, &before),
            Self::Churner(mut script, before) => {
                sound(&script.ask("stop")?)?;
                unchanged(&mut script, &before)
            }
            Self::Native(mut native) => native.live(100, 64),
        }
    }
}

fn tables(script: &mut Script) -> Result<Value> {
    Ok(script.ask("state")?["allocators"].take())
}

fn unchanged(script: &mut Script, before: &Value) -> Result<()> {
    let after = tables(script)?;
    if after != *before {
        bail!("allocator tables of process {} are not as they were: {after}, before {before}", script.pid());
    }
    Ok(())
}

fn sound(progress: &Value) -> Result<()> {
    if progress["wrong"] != 0 {
        bail!("what a target wrote into its memory is not what it finds there: {progress}");
    }
    Ok(())
}
