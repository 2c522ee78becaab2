//! CPython's allocator tables: one `PyMemAllocatorEx` (a context and four functions) each for the raw, the memory and the object
//! domain. Up to 3.11 they are static data that only the code of the exported functions leads to; from 3.12 on they lie in
//! `_PyRuntime`. What does not look like three tables of functions is refused.

use std::sync::Arc;

use thiserror::Error;

use super::text::Text;
use super::{Interpreter, Memory, loads};
use crate::object::address::AbsoluteAddress;
use crate::object::elf::ElfError;
use crate::process::maps::{self, Mapping};

/// Bytes of a `PyMemAllocatorEx`.
pub const TABLE_BYTES: u64 = 40;
/// Words of one.
const WORDS: usize = 5;

/// One of the three families of functions that allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// `PyMem_RawMalloc`: may be called without the GIL.
    Raw,
    /// `PyMem_Malloc`.
    Mem,
    /// `PyObject_Malloc`.
    Object,
}

impl Domain {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Mem, Self::Object];

    /// The exported function that leads to its table.
    fn leads(self) -> &'static str {
        match self {
            Self::Raw => "PyMem_RawMalloc",
            Self::Mem => "PyMem_Malloc",
            Self::Object => "PyObject_Malloc",
        }
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Mem => "mem",
            Self::Object => "object",
        })
    }
}

/// What a slot of a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `malloc(ctx, size)`.
    Malloc,
    /// `calloc(ctx, count, size)`.
    Calloc,
    /// `realloc(ctx, block, size)`.
    Realloc,
    /// `free(ctx, block)`.
    Free,
}

impl Role {
    /// In the order of the table.
    pub const ALL: [Self; 4] = [Self::Malloc, Self::Calloc, Self::Realloc, Self::Free];
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Malloc => "malloc",
            Self::Calloc => "calloc",
            Self::Realloc => "realloc",
            Self::Free => "free",
        })
    }
}

/// One pointer of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it is for.
    pub role: Role,
    /// Where the pointer lies.
    pub address: AbsoluteAddress,
    /// What it is.
    pub pointer: AbsoluteAddress,
    /// Where the function that it means begins. The same as `pointer`, unless that is another entry to it.
    pub function: AbsoluteAddress,
    /// Index into [`Tables::texts`] of the object that holds it; `None`: code without a file that can be opened.
    pub object: Option<usize>,
}

impl Slot {
    /// The pointer leads to another entry of its function: an earlier leaktrace has redirected it.
    pub fn is_redirected(&self) -> bool {
        self.pointer != self.function
    }
}

/// Which allocator CPython came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The C library's (`PYTHONMALLOC=malloc`; always that of the raw domain).
    Malloc,
    /// The small-object allocator, pymalloc.
    Small,
    /// Another one that the interpreter brings (`PYTHONMALLOC=mimalloc`).
    Other,
}

/// Who has put functions of their own into a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hooker {
    /// CPython's debug hooks (`PYTHONMALLOC=debug`, `-X dev`).
    Debug,
    /// `tracemalloc`.
    Tracemalloc,
    /// Code of the named object: another profiler, or an application's own allocator.
    Other(String),
}

impl std::fmt::Display for Hooker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Debug => f.write_str("CPython's debug hooks"),
            Self::Tracemalloc => f.write_str("tracemalloc"),
            Self::Other(object) => f.write_str(object),
        }
    }
}

/// Who serves a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The interpreter itself: no context, functions in its own code.
    Default(Kind),
    /// Somebody's functions with a context. Such a table is never written.
    Hooked(Hooker),
}

/// One domain's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which one.
    pub domain: Domain,
    /// Where it lies.
    pub address: AbsoluteAddress,
    /// What its functions get as first argument.
    pub context: u64,
    /// Its pointers, in the order of [`Role::ALL`].
    pub slots: [Slot; 4],
    /// Who serves it.
    pub state: State,
}

impl Table {
    /// An earlier leaktrace has redirected it.
    pub fn is_redirected(&self) -> bool {
        self.slots.iter().any(Slot::is_redirected)
    }

    fn functions(&self) -> [AbsoluteAddress; 4] {
        self.slots.map(|slot| slot.function)
    }
}

/// The three tables of a process, and the code of its interpreter.
#[derive(Clone, Debug)]
pub struct Tables {
    /// In the order of [`Domain::ALL`].
    pub tables: [Table; 3],
    /// The object that holds the interpreter first, then others that hold functions of somebody else's.
    pub texts: Vec<Arc<Text>>,
}

