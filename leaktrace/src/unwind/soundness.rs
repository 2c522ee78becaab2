//! What must hold for every table, whatever it was made of. Used by tests and by the fuzz targets, which include this
//! file.

use std::collections::HashSet;
use std::path::Path;

use leaktrace_common::unwind::{PAGE_SHIFT, Rule};

use super::compile::{Limits, compile};
use super::sections::{CodeRange, FrameKind, Frames, Sections};
use super::table::Table;
use crate::object::address::VirtualOffset;

/// Reads bytes as an object and makes its table.
pub fn object(bytes: &[u8]) -> Option<Table> {
    let sections = Sections::from_image(bytes, Path::new("image")).ok()?;
    assert_eq!(
        Sections::from_image(bytes, Path::new("image")).expect("the same").digest(),
        sections.digest()
    );
    check_ranges(&sections.code);
    let described = sections.frames.as_ref().map_or(0, |frames| frames.bytes.len());
    assert!(described <= 2000 * bytes.len(), "{described} bytes of frames out of {}", bytes.len());
    made(&sections)
}

/// Takes bytes for call frame information, the first of them for the kind, and makes the table.
pub fn frames(bytes: &[u8]) -> Option<Table> {
    let (kind, bytes) = bytes.split_first()?;
    let kind = if kind & 1 == 0 { FrameKind::EhFrame } else { FrameKind::DebugFrame };
    let code = CodeRange { start: VirtualOffset(0x1000), end: VirtualOffset(0x10_0000) };
    made(&Sections {
        build_id: None,
        entry: VirtualOffset(0x2000),
        code: vec![code],
        frames: Some(Frames { kind, address: VirtualOffset(0x10_0000), bytes: bytes.to_vec() }),
        trampolines: Vec::new(),
        jumps: Vec::new(),
        starts: Vec::new(),
        is_c_library: false,
    })
}

fn made(sections: &Sections) -> Option<Table> {
    let limits = Limits { rows: 1 << 16, functions: 1 << 12, ..Limits::default() };
    let table = compile(sections, &limits).ok()?;
    check(sections, &table, &limits);
    assert_eq!(compile(sections, &limits).as_ref(), Ok(&table), "the same sections make the same table");
    Some(table)
}

/// Panics if a table is not what its documentation says.
pub fn check(sections: &Sections, table: &Table, limits: &Limits) {
    let span = sections.code.last().map_or(0, |last| last.end.0 - table.base.0);
    assert_eq!(table.pages.len() as u64, span.div_ceil(1 << PAGE_SHIFT));
    assert_eq!(table.base.0 & ((1 << PAGE_SHIFT) - 1), 0);
    assert_eq!(table.rules.first(), Some(&Rule::NONE));
    assert_eq!(table.rules.iter().collect::<HashSet<_>>().len(), table.rules.len(), "rules are distinct");
    let mut next = 0;
    for page in &table.pages {
        assert_eq!(page.first, next);
        assert!(page.count >= 1);
        next += page.count;
        check_page(&table.rows[page.first as usize..next as usize], table.rules.len());
    }
    assert_eq!(next as usize, table.rows.len());
    // Each function can begin with a gap, and so can what follows it.
    let most = limits.rows + 3 * (table.statistics.functions + table.pages.len() as u64) + 256;
    assert!(table.rows.len() as u64 <= most);
    assert!(table.statistics.functions <= limits.functions as u64);
    check_outside(table, span);
}

/// Rows begin at the page's first byte, ascend, and differ from their neighbours.
fn check_page(rows: &[u32], rules: usize) {
    assert_eq!(rows[0] >> 16, 0);
    assert!(rows.iter().all(|row| ((row & 0xffff) as usize) < rules));
    for pair in rows.windows(2) {
        assert!(pair[0] >> 16 < pair[1] >> 16);
        assert_ne!(pair[0] & 0xffff, pair[1] & 0xffff);
    }
}

/// The pages of a forged object may reach to the very last address; then nothing lies behind them.
fn check_outside(table: &Table, span: u64) {
    let behind = table.base.0.checked_add(span.next_multiple_of(1 << PAGE_SHIFT));
    for address in [table.base.0.checked_sub(1), behind, behind.and(Some(u64::MAX))].into_iter().flatten() {
        assert_eq!(table.rule_at(VirtualOffset(address)), Rule::NONE);
    }
}

fn check_ranges(ranges: &[CodeRange]) {
    assert!(ranges.iter().all(|range| range.start < range.end));
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
}
