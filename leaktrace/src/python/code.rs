//! Code objects of the target, read when one of their frames is first seen. By then the object may be gone, and another may
//! lie in its place: it is believed only if it is what the frame ran, in use, before *and* after all of it was read. Else
//! the frame has no name; it never has a wrong one.

use leaktrace_common::python::{PythonFrame, chain, identity};

use super::lines::{self, Format};
use super::objects::{Objects, half_at, is_referred_to, type_of, word_at};
use super::{Memory, Offsets, strings};

/// Most characters of a name that are shown.
pub const MAX_NAME: usize = 1024;
/// Most characters of a file name that are shown: a file of the system has no longer one.
pub const MAX_FILE: usize = 4096;
/// Longest line table that is read, bytes.
pub const MAX_TABLE: usize = 1 << 20;
/// `CO_OPTIMIZED` in `co_flags`: the code of a function.
const OPTIMIZED: u32 = 1;
/// How much of a file name's object is compared.
const BEGINNING: usize = 160;
/// Most of a code object that is read.
const MAX_OBJECT: usize = 512;

/// Why a code object was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gone {
    /// Its memory cannot be read.
    Unreadable,
    /// What lies there is not, or no longer, what the frame ran.
    Replaced,
    /// Its name or file name is no string.
    Nameless,
}

impl Gone {
    /// In words, for the truth line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Unreadable => "code object unreadable",
            Self::Replaced => "code object gone",
            Self::Nameless => "code object without a name",
        }
    }
}

/// What a report says of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Qualified name from 3.11 on, before that the plain one.
    pub name: String,
    /// File name as the target has it.
    pub file: String,
    /// Where its lines are found.
    pub lines: Lines,
    /// It is the code of a function, which lives as long as that. Other code (of modules, class bodies, strings that are
    /// executed) is gone when it has run, and what is compiled next may lie in its place with the same identity.
    pub lasts: bool,
}

/// What tells, with few reads, whether a code object that was read is still the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    members: Members,
    class: u64,
    file: Vec<u8>,
}

/// From instructions to lines, for one code object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lines {
    /// How the table is written.
    pub format: Format,
    /// As it lies in the target; `None` if it was too long or no table.
    pub table: Option<Box<[u8]>>,
    /// Line in which the code begins.
    pub first: i32,
}

impl Lines {
    /// The line of an instruction, as a frame gives it: bytes from the first one.
    pub fn line(&self, instruction: u32) -> Option<u32> {
        lines::line(self.format, self.table.as_deref()?, self.first, instruction.cast_signed())
    }
}

/// What makes the code object, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Members {
    first_line: u32,
    flags: u32,
    name: u64,
    file: u64,
    qualified_name: u64,
    table: u64,
}

/// Reads the code object of `frame`.
pub fn read(memory: &dyn Memory, offsets: &Offsets, frame: &PythonFrame) -> Result<Code, Gone> {
    let objects = Objects { memory, offsets };
    let before = members(&objects, frame)?;
    let code = contents(&objects, &before);
    // Whatever went wrong went wrong because the object is gone, if it is.
    if members(&objects, frame)? != before {
        return Err(Gone::Replaced);
    }
    code
}

/// What [`is_still`] needs of the code object of `frame`; `None` if it is gone.
pub fn prove(memory: &dyn Memory, offsets: &Offsets, frame: &PythonFrame) -> Option<Proof> {
    let (members, class) = raw_members(memory, offsets, frame).ok()?;
    Some(Proof { members, class, file: beginning(memory, offsets, members.file)? })
}

/// Whether the code object that `proof` is of still lies there, with the same lines. Names are the same if what points to
/// them is, but for the file's: the next one may be put where the last one lay.
pub fn is_still(
    memory: &dyn Memory,
    offsets: &Offsets,
    frame: &PythonFrame,
    lines: &Lines,
    proof: &Proof,
) -> bool {
    let same_table = || {
        let Some(known) = lines.table.as_deref() else { return false };
        let data = proof.members.table.wrapping_add(u64::from(offsets.bytes_data));
        let mut table = vec![0; known.len()];
        memory.fill(data, &mut table) && table == known
    };
    let same_file = || beginning(memory, offsets, proof.members.file).as_ref() == Some(&proof.file);
    same_table() && same_file() && raw_members(memory, offsets, frame) == Ok((proof.members, proof.class))
}