/// Why there are no tables that can be relied on.
#[derive(Debug, Error)]
pub enum Reason {
    /// The interpreter's file.
    #[error(transparent)]
    Object(#[from] ElfError),
    /// An exported function is missing.
    #[error("{function} is not exported by the interpreter: its allocator table cannot be found")]
    NotExported {
        /// Which one.
        function: &'static str,
    },
    /// The function's code does not lead to a table.
    #[error("the code of {function} does not lead to a table of functions")]
    NotFound {
        /// Which one.
        function: &'static str,
    },
    /// The table cannot be read.
    #[error("the {domain} allocator table at {address:#x} cannot be read")]
    Unreadable {
        /// Which one.
        domain: Domain,
        /// Where.
        address: AbsoluteAddress,
    },
    /// A pointer does not lead to code.
    #[error(
        "{role} of the {domain} allocator table at {address:#x} points to {pointer:#x}, where no code is"
    )]
    NotCode {
        /// Which table.
        domain: Domain,
        /// Which slot.
        role: Role,
        /// Where it lies.
        address: AbsoluteAddress,
        /// What it holds.
        pointer: AbsoluteAddress,
    },
    /// A pointer leads into the interpreter, yet to no function.
    #[error("{role} of the {domain} allocator table points to {pointer:#x}, which is no entry to a function")]
    NoFunction {
        /// Which table.
        domain: Domain,
        /// Which slot.
        role: Role,
        /// What it holds.
        pointer: AbsoluteAddress,
    },
    /// The tables overlap, or contradict what the interpreter's runtime says.
    #[error("the three allocator tables contradict each other (found at {0:#x}, {1:#x} and {2:#x})")]
    Contradiction(AbsoluteAddress, AbsoluteAddress, AbsoluteAddress),
}

impl Tables {
    /// Finds, reads and validates the tables of process `pid`, whose mappings are `mappings`.
    ///
    /// # Errors
    /// They cannot be found or do not look like allocator tables.
    pub fn read(
        pid: u32,
        interpreter: &Interpreter,
        memory: &dyn Memory,
        mappings: &[Mapping],
    ) -> Result<Self, Reason> {
        let mut text = Text::open(&interpreter.path, &interpreter.openable, interpreter.bias)?;
        text.device = interpreter.device;
        text.inode = interpreter.inode;
        let reader = Reader { text: &text, memory, mappings };
        let [raw, mem, object] = reader.find(interpreter)?;
        let raw = reader.table(Domain::Raw, raw)?;
        let (mem, object) = (reader.table(Domain::Mem, mem)?, reader.table(Domain::Object, object)?);
        let mut tables = Self { tables: [raw, mem, object], texts: vec![Arc::new(text)] };
        tables.name_defaults();
        tables.open_others(pid, mappings);
        Ok(tables)
    }

    /// Tells the interpreter's own allocators apart: the C library's serves the raw domain, pymalloc the other two alike.
    fn name_defaults(&mut self) {
        let [raw, mem, object] = &self.tables;
        let (raw, same) = (raw.functions(), mem.functions() == object.functions());
        for table in &mut self.tables {
            let own = table.functions();
            if let State::Default(kind) = &mut table.state {
                *kind = match same {
                    _ if own == raw => Kind::Malloc,
                    true => Kind::Small,
                    false => Kind::Other,
                };
            }
        }
    }

    /// Opens the objects that hold somebody else's functions. What cannot be opened stays unknown.
    fn open_others(&mut self, pid: u32, mappings: &[Mapping]) {
        for slot in self.tables.iter_mut().flat_map(|table| &mut table.slots) {
            let known = self.texts.iter().position(|text| text.holds(slot.function));
            slot.object = known.or_else(|| {
                let mapping = maps::find(mappings, slot.function).filter(|mapping| mapping.is_file())?;
                self.texts.push(Arc::new(Text::of_mapping(pid, mapping).ok()?));
                Some(self.texts.len() - 1)
            });
        }
    }

    /// The object that holds the interpreter.
    pub fn text(&self) -> Option<&Arc<Text>> {
        self.texts.first()
    }

    /// One of them.
    pub fn table(&self, domain: Domain) -> &Table {
        let [raw, mem, object] = &self.tables;
        match domain {
            Domain::Raw => raw,
            Domain::Mem => mem,
            Domain::Object => object,
        }
    }

    /// Slots that an earlier leaktrace has redirected.
    pub fn redirected(&self) -> impl Iterator<Item = &Slot> {
        self.tables.iter().flat_map(|table| &table.slots).filter(|slot| slot.is_redirected())
    }
}

/// What tables are read with.
struct Reader<'a> {
    text: &'a Text,
    memory: &'a dyn Memory,
    mappings: &'a [Mapping],
}

