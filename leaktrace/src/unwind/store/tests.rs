//! The store against what walks would read: its memory is kept and looked up in the way the kernel side does.

use std::path::Path;

use leaktrace_common::unwind::{BLOCKS, Cfa, MAX_RULES, PAGE_SHIFT, last_not_behind};
use proptest::prelude::*;

use super::*;
use crate::unwind::{Limits, Sections, compile};

/// A page that nobody may read.
const UNWRITTEN: IndexedPage =
    IndexedPage { page: Page { first: u32::MAX, count: u32::MAX }, blocks: [u16::MAX; BLOCKS + 4] };

/// The three arrays as the kernel side has them.
struct Arrays {
    rows: Vec<u32>,
    pages: Vec<IndexedPage>,
    rules: Vec<Rule>,
}

impl Arrays {
    fn new(rows: u32, pages: u32) -> Self {
        Self {
            rows: vec![u32::MAX; rows as usize],
            pages: vec![UNWRITTEN; pages as usize],
            rules: vec![Rule(u64::MAX); MAX_RULES],
        }
    }

    /// The rule for an address of an object whose table lies at `place`.
    fn rule_at(&self, place: Place, address: u64) -> Rule {
        let inside = address - place.base.0;
        let page = u32::try_from(inside >> PAGE_SHIFT).expect("small");
        assert!(page < place.page_count);
        let page = self.pages[(place.first_page + page) as usize];
        let low = inside as u32 & 0xffff;
        let begins_behind = |index: u32| Some(self.rows[index as usize] >> 16 > low);
        let (first, count) = page.candidates(low);
        let found = last_not_behind(first, count, begins_behind).expect("a row");
        self.rules[self.rows[found as usize] as usize & 0xffff]
    }
}

impl Memory for Arrays {
    fn write_rows(&mut self, first: u32, rows: &[u32]) {
        self.rows[first as usize..first as usize + rows.len()].copy_from_slice(rows);
    }

    fn write_pages(&mut self, first: u32, pages: &[IndexedPage]) {
        self.pages[first as usize..first as usize + pages.len()].copy_from_slice(pages);
    }

    fn write_rule(&mut self, number: u16, rule: Rule) {
        self.rules[usize::from(number)] = rule;
    }
}

/// A table whose pages have these numbers of rows, 16 bytes apart, with rules that depend on `seed`.
fn table(seed: u16, row_counts: &[u32]) -> Table {
    let rules: Vec<_> = (0..5).filter_map(|n| Rule::cfa_at(Cfa::SP, i64::from(seed) * 8 + n * 8)).collect();
    let mut table = Table { base: VirtualOffset(u64::from(seed) << PAGE_SHIFT), ..Table::default() };
    table.rules = std::iter::once(Rule::NONE).chain(rules).collect();
    for &count in row_counts {
        table.pages.push(Page { first: table.rows.len() as u32, count });
        table.rows.extend((0..count).map(|n| row((n * 16) as u16, ((n + u32::from(seed)) % 6) as u16)));
    }
    table
}

fn key(number: u16) -> TableKey {
    TableKey([&number.to_le_bytes()[..], &[0; 14]].concat().try_into().expect("16 bytes"))
}

fn assert_readable(arrays: &Arrays, place: Place, table: &Table) {
    for page in 0..table.pages.len() as u64 {
        for low in (0..0x400).step_by(8).chain([0xffff]) {
            let address = table.base.0 + (page << PAGE_SHIFT) + low;
            let expected = table.rule_at(VirtualOffset(address));
            assert_eq!(arrays.rule_at(place, address), expected, "page {page}, byte {low:#x}");
        }
    }
}

/// What processes and walks do with a store.
#[derive(Clone, Debug)]
enum Action {
    /// A process maps an object.
    Map(u16),
    /// The n-th of the mappings there are goes away.
    Unmap(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        3 => (0u16..12).prop_map(Action::Map),
        2 => any::<usize>().prop_map(Action::Unmap),
    ];
    prop::collection::vec(action, 1..120)
}

/// Objects are of different sizes, and all of them together do not fit.
fn object(number: u16) -> Table {
    let counts: Vec<u32> = (0..1 + number % 3).map(|page| u32::from(1 + (number * 7 + page) % 20)).collect();
    table(number, &counts)
}

