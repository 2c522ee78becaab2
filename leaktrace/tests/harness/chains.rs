//! Whole stacks, function by function, against what a target program says it was in (see `targets/chain.h`).

use super::{Expectation, Outcome, Outcomes, Process, expectation::Amount, output::Site};
use std::collections::{BTreeMap, BTreeSet};

/// Stands for frames of other objects.
const FOREIGN: &str = "*";

/// The chains of a program, and the names that only its own functions have.
pub struct Chains<'a> {
    by_text: BTreeMap<&'a str, Amount>,
    names: BTreeSet<&'a str>,
}

/// What a comparison found besides differences.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Stacks that are whole and equal to their chain.
    pub whole: usize,
    /// Blocks of these.
    pub whole_blocks: i64,
    /// Blocks of these whose stack ends early further out than the chain, in code that is not the program's, by reason.
    pub outside: BTreeMap<String, i64>,
    /// Blocks of stacks that end early, as far as they go equal to a chain, by reason.
    pub truncated: BTreeMap<String, i64>,
    /// Blocks of stacks in which a function of the program's has no name.
    pub nameless: i64,
}

impl Found {
    /// Blocks whose place is only known in part.
    pub fn partial_blocks(&self) -> i64 {
        self.truncated.values().sum::<i64>() + self.nameless
    }

    /// In words.
    pub fn describe(&self) -> String {
        format!(
            "{} whole stacks of {} blocks (end outside: {:?}); blocks by truncated stacks: {:?}, by nameless ones: {}",
            self.whole, self.whole_blocks, self.outside, self.truncated, self.nameless
        )
    }
}

impl<'a> Chains<'a> {
    /// What the program has said.
    pub fn of(expectation: &'a Expectation) -> Outcomes<Self> {
        let by_text: BTreeMap<_, _> =
            expectation.stacks.iter().map(|(text, amount)| (text.as_str(), *amount)).collect();
        if by_text.is_empty() {
            return Err("the answer names no chain".to_owned());
        }
        let names = by_text.keys().flat_map(|text| text.split(';')).filter(|name| *name != FOREIGN).collect();
        Ok(Self { by_text, names })
    }

    /// Compares everything: each chain's bytes and blocks, and no stack but these.
    pub fn check_whole(&self, outcome: &Outcome) -> Outcomes<Found> {
        let process = outcome.final_report()?.only_process()?;
        let found = self.compare(process)?;
        if found.partial_blocks() > 0 {
            return Err(format!("wrong: {}\n{}", found.describe(), summary(process)));
        }
        println!("exact: {} stacks, {} blocks, whole to the end", found.whole, found.whole_blocks);
        Ok(found)
    }

    /// Compares what is there: every stack must be a chain of the program's, or the beginning of one where it ends early;
    /// no chain may have more than it should; and all of them together, what is known in part included, have everything.
    pub fn compare(&self, process: &Process) -> Outcomes<Found> {
        let mut found = Found::default();
        let mut seen: BTreeMap<&str, Amount> = BTreeMap::new();
        let mut differences = Vec::new();
        for site in process.sites.iter().filter(|site| site.domain == "malloc") {
            match self.place(site) {
                Place::Elsewhere => {}
                Place::Chain(text) => {
                    let amount = seen.entry(text).or_default();
                    amount.bytes += site.live.bytes;
                    amount.blocks += site.live.blocks;
                    found.whole += 1;
                    found.whole_blocks += site.live.blocks;
                    if let Some(why) = &site.truncated {
                        *found.outside.entry(why.clone()).or_default() += site.live.blocks;
                    }
                }
                Place::Beginning(why) => *found.truncated.entry(why).or_default() += site.live.blocks,
                Place::Nameless => found.nameless += site.live.blocks,
                Place::Nowhere => differences.push(format!("wrong: no such chain: {}", describe(site))),
            }
        }
        differences.extend(self.amounts_beyond(&seen));
        let expected: i64 = self.by_text.values().map(|amount| amount.blocks).sum();
        let all = found.whole_blocks + found.partial_blocks();
        // What has no name may belong to others.
        if !(all - found.nameless..=all).contains(&expected) {
            differences.push(format!("{all} blocks in all, expected {expected}: {}", found.describe()));
        }
        if found.partial_blocks() == 0 {
            differences.extend(self.amounts_missing(&seen));
        }
        if differences.is_empty() {
            return Ok(found);
        }
        differences.truncate(20);
        Err(format!("{}\nreported:\n{}", differences.join("\n"), summary(process)))
    }

