//! Promise: what tracing writes to an interpreter is undone in every process that was forked from it meanwhile, however young,
//! whoever its parent is, and whatever happens to the tracer.

mod harness;

use harness::{Outcomes, Target, Tracer, service};
use std::collections::BTreeMap;

/// What the allocator tables of each process hold, by PID.
type Tables = BTreeMap<u32, Vec<u64>>;

/// An interpreter, and what its tables held before anything was done.
struct Family {
    target: Target,
    untouched: Vec<u64>,
}

impl Family {
    fn start() -> Outcomes<Self> {
        let mut target = service::start("forks.py", &[])?;
        let tables: Tables = target.ask_json("tables")?;
        let untouched = tables.into_values().next().ok_or("no tables")?;
        Ok(Self { target, untouched })
    }

    /// A tracer of it, once it is traced.
    fn trace(&self, options: &[&str]) -> Outcomes<Tracer> {
        let mut tracer = Tracer::of(self.target.pid()).args(options).start()?;
        tracer.await_tracing()?;
        Ok(tracer)
    }

    fn make(&mut self, how: &str) -> Outcomes<u32> {
        self.target.ask_json(how)
    }

    /// One of each kind, traced.
    fn make_traced(&mut self, tracer: &mut Tracer) -> Outcomes<()> {
        for how in ["fork", "orphan"] {
            let pid = self.make(how)?;
            tracer.await_stderr(&format!("leaktrace: tracing {pid} "))?;
        }
        Ok(())
    }

    /// One of each kind, whatever has become of it by now.
    fn make_young(&mut self) -> Outcomes<()> {
        self.make("fork")?;
        self.make("orphan").map(drop)
    }

    /// Those whose tables are not as they were.
    fn changed(&mut self) -> Outcomes<Vec<u32>> {
        let tables: Tables = self.target.ask_json("tables")?;
        let differs = |(_, table): &(&u32, &Vec<u64>)| **table != self.untouched;
        Ok(tables.iter().filter(differs).map(|(pid, _)| *pid).collect())
    }
}

fn check(what: &str, changed: &[u32], expected: usize) -> Outcomes<()> {
    if changed.len() == expected {
        return Ok(());
    }
    Err(format!("{what}: tables are changed in {changed:?}, {expected} processes expected"))
}

fn undone_at_the_end(options: &[&str]) -> Outcomes<()> {
    let mut family = Family::start()?;
    let mut tracer = family.trace(options)?;
    check("while traced", &family.changed()?, 1)?;
    family.make_traced(&mut tracer)?;
    check("while copies are traced", &family.changed()?, 3)?;
    family.make_young()?;
    let outcome = tracer.interrupt_and_finish()?;
    check("at the end", &family.changed()?, 0)?;
    outcome.final_report().map(drop)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_what_was_inherited_is_undone_at_the_end() -> Outcomes<()> {
    undone_at_the_end(&[])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_what_was_inherited_is_undone_at_the_end_under_shared_probes() -> Outcomes<()> {
    undone_at_the_end(&["--placement", "shared"])
}

/// Nobody is told of forks then; only the parent knows its children.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_what_was_inherited_is_undone_where_forks_are_not_followed() -> Outcomes<()> {
    let mut family = Family::start()?;
    let tracer = family.trace(&["--no-follow-forks"])?;
    family.make("fork")?;
    check("a copy", &family.changed()?, 2)?;
    let outcome = tracer.interrupt_and_finish()?;
    check("at the end", &family.changed()?, 0)?;
    outcome.final_report().map(drop)
}

/// Copies that were traced, that were too young, and that were made after its death: the next tracer, of whatever, undoes all.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_what_a_killed_tracer_has_left_in_copies_is_undone_by_the_next() -> Outcomes<()> {
    let mut family = Family::start()?;
    let mut tracer = family.trace(&[])?;
    family.make_traced(&mut tracer)?;
    check("while copies are traced", &family.changed()?, 3)?;
    family.make_young()?;
    tracer.signal(libc::SIGKILL);
    let code = tracer.await_end()?.code();
    assert_eq!(code, -libc::SIGKILL);
    family.make_young()?;
    // Whatever is begun from here on undoes it, other tests' tracers too.
    let other = Target::start("forks")?;
    let mut next = Tracer::of(other.pid()).start()?;
    next.await_tracing()?;
    check("once the next has begun", &family.changed()?, 0)?;
    next.interrupt_and_finish()?.final_report().map(drop)
}
