//! The object file that holds an interpreter, known by what it defines: functions of CPython's interface and the variable
//! `_PyRuntime`. The executable itself, a shared library, or a program that embeds one.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::evaluator;
use crate::object::address::{AbsoluteAddress, VirtualOffset};
use crate::object::elf::{Elf, ElfError, Segment};
use crate::object::open::open_regular;
use crate::object::symbols::{Symbol, Table};
use crate::process::Mapping;

/// Functions that are looked for; an object without the first is none.
pub const FUNCTIONS: [&str; 8] = [
    "Py_GetVersion",
    "PyObject_Malloc",
    "_PyEval_EvalFrameDefault",
    "_Py_GetAllocatedBlocks",
    "PyFloat_FromDouble",
    "PyTuple_New",
    // Only where reference counts are checked.
    "_Py_NegativeRefcount",
    "_Py_AddToAllObjects",
];

/// Variables that are looked for.
pub const VARIABLES: [&str; 22] = [
    "_PyRuntime",
    "Py_Version",
    "PyCode_Type",
    "PyUnicode_Type",
    "PyBytes_Type",
    "PyFloat_Type",
    "PyTuple_Type",
    "PyList_Type",
    "PyDict_Type",
    "PyLong_Type",
    "PySlice_Type",
    "PyFrame_Type",
    "PyMethod_Type",
    "PyCFunction_Type",
    "PyAsyncGen_Type",
    "_PyAsyncGenASend_Type",
    "PyContext_Type",
    "PySet_Type",
    "PyListIter_Type",
    "PyTupleIter_Type",
    "PyRange_Type",
    "PyRangeIter_Type",
];

/// Files whose answer is remembered.
const MAX_KNOWN: usize = 4096;

const PAGE: u64 = 4096;

/// What an object file defines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    functions: HashMap<&'static str, Symbol>,
    variables: HashMap<&'static str, Symbol>,
    code: Vec<Segment>,
    evaluator: Vec<Range<u64>>,
}

impl Image {
    /// Reads it; `None` if it holds no interpreter.
    pub fn of(elf: &Elf) -> Result<Option<Self>, ElfError> {
        for table in [Table::Dynamic, Table::Full] {
            let functions = named(&FUNCTIONS, elf.symbols(table, &FUNCTIONS)?);
            if FUNCTIONS.iter().take(2).all(|name| functions.contains_key(name)) {
                let variables = named(&VARIABLES, elf.variables(table, &VARIABLES)?);
                let code = elf.segments().filter(|segment| segment.executable).collect();
                // An object that contradicts itself there still can be walked.
                let evaluator = evaluator::find(elf, 0).unwrap_or_default();
                return Ok(Some(Self { functions, variables, code, evaluator }));
            }
        }
        Ok(None)
    }

    /// A function, by one of [`FUNCTIONS`].
    pub fn function(&self, name: &str) -> Option<Symbol> {
        self.functions.get(name).copied()
    }

    /// A variable, by one of [`VARIABLES`].
    pub fn variable(&self, name: &str) -> Option<Symbol> {
        self.variables.get(name).copied()
    }

    /// Where the interpreter's loop lies, its own addresses.
    pub fn evaluator(&self) -> &[Range<u64>] {
        &self.evaluator
    }

    /// What is added to its own addresses where its code is mapped so.
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        let page = |address: u64| address & !(PAGE - 1);
        let of = |segment: &&Segment| page(segment.offset.0) == mapping.offset.0;
        let segment = self.code.iter().find(of)?;
        Some(mapping.start.0.wrapping_sub(page(segment.address.0)))
    }
}

/// An address in the object, in a process.
pub fn absolute(address: VirtualOffset, bias: u64) -> AbsoluteAddress {
    AbsoluteAddress(address.0.wrapping_add(bias))
}

fn named<E>(names: &[&'static str], found: Vec<Result<Symbol, E>>) -> HashMap<&'static str, Symbol> {
    names.iter().zip(found).filter_map(|(name, found)| Some((*name, found.ok()?))).collect()
}

/// What tells a file and its content from another.
type Identity = (u64, u64, i64, i64);

/// Answers for files that have been looked at: most processes share most of theirs.
#[derive(Debug, Default)]
pub struct Images {
    known: HashMap<Identity, Option<Arc<Image>>>,
}

impl Images {
    /// The interpreter in a file; `None` if there is none or it cannot be read.
    pub fn open(&mut self, path: &Path) -> Option<Arc<Image>> {
        let file = open_regular(path).ok()?;
        let metadata = file.metadata().ok()?;
        let identity = (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
        if let Some(known) = self.known.get(&identity) {
            return known.clone();
        }
        let image = Elf::from_file(file, path).and_then(|elf| Image::of(&elf)).ok().flatten().map(Arc::new);
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(identity, image.clone());
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_an_interpreter_is_none_and_stays_none() {
        let mut images = Images::default();
        let own = Path::new("/proc/self/exe");
        assert_eq!(images.open(own), None);
        assert_eq!(images.known.len(), 1);
        assert_eq!(images.open(own), None);
        assert_eq!(images.open(Path::new("/proc/self/no such file")), None);
        assert_eq!(images.known.len(), 1);
    }
}