    fn amounts_beyond(&self, seen: &BTreeMap<&str, Amount>) -> Vec<String> {
        let expected = |text: &str| self.by_text.get(text).copied().unwrap_or_default();
        seen.iter()
            .filter(|(text, amount)| {
                amount.bytes > expected(text).bytes || amount.blocks > expected(text).blocks
            })
            .map(|(text, amount)| format!("wrong: {text}: {amount:?}, expected {:?}", expected(text)))
            .collect()
    }

    fn amounts_missing(&self, seen: &BTreeMap<&str, Amount>) -> Vec<String> {
        let missing = |text: &str, amount: &Amount| seen.get(text) != Some(amount);
        self.by_text
            .iter()
            .filter(|(text, amount)| missing(text, amount))
            .map(|(text, amount)| format!("{text}: {:?}, expected {amount:?}", seen.get(text)))
            .collect()
    }

    fn place(&self, site: &Site) -> Place<'_> {
        let frames: Vec<Option<&str>> = site.frames.iter().map(|frame| frame.function.as_deref()).collect();
        let mut chains = self.by_text.keys();
        if let Some(text) = chains.clone().find(|text| self.is_whole(text, &frames)) {
            return Place::Chain(text);
        }
        if let Some(why) = &site.truncated
            && chains.any(|text| self.begins(text, &frames).is_some())
        {
            return Place::Beginning(why.clone());
        }
        match site.frames.first() {
            Some(frame) if frame.function.as_deref().is_some_and(|name| !self.names.contains(name)) => {
                Place::Elsewhere
            }
            Some(frame) if frame.is_of_the_c_library() => Place::Elsewhere,
            _ if frames.contains(&None) => Place::Nameless,
            _ => Place::Nowhere,
        }
    }

    /// Whether the stack is the chain, and nothing but other objects' frames further out.
    fn is_whole(&self, text: &str, frames: &[Option<&str>]) -> bool {
        self.begins(text, frames).is_some_and(|rest| {
            rest.chain_done
                && rest.frames.iter().all(|frame| frame.is_none_or(|name| !self.names.contains(name)))
        })
    }

    /// Follows the chain along the frames as far as they go.
    fn begins<'f>(&self, text: &str, mut frames: &'f [Option<&'f str>]) -> Option<Rest<'f>> {
        for name in text.split(';') {
            if frames.is_empty() {
                return Some(Rest { chain_done: false, frames });
            }
            if name == FOREIGN {
                let foreign = frames
                    .iter()
                    .take_while(|frame| frame.is_none_or(|name| !self.names.contains(name)))
                    .count();
                if foreign == 0 {
                    return None;
                }
                frames = &frames[foreign..];
            } else if frames[0] == Some(name) {
                frames = &frames[1..];
            } else {
                return None;
            }
        }
        Some(Rest { chain_done: true, frames })
    }
}

/// What is left once a chain has been followed.
struct Rest<'f> {
    chain_done: bool,
    frames: &'f [Option<&'f str>],
}

/// Where a stack belongs.
enum Place<'a> {
    /// To this chain.
    Chain(&'a str),
    /// To the beginning of some chain; it ends early for that reason.
    Beginning(String),
    /// A frame has no name, so nobody can tell.
    Nameless,
    /// To code that is not the program's own: the C library and the dynamic linker allocate for themselves.
    Elsewhere,
    /// Nowhere: such a stack has never been.
    Nowhere,
}

fn describe(site: &Site) -> String {
    let names: Vec<&str> = site.frames.iter().map(|frame| frame.function.as_deref().unwrap_or("?")).collect();
    let why = site.truncated.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{} B in {}: {}{why}", site.live.bytes, site.live.blocks, names.join(";"))
}

/// Every stack in full, for failures; the first forty.
fn summary(process: &Process) -> String {
    process.sites.iter().take(40).map(|site| format!("  {}\n", describe(site))).collect()
}