/// Inserts with eviction, as the daemon does it. The room of evicted tables is overwritten before it is given back:
/// nobody may still need it.
fn insert(store: &mut Store, arrays: &mut Arrays, number: u16) -> Option<TableId> {
    let table = object(number);
    if let Ok(id) = store.insert(key(number), &table, arrays) {
        return Some(id);
    }
    let retired = store.evict(&table);
    if retired.is_empty() {
        return None;
    }
    for gone in &retired {
        assert_eq!(store.find(gone.key()), None);
        arrays.write_rows(gone.rows.first(), &vec![u32::MAX; gone.rows.length() as usize]);
    }
    store.reuse(retired);
    Some(store.insert(key(number), &table, arrays).expect("room was made for it"))
}

proptest! {
    /// At all times every mapped object's table is found at its place with its own rules, and what remains without
    /// users can be evicted to the last row.
    #[test]
    fn mapped_tables_stay_readable_whatever_comes_and_goes(actions in actions()) {
        let mut arrays = Arrays::new(160, 8);
        let mut store = Store::new(160, 8, &mut arrays);
        let mut mapped: Vec<(u16, TableId)> = Vec::new();
        for action in actions {
            match action {
                Action::Map(number) => {
                    let Some(id) = insert(&mut store, &mut arrays, number) else { continue };
                    store.acquire(id).expect("just inserted");
                    mapped.push((number, id));
                }
                Action::Unmap(index) if !mapped.is_empty() => {
                    let (_, id) = mapped.swap_remove(index % mapped.len());
                    store.release(id);
                }
                Action::Unmap(_) => {}
            }
            for (number, id) in &mapped {
                let place = store.place(*id).expect("mapped tables are not evicted");
                assert_readable(&arrays, place, &object(*number));
            }
        }
        for (_, id) in mapped {
            store.release(id);
        }
        let everything = table(100, &[20; 8]);
        let retired = store.evict(&everything);
        store.reuse(retired);
        let id = store.insert(key(100), &everything, &mut arrays).expect("nothing has users");
        assert_readable(&arrays, store.place(id).expect("placed"), &everything);
        prop_assert_eq!(store.statistics().tables, 1);
    }
}

#[test]
fn one_table_serves_every_process_that_maps_the_object() {
    let mut arrays = Arrays::new(64, 4);
    let mut store = Store::new(64, 4, &mut arrays);
    let first = store.insert(key(1), &table(1, &[10]), &mut arrays).expect("room");
    let second = store.insert(key(1), &table(1, &[10]), &mut arrays).expect("room");
    assert_eq!(first, second);
    assert_eq!(store.acquire(first), store.acquire(second));
    let statistics = store.statistics();
    assert_eq!((statistics.tables, statistics.rows, statistics.pages, statistics.shared), (1, 16, 1, 1));
    assert_eq!(statistics.bytes, (16 * 4 + size_of::<IndexedPage>()) as u64);
}

#[test]
fn tables_with_users_are_not_evicted_and_the_longest_unused_goes_first() {
    let mut arrays = Arrays::new(48, 3);
    let mut store = Store::new(48, 3, &mut arrays);
    let ids: Vec<_> =
        (1..=3).map(|n| store.insert(key(n), &table(n, &[16]), &mut arrays).expect("room")).collect();
    ids.iter().for_each(|id| assert!(store.acquire(*id).is_some()));
    assert!(store.insert(key(4), &table(4, &[16]), &mut arrays).is_err());
    assert!(store.evict(&table(4, &[16])).is_empty());
    store.release(ids[1]);
    store.release(ids[0]);
    let retired = store.evict(&table(4, &[16]));
    assert_eq!(retired.iter().map(Retired::key).collect::<Vec<_>>(), [key(2)]);
    assert!(store.insert(key(4), &table(4, &[16]), &mut arrays).is_err(), "its room may still be read");
    store.reuse(retired);
    assert!(store.insert(key(4), &table(4, &[16]), &mut arrays).is_ok());
    let statistics = store.statistics();
    assert_eq!((statistics.evicted, statistics.refused, statistics.unused_tables), (1, 1, 2));
}

