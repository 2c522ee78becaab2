//! What an interpreter of 3.13 or later says about its own structures: `_Py_DebugOffsets`, the first member of `_PyRuntime`.
//! It holds the most of what walks need, and nothing about free lists, allocators or the small-object allocator: that stays
//! with the table. Which word means what differs by minor version and is fixed within one.

use super::{Memory, Offsets, Version};

/// First bytes.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

/// Words that are read: more than any version needs.
const WORDS: usize = 96;

/// Largest offset or size that is believed.
const LARGEST: u64 = 64 << 20;

/// What the interpreter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugOffsets {
    /// Its version, as `Py_Version` has it.
    pub version: u64,
    /// It runs without the GIL.
    pub free_threaded: bool,
    words: [u64; WORDS],
}

/// Which word holds what.
struct Positions {
    minor: u8,
    interpreter_gil_holder: usize,
    thread: usize,
    frame: usize,
    code: usize,
    bytes: usize,
    unicode: usize,
}

const POSITIONS: [Positions; 2] = [
    Positions {
        minor: 13,
        interpreter_gil_holder: 18,
        thread: 19,
        frame: 28,
        code: 34,
        bytes: 64,
        unicode: 67,
    },
    Positions {
        minor: 14,
        interpreter_gil_holder: 19,
        thread: 22,
        frame: 31,
        code: 39,
        bytes: 74,
        unicode: 77,
    },
];

impl DebugOffsets {
    /// Reads them from the beginning of `_PyRuntime`; `None` where there are none.
    pub fn read(memory: &dyn Memory, runtime: u64) -> Option<Self> {
        let mut bytes = [0; WORDS * 8];
        if !memory.fill(runtime, &mut bytes) {
            return None;
        }
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        let [cookie, version, free_threaded, ..] = words;
        (cookie == COOKIE).then_some(Self { version, free_threaded: free_threaded != 0, words })
    }

    /// A table with everything replaced that the interpreter says. `None` for a version whose words are not known, or if a
    /// word cannot be an offset.
    pub fn over(&self, table: Offsets, version: Version) -> Option<Offsets> {
        let at = POSITIONS.iter().find(|positions| positions.minor == version.minor)?;
        let mut said = table;
        said.runtime_size = self.offset(3)?.into();
        said.interpreters_head = self.offset(5)?;
        // What it does not say lies where the table has it, counted from what it does say.
        let before = table.interpreters_head.checked_sub(table.initialized)?;
        said.initialized = said.interpreters_head.checked_sub(before)?;
        said.interpreters_main = said.interpreters_head.checked_add(8)?;
        said.interpreter_size = self.offset(6)?.into();
        said.interpreter_id = self.offset(7)?;
        said.layout.interpreter_next = self.offset(8)?;
        said.layout.interpreter_threads = self.offset(9)?;
        said.gil_holder = self.offset(at.interpreter_gil_holder)?;
        self.thread_and_frame(at, &mut said)?;
        self.objects(at, &mut said)?;
        Some(said)
    }

    fn thread_and_frame(&self, at: &Positions, said: &mut Offsets) -> Option<()> {
        said.thread_size = self.offset(at.thread)?.into();
        said.layout.thread_next = self.offset(at.thread + 2)?;
        said.thread_interp = self.offset(at.thread + 3)?;
        said.layout.thread_frame = self.offset(at.thread + 4)?;
        said.layout.thread_id = self.offset(at.thread + 5)?;
        said.layout.frame_bytes = self.offset(at.frame)?;
        said.layout.frame_previous = self.offset(at.frame + 1)?;
        said.layout.frame_code = self.offset(at.frame + 2)?;
        said.layout.frame_instruction = self.offset(at.frame + 3)?;
        said.layout.frame_owner = self.offset(at.frame + 5)?;
        Some(())
    }

    fn objects(&self, at: &Positions, said: &mut Offsets) -> Option<()> {
        said.layout.code_file = self.offset(at.code + 1)?;
        said.layout.code_name = self.offset(at.code + 2)?;
        said.code_qualname = self.offset(at.code + 3)?;
        said.code_line_table = self.offset(at.code + 4)?;
        said.layout.code_first_line = self.offset(at.code + 5)?;
        said.layout.code_instructions = self.offset(at.code + 9)?;
        said.bytes_size = self.offset(at.bytes + 1)?;
        said.bytes_data = self.offset(at.bytes + 2)?;
        said.unicode_state = self.offset(at.unicode + 1)?;
        said.unicode_length = self.offset(at.unicode + 2)?;
        said.ascii_size = self.offset(at.unicode + 3)?;
        Some(())
    }

    fn offset(&self, word: usize) -> Option<u32> {
        let value = self.words.get(word).copied().filter(|value| *value < LARGEST)?;
        u32::try_from(value).ok()
    }
}
