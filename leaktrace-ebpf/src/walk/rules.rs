//! Finds the unwind rule of an address: in the cache, else by two searches, of the process's code mappings and of the
//! rows of the page.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use leaktrace_common::{
    record::Target,
    rule,
    unwind::{
        BISECTION_STEPS, Bisection, CACHE_ENTRIES, CodeEntry, LINE_ROWS, PAGE_SHIFT, Rule, cache_hash,
        code_kind, rule_number,
    },
    walk::{CodeList, end},
};

use crate::{
    config,
    maps::{CODE, CODE_HEADS, UNWIND_CACHE, UNWIND_PAGES, UNWIND_ROWS, UNWIND_RULES},
};

/// The list that is in force now.
#[inline(always)]
pub fn list_of(target: &Target) -> CodeList {
    let none = CodeList { unusable: u64::from(end::UNKNOWN_CODE), ..CodeList::default() };
    let Some(head) = CODE_HEADS.get_ptr(target.code_slot) else { return none };
    // SAFETY: a map value; the daemon writes it with one store.
    let head = unsafe { head.read_volatile() } as u32;
    let Some(header) = entry(head) else { return none };
    if header.kind != code_kind::HEADER {
        return none;
    }
    let stale = header.end != u64::from(target.generation) && config::rule(rule::MAPPING_GENERATION);
    let unusable = if stale { u64::from(end::STALE_MAPPINGS) } else { 0 };
    CodeList { number: header.start, head, count: header.count, unusable }
}

/// Whether code that is known lies in a range.
#[inline(always)]
pub fn overlaps(code: &CodeList, start: u64, end: u64) -> bool {
    last_mapping_not_behind(code.head, code.count, end.wrapping_sub(1))
        .is_some_and(|mapping| mapping.end > start)
}

/// Whether this is the first time that somebody asks for a newer list.
#[inline(always)]
pub fn ask_once(code: &CodeList) -> bool {
    let Some(header) = CODE.get_ptr_mut(code.head) else { return false };
    // SAFETY: a map value; two CPUs may both ask, which does no harm.
    unsafe {
        if (*header).kind != code_kind::HEADER || (*header).page_count != 0 {
            return false;
        }
        (*header).page_count = 1;
    }
    true
}

#[inline(always)]
fn entry(index: u32) -> Option<&'static CodeEntry> {
    // SAFETY: a map value, which outlives the program; lists are written before a head leads to them and reused only
    // after a grace period.
    CODE.get_ptr(index).map(|entry| unsafe { &*entry })
}

/// The rule for an address.
///
/// # Errors
/// One of [`end`].
#[inline(always)]
pub fn find(code: &CodeList, address: u64) -> Result<Rule, u8> {
    if code.unusable != 0 {
        return Err(code.unusable as u8);
    }
    let hash = cache_hash(address, code.number);
    let Some(cached) = UNWIND_CACHE.get_ptr_mut(hash as u32 & (CACHE_ENTRIES - 1)) else {
        return Err(end::UNKNOWN_CODE);
    };
    // SAFETY: a map value. The two halves may be of different writers: then the tag does not match.
    let number = unsafe {
        let tag = (&raw const (*cached).tag).read_volatile();
        if (&raw const (*cached).address).read_volatile() == address && (tag ^ hash) >> 16 == 0 {
            tag as u16
        } else {
            let found = search(code.head, code.count, address);
            if found < 0 {
                return Err((-found) as u8);
            }
            (&raw mut (*cached).address).write_volatile(address);
            (&raw mut (*cached).tag).write_volatile(hash & !0xffff | found as u64 & 0xffff);
            found as u16
        }
    };
    match UNWIND_RULES.get_ptr(u32::from(number)) {
        // SAFETY: a map value, written before any row leads to it.
        Some(rule) => Ok(unsafe { *rule }),
        None => Err(end::UNSUPPORTED_RULE),
    }
}

