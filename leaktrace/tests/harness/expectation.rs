//! What a target program says it did, and the comparison with a report: equal, not close.

use super::{Outcome, Outcomes, Process, Report, output::Loss};
use std::collections::BTreeMap;

/// Bytes and blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes asked for.
    pub bytes: i64,
    /// Blocks.
    pub blocks: i64,
}

impl Amount {
    fn parse(bytes: &str, blocks: &str) -> Outcomes<Self> {
        Ok(Self { bytes: number(bytes)?, blocks: number(blocks)? })
    }

    fn differs_from(self, bytes: i64, blocks: i64) -> bool {
        (self.bytes, self.blocks) != (bytes, blocks)
    }
}

fn number(text: &str) -> Outcomes<i64> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

/// The answer of a target program.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// What is live, by site function.
    pub live: BTreeMap<String, Amount>,
    /// What was ever allocated, by site function.
    pub allocated: BTreeMap<String, Amount>,
    /// What is live, by chain of functions (see `targets/chain.h`).
    pub stacks: Vec<(String, Amount)>,
    /// Everything live.
    pub total: Amount,
    /// Everything ever allocated.
    pub allocated_total: Amount,
    /// Frees of blocks born before tracing.
    pub unmatched: i64,
    /// Calls of the allocator that never returned.
    pub abandoned: i64,
    /// Anything else that the program counts, by name.
    pub numbers: BTreeMap<String, i64>,
}

impl Expectation {
    /// Reads the lines of an answer.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Outcomes<Self> {
        let mut answer = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["expect", site, bytes, blocks] => {
                    answer.live.insert(site.to_owned(), Amount::parse(bytes, blocks)?);
                }
                ["allocated", site, bytes, blocks] => {
                    answer.allocated.insert(site.to_owned(), Amount::parse(bytes, blocks)?);
                }
                // Names of C++ have spaces in them.
                ["stack", bytes, blocks, ref chain @ ..] => {
                    answer.stacks.push((chain.join(" "), Amount::parse(bytes, blocks)?));
                }
                ["total", bytes, blocks] => answer.total = Amount::parse(bytes, blocks)?,
                ["allocated-total", bytes, blocks] => answer.allocated_total = Amount::parse(bytes, blocks)?,
                ["abandoned", count] => answer.abandoned = number(count)?,
                ["unmatched", count] => answer.unmatched = number(count)?,
                [name, value] => {
                    answer.numbers.insert(name.to_owned(), number(value)?);
                }
                _ => return Err(format!("unknown line: {line}")),
            }
        }
        if answer.live.is_empty() && answer.stacks.is_empty() {
            return Err("the answer names no site and no chain".to_owned());
        }
        Ok(answer)
    }

    /// A number that the program counts by itself.
    pub fn number(&self, name: &str) -> Outcomes<i64> {
        self.numbers.get(name).copied().ok_or_else(|| format!("the target did not say {name}"))
    }

    /// Compares everything: each site, all sites together, nothing lost, frees matched. Says what was equal, for
    /// the table of `cargo xtask matrix`.
    pub fn check(&self, outcome: &Outcome) -> Outcomes<()> {
        let report = outcome.final_report()?;
        let process = report.only_process()?;
        let mut differences = self.site_differences(process);
        differences.extend(self.total_differences(process));
        differences.extend(self.truth_differences(report));
        into_result(&differences, outcome)?;
        let (live, ever, sites) = (self.total, self.allocated_total, self.live.len());
        println!(
            "exact: {} B in {} blocks live of {} B in {} blocks, {sites} sites",
            live.bytes, live.blocks, ever.bytes, ever.blocks
        );
        Ok(())
    }

    /// Compares the sites alone: for programs whose libraries allocate too.
    pub fn check_sites(&self, outcome: &Outcome) -> Outcomes<()> {
        let process = outcome.final_report()?.only_process()?;
        into_result(&self.site_differences(process), outcome)
    }

    /// Sites whose live amounts differ; `allocated` is compared where the site still has live blocks, because only
    /// then is it reported.
    pub fn site_differences(&self, process: &Process) -> Vec<String> {
        let mut differences = Vec::new();
        for (site, expected) in &self.live {
            let (bytes, blocks) = process.live_of(site);
            if expected.differs_from(bytes, blocks) {
                differences.push(format!("{site}: live {bytes} B in {blocks}, expected {expected:?}"));
            }
        }
        differences
    }

    fn total_differences(&self, process: &Process) -> Vec<String> {
        let mut differences = Vec::new();
        let live = &process.live;
        let sum = process.sum_of_sites();
        if self.total.differs_from(sum.0, sum.1) {
            differences.push(format!("in all: live {sum:?}, expected {:?}", self.total));
        }
        let reserved = process.sum_of_reservations();
        if sum != (live.bytes + reserved.0, live.blocks + reserved.1) {
            differences.push(format!("sites add up to {sum:?}, the process says {live:?}"));
        }
        let allocated = &process.allocated;
        if self.allocated_total.differs_from(allocated.bytes, allocated.blocks) {
            differences.push(format!("ever allocated {allocated:?}, expected {:?}", self.allocated_total));
        }
        differences
    }

    fn truth_differences(&self, report: &Report) -> Vec<String> {
        let mut differences = Vec::new();
        let truth = &report.truth;
        if truth.unmatched_frees != self.unmatched {
            differences
                .push(format!("{} unmatched frees, expected {}", truth.unmatched_frees, self.unmatched));
        }
        let abandoned = truth.counters.get("abandoned_calls").copied();
        if abandoned != Some(self.abandoned) {
            differences.push(format!("{abandoned:?} abandoned calls, expected {}", self.abandoned));
        }
        let lost = |loss: &&Loss| loss.events > 0 && loss.cause != "calls that never returned";
        for loss in truth.lost.iter().filter(lost) {
            differences.push(format!("lost: {} {}", loss.events, loss.cause));
        }
        differences
    }
}

/// Differences are an error that also shows the sites that were reported, to be read by people.
fn into_result(differences: &[String], outcome: &Outcome) -> Outcomes<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let sites =
        outcome.final_report().and_then(Report::only_process).map(Process::summary).unwrap_or_default();
    let counters = outcome.final_report().map(|report| format!("{:?}", report.truth.counters));
    Err(format!("{}\nreported:\n{sites}\n{}", differences.join("\n"), counters.unwrap_or_default()))
}