impl Reader<'_> {
    /// Where the three tables lie.
    fn find(&self, interpreter: &Interpreter) -> Result<[AbsoluteAddress; 3], Reason> {
        let offset = u64::from(interpreter.offsets.allocators);
        if let Some(first) = interpreter.runtime.checked_add(offset).filter(|_| offset != 0) {
            let at = |index: u64| AbsoluteAddress(first.0.wrapping_add(index * TABLE_BYTES));
            return Ok([at(0), at(1), at(2)]);
        }
        let [raw, mem, object] = Domain::ALL.map(|domain| self.follow(domain));
        let (raw, mem, object) = (raw?, mem?, object?);
        let apart = |a: AbsoluteAddress, b: AbsoluteAddress| a.0.abs_diff(b.0) >= TABLE_BYTES;
        if apart(raw, mem) && apart(raw, object) && apart(mem, object) {
            return Ok([raw, mem, object]);
        }
        Err(Reason::Contradiction(raw, mem, object))
    }

    /// The table that an exported function calls through: the first word that it loads and that three more pointers to
    /// code follow.
    fn follow(&self, domain: Domain) -> Result<AbsoluteAddress, Reason> {
        let function = domain.leads();
        let address = self.text.exported(function).ok_or(Reason::NotExported { function })?;
        let (code, _) = self.text.body(address, loads::MAX_BYTES, loads::MAX_BYTES);
        let words = loads::addresses(&code, address, self.memory);
        let is_table = |first: &AbsoluteAddress| {
            let words = self.words(AbsoluteAddress(first.0.wrapping_sub(8)));
            words.is_some_and(|[_, functions @ ..]| functions.iter().all(|function| self.is_code(*function)))
        };
        let first = words.into_iter().find(is_table).ok_or(Reason::NotFound { function })?;
        Ok(AbsoluteAddress(first.0.wrapping_sub(8)))
    }

    fn words(&self, address: AbsoluteAddress) -> Option<[u64; WORDS]> {
        let mut bytes = [0; WORDS * 8];
        self.memory.fill(address.0, &mut bytes).then_some(())?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(words)
    }

    fn is_code(&self, address: u64) -> bool {
        maps::find(self.mappings, AbsoluteAddress(address)).is_some_and(|mapping| mapping.executable)
    }

    fn table(&self, domain: Domain, address: AbsoluteAddress) -> Result<Table, Reason> {
        let unreadable = || Reason::Unreadable { domain, address };
        let [context, malloc, calloc, realloc, free] = self.words(address).ok_or_else(unreadable)?;
        let pointers = [(0, malloc), (1, calloc), (2, realloc), (3, free)];
        let slot =
            |(index, pointer): (usize, u64)| self.slot(domain, address, index, AbsoluteAddress(pointer));
        let [malloc, calloc, realloc, free] = pointers.map(slot);
        let slots = [malloc?, calloc?, realloc?, free?];
        let state = self.state(context, &slots);
        Ok(Table { domain, address, context, slots, state })
    }

    fn slot(
        &self,
        domain: Domain,
        table: AbsoluteAddress,
        index: usize,
        pointer: AbsoluteAddress,
    ) -> Result<Slot, Reason> {
        let address = AbsoluteAddress(table.0.wrapping_add(8 + 8 * index as u64));
        let role = Role::ALL.get(index).copied().unwrap_or(Role::Free);
        if !self.is_code(pointer.0) {
            return Err(Reason::NotCode { domain, role, address, pointer });
        }
        let function = match self.text.holds(pointer) {
            true => self.text.meaning(pointer).ok_or(Reason::NoFunction { domain, role, pointer })?.function,
            false => pointer,
        };
        Ok(Slot { role, address, pointer, function, object: None })
    }

    fn state(&self, context: u64, slots: &[Slot; 4]) -> State {
        match slots.iter().find(|slot| !self.text.holds(slot.pointer)) {
            Some(foreign) => State::Hooked(Hooker::Other(self.object_name(foreign.pointer))),
            // Which one is known when all three have been read.
            None if context == 0 => State::Default(Kind::Other),
            None => State::Hooked(self.own_hooks(context)),
        }
    }

    /// The interpreter's own hooks: the debug hooks' context begins with a letter and goes on with the table below,
    /// that of tracemalloc is the table below.
    fn own_hooks(&self, context: u64) -> Hooker {
        let below = |address: u64| {
            let words = self.words(AbsoluteAddress(address));
            words.is_some_and(|[_, functions @ ..]| functions.iter().all(|function| self.is_code(*function)))
        };
        let letter = self.memory.word(context).map(|word| word as u8);
        if letter.is_some_and(|letter| b"rmo".contains(&letter)) && below(context.wrapping_add(8)) {
            Hooker::Debug
        } else if below(context) {
            Hooker::Tracemalloc
        } else {
            Hooker::Other(self.text.path.display().to_string())
        }
    }

    fn object_name(&self, address: AbsoluteAddress) -> String {
        let mapping = maps::find(self.mappings, address);
        match mapping.and_then(|mapping| mapping.path.as_deref()) {
            Some(path) => path.display().to_string(),
            None => "code without a file".to_owned(),
        }
    }
}
