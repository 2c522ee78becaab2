//! The function with which CPython's small-object allocator takes a pool into use: it runs once for hundreds of
//! allocations, and no compiler inlines it. Where symbols are stripped it is found as the one function, called from many
//! places, that every inlined copy of the allocator calls when it has no free block.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions};
use thiserror::Error;

use super::Version;
use super::allocators::{Domain, Kind, Role, State, Tables};
use super::plan::{self, PythonPlan};
use super::text::Text;
use crate::object::address::{AbsoluteAddress, VirtualOffset};
use crate::probe::cost::CostTable;
use crate::probe::hooks::{HookId, POOL_TAKEN};
use crate::probe::site::MAX_FUNCTION_BYTES;

/// The first version that has it: before, it was part of what every allocation runs through.
const SINCE: Version = Version { major: 3, minor: 9, micro: 0 };
/// Its name.
const NAME: &str = "allocate_from_new_pool";
/// Exported functions that a compiler inlines the allocator into.
const INLINED_INTO: [&str; 2] = ["PyObject_Malloc", "PyMem_Malloc"];
/// Exported functions that the allocator calls as well.
const OTHERS: [&str; 5] =
    ["PyMem_RawMalloc", "PyMem_RawCalloc", "PyMem_RawRealloc", "PyMem_RawFree", "PyErr_NoMemory"];
/// In how many of the functions that are looked at it must be called.
const LEAST: usize = 2;

/// Why pools cannot be seen.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// Another allocator is in use.
    #[error("Python's small-object allocator is not in use: all blocks are the C library's")]
    NotInUse,
    /// No function looks like it.
    #[error(
        "the interpreter has no function of its own that takes a pool into use (3.8 has none): Python's small blocks are seen as arenas only"
    )]
    NotFound,
    /// No probe can be placed.
    #[error("no probe can be placed where Python's small-object allocator takes a pool into use: {0}")]
    NoSite(String),
}

/// Plans the probe for light detail; nothing is written.
pub fn plan(tables: &Tables, version: Version, costs: &CostTable) -> PythonPlan {
    let mut done = PythonPlan::default();
    done.plan.layered = true;
    if let Err(reason) = add(tables, version, costs, &mut done) {
        done.plan.notes.push(reason.to_string());
    }
    done
}

fn add(tables: &Tables, version: Version, costs: &CostTable, done: &mut PythonPlan) -> Result<(), Reason> {
    if tables.table(Domain::Object).state == State::Default(Kind::Malloc) {
        return Err(Reason::NotInUse);
    }
    let text = tables.text().ok_or(Reason::NotFound)?;
    let function = find(tables, text).filter(|_| version >= SINCE).ok_or(Reason::NotFound)?;
    let hook = HookId::by_name(POOL_TAKEN).ok_or(Reason::NotFound)?;
    let sites = plan::sites_in_body(text, function, hook, costs)
        .map_err(|error| Reason::NoSite(error.to_string()))?;
    let site = plan::cheapest(sites, hook).ok_or_else(|| Reason::NoSite("no legal place".to_owned()))?;
    plan::add_probe(&mut done.plan, text, function, site, hook).map_err(Reason::NoSite)
}

/// Where the function begins.
pub fn find(tables: &Tables, text: &Text) -> Option<AbsoluteAddress> {
    text.exported(NAME).or_else(|| by_calls(tables, text))
}

/// The function that most of the allocator's copies call: not exported, described, and none of the table's own.
fn by_calls(tables: &Tables, text: &Text) -> Option<AbsoluteAddress> {
    let table = tables.table(Domain::Object);
    let own = matches!(table.state, State::Default(Kind::Small));
    let slots = table.slots.iter().filter(|slot| own && matches!(slot.role, Role::Malloc | Role::Calloc));
    let copies = INLINED_INTO.iter().filter_map(|name| text.exported(name));
    let callers: Vec<AbsoluteAddress> = copies.chain(slots.map(|slot| slot.function)).collect();
    let mut counts: BTreeMap<VirtualOffset, usize> = BTreeMap::new();
    for caller in &callers {
        for target in calls(text, *caller) {
            *counts.entry(target).or_default() += 1;
        }
    }
    let known: Vec<VirtualOffset> =
        OTHERS.iter().filter_map(|name| text.exported(name)).map(|function| text.own(function)).collect();
    let candidates = counts.into_iter().filter(|(target, count)| {
        *count >= LEAST && !known.contains(target) && text.function_at(text.absolute(*target)).is_some()
    });
    let found = candidates.filter(|(target, _)| !leaves_object(text, *target));
    found.max_by_key(|(_, count)| *count).map(|(target, _)| text.absolute(target))
}

/// Distinct functions that a function calls directly.
fn calls(text: &Text, function: AbsoluteAddress) -> Vec<VirtualOffset> {
    let (code, _) = text.body(function, MAX_FUNCTION_BYTES, 0);
    let decoder = Decoder::with_ip(64, &code, text.own(function).0, DecoderOptions::NONE);
    let direct = decoder.into_iter().filter(|instruction| instruction.code() == Code::Call_rel32_64);
    let mut targets: Vec<_> = direct.map(|call| VirtualOffset(call.near_branch_target())).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// A stub through which another object is called.
fn leaves_object(text: &Text, target: VirtualOffset) -> bool {
    let code = text.code(text.absolute(target), 16);
    let mut decoder = Decoder::with_ip(64, &code, target.0, DecoderOptions::NONE);
    decoder.iter().take(2).any(|instruction| instruction.is_jmp_near_indirect())
}