/// Length, state and first characters of a string.
fn beginning(memory: &dyn Memory, offsets: &Offsets, address: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; BEGINNING];
    let at = address.checked_add(u64::from(offsets.unicode_length))?;
    memory.fill(at, &mut bytes).then_some(bytes)
}

fn members(objects: &Objects<'_>, frame: &PythonFrame) -> Result<Members, Gone> {
    let (members, class) = raw_members(objects.memory, objects.offsets, frame)?;
    if objects.is_type(class, "code") { Ok(members) } else { Err(Gone::Replaced) }
}

/// Members and type of what the frame ran, if it is in use.
fn raw_members(memory: &dyn Memory, offsets: &Offsets, frame: &PythonFrame) -> Result<(Members, u64), Gone> {
    let layout = &offsets.layout;
    let mut bytes = [0; MAX_OBJECT];
    let bytes = bytes.get_mut(..extent(offsets)).ok_or(Gone::Unreadable)?;
    if !memory.fill(frame.code, bytes) {
        return Err(Gone::Unreadable);
    }
    let word = |at: u32| word_at(bytes, at as usize).ok_or(Gone::Unreadable);
    let half = |at: u32| half_at(bytes, at as usize).ok_or(Gone::Unreadable);
    let members = Members {
        first_line: half(layout.code_first_line)?,
        flags: half(layout.code_flags)?,
        name: word(layout.code_name)?,
        file: word(layout.code_file)?,
        qualified_name: word(offsets.code_qualname)?,
        table: word(offsets.code_line_table)?,
    };
    let found = identity(members.first_line, members.flags, members.name, members.file);
    // The name of a version without qualified ones is not compared: the count of references lies there.
    let members = Members {
        qualified_name: if offsets.code_qualname == 0 { 0 } else { members.qualified_name },
        ..members
    };
    match type_of(bytes) {
        Some(class) if found == frame.identity && is_referred_to(bytes) => Ok((members, class)),
        _ => Err(Gone::Replaced),
    }
}

/// How much of the object holds all members.
fn extent(offsets: &Offsets) -> usize {
    let layout = &offsets.layout;
    let members = [
        layout.code_first_line,
        layout.code_flags,
        layout.code_name,
        layout.code_file,
        offsets.code_qualname,
        offsets.code_line_table,
    ];
    members.into_iter().max().unwrap_or(0) as usize + 8
}

fn contents(objects: &Objects<'_>, members: &Members) -> Result<Code, Gone> {
    let has_qualified_name = objects.offsets.code_qualname != 0;
    let name = if has_qualified_name { members.qualified_name } else { members.name };
    let lines = Lines {
        format: format(objects.offsets),
        table: table(objects, members.table),
        first: members.first_line.cast_signed(),
    };
    Ok(Code {
        name: strings::read(objects, name, MAX_NAME).ok_or(Gone::Nameless)?,
        file: strings::read(objects, members.file, MAX_FILE).ok_or(Gone::Nameless)?,
        lines,
        lasts: members.flags & OPTIMIZED != 0,
    })
}

fn format(offsets: &Offsets) -> Format {
    match (offsets.layout.chain, offsets.layout.instruction_scale) {
        (chain::FRAME_OBJECT, 2) => Format::Pairs,
        (chain::FRAME_OBJECT, _) => Format::Lnotab,
        _ => Format::Locations,
    }
}

fn table(objects: &Objects<'_>, address: u64) -> Option<Box<[u8]>> {
    let offsets = objects.offsets;
    let mut head = [0; 64];
    let head = head.get_mut(..(offsets.bytes_size as usize).checked_add(8)?)?;
    objects.memory.fill(address, head).then_some(())?;
    objects.is_exactly(head, "bytes").then_some(())?;
    let size = usize::try_from(word_at(head, offsets.bytes_size as usize)?).ok()?;
    let mut table = vec![0; Some(size).filter(|size| *size <= MAX_TABLE)?];
    let data = address.checked_add(u64::from(offsets.bytes_data))?;
    objects.memory.fill(data, &mut table).then(|| table.into_boxed_slice())
}
