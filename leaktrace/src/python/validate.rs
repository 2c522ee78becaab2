//! Whether the offsets fit the live process: its interpreters, their threads and the frames that these are in must all decode.
//! The process runs meanwhile, so a reading may be torn: it is repeated a few times before it counts. A hostile process can
//! show whatever it likes; all it gets is a bounded amount of reading.

use std::collections::HashSet;

use leaktrace_common::python::chain;
use thiserror::Error;

use super::{Memory, Offsets};

/// Most interpreters of a process.
const MAX_INTERPRETERS: usize = 1024;

/// Most threads of all interpreters together.
const MAX_THREADS: usize = 65_536;

/// Most threads whose frames are looked at.
const MAX_EXAMINED_THREADS: usize = 64;

/// Most frames of a thread that are looked at.
const MAX_FRAMES: usize = 256;

/// Longest name that is believed, characters.
const MAX_NAME: u64 = 1 << 20;

/// Most code units of a function, and its last line.
const MAX_INSTRUCTIONS: u64 = 1 << 28;
const MAX_LINE: u32 = 100_000_000;

/// Where every object says how often it is referred to, what it is, and (if it has one) its size.
pub(super) const OBJECT_TYPE: u64 = 8;
pub(super) const OBJECT_SIZE: u64 = 16;

/// Largest frame that is read.
const MAX_FRAME_BYTES: usize = 128;

/// Greatest `owner` of any version.
const MAX_OWNER: u8 = 4;

/// What did not fit.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Invalid {
    /// Memory that must be there is not readable.
    #[error("memory that should hold {0} is not readable")]
    Unreadable(&'static str),
    /// A flag has an impossible value.
    #[error("the runtime's state is neither initialised nor not")]
    Initialized,
    /// The chain of interpreters does not end, or lacks the main one.
    #[error("the list of interpreters has no end or lacks the main one")]
    Interpreters,
    /// The main interpreter's number is not 0.
    #[error("the main interpreter does not have number 0")]
    MainNumber,
    /// A chain of threads does not end.
    #[error("a list of threads has no end")]
    Threads,
    /// A thread belongs to another interpreter.
    #[error("a thread does not lead back to its interpreter")]
    ThreadInterpreter,
    /// No thread state names a thread of the C library.
    #[error("no thread state names a thread")]
    ThreadIdentity,
    /// Who holds the GIL is no thread of the lists.
    #[error("the thread that holds the GIL is none of the interpreter's")]
    Holder,
    /// The offsets themselves contradict each other.
    #[error("its own offsets contradict each other")]
    Layout,
    /// A frame without code.
    #[error("a frame has no code object")]
    FrameCode,
    /// A frame outside of its code.
    #[error("a frame's instruction lies outside its code")]
    FrameInstruction,
    /// A code object without names.
    #[error("a code object's names are no strings")]
    CodeName,
    /// A code object with an impossible line.
    #[error("a code object's first line is impossible")]
    CodeLine,
    /// More frames than a thread can have.
    #[error("a frame lies in a state that no version knows")]
    FrameOwner,
}

/// What is examined.
pub struct Suspect<'a> {
    /// The process.
    pub memory: &'a dyn Memory,
    /// Address of `_PyRuntime`.
    pub runtime: u64,
    /// Where things would lie.
    pub offsets: &'a Offsets,
    /// Address of `PyCode_Type`.
    pub code_type: u64,
    /// Address of `PyUnicode_Type`.
    pub string_type: u64,
    /// The table is that of another size of `_PyRuntime`: what could go unseen must be seen.
    pub strict: bool,
}

/// What the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not set up yet, or ending.
    NotYet,
    /// Everything decodes.
    Valid(Confirmed),
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// The main interpreter.
    pub main: u64,
    /// Every interpreter.
    pub interpreters: Vec<u64>,
    /// How many frames decoded.
    pub frames: usize,
}