/// The number of the rule for an address, or a negative reason. A function of its own: the verifier then looks at the
/// searches once for each program.
#[inline(never)]
fn search(head: u32, count: u32, address: u64) -> i64 {
    match search_mappings(head, count, address) {
        Ok(number) => i64::from(number),
        Err(reason) => -i64::from(reason),
    }
}

#[inline(always)]
fn search_mappings(head: u32, count: u32, address: u64) -> Result<u16, u8> {
    let mapping = last_mapping_not_behind(head, count, address).ok_or(end::UNKNOWN_CODE)?;
    if address >= mapping.end {
        return Err(end::UNKNOWN_CODE);
    }
    match mapping.kind {
        code_kind::TABLE => search_page(mapping, address.wrapping_sub(mapping.bias)),
        code_kind::FRAME_POINTER => Ok(rule_number::FRAME_POINTER),
        code_kind::PENDING => Err(end::TABLE_PENDING),
        code_kind::NO_ROOM => Err(end::NO_ROOM),
        code_kind::TRAMPOLINE => Err(end::TRAMPOLINE),
        _ => Err(end::UNREADABLE_OBJECT),
    }
}

#[inline(always)]
fn search_page(mapping: &CodeEntry, position: u64) -> Result<u16, u8> {
    let page = position >> PAGE_SHIFT;
    if page >= u64::from(mapping.page_count) {
        return Ok(rule_number::NONE);
    }
    let page = UNWIND_PAGES.get(mapping.first_page.wrapping_add(page as u32)).ok_or(end::NO_RULE)?;
    let low = position & ((1 << PAGE_SHIFT) - 1);
    let (first, count) = page.candidates(low as u32);
    let found = bisect(compare_row, first, count, low).ok_or(end::NO_RULE)?;
    row(found).map(|row| row as u16).ok_or(end::NO_RULE)
}

/// The last mapping that does not begin behind `address`.
#[inline(always)]
fn last_mapping_not_behind(head: u32, count: u32, address: u64) -> Option<&'static CodeEntry> {
    bisect(compare_mapping, head.wrapping_add(1), count, address).and_then(entry)
}

#[inline(always)]
fn row(index: u32) -> Option<u32> {
    let line = UNWIND_ROWS.get(index / LINE_ROWS as u32)?;
    Some(line[index as usize % LINE_ROWS])
}

/// A search and what it looks for.
#[repr(C)]
struct Search {
    bisection: Bisection,
    failed: u32,
    point: u64,
}

#[inline(always)]
fn bisect(
    compare: extern "C" fn(u64, *mut Search) -> i64,
    first: u32,
    count: u32,
    point: u64,
) -> Option<u32> {
    let mut search = Search { bisection: Bisection::new(first, count), failed: 0, point };
    // SAFETY: the callback has the type that the helper expects, and its context outlives the call.
    unsafe { bpf_loop(BISECTION_STEPS, compare as *mut c_void, (&raw mut search).cast(), 0) };
    if search.failed != 0 { None } else { search.bisection.found() }
}

/// One step of a search; `begins` gives what the thing at an index begins at.
#[inline(always)]
unsafe fn compare(search: *mut Search, begins: impl Fn(u32) -> Option<u64>) -> i64 {
    // SAFETY: `bpf_loop` hands over what `bisect` gave it.
    unsafe {
        let Some(middle) = (*search).bisection.middle() else { return 1 };
        match begins(middle) {
            Some(begins) => (*search).bisection.narrow(middle, begins > (*search).point),
            None => {
                (*search).failed = 1;
                return 1;
            }
        }
    }
    0
}

extern "C" fn compare_mapping(_step: u64, search: *mut Search) -> i64 {
    // SAFETY: as `compare`.
    unsafe { compare(search, |index| entry(index).map(|mapping| mapping.start)) }
}

extern "C" fn compare_row(_step: u64, search: *mut Search) -> i64 {
    // SAFETY: as `compare`.
    unsafe { compare(search, |index| row(index).map(|row| u64::from(row >> 16))) }
}
