//! From call frame information to a table. Pure: the same sections and limits always make the same table.
//!
//! A function's rules hold from its first address to its end or to where the next described function begins, as
//! exception handling sees it; of two that begin at one address the one described first counts. What no function
//! covers has no rule, but for the program's start, signal trampolines and tables of jumps.

use gimli::{DebugFrame, EhFrame, LittleEndian, UnwindSection};
use leaktrace_common::unwind::Rule;
use thiserror::Error;

use super::functions::{Budget, Function, Functions, Trouble};
use super::rows::{PAGE_BYTES, Rows};
use super::sections::{CodeRange, FrameKind, Frames, Sections};
use super::x86_64::{self as arch, Bytes, Unsupported};
use super::{Statistics, Table};
use crate::object::address::VirtualOffset;

/// How much of the code behind a program's entry point belongs to its start, if nothing is described before: the dynamic
/// linker's takes about a hundred bytes.
const START_BYTES: u64 = 256;

/// Undescribed code longer than this, bytes, was not written by hand: another compiler made it (V8's built-in functions in
/// node, the Go part of a program with C in it), and those keep frame pointers.
const OTHER_COMPILER: u64 = 256 << 10;

/// What a table may cost to make. The defaults are several times what the largest libraries and browsers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first to the last byte of code, bytes.
    pub span: u64,
    /// Rows that may be evaluated; neighbours that say the same are merged after that.
    pub rows: u64,
    /// Functions.
    pub functions: usize,
    /// Different common entries (CIE).
    pub common_entries: usize,
    /// Bytes of description executed, as a multiple of the section's size. A well-formed section needs less than 2.
    pub work: u64,
    /// The same in bytes, whatever the section's size: a byte can cost half a microsecond.
    pub work_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            span: 2 << 30,
            rows: 16 << 20,
            functions: 2 << 20,
            common_entries: 1 << 16,
            work: 4,
            work_bytes: 128 << 20,
        }
    }
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No code can be that large.
    #[error("its code claims to span {bytes} bytes, more than the {cap} that an unwind table covers")]
    Span {
        /// What it claims.
        bytes: u64,
        /// The limit.
        cap: u64,
    },
}

/// Makes the table. An object without call frame information gets one too: frame pointers are believed everywhere but
/// at signal trampolines. An object without code gets one without pages.
///
/// # Errors
/// The object claims what cannot be.
pub fn compile(sections: &Sections, limits: &Limits) -> Result<Table, Refusal> {
    compile_observed(sections, limits, &mut |_| {})
}

/// The same; `observe` learns of every row whose rule the table cannot express.
///
/// # Errors
/// As for [`compile`].
pub fn compile_observed(
    sections: &Sections,
    limits: &Limits,
    observe: &mut dyn FnMut(Unsupported),
) -> Result<Table, Refusal> {
    let (Some(first), Some(last)) = (sections.code.first(), sections.code.last()) else {
        return Ok(Table { rules: vec![Rule::NONE], ..Table::default() });
    };
    let base = first.start.0 & !(PAGE_BYTES - 1);
    let bytes = last.end.0.saturating_sub(base);
    if bytes > limits.span {
        return Err(Refusal::Span { bytes, cap: limits.span });
    }
    let mut compiler = Compiler::new(sections, base, observe);
    if let Some(frames) = &sections.frames {
        compiler.frames(frames, limits);
    }
    // The last page says for itself what holds behind the last function.
    compiler.gap(bytes.next_multiple_of(PAGE_BYTES));
    Ok(compiler.finish())
}

/// A rule for code that no function covers.
struct Mark {
    /// From here on, if it is free.
    start: u64,
    /// What must be free for the mark to count.
    core: u64,
    end: u64,
    rule: Rule,
}

/// Addresses inside count from `base`.
struct Compiler<'s> {
    code: &'s [CodeRange],
    base: u64,
    rows: Rows,
    /// What holds where nothing is said.
    filler: Rule,
    /// What holds where nothing is said of so much code that another compiler made it.
    in_holes: Rule,
    /// Those not yet passed, sorted by their core.
    marks: std::iter::Peekable<std::vec::IntoIter<Mark>>,
    statistics: Statistics,
    observe: &'s mut dyn FnMut(Unsupported),
}

impl<'s> Compiler<'s> {
    fn new(sections: &'s Sections, base: u64, observe: &'s mut dyn FnMut(Unsupported)) -> Self {
        let silent = sections.frames.is_none() && !sections.is_c_library;
        let filler = if silent { Rule::FRAME_POINTER } else { Rule::NONE };
        let in_holes = if sections.is_c_library { Rule::NONE } else { Rule::FRAME_POINTER };
        Self {
            code: &sections.code,
            base,
            rows: Rows::new(),
            filler,
            in_holes,
            marks: marks(sections, base).into_iter().peekable(),
            statistics: Statistics::default(),
            observe,
        }
    }

    fn frames(&mut self, frames: &Frames, limits: &Limits) {
        self.statistics.frame_bytes = frames.bytes.len() as u64;
        let work = self.statistics.frame_bytes.saturating_mul(limits.work).min(limits.work_bytes);
        let budget = Budget { work, rows: limits.rows, common: limits.common_entries };
        let (bytes, address) = (frames.bytes.as_slice(), frames.address.0);
        match frames.kind {
            FrameKind::EhFrame => {
                let section = EhFrame::from(Bytes::new(bytes, LittleEndian));
                self.functions(Functions::new(section, bytes, address, budget), limits);
            }
            FrameKind::DebugFrame => {
                let section = DebugFrame::from(Bytes::new(bytes, LittleEndian));
                self.functions(Functions::new(section, bytes, address, budget), limits);
            }
        }
    }

