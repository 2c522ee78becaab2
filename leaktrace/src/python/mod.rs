//! CPython from outside: finding the interpreter of a process, its version and where things lie in it; its allocator
//! table; its code objects. Everything here reads the memory of a process that may be hostile, torn in the middle of a change
//! or gone: what does not validate is refused, and nothing is taken for granted twice.

pub mod alias;
pub mod allocators;
pub mod arrays;
mod bounded;
pub mod census;
pub mod closing;
pub mod code;
pub mod debug_offsets;
pub mod evaluator;
#[cfg(test)]
mod fabricated;
#[cfg(test)]
pub(crate) mod forged;
pub mod free_lists;
mod free_lists_in_code;
pub mod image;
pub mod inherited;
pub mod kinds;
pub mod leftover;
pub mod lines;
mod loads;
mod memory;
pub mod merge;
mod objects;
pub mod offsets;
pub mod plan;
pub mod pools;
mod reader;
pub mod redirect;
pub mod references;
pub mod refusal;
pub mod runtime;
#[cfg(test)]
pub(crate) mod soundness;
pub mod strings;
pub mod text;
pub mod validate;
pub mod version;

use std::collections::BTreeMap;
use std::{ops::Range, path::PathBuf};

pub use allocators::Tables;
pub use census::Census;
pub use free_lists::free_lists;
pub use inherited::Inherited;
pub use kinds::Kinds;
pub use memory::Memory;
pub use offsets::Offsets;
pub use plan::{PythonPlan, plan};
pub use redirect::{Redirection, SlotChange};
pub use refusal::Refusal;
pub use runtime::{Finder, find};

use crate::object::address::AbsoluteAddress;

/// A version of CPython, as its runtime says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3.
    pub major: u8,
    /// 8 to 14.
    pub minor: u8,
    /// Patch level.
    pub micro: u8,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// The interpreter of one process, found and validated.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// What it says it is.
    pub version: Version,
    /// The object that holds it, as the target sees it: the executable, or `libpython3.x.so`.
    pub path: PathBuf,
    /// The same, openable from here.
    pub openable: PathBuf,
    /// Device of the object's file.
    pub device: (u32, u32),
    /// Its inode.
    pub inode: u64,
    /// Absolute addresses of the object less its own virtual addresses.
    pub bias: u64,
    /// Where its code is mapped, absolute addresses.
    pub code: Vec<Range<u64>>,
    /// Where `_PyEval_EvalFrameDefault` lies, its cold parts too; absolute addresses. Empty if there is no such function.
    pub evaluator: Vec<Range<u64>>,
    /// Address of `_PyRuntime`.
    pub runtime: AbsoluteAddress,
    /// Address of the main interpreter.
    pub main: AbsoluteAddress,
    /// The functions and variables that [`image`] looks for, as far as the object defines them, by name.
    pub symbols: BTreeMap<&'static str, Defined>,
    /// The table of offsets is that of a build whose `_PyRuntime` has the same size; else only what the live process
    /// confirmed speaks for it.
    pub exact: bool,
    /// Where things lie in its structures.
    pub offsets: Offsets,
}

/// A function or a variable of an interpreter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defined {
    /// Absolute address.
    pub address: u64,
    /// Bytes; 0 where the object does not say.
    pub size: u64,
}

impl Interpreter {
    /// Address of a function or variable that [`image`] looks for, if the object defines it.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).map(|symbol| symbol.address)
    }

    /// The code of a function, at most `cap` bytes of it; `None` where its size is not known.
    pub fn code_of(&self, memory: &dyn Memory, name: &str, cap: u64) -> Option<Vec<u8>> {
        let symbol = self.symbols.get(name).filter(|symbol| symbol.size > 0)?;
        let mut code = vec![0; usize::try_from(symbol.size.min(cap)).ok()?];
        memory.fill(symbol.address, &mut code).then_some(code)
    }
}