impl Suspect<'_> {
    /// One look. An error may be due to a change in the middle of it.
    pub fn examine(&self) -> Result<Verdict, Invalid> {
        self.check_layout()?;
        let initialized = self.half(self.runtime, self.offsets.initialized, "the runtime")?;
        if initialized > 1 {
            return Err(Invalid::Initialized);
        }
        let main = self.word(self.runtime, self.offsets.interpreters_main, "the runtime")?;
        if initialized == 0 || main == 0 {
            return Ok(Verdict::NotYet);
        }
        let interpreters = interpreters(self.memory, self.runtime, self.offsets)?;
        if !interpreters.contains(&main) {
            return Err(Invalid::Interpreters);
        }
        if self.word(main, self.offsets.interpreter_id, "an interpreter")? != 0 {
            return Err(Invalid::MainNumber);
        }
        let mut threads = Vec::new();
        for interpreter in &interpreters {
            threads.extend(self.threads(*interpreter)?);
            if threads.len() > MAX_THREADS {
                return Err(Invalid::Threads);
            }
        }
        if threads.is_empty() {
            return Ok(Verdict::NotYet);
        }
        self.check_identity(&threads)?;
        self.check_holder(main, &threads)?;
        let frames = self.check_frames(&threads)?;
        if frames == 0 && self.strict {
            return Ok(Verdict::NotYet);
        }
        Ok(Verdict::Valid(Confirmed { main, interpreters, frames }))
    }

    fn check_layout(&self) -> Result<(), Invalid> {
        let layout = &self.offsets.layout;
        let fields = [layout.frame_code, layout.frame_previous, layout.frame_instruction];
        let fits = |at: u32| at.checked_add(8).is_some_and(|end| end <= layout.frame_bytes);
        // The instruction of the older versions has four bytes only, and so has this.
        let old = layout.chain == chain::FRAME_OBJECT;
        let inside = fields.iter().all(|at| fits(*at) || old) && layout.frame_owner < layout.frame_bytes;
        let bounded = layout.frame_bytes as usize <= MAX_FRAME_BYTES;
        if inside && bounded { Ok(()) } else { Err(Invalid::Layout) }
    }

    fn threads(&self, interpreter: u64) -> Result<Vec<u64>, Invalid> {
        let threads = threads(self.memory, interpreter, self.offsets)?;
        for thread in &threads {
            if self.word(*thread, self.offsets.thread_interp, "a thread state")? != interpreter {
                return Err(Invalid::ThreadInterpreter);
            }
        }
        Ok(threads)
    }

    /// On x86-64 a thread's identity is the address of its control block, which begins with its own address.
    fn check_identity(&self, threads: &[u64]) -> Result<(), Invalid> {
        let is_thread = |thread: &&u64| {
            let id = self.word(**thread, self.offsets.layout.thread_id, "a thread state").unwrap_or(0);
            id != 0 && self.memory.word(id) == Some(id)
        };
        threads.iter().find(is_thread).map(|_| ()).ok_or(Invalid::ThreadIdentity)
    }

    /// Up to 3.11 the word names the running thread or none; later it may be left from a thread that has ended.
    fn check_holder(&self, main: u64, threads: &[u64]) -> Result<(), Invalid> {
        let holder = self.memory.word(self.offsets.holder(self.runtime, main));
        let holder = holder.ok_or(Invalid::Unreadable("the holder of the GIL"))?;
        let exact = self.strict || self.offsets.tstate_current != 0;
        if holder == 0 || !exact || threads.contains(&holder) { Ok(()) } else { Err(Invalid::Holder) }
    }

    /// How many frames decode; an error if none does and there are some.
    fn check_frames(&self, threads: &[u64]) -> Result<usize, Invalid> {
        let mut last = Ok(0);
        for thread in threads.iter().take(MAX_EXAMINED_THREADS) {
            match self.frames(*thread) {
                Ok(0) => {}
                Ok(frames) => return Ok(frames),
                Err(error) => last = Err(error),
            }
        }
        last
    }

    fn frames(&self, thread: u64) -> Result<usize, Invalid> {
        let layout = &self.offsets.layout;
        let mut at = self.word(thread, layout.thread_frame, "a thread state")?;
        if layout.chain == chain::CFRAME && at != 0 {
            at = self.word(at, layout.cframe_frame, "a thread's frames")?;
        }
        let mut count = 0;
        while at != 0 && count < MAX_FRAMES {
            at = self.frame(at)?;
            count += 1;
        }
        Ok(count)
    }

    /// Checks one frame and returns the one behind it.
    fn frame(&self, at: u64) -> Result<u64, Invalid> {
        let layout = &self.offsets.layout;
        let mut bytes = [0; MAX_FRAME_BYTES];
        let bytes = bytes.get_mut(..layout.frame_bytes as usize).ok_or(Invalid::Layout)?;
        if !self.memory.fill(at, bytes) {
            return Err(Invalid::Unreadable("a frame"));
        }
        let previous = word_in(bytes, layout.frame_previous)?;
        let owner = *bytes.get(layout.frame_owner as usize).ok_or(Invalid::Layout)?;
        if layout.chain != chain::FRAME_OBJECT {
            if owner > MAX_OWNER {
                return Err(Invalid::FrameOwner);
            }
            if u32::from(owner) >= layout.shim_owner {
                return Ok(previous);
            }
        }
        let code = word_in(bytes, layout.frame_code)? & !u64::from(layout.code_tag);
        self.check_code(code)?;
        self.check_instruction(code, bytes)?;
        Ok(previous)
    }

    fn check_code(&self, code: u64) -> Result<(), Invalid> {
        if code == 0
            || !code.is_multiple_of(8)
            || self.memory.word(code.wrapping_add(OBJECT_TYPE)) != Some(self.code_type)
        {
            return Err(Invalid::FrameCode);
        }
        let layout = &self.offsets.layout;
        if self.half(code, layout.code_first_line, "a code object")? > MAX_LINE {
            return Err(Invalid::CodeLine);
        }
        let names = [layout.code_name, layout.code_file, self.offsets.code_qualname];
        for name in names.into_iter().filter(|at| *at != 0) {
            let string = self.word(code, name, "a code object")?;
            self.check_string(string)?;
        }
        Ok(())
    }

    fn check_string(&self, string: u64) -> Result<(), Invalid> {
        let of_type = self.memory.word(string.wrapping_add(OBJECT_TYPE)) == Some(self.string_type);
        let length = self.memory.word(string.wrapping_add(self.offsets.unicode_length.into()));
        let fits = of_type && length.is_some_and(|length| length <= MAX_NAME);
        fits.then_some(()).ok_or(Invalid::CodeName)
    }

    fn check_instruction(&self, code: u64, frame: &[u8]) -> Result<(), Invalid> {
        let layout = &self.offsets.layout;
        let inside = if layout.chain == chain::FRAME_OBJECT {
            let bytes = self.word(code, self.offsets.code_bytes, "a code object")?;
            let length = self.word(bytes, self.offsets.bytes_size, "a code object's instructions")?;
            let last = half_in(frame, layout.frame_instruction)?.cast_signed();
            last == -1
                || length < MAX_INSTRUCTIONS
                    && u64::from(last.cast_unsigned()) * u64::from(layout.instruction_scale) < length
        } else {
            let units = self.memory.word(code.wrapping_add(OBJECT_SIZE)).ok_or(Invalid::FrameCode)?;
            let at = word_in(frame, layout.frame_instruction)?;
            let first = code.wrapping_add(layout.code_instructions.into());
            // Before its first instruction a frame stands one unit in front of it.
            let inside = at.wrapping_sub(first.wrapping_sub(2));
            units < MAX_INSTRUCTIONS && inside <= units * 2 + 2 && inside.is_multiple_of(2)
        };
        inside.then_some(()).ok_or(Invalid::FrameInstruction)
    }

    fn word(&self, base: u64, offset: u32, what: &'static str) -> Result<u64, Invalid> {
        self.memory.word(base.wrapping_add(offset.into())).ok_or(Invalid::Unreadable(what))
    }

    fn half(&self, base: u64, offset: u32, what: &'static str) -> Result<u32, Invalid> {
        self.memory.half(base.wrapping_add(offset.into())).ok_or(Invalid::Unreadable(what))
    }
}

