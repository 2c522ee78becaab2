//! Python frames: a code object is read when it is first seen, while its process is alive, and what it says is shared by
//! every process that runs the same code. Code that runs only once is looked at whenever it is seen: what is compiled next may
//! look the same to the kernel side and say something else. Line tables are kept as they are, for as long as their process lives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use leaktrace_common::python::PythonFrame;

use super::objects::ObjectId;
use super::{FrameId, FrameStore, Place, Seen, Unresolved};
use crate::object::address::AbsoluteAddress;
use crate::process::MemoryReader;
use crate::process::maps::Mapping;
use crate::python::code::{self, Lines, Proof};
use crate::python::{Interpreter, Memory, Offsets};
use crate::report::model::{Frame, FrameKind};

/// Most code objects whose contents are remembered; then all are forgotten, and read again when they are seen again.
const MAX_CODES: usize = 1 << 18;
/// Most frames that are known without looking at their code object.
const MAX_KNOWN: usize = 1 << 20;
/// Most names, each a function in a file.
const MAX_NAMES: usize = 1 << 20;
/// Most bytes of names, with what it takes to keep them.
const MAX_TEXT: u64 = 128 << 20;
/// What it takes to keep a string, bytes.
const STRING: u64 = 64;
/// Most bytes of line tables.
const MAX_TABLES: u64 = 128 << 20;

/// A code object of one process image: address and identity.
type CodeKey = (u64, u32);

/// What a code object said.
#[derive(Clone, Debug)]
struct Known {
    name: u32,
    lines: Arc<Lines>,
    /// It is a function's.
    lasts: bool,
    /// Of other code: what tells it from what follows it.
    proof: Option<Arc<Proof>>,
}

/// One process image.
#[derive(Debug, Default)]
struct Process {
    codes: HashMap<CodeKey, Known>,
    frames: HashMap<(CodeKey, u32), FrameId>,
}

/// Function and file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    function: Arc<str>,
    file: Arc<str>,
}

/// Numbers for the truth line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PythonStatistics {
    /// Code objects read.
    pub codes: u64,
    /// Of these, how many have no line table that could be kept.
    pub without_lines: u64,
    /// Bytes of names, with what it takes to keep them.
    pub text_bytes: u64,
    /// Bytes of line tables.
    pub table_bytes: u64,
}

/// Everything known of Python code.
#[derive(Debug, Default)]
pub(super) struct PythonNames {
    processes: HashMap<u32, Process>,
    strings: HashSet<Arc<str>>,
    tables: HashSet<Arc<Lines>>,
    names: Vec<Name>,
    by_name: HashMap<Name, u32>,
    /// Objects that hold an interpreter, and the process images whose own is among them.
    interpreters: HashSet<ObjectId>,
    learnt: HashSet<u32>,
    codes: usize,
    known: usize,
    statistics: PythonStatistics,
}

impl PythonNames {
    pub fn statistics(&self) -> PythonStatistics {
        self.statistics
    }

    pub fn is_interpreter(&self, object: ObjectId) -> bool {
        self.interpreters.contains(&object)
    }

    /// Drops what is only needed for frames to come.
    pub fn forget_process(&mut self, serial: u32) {
        self.learnt.remove(&serial);
        let Some(process) = self.processes.remove(&serial) else { return };
        self.codes -= process.codes.len();
        self.known -= process.frames.len();
        drop(process);
        self.drop_tables();
    }

    /// Drops the tables that no code object uses any more.
    fn drop_tables(&mut self) {
        self.tables.retain(|table| Arc::strong_count(table) > 1);
        self.statistics.table_bytes = self.tables.iter().map(|table| bytes_of(table)).sum();
    }

    /// The contents of a code object.
    fn code(
        &mut self,
        memory: &dyn Memory,
        serial: u32,
        offsets: &Offsets,
        frame: &PythonFrame,
    ) -> Result<Known, Unresolved> {
        let key = (frame.code, frame.identity);
        let known = self.processes.get(&serial).and_then(|process| process.codes.get(&key));
        let holds = |known: &&Known| match &known.proof {
            Some(proof) => code::is_still(memory, offsets, frame, &known.lines, proof),
            None => known.lasts,
        };
        if let Some(known) = known.filter(holds) {
            return Ok(known.clone());
        }
        let known = self.read(memory, offsets, frame)?;
        if self.codes >= MAX_CODES {
            self.processes.values_mut().for_each(|process| process.codes.clear());
            self.codes = 0;
            self.drop_tables();
        }
        let codes = &mut self.processes.entry(serial).or_default().codes;
        self.codes += usize::from(codes.insert(key, known.clone()).is_none());
        Ok(known)
    }

    fn read(
        &mut self,
        memory: &dyn Memory,
        offsets: &Offsets,
        frame: &PythonFrame,
    ) -> Result<Known, Unresolved> {
        // Taken first: what is read afterwards is no older.
        let proof = code::prove(memory, offsets, frame);
        let code = code::read(memory, offsets, frame).map_err(Unresolved::Code)?;
        self.statistics.codes += 1;
        self.statistics.without_lines += u64::from(code.lines.table.is_none());
        let proof = proof.filter(|_| !code.lasts).map(Arc::new);
        let name = self.name(code.name, code.file).ok_or(Unresolved::TextCap)?;
        Ok(Known { name, lines: self.share_lines(code.lines), lasts: code.lasts, proof })
    }

