//! Looking functions and variables up by name. The dynamic symbol table is found the way the dynamic linker finds it; the full
//! one through the section headers. Tables are read in pieces, so a symbol table of any size costs the same memory.

use object::LittleEndian as Little;
use object::elf::{self, GnuHashHeader, HashHeader, SectionHeader64, SectionType, Sym64};
use object::pod;
use thiserror::Error;

use super::address::{FileOffset, VirtualOffset};
use super::dynamic::Dynamic;
use super::elf::{E, Elf, ElfError, first, read_table};
use super::remembered::Remembered;

const MAX_STRINGS: u64 = 256 << 20;
const MAX_HASH: u64 = 64 << 20;
/// Symbols read at once.
const CHUNK: u64 = 16 * 1024;
/// 24 bytes each: 384 MiB of table.
const MAX_SYMBOLS: u64 = 16 << 20;

/// Answers that are remembered: a few for each object.
const MAX_ANSWERS: usize = 16 * 1024;

/// One answer for each name.
type Answers = Vec<Result<Symbol, Absence>>;

/// What was asked of which file before.
static ANSWERS: Remembered<(Table, Kind, String), Answers> = Remembered::new(MAX_ANSWERS);

/// Which symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// What the dynamic linker sees.
    Dynamic,
    /// Everything, where the object is not stripped.
    Full,
}

/// A function or variable found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Where it begins.
    pub address: VirtualOffset,
    /// Bytes of code or data; 0 where the object does not say.
    pub size: u64,
}

/// What a symbol has to stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Function,
    Variable,
}

/// Why a function is not there. No failure: most objects lack most functions.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Absence {
    /// No such symbol table.
    #[error("it has no such symbol table")]
    NoTable,
    /// Not defined in it.
    #[error("it does not define it")]
    NotDefined,
    /// The function is chosen at run time (IFUNC): the symbol is the chooser, not the function.
    #[error("it is chosen at run time (IFUNC)")]
    Indirect,
    /// The symbol does not point at code in the file.
    #[error("its symbol does not point at code")]
    NotCode,
}

/// Where a table lies in the file.
#[derive(Clone, Copy, Debug)]
struct Location {
    symbols: FileOffset,
    count: u64,
    strings: FileOffset,
    string_bytes: u64,
    versions: Option<FileOffset>,
}

/// The best symbol for a name so far.
#[derive(Clone, Copy, Debug)]
struct Match {
    symbol: Sym64<Little>,
    rank: u8,
}

impl Elf {
    /// Looks one function up.
    pub fn symbol(&self, table: Table, name: &str) -> Result<Result<Symbol, Absence>, ElfError> {
        Ok(self.symbols(table, &[name])?.pop().unwrap_or(Err(Absence::NotDefined)))
    }

    /// Looks several functions up in one pass; answers in the order of `names`. Of several versions of a symbol the
    /// default one (`name@@VERSION`) is taken.
    pub fn symbols(&self, table: Table, names: &[&str]) -> Result<Vec<Result<Symbol, Absence>>, ElfError> {
        self.look_up(table, Kind::Function, names)
    }

    /// The same for variables: they need no bytes in the file, but must lie where the object is loaded.
    pub fn variables(&self, table: Table, names: &[&str]) -> Result<Vec<Result<Symbol, Absence>>, ElfError> {
        self.look_up(table, Kind::Variable, names)
    }

    fn look_up(&self, table: Table, kind: Kind, names: &[&str]) -> Result<Answers, ElfError> {
        ANSWERS
            .or_find(self.identity(), (table, kind, names.join("\n")), || self.search_all(table, kind, names))
    }

    fn search_all(&self, table: Table, kind: Kind, names: &[&str]) -> Result<Answers, ElfError> {
        let location = match table {
            Table::Dynamic => self.dynamic_table()?,
            Table::Full => self.table_by_section(elf::SHT_SYMTAB)?,
        };
        let Some(location) = location else { return Ok(vec![Err(Absence::NoTable); names.len()]) };
        let strings =
            self.source.read("symbol names", location.strings.0, location.string_bytes, MAX_STRINGS)?;
        let mut best: Vec<Option<Match>> = vec![None; names.len()];
        for start in (0..location.count).step_by(CHUNK as usize) {
            self.search(&location, kind, start, &strings, names, &mut best)?;
        }
        Ok(best.into_iter().map(|found| self.judge(kind, found)).collect())
    }