#[test]
fn nothing_is_evicted_for_a_table_that_would_not_fit_anyway() {
    let mut arrays = Arrays::new(48, 3);
    let mut store = Store::new(48, 3, &mut arrays);
    let id = store.insert(key(1), &table(1, &[16]), &mut arrays).expect("room");
    let error = store.insert(key(2), &table(2, &[40, 40]), &mut arrays).expect_err("too large");
    assert_eq!((error.rows, error.pages, error.row_capacity), (80, 2, 48));
    assert!(store.evict(&table(2, &[40, 40])).is_empty());
    assert!(store.place(id).is_some());
    assert!(store.evict(&table(2, &[16])).is_empty(), "it fits already");
    assert_eq!(store.statistics().refused, 1);
}

#[test]
fn rules_beyond_the_last_number_are_unsupported_and_counted() {
    let mut arrays = Arrays::new(64, 4);
    let mut store = Store::new(64, 4, &mut arrays);
    let all = (0..(1 << 16) + 10).filter_map(|n| Rule::cfa_at(Cfa::BP, n * 8));
    let rules: Vec<_> = std::iter::once(Rule::NONE).chain(all).collect();
    let halves = [&rules[..40_000], &rules[40_000..]];
    for (number, half) in (1..).zip(halves) {
        let last = u16::try_from(half.len() - 1).expect("fits");
        let mut table = table(number, &[2]);
        table.rows = vec![row(0, 1), row(16, last)];
        table.rules = half.to_vec();
        store.insert(key(number), &table, &mut arrays).expect("room");
    }
    let statistics = store.statistics();
    assert_eq!(statistics.rules, MAX_RULES as u64);
    assert_eq!(statistics.rules_refused, (rules.len() + 2 - MAX_RULES) as u64);
    let place = store.find(key(2)).and_then(|id| store.place(id)).expect("placed");
    assert_eq!(arrays.rule_at(place, place.base.0 + 16), Rule::UNSUPPORTED);
    assert_eq!(arrays.rule_at(place, place.base.0), rules[40_001]);
}

/// The table of this very program, behind another.
#[test]
fn a_real_table_says_the_same_from_its_place() {
    let file = std::fs::File::open("/proc/self/exe").expect("this test");
    let sections = Sections::read(&file, Path::new("this test")).expect("an object");
    let real = compile(&sections, &Limits::default()).expect("compiles");
    let capacity = u32::try_from(real.rows.len() + 100).expect("fits");
    let mut arrays = Arrays::new(capacity, real.pages.len() as u32 + 1);
    let mut store = Store::new(capacity, real.pages.len() as u32 + 1, &mut arrays);
    store.insert(key(1), &table(1, &[10]), &mut arrays).expect("room");
    let id = store.insert(key(2), &real, &mut arrays).expect("room");
    let place = store.place(id).expect("placed");
    let mut distinct = std::collections::HashSet::new();
    for address in (real.base.0..real.base.0 + ((real.pages.len() as u64) << PAGE_SHIFT)).step_by(7) {
        let rule = arrays.rule_at(place, address);
        assert_eq!(rule, real.rule_at(VirtualOffset(address)), "{address:#x}");
        distinct.insert(rule);
    }
    assert!(distinct.len() > 20, "{distinct:?}");
}

#[test]
fn reserved_rules_have_their_numbers() {
    let mut arrays = Arrays::new(16, 1);
    let _store = Store::new(16, 1, &mut arrays);
    assert_eq!(arrays.rules[..3], [Rule::NONE, Rule::FRAME_POINTER, Rule::UNSUPPORTED]);
    assert_eq!(usize::from(rule_number::FRAME_POINTER), 1);
    assert_eq!(usize::from(rule_number::UNSUPPORTED), 2);
}

#[test]
fn a_page_outside_of_its_table_becomes_empty() {
    let mut arrays = Arrays::new(32, 2);
    let mut store = Store::new(32, 2, &mut arrays);
    let mut forged = table(1, &[3, 3]);
    forged.pages[1] = Page { first: 4, count: u32::MAX };
    let id = store.insert(key(1), &forged, &mut arrays).expect("room");
    let first = store.place(id).expect("placed").first_page as usize;
    let pages: Vec<Page> = arrays.pages[first..first + 2].iter().map(|page| page.page).collect();
    assert_eq!(pages, [Page { first: 0, count: 3 }, Page::default()]);
}