    fn name(&mut self, function: String, file: String) -> Option<u32> {
        let name = Name { function: self.share(function)?, file: self.share(file)? };
        if let Some(known) = self.by_name.get(&name) {
            return Some(*known);
        }
        let number = u32::try_from(self.names.len()).ok().filter(|_| self.names.len() < MAX_NAMES)?;
        self.names.push(name.clone());
        self.by_name.insert(name, number);
        Some(number)
    }

    fn share(&mut self, text: String) -> Option<Arc<str>> {
        if let Some(known) = self.strings.get(text.as_str()) {
            return Some(Arc::clone(known));
        }
        let bytes = self.statistics.text_bytes + text.len() as u64 + STRING;
        if bytes > MAX_TEXT {
            return None;
        }
        self.statistics.text_bytes = bytes;
        let shared: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&shared));
        Some(shared)
    }

    fn share_lines(&mut self, mut lines: Lines) -> Arc<Lines> {
        if let Some(known) = self.tables.get(&lines) {
            return Arc::clone(known);
        }
        if self.statistics.table_bytes + bytes_of(&lines) > MAX_TABLES {
            self.drop_tables();
        }
        if self.statistics.table_bytes + bytes_of(&lines) > MAX_TABLES {
            self.statistics.without_lines += 1;
            lines.table = None;
        }
        self.statistics.table_bytes += bytes_of(&lines);
        let shared = Arc::new(lines);
        self.tables.insert(Arc::clone(&shared));
        shared
    }

    fn known(&self, serial: u32, frame: &PythonFrame) -> Option<FrameId> {
        let key = ((frame.code, frame.identity), frame.instruction);
        self.processes.get(&serial)?.frames.get(&key).copied()
    }

    fn remember(&mut self, serial: u32, frame: &PythonFrame, id: FrameId) {
        if self.known >= MAX_KNOWN {
            self.processes.values_mut().for_each(|process| process.frames.clear());
            self.known = 0;
        }
        let key = ((frame.code, frame.identity), frame.instruction);
        let frames = &mut self.processes.entry(serial).or_default().frames;
        self.known += usize::from(frames.insert(key, id).is_none());
    }
}

fn bytes_of(lines: &Lines) -> u64 {
    lines.table.as_deref().map_or(0, <[u8]>::len) as u64
}

impl FrameStore {
    /// Whether [`Self::learn_interpreter`] has found it.
    pub fn knows_interpreter(&self, serial: u32) -> bool {
        self.python.learnt.contains(&serial)
    }

    /// Says which object holds the interpreter of a process image, so that its own native frames can be told from others.
    pub fn learn_interpreter(
        &mut self,
        pid: u32,
        serial: u32,
        mappings: &[Mapping],
        interpreter: &Interpreter,
    ) {
        let holds = |mapping: &&Mapping| {
            mapping.executable
                && mapping.device == interpreter.device
                && mapping.inode == interpreter.inode
                && mapping.is_file()
        };
        for mapping in mappings.iter().filter(holds) {
            let Some(object) = self.objects.intern(pid, serial, mapping) else { continue };
            self.python.interpreters.insert(object);
            self.python.learnt.insert(serial);
        }
    }

    /// Normalises a Python frame of the process image `serial`, whose PID is `pid`: reads its code object when it is
    /// first seen.
    pub fn intern_python(
        &mut self,
        pid: u32,
        serial: u32,
        interpreter: &Interpreter,
        frame: &PythonFrame,
    ) -> FrameId {
        self.intern_code(&MemoryReader::new(pid), serial, &interpreter.offsets, frame)
    }

    /// The same, from any memory.
    pub(super) fn intern_code(
        &mut self,
        memory: &dyn Memory,
        serial: u32,
        offsets: &Offsets,
        frame: &PythonFrame,
    ) -> FrameId {
        if let Some(known) = self.python.known(serial, frame) {
            return known;
        }
        let (place, lasts) = match self.python.code(memory, serial, offsets, frame) {
            Ok(Known { name, lines, lasts, .. }) => {
                (Place::Python { name, line: lines.line(frame.instruction) }, lasts)
            }
            // It may be readable the next time.
            Err(reason) => (Place::NamelessPython(reason), false),
        };
        let id = self.insert(Seen { address: AbsoluteAddress(frame.code), place });
        if lasts && id != FrameId::OVERFLOW {
            self.python.remember(serial, frame, id);
        }
        id
    }

    pub(super) fn resolve_python(&self, address: AbsoluteAddress, place: &Place) -> Frame {
        let base = Frame { kind: FrameKind::Python, address: address.0, ..Frame::default() };
        let Place::Python { name, line } = place else { return base };
        match self.python.names.get(*name as usize) {
            Some(name) => Frame {
                function: Some(name.function.to_string()),
                file: Some(name.file.to_string()),
                line: *line,
                ..base
            },
            None => base,
        }
    }
}

#[cfg(test)]
mod tests;
