//! From a process to what would be placed in its Python interpreter and written to it.

use crate::{
    probe::cost::CostTable,
    process::{Mapping, MemoryReader},
    python::{self, Interpreter, PythonPlan, Refusal, Tables, allocators, pools},
};

/// The interpreter of one process, and what tracing would do to it.
#[derive(Debug)]
pub struct Examined {
    /// Which one.
    pub interpreter: Interpreter,
    /// Its allocators, or why they are not known.
    pub allocators: Result<Planned, allocators::Reason>,
}

/// Plans for an interpreter's allocators.
#[derive(Debug)]
pub struct Planned {
    /// The tables.
    pub tables: Tables,
    /// For `--detail exact`.
    pub exact: PythonPlan,
    /// For `--no-target-writes`.
    pub without_writes: PythonPlan,
    /// For `--detail light`.
    pub light: PythonPlan,
}

/// Looks at a process; `None`: it has no interpreter.
///
/// # Errors
/// It has one that leaktrace does not know well enough.
pub fn examine(pid: u32, mappings: &[Mapping], costs: &CostTable) -> Result<Option<Examined>, Refusal> {
    let Some(interpreter) = python::find(pid, mappings)? else { return Ok(None) };
    let tables = Tables::read(pid, &interpreter, &MemoryReader::new(pid), mappings);
    let allocators = tables.map(|tables| Planned {
        exact: python::plan(&tables, costs, true),
        without_writes: python::plan(&tables, costs, false),
        light: pools::plan(&tables, interpreter.version, costs),
        tables,
    });
    Ok(Some(Examined { interpreter, allocators }))
}
