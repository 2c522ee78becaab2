//! Frame description entries of a section: found one by one, each with the common entry it refers to, within a budget
//! of work. Whoever wrote the file decides how often a common entry is referred to and how large it is; what that
//! costs is bounded by the size of the section.

use std::collections::HashMap;

use gimli::{
    BaseAddresses, CommonInformationEntry, FrameDescriptionEntry, Register, RegisterRule, UnwindContext,
    UnwindContextStorage, UnwindOffset, UnwindSection, UnwindTableRow,
};
use leaktrace_common::unwind::Rule;

use super::entries::Entries;
use super::x86_64::{self as arch, Bytes, Unsupported};

/// Room for the state of an evaluation: rules of registers, and states that are remembered at the same time. What
/// compilers emit needs 17 and 2; remembering copies all of it.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 32];
    type Stack = Box<[UnwindTableRow<usize, Self>; 16]>;
}

/// A function that is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// First address.
    pub start: u64,
    /// Where its description lies in the section.
    pub offset: usize,
    /// First address behind it; greater than `start`.
    pub end: u64,
}

/// Why a function, or the rest of it, is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its description is malformed.
    Malformed,
    /// A cap was reached.
    Cap,
}

impl From<gimli::Error> for Trouble {
    fn from(_: gimli::Error) -> Self {
        Self::Malformed
    }
}

type Cie<'a> = CommonInformationEntry<Bytes<'a>>;
type Fde<'a> = FrameDescriptionEntry<Bytes<'a>>;

/// What an evaluation may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes of description that may be read or executed.
    pub work: u64,
    /// Rows that may be evaluated.
    pub rows: u64,
    /// Common entries that may be kept.
    pub common: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), Trouble> {
        self.work = self.work.checked_sub(bytes as u64).ok_or(Trouble::Cap)?;
        Ok(())
    }
}

/// Call frame information being read.
pub struct Functions<'a, S> {
    section: S,
    bytes: &'a [u8],
    bases: BaseAddresses,
    common: HashMap<usize, Result<Cie<'a>, Trouble>>,
    context: UnwindContext<usize, Storage>,
    budget: Budget,
}

impl<'a, S: UnwindSection<Bytes<'a>>> Functions<'a, S> {
    /// `bytes` are those of the section, which is loaded at `address`.
    pub fn new(section: S, bytes: &'a [u8], address: u64, budget: Budget) -> Self {
        let bases = BaseAddresses::default().set_eh_frame(address);
        Self { section, bytes, bases, common: HashMap::new(), context: UnwindContext::new_in(), budget }
    }

    /// Where the entries lie, and whether they ended in a malformed one.
    pub fn entries(&self) -> Entries<'a> {
        Entries::new(self.bytes)
    }

    /// The function described at an offset; `None` if a common entry lies there, or the function is empty.
    pub fn function(&mut self, offset: usize) -> Result<Option<Function>, Trouble> {
        let Some(described) = self.describe(offset)? else { return Ok(None) };
        let (start, end) = (described.initial_address(), described.end_address());
        if end < start {
            return Err(Trouble::Malformed);
        }
        Ok((start < end).then_some(Function { start, offset, end }))
    }

    /// Hands every row of a function to `sink`: the address at which it ends, and its rule. `sink` returns `false` when
    /// it wants no more.
    pub fn evaluate(
        &mut self,
        function: &Function,
        mut sink: impl FnMut(u64, Result<Rule, Unsupported>) -> bool,
    ) -> Result<(), Trouble> {
        let Some(described) = self.describe(function.offset)? else { return Ok(()) };
        let cie = described.cie();
        // Both are executed for each function.
        self.budget.take(described.entry_len())?;
        self.budget.take(cie.entry_len())?;
        let mut rows = described.rows(&self.section, &self.bases, &mut self.context)?;
        while let Some(row) = rows.next_row()? {
            self.budget.rows = self.budget.rows.checked_sub(1).ok_or(Trouble::Cap)?;
            if !sink(row.end_address(), arch::rule(row, cie, &self.section)) {
                break;
            }
        }
        Ok(())
    }

    fn describe(&mut self, offset: usize) -> Result<Option<Fde<'a>>, Trouble> {
        let Self { section, bytes, bases, common, budget, .. } = self;
        let partial = match section.partial_fde_from_offset(bases, offset.into()) {
            Err(gimli::Error::NotCiePointer(_)) => return Ok(None),
            other => other?,
        };
        let cie =
            common_entry(section, bytes, bases, common, budget, UnwindOffset::into(partial.cie_offset()))?;
        Ok(Some(partial.parse(|_, _, _| Ok(cie.clone()))?))
    }
}

/// The common entry at an offset. Parsed once, whether well-formed or not.
fn common_entry<'a, 'm, S: UnwindSection<Bytes<'a>>>(
    section: &S,
    bytes: &[u8],
    bases: &BaseAddresses,
    known: &'m mut HashMap<usize, Result<Cie<'a>, Trouble>>,
    budget: &mut Budget,
    offset: usize,
) -> Result<Cie<'a>, Trouble> {
    if let Some(entry) = known.get(&offset) {
        return entry.clone();
    }
    if known.len() >= budget.common {
        return Err(Trouble::Cap);
    }
    let length =
        bytes.get(offset..).and_then(|rest| Entries::new(rest).next()).ok_or(Trouble::Malformed)?.end;
    budget.take(length)?;
    let entry = section.cie_from_offset(bases, offset.into()).map_err(Trouble::from);
    let entry = entry.and_then(|entry| match entry.address_size() {
        arch::ADDRESS_BYTES => Ok(entry),
        _ => Err(Trouble::Malformed),
    });
    known.insert(offset, entry.clone());
    entry
}