    fn functions<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        mut described: Functions<'a, S>,
        limits: &Limits,
    ) {
        let mut functions = self.collect(&mut described, limits.functions);
        functions.sort_unstable();
        functions.dedup_by_key(|function| function.start);
        for (index, function) in functions.iter().enumerate() {
            let next = functions.get(index + 1).map_or(u64::MAX, |next| next.start);
            self.gap(function.start - self.base);
            let done = self.function(&mut described, function, function.end.min(next));
            if done == Err(Trouble::Cap) {
                self.statistics.beyond_caps += (functions.len() - index) as u64;
                // Something is said of the rest, but nobody reads it.
                return self.rows.cover(self.span(), Rule::UNSUPPORTED);
            }
        }
    }

    /// Every function that describes code of this object, with its end clipped to that code.
    fn collect<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        described: &mut Functions<'a, S>,
        cap: usize,
    ) -> Vec<Function> {
        let mut functions = Vec::new();
        let mut entries = described.entries();
        for entry in entries.by_ref() {
            match described.function(entry.start).map(|found| found.map(|function| self.clipped(function))) {
                Ok(None) => {}
                Ok(Some(Some(_))) if functions.len() == cap => self.statistics.beyond_caps += 1,
                Ok(Some(Some(function))) => functions.push(function),
                Ok(Some(None)) | Err(Trouble::Malformed) => self.statistics.malformed += 1,
                Err(Trouble::Cap) => self.statistics.beyond_caps += 1,
            }
        }
        self.statistics.malformed += u64::from(entries.broken());
        self.statistics.functions = functions.len() as u64;
        functions
    }

    fn clipped(&self, function: Function) -> Option<Function> {
        let start = VirtualOffset(function.start);
        let index = self.code.partition_point(|range| range.end <= start);
        let range = self.code.get(index).filter(|range| range.start <= start)?;
        Some(Function { end: function.end.min(range.end.0), ..function })
    }

    fn function<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        described: &mut Functions<'a, S>,
        function: &Function,
        end: u64,
    ) -> Result<(), Trouble> {
        let end = end - self.base;
        let done = described.evaluate(function, |until, rule| {
            let until = until.saturating_sub(self.base).min(end);
            if let Err(unsupported) = rule
                && until > self.rows.cursor()
            {
                self.statistics.unsupported += 1;
                (self.observe)(unsupported);
            }
            self.rows.cover(until, rule.unwrap_or(Rule::UNSUPPORTED));
            until < end
        });
        self.statistics.malformed += u64::from(done == Err(Trouble::Malformed));
        // What could not be read to its end.
        self.rows.cover(end, Rule::UNSUPPORTED);
        done
    }

    /// Nothing is described up to an address.
    fn gap(&mut self, until: u64) {
        let length = until.saturating_sub(self.rows.cursor());
        let filler = if length > OTHER_COMPILER { self.in_holes } else { self.filler };
        while let Some(mark) = self.marks.next_if(|mark| mark.core < until) {
            if mark.core >= self.rows.cursor() {
                self.rows.cover(mark.start, filler);
                self.rows.cover(mark.end.min(until), mark.rule);
            }
        }
        self.rows.cover(until, filler);
    }

    fn span(&self) -> u64 {
        self.code.last().map_or(0, |last| last.end.0 - self.base)
    }

    fn finish(mut self) -> Table {
        let written = self.rows.finish();
        self.statistics.unsupported += written.without_number;
        Table {
            base: VirtualOffset(self.base),
            pages: written.pages,
            rows: written.rows,
            rules: written.rules,
            statistics: self.statistics,
        }
    }
}

/// The program's start, where frames are described at all, tables of jumps, and trampolines. A handler's return address is a
/// trampoline's first byte, and the rule of a return address is that of the byte before.
fn marks(sections: &Sections, base: u64) -> Vec<Mark> {
    let mark = |start: u64, core: u64, length: u64, rule| {
        Some(Mark { start, core, end: core.checked_add(length)?, rule }).filter(|_| {
            sections.code.iter().any(|range| range.start.0 <= core + base && core + base < range.end.0)
        })
    };
    let entry = sections.entry.0.checked_sub(base).filter(|_| sections.frames.is_some());
    let mut marks: Vec<Mark> = sections
        .trampolines
        .iter()
        .filter_map(|trampoline| Some((trampoline.start.0.checked_sub(base)?, trampoline.length)))
        .filter_map(|(start, length)| mark(start.saturating_sub(1), start, length, Rule::SIGNAL))
        .chain(sections.jumps.iter().filter_map(|jumps| {
            let start = jumps.start.0.checked_sub(base)?;
            mark(start, start, jumps.end.0.checked_sub(jumps.start.0)?, arch::JUMP)
        }))
        .chain(sections.starts.iter().filter_map(|start| {
            let function = start.function.0.checked_sub(base)?;
            mark(function.saturating_sub(start.before), function, start.after, Rule::END)
        }))
        .chain(entry.and_then(|entry| mark(entry, entry, START_BYTES, Rule::END)))
        .collect();
    marks.sort_unstable_by_key(|mark| mark.core);
    marks
}

#[cfg(test)]
mod tests;