    fn search(
        &self,
        location: &Location,
        kind: Kind,
        start: u64,
        strings: &[u8],
        names: &[&str],
        best: &mut [Option<Match>],
    ) -> Result<(), ElfError> {
        let count = CHUNK.min(location.count - start);
        let symbols: Vec<Sym64<Little>> = self.chunk("symbols", location.symbols, start, count)?;
        let versions: Vec<[u8; 2]> = match location.versions {
            Some(versions) => self.chunk("symbol versions", versions, start, count)?,
            None => Vec::new(),
        };
        for (index, symbol) in symbols.iter().enumerate().filter(|(_, symbol)| is_candidate(kind, symbol)) {
            let hidden = versions.get(index).is_some_and(|version| is_hidden(*version));
            let found = Match { symbol: *symbol, rank: rank(symbol, hidden) };
            let names = names.iter().zip(best.iter_mut());
            for (_, best) in names.filter(|(name, _)| is_named(strings, symbol, name)) {
                // The first of equals stays, as with the dynamic linker.
                if best.is_none_or(|best| found.rank > best.rank) {
                    *best = Some(found);
                }
            }
        }
        Ok(())
    }

    fn chunk<T: pod::Pod>(
        &self,
        what: &'static str,
        table: FileOffset,
        start: u64,
        count: u64,
    ) -> Result<Vec<T>, ElfError> {
        let skipped = start.checked_mul(size_of::<T>() as u64);
        let offset = skipped.and_then(|bytes| table.checked_add(bytes));
        let offset = offset.ok_or_else(|| self.source.malformed(format!("{what} lie outside the file")))?;
        read_table(&self.source, what, offset.0, count, CHUNK * size_of::<T>() as u64)
    }

    fn judge(&self, kind: Kind, found: Option<Match>) -> Result<Symbol, Absence> {
        let symbol = found.ok_or(Absence::NotDefined)?.symbol;
        if symbol.st_type() == elf::STT_GNU_IFUNC {
            return Err(Absence::Indirect);
        }
        let found = Symbol { address: VirtualOffset(symbol.st_value.get(E)), size: symbol.st_size.get(E) };
        match kind {
            Kind::Function if !self.is_code(found.address) => Err(Absence::NotCode),
            Kind::Variable if !self.is_loaded(found) => Err(Absence::NotDefined),
            _ => Ok(found),
        }
    }

    fn is_loaded(&self, symbol: Symbol) -> bool {
        self.segments().any(|segment| {
            let end = symbol
                .address
                .offset_from(segment.address)
                .and_then(|inside| inside.checked_add(symbol.size));
            end.is_some_and(|end| end <= segment.memory_bytes)
        })
    }

    fn dynamic_table(&self) -> Result<Option<Location>, ElfError> {
        if let Some(dynamic) = self.dynamic()?
            && let Some(location) = self.table_by_dynamic(&dynamic)?
        {
            return Ok(Some(location));
        }
        self.table_by_section(elf::SHT_DYNSYM)
    }

    fn table_by_dynamic(&self, dynamic: &Dynamic) -> Result<Option<Location>, ElfError> {
        let address =
            |tag| dynamic.value(tag).map(VirtualOffset).and_then(|address| self.file_offset(address));
        let strings = dynamic.strings().and_then(|(at, bytes)| self.file_offset(at).zip(Some(bytes)));
        let Some((symbols, (strings, string_bytes))) = address(elf::DT_SYMTAB).zip(strings) else {
            return Ok(None);
        };
        let count = match (address(elf::DT_GNU_HASH), address(elf::DT_HASH)) {
            (_, Some(hash)) => self.count_by_hash(hash)?,
            (Some(hash), None) => self.count_by_gnu_hash(hash)?,
            (None, None) => return Ok(None),
        };
        let versions = address(elf::DT_VERSYM);
        Ok(Some(Location { symbols, count: self.checked_count(count)?, strings, string_bytes, versions }))
    }

    fn table_by_section(&self, kind: SectionType) -> Result<Option<Location>, ElfError> {
        let sections = self.sections()?;
        let Some((index, section)) =
            sections.iter().enumerate().find(|(_, section)| section.sh_type.get(E) == kind)
        else {
            return Ok(None);
        };
        let strings = usize::try_from(section.sh_link.get(E)).ok().and_then(|index| sections.get(index));
        let strings = strings.ok_or_else(|| self.source.malformed("a symbol table has no names"))?;
        let versions = sections.iter().find(|versions| {
            versions.sh_type.get(E) == elf::SHT_GNU_VERSYM && versions.sh_link.get(E) as usize == index
        });
        let offset = |section: &SectionHeader64<Little>| FileOffset(section.sh_offset.get(E));
        let count = section.sh_size.get(E) / size_of::<Sym64<Little>>() as u64;
        Ok(Some(Location {
            symbols: offset(section),
            count: self.checked_count(count)?,
            strings: offset(strings),
            string_bytes: strings.sh_size.get(E),
            versions: versions.map(offset),
        }))
    }