/// Every interpreter of a process, newest first.
pub fn interpreters(memory: &dyn Memory, runtime: u64, offsets: &Offsets) -> Result<Vec<u64>, Invalid> {
    let head = runtime.wrapping_add(offsets.interpreters_head.into());
    chain_of(memory, head, offsets.layout.interpreter_next, MAX_INTERPRETERS, Invalid::Interpreters)
}

/// Every thread of an interpreter, newest first.
pub fn threads(memory: &dyn Memory, interpreter: u64, offsets: &Offsets) -> Result<Vec<u64>, Invalid> {
    let head = interpreter.wrapping_add(offsets.layout.interpreter_threads.into());
    chain_of(memory, head, offsets.layout.thread_next, MAX_THREADS, Invalid::Threads)
}

/// Follows a linked list to its end: `head` is the address of the pointer to the first element.
fn chain_of(
    memory: &dyn Memory,
    head: u64,
    next: u32,
    most: usize,
    endless: Invalid,
) -> Result<Vec<u64>, Invalid> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut link = head;
    loop {
        let element = memory.word(link).ok_or(Invalid::Unreadable("a list of interpreters or threads"))?;
        if element == 0 {
            return Ok(found);
        }
        if found.len() >= most || !seen.insert(element) {
            return Err(endless);
        }
        found.push(element);
        link = element.wrapping_add(next.into());
    }
}

fn word_in(bytes: &[u8], at: u32) -> Result<u64, Invalid> {
    let bytes = bytes.get(at as usize..).and_then(<[u8]>::first_chunk::<8>);
    bytes.map(|bytes| u64::from_le_bytes(*bytes)).ok_or(Invalid::Layout)
}

fn half_in(bytes: &[u8], at: u32) -> Result<u32, Invalid> {
    let bytes = bytes.get(at as usize..).and_then(<[u8]>::first_chunk::<4>);
    bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Invalid::Layout)
}
