//! Names and source lines of addresses within one object, through blazesym, from [`Snapshot`]s only.
//!
//! Which source answers what (checked by the tests of this module's parent): full DWARF gives inlined calls, files and
//! lines; a separate debug file, found by build ID or debug link, gives the same; `.symtab` gives names; a stripped
//! object has only the exported names of `.dynsym`. blazesym would follow debug links by itself, but only on objects
//! that have a `.gnu_debuglink`, on the host's paths, and wherever the object tells it to; that is why debug files are
//! found in [`super::debug_file`] instead, with what several of them share (`dwz`); [`super::mini`] unpacks the symbol
//! tables that Fedora packs into stripped objects. Not supported: split DWARF, `.debug_sup`.
//!
//! A parser of untrusted files may have a bug that panics: a panic here costs the names of one object, not the daemon.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};

use super::name::{demangle, shortened};
use super::snapshot::Snapshot;
use crate::object::address::VirtualOffset;

/// How many inlined calls of one address are kept.
const MAX_INLINED: usize = 64;

/// A function at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Function, demangled.
    pub function: Option<String>,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
    /// Inlined into the next one.
    pub inlined: bool,
}

/// Why an address has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nameless {
    /// The object has no symbols for it.
    NoSymbol,
    /// The object's symbols could not be parsed.
    Damaged,
}

/// The calls at each of `addresses`, innermost first, in the same order.
pub fn calls(
    snapshot: &Snapshot,
    addresses: &[VirtualOffset],
    lines: bool,
) -> Vec<Result<Vec<Call>, Nameless>> {
    let lines = lines && snapshot.has_debug_information;
    let attempt = || symbolize(&snapshot.path(), addresses, lines);
    let found = catch_unwind(AssertUnwindSafe(attempt)).ok().flatten();
    match found {
        Some(found) if found.len() == addresses.len() => found,
        _ => vec![Err(Nameless::Damaged); addresses.len()],
    }
}

fn symbolize(
    path: &Path,
    addresses: &[VirtualOffset],
    lines: bool,
) -> Option<Vec<Result<Vec<Call>, Nameless>>> {
    let no_directories: [&Path; 0] = [];
    let symbolizer = Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_code_info(lines)
        .enable_inlined_fns(lines)
        .enable_demangling(false)
        .set_debug_dirs(Some(no_directories))
        .build();
    let mut elf = Elf::new(path);
    elf.debug_syms = lines;
    let raw: Vec<u64> = addresses.iter().map(|address| address.0).collect();
    let found = symbolizer.symbolize(&Source::Elf(elf), Input::VirtOffset(&raw)).ok()?;
    Some(found.iter().map(converted).collect())
}

fn converted(symbolized: &Symbolized<'_>) -> Result<Vec<Call>, Nameless> {
    match symbolized {
        Symbolized::Sym(symbol) => Ok(calls_of(symbol)),
        Symbolized::Unknown(blazesym::symbolize::Reason::IgnoredError) => Err(Nameless::Damaged),
        Symbolized::Unknown(_) => Err(Nameless::NoSymbol),
    }
}

/// blazesym names the outermost function first and has already moved each line to the function it lies in.
fn calls_of(symbol: &Sym<'_>) -> Vec<Call> {
    let kept = symbol.inlined.get(..symbol.inlined.len().min(MAX_INLINED)).unwrap_or_default();
    let inlined = kept.iter().rev().map(|inner| call(&inner.name, inner.code_info.as_ref(), true));
    inlined.chain([call(&symbol.name, symbol.code_info.as_deref(), false)]).collect()
}

fn call(name: &str, place: Option<&CodeInfo<'_>>, inlined: bool) -> Call {
    let file = place.map(|place| shortened(&place.to_path().to_string_lossy()));
    let line = place.and_then(|place| place.line).filter(|&line| line != 0);
    Call { function: demangle(name), file: file.filter(|file| !file.is_empty()), line, inlined }
}