    fn checked_count(&self, count: u64) -> Result<u64, ElfError> {
        match count <= MAX_SYMBOLS {
            true => Ok(count),
            false => Err(ElfError::TooLarge {
                path: self.path().to_owned(),
                what: "a symbol table",
                bytes: count.saturating_mul(size_of::<Sym64<Little>>() as u64),
                cap: MAX_SYMBOLS * size_of::<Sym64<Little>>() as u64,
            }),
        }
    }

    /// `DT_HASH` has one chain entry per symbol.
    fn count_by_hash(&self, table: FileOffset) -> Result<u64, ElfError> {
        let length = size_of::<HashHeader<Little>>() as u64;
        let bytes = self.source.read("its symbol hash table", table.0, length, length)?;
        Ok(first::<HashHeader<Little>>(&bytes).map_or(0, |header| u64::from(header.chain_count.get(E))))
    }

    /// `DT_GNU_HASH` does not say how many symbols there are: follow the last chain to its end.
    fn count_by_gnu_hash(&self, table: FileOffset) -> Result<u64, ElfError> {
        const WHAT: &str = "its symbol hash table";
        let outside = || self.source.malformed("its symbol hash table lies outside the file");
        let length = size_of::<GnuHashHeader<Little>>() as u64;
        let bytes = self.source.read(WHAT, table.0, length, length)?;
        let header: GnuHashHeader<Little> = first(&bytes).ok_or_else(outside)?;
        let filter_bytes = u64::from(header.bloom_count.get(E)) * 8;
        let buckets = table.checked_add(length + filter_bytes).ok_or_else(outside)?;
        let count = u64::from(header.bucket_count.get(E));
        let words: Vec<[u8; 4]> = read_table(&self.source, WHAT, buckets.0, count, MAX_HASH)?;
        let last = words.into_iter().map(u32::from_le_bytes).max().unwrap_or(0);
        let base = header.symbol_base.get(E);
        let Some(skip) = last.checked_sub(base).filter(|_| last > 0) else { return Ok(u64::from(base)) };
        let chain = buckets.checked_add(count * 4 + u64::from(skip) * 4).ok_or_else(outside)?;
        Ok(u64::from(last) + self.chain_length(chain)?)
    }

    fn chain_length(&self, chain: FileOffset) -> Result<u64, ElfError> {
        const WORDS_AT_ONCE: u64 = 1024;
        for read in (0..MAX_HASH / 4).step_by(WORDS_AT_ONCE as usize) {
            let at = chain.0.saturating_add(read * 4);
            let words = WORDS_AT_ONCE.min(self.source.length().saturating_sub(at) / 4);
            let words: Vec<[u8; 4]> =
                read_table(&self.source, "its symbol hash table", at, words, WORDS_AT_ONCE * 4)?;
            let end = words.iter().position(|word| word[0] & 1 == 1);
            match end {
                Some(position) => return Ok(read + position as u64 + 1),
                None if words.is_empty() => break,
                None => {}
            }
        }
        Err(self.source.malformed("its symbol hash table has no end"))
    }
}

/// Defined, and possibly of that kind. Hand-written assembly often has no type.
fn is_candidate(kind: Kind, symbol: &Sym64<Little>) -> bool {
    let section = symbol.st_shndx.get(E);
    let found = symbol.st_type();
    let fits = match kind {
        Kind::Function => found == elf::STT_FUNC || found == elf::STT_GNU_IFUNC || found == elf::STT_NOTYPE,
        Kind::Variable => found == elf::STT_OBJECT,
    };
    fits && section != elf::SHN_UNDEF && section != elf::SHN_ABS && symbol.st_value.get(E) != 0
}

fn is_hidden(version: [u8; 2]) -> bool {
    u16::from_le_bytes(version) & elf::VERSYM_HIDDEN.0 != 0
}

/// Default versions before hidden ones, visible bindings before local ones.
fn rank(symbol: &Sym64<Little>, hidden: bool) -> u8 {
    u8::from(!hidden) * 2 + u8::from(symbol.st_bind() != elf::STB_LOCAL)
}

fn is_named(strings: &[u8], symbol: &Sym64<Little>, name: &str) -> bool {
    let start = symbol.st_name.get(E) as usize;
    let found = strings.get(start..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
    found.is_some_and(|rest| rest.first() == Some(&0))
}
