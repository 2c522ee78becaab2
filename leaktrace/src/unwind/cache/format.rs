//! A table as a file: a header, pages, rows, rules, and a checksum over all of it, little-endian throughout. Nothing
//! of a file is believed before its length, its counts and its checksum agree.

use leaktrace_common::unwind::{MAX_RULES, PAGE_SHIFT, Page, Rule};

use crate::object::address::VirtualOffset;
use crate::unwind::{Statistics, Table, TableKey};

/// To be raised whenever the format changes, or what is made of the same call frame information.
pub const VERSION: u32 = 3;

/// Longest file that is written or read, bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

const MAGIC: [u8; 8] = *b"\x7fUNWIND\n";

/// `e_machine` of the architecture that rules are for.
const MACHINE: u32 = object::elf::EM_X86_64.0 as u32;

const HEADER_BYTES: usize = 8 + 4 + 4 + 16 + 8 + 3 * 4 + 5 * 8;
const CHECKSUM_BYTES: usize = 4;

/// Why a file is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flaw {
    /// Somebody else may have written it.
    NotOurs,
    /// Of another version of leaktrace, or no table at all.
    Version,
    /// Made on another architecture.
    Architecture,
    /// Of another object.
    Object,
    /// Shorter or longer than its own counts say.
    Length,
    /// The checksum does not fit.
    Checksum,
    /// What it says cannot be a table.
    Contents,
}

impl Flaw {
    /// Text for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotOurs => "may be written by others",
            Self::Version => "other version",
            Self::Architecture => "other architecture",
            Self::Object => "other object",
            Self::Length => "wrong length",
            Self::Checksum => "damaged",
            Self::Contents => "no table",
        }
    }
}

/// The file for a table, or `None` if it would be longer than [`MAX_FILE_BYTES`].
pub fn encode(key: TableKey, table: &Table) -> Option<Vec<u8>> {
    let counts = Counts {
        pages: u32::try_from(table.pages.len()).ok()?,
        rows: u32::try_from(table.rows.len()).ok()?,
        rules: u32::try_from(table.rules.len()).ok()?,
    };
    let length = counts.file_bytes().filter(|bytes| *bytes <= MAX_FILE_BYTES)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).ok()?);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(MACHINE.to_le_bytes());
    bytes.extend(key.0);
    bytes.extend(table.base.0.to_le_bytes());
    bytes.extend([counts.pages, counts.rows, counts.rules].iter().flat_map(|count| count.to_le_bytes()));
    bytes.extend(numbers(&table.statistics).iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend(table.pages.iter().flat_map(|page| [page.first, page.count]).flat_map(u32::to_le_bytes));
    bytes.extend(table.rows.iter().flat_map(|row| row.to_le_bytes()));
    bytes.extend(table.rules.iter().flat_map(|rule| rule.0.to_le_bytes()));
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    Some(bytes)
}

/// The table in a file.
///
/// # Errors
/// When it is anything but what [`encode`] made of a sound table with this key.
pub fn decode(key: TableKey, bytes: &[u8]) -> Result<Table, Flaw> {
    let (contents, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Flaw::Length)?;
    let mut fields = Fields(contents);
    if fields.array() != Some(MAGIC) || fields.u32() != Some(VERSION) {
        return Err(Flaw::Version);
    }
    if fields.u32() != Some(MACHINE) {
        return Err(Flaw::Architecture);
    }
    if fields.array() != Some(key.0) {
        return Err(Flaw::Object);
    }
    let base = fields.u64().map(VirtualOffset).ok_or(Flaw::Length)?;
    let counts = fields.counts().ok_or(Flaw::Length)?;
    if counts.file_bytes() != Some(bytes.len() as u64) {
        return Err(Flaw::Length);
    }
    if crc32fast::hash(contents) != u32::from_le_bytes(*checksum) {
        return Err(Flaw::Checksum);
    }
    let table = fields.table(base, counts).ok_or(Flaw::Length)?;
    if is_sound(&table) { Ok(table) } else { Err(Flaw::Contents) }
}

/// Whether the kernel side can search a table: pages behind each other, rows ascending in each from its first byte on,
/// rules for all.
pub fn is_sound(table: &Table) -> bool {
    let Some(covered) = (table.pages.len() as u64).checked_mul(1 << PAGE_SHIFT) else { return false };
    let page_bytes_left = table.base.0 & ((1 << PAGE_SHIFT) - 1);
    page_bytes_left == 0
        && table.base.checked_add(covered).is_some()
        && table.rules.first() == Some(&Rule::NONE)
        && table.rules.len() <= MAX_RULES
        && table.rows.iter().all(|row| ((row & 0xffff) as usize) < table.rules.len())
        && pages_are_sound(table)
}

fn pages_are_sound(table: &Table) -> bool {
    let mut rest = table.rows.as_slice();
    for page in &table.pages {
        let behind = table.rows.len() - rest.len();
        let Some((rows, further)) = rest.split_at_checked(page.count as usize) else { return false };
        let starts_at_first_byte = rows.first().is_some_and(|row| row >> 16 == 0);
        if page.first as usize != behind || !starts_at_first_byte || !ascends(rows) {
            return false;
        }
        rest = further;
    }
    rest.is_empty()
}

fn ascends(rows: &[u32]) -> bool {
    rows.is_sorted_by(|row, next| row >> 16 < next >> 16)
}

/// How many of each a file has.
#[derive(Clone, Copy)]
struct Counts {
    pages: u32,
    rows: u32,
    rules: u32,
}

impl Counts {
    /// Length of the whole file.
    fn file_bytes(self) -> Option<u64> {
        let part = |count: u32, bytes: usize| u64::from(count).checked_mul(bytes as u64);
        part(self.pages, size_of::<Page>())?
            .checked_add(part(self.rows, size_of::<u32>())?)?
            .checked_add(part(self.rules, size_of::<Rule>())?)?
            .checked_add((HEADER_BYTES + CHECKSUM_BYTES) as u64)
    }
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn counts(&mut self) -> Option<Counts> {
        Some(Counts { pages: self.u32()?, rows: self.u32()?, rules: self.u32()? })
    }

    /// Everything behind the counts, which fit the length of the file.
    fn table(&mut self, base: VirtualOffset, counts: Counts) -> Option<Table> {
        let statistics = Statistics {
            frame_bytes: self.u64()?,
            functions: self.u64()?,
            malformed: self.u64()?,
            unsupported: self.u64()?,
            beyond_caps: self.u64()?,
        };
        let pages: Option<Vec<Page>> =
            (0..counts.pages).map(|_| Some(Page { first: self.u32()?, count: self.u32()? })).collect();
        let rows: Option<Vec<u32>> = (0..counts.rows).map(|_| self.u32()).collect();
        let rules: Option<Vec<Rule>> = (0..counts.rules).map(|_| self.u64().map(Rule)).collect();
        Some(Table { base, pages: pages?, rows: rows?, rules: rules?, statistics })
    }
}

fn numbers(statistics: &Statistics) -> [u64; 5] {
    let Statistics { frame_bytes, functions, malformed, unsupported, beyond_caps } = *statistics;
    [frame_bytes, functions, malformed, unsupported, beyond_caps]
}

#[cfg(test)]
mod tests {
    use leaktrace_common::unwind::{Cfa, row};
    use proptest::prelude::*;

    use super::*;

    const KEY: TableKey = TableKey([7; 16]);

    fn tables() -> impl Strategy<Value = Table> {
        let page = prop::collection::btree_map(1u16..=u16::MAX, 0u16..6, 0..20);
        (prop::collection::vec(page, 0..6), 0u64..1 << 40).prop_map(|(pages, base)| {
            let rules = (0..5).filter_map(|n| Rule::cfa_at(Cfa::SP, n * 8));
            let mut table = Table { base: VirtualOffset(base << PAGE_SHIFT), ..Table::default() };
            table.rules = std::iter::once(Rule::NONE).chain(rules).collect();
            table.statistics.functions = base;
            for page in pages {
                let (first, count) = (table.rows.len() as u32, page.len() as u32 + 1);
                table.pages.push(Page { first, count });
                table.rows.push(row(0, 0));
                table.rows.extend(page.into_iter().map(|(low, rule)| row(low, rule)));
            }
            table
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(table in tables()) {
            prop_assert!(is_sound(&table));
            let bytes = encode(KEY, &table).expect("small");
            prop_assert_eq!(decode(KEY, &bytes), Ok(table));
        }

        /// Every flip of every byte, every truncation and every byte too many.
        #[test]
        fn a_damaged_file_is_refused(table in tables(), flip in 1u8..) {
            let mut bytes = encode(KEY, &table).expect("small");
            for index in 0..bytes.len() {
                bytes[index] ^= flip;
                prop_assert!(decode(KEY, &bytes).is_err(), "byte {index} flipped by {flip:#x}");
                bytes[index] ^= flip;
            }
            for length in 0..bytes.len() {
                prop_assert!(decode(KEY, &bytes[..length]).is_err(), "{length} bytes left");
            }
            bytes.push(flip);
            prop_assert!(decode(KEY, &bytes).is_err());
        }

        /// With a right checksum too, what comes out can be searched.
        #[test]
        fn a_forged_file_gives_a_sound_table_or_none(
            table in tables(),
            forgeries in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = encode(KEY, &table).expect("small");
            let end = bytes.len() - CHECKSUM_BYTES;
            for (index, byte) in forgeries {
                bytes[index.index(end)] = byte;
            }
            let checksum = crc32fast::hash(&bytes[..end]);
            bytes[end..].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(table) = decode(KEY, &bytes) {
                prop_assert!(is_sound(&table));
                for address in table.base.0..table.base.0.saturating_add(0x200) {
                    table.rule_at(VirtualOffset(address));
                }
            }
        }
    }

    /// One table of two pages, changed in one respect each time.
    #[test]
    fn what_cannot_be_searched_is_not_sound() {
        let sound = Table {
            pages: vec![Page { first: 0, count: 2 }, Page { first: 2, count: 1 }],
            rows: vec![row(0, 0), row(16, 1), row(0, 1)],
            rules: vec![Rule::NONE, Rule::END],
            ..Table::default()
        };
        assert!(is_sound(&sound));
        let changes: [fn(&mut Table); 9] = [
            |table| table.base = VirtualOffset(0x1000),
            |table| table.base = VirtualOffset(u64::MAX << PAGE_SHIFT),
            |table| table.rules[0] = Rule::END,
            |table| table.rules.truncate(1),
            |table| table.rows[1] = row(0, 1),
            |table| table.rows[2] = row(1, 1),
            |table| table.rows.push(row(1, 0)),
            |table| table.pages[1] = Page { first: 1, count: 2 },
            |table| table.pages[1].count = 0,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut table = sound.clone();
            change(&mut table);
            assert!(!is_sound(&table), "change {number}");
        }
    }

    #[test]
    fn counts_that_promise_more_than_the_file_has_are_refused() {
        let mut bytes = encode(KEY, &Table { rules: vec![Rule::NONE], ..Table::default() }).expect("small");
        bytes[40..52].fill(0xff);
        assert_eq!(decode(KEY, &bytes), Err(Flaw::Length));
        assert_eq!(decode(TableKey([8; 16]), &bytes), Err(Flaw::Object));
    }
}
