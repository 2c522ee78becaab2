//! Names of generated code as a JIT compiler writes them down for profilers: one line `START SIZE NAME` for each piece of
//! code, addresses in hexadecimal, the name with whatever spaces it has. The file grows while the program runs, memory
//! is used again for other code, and then the later line is the right one.
//!
//! Pure: bytes in, names out. What it may hold is bounded by the caller's budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::name::demangle;

/// Longest line; what is longer is skipped and counted.
const MAX_LINE: usize = 16 << 10;
/// What an entry costs besides its name, in bytes.
const ENTRY_COST: usize = 96;

/// Code that has a name.
#[derive(Clone, Debug)]
struct Entry {
    /// First address behind it.
    end: u64,
    name: Arc<str>,
}

/// The names of one process's generated code.
#[derive(Debug, Default)]
pub struct PerfMap {
    /// By first address; they never overlap.
    entries: BTreeMap<u64, Entry>,
    /// The line that has no end yet.
    unfinished: Vec<u8>,
    /// Within a line that is too long.
    skipping: bool,
    /// Lines that name no code.
    pub malformed: u64,
    /// Lines that came after the budget was used up.
    pub refused: u64,
    /// Bytes of the budget that it holds.
    pub cost: usize,
}

impl PerfMap {
    /// Takes in what was added to the file; lines may be cut anywhere. Takes its memory from `budget`, in bytes.
    pub fn feed(&mut self, bytes: &[u8], budget: &mut usize) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if self.unfinished.len() + text.len() > MAX_LINE {
                self.skipping = true;
                self.unfinished.clear();
            } else if !self.skipping {
                self.unfinished.extend_from_slice(text);
            }
            if ends {
                self.end_line(budget);
            }
        }
    }

    /// Takes the last line as whole although nothing ends it: its writer is gone.
    pub fn end_line(&mut self, budget: &mut usize) {
        let line = std::mem::take(&mut self.unfinished);
        if std::mem::take(&mut self.skipping) {
            self.malformed += 1;
        } else if !line.is_empty() {
            self.line(&line, budget);
        }
    }

    /// The name of the code at `address`.
    pub fn find(&self, address: u64) -> Option<&str> {
        let (_, entry) = self.entries.range(..=address).next_back()?;
        (address < entry.end).then_some(&*entry.name)
    }

    /// How many pieces of code have names.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn line(&mut self, line: &[u8], budget: &mut usize) {
        let Some((start, end, name)) = parse(line) else {
            self.malformed += 1;
            return;
        };
        // It may cut an older piece in two.
        let cost = 2 * ENTRY_COST + name.len();
        let Some(left) = budget.checked_sub(cost) else {
            self.refused += 1;
            return;
        };
        *budget = left;
        self.cost += cost;
        self.clear(start, end);
        self.entries.insert(start, Entry { end, name: name.into() });
    }

    /// Takes a range away from whatever names cover it.
    fn clear(&mut self, start: u64, end: u64) {
        if let Some((_, before)) = self.entries.range_mut(..start).next_back()
            && before.end > start
        {
            let behind = Entry { end: before.end, name: Arc::clone(&before.name) };
            before.end = start;
            if behind.end > end {
                self.entries.insert(end, behind);
            }
        }
        while let Some(at) = self.entries.range(start..end).next().map(|(&at, _)| at) {
            let Some(covered) = self.entries.remove(&at) else { return };
            if covered.end > end {
                self.entries.insert(end, covered);
            }
        }
    }
}

/// `START SIZE NAME`: where the code begins and ends, and its name.
fn parse(line: &[u8]) -> Option<(u64, u64, String)> {
    let text = String::from_utf8_lossy(line);
    let (start, rest) = text.trim_start().split_once(' ')?;
    let (size, name) = rest.trim_start().split_once(' ')?;
    let (start, size) = (hexadecimal(start)?, hexadecimal(size)?);
    let end = start.checked_add(size).filter(|&end| end > start)?;
    Some((start, end, demangle(name.trim())?))
}

fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &[u8]) -> PerfMap {
        let mut map = PerfMap::default();
        map.feed(text, &mut (1 << 20));
        map
    }

    #[test]
    fn names_keep_their_spaces_and_prefixes_are_understood() {
        let map = map(b"1000 20 LazyCompile:~f /app/my file.js:3\n0x2000 0x10 _ZN5space3fooEi\n");
        assert_eq!(map.find(0x1000), Some("LazyCompile:~f /app/my file.js:3"));
        assert_eq!(map.find(0x101f), Some("LazyCompile:~f /app/my file.js:3"));
        assert_eq!(map.find(0x1020), None);
        assert_eq!(map.find(0x2001), Some("space::foo(int)"));
        assert_eq!(map.find(0xfff), None);
    }

    #[test]
    fn the_later_of_two_lines_wins_where_they_overlap() {
        let map = map(b"1000 100 old\n1040 20 new\n10f0 20 last\n2000 10 a\n2010 10 b\n2000 20 both\n");
        let names = [0x103f, 0x1040, 0x105f, 0x1060, 0x10ef, 0x10f0, 0x110f].map(|at| map.find(at));
        let expected = ["old", "new", "new", "old", "old", "last", "last"].map(Some);
        assert_eq!(names, expected);
        assert_eq!((map.find(0x2000), map.find(0x201f)), (Some("both"), Some("both")));
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn a_file_read_in_any_pieces_gives_the_same_names() {
        let text = b"1000 20 first one\n2000 20 second\n3000 20 third";
        for size in 1..text.len() {
            let (mut map, mut budget) = (PerfMap::default(), 1 << 20);
            text.chunks(size).for_each(|piece| map.feed(piece, &mut budget));
            assert_eq!((map.find(0x1001), map.find(0x2001)), (Some("first one"), Some("second")));
            assert_eq!(map.find(0x3001), None, "it may go on");
            map.end_line(&mut budget);
            assert_eq!(map.find(0x3001), Some("third"));
        }
    }

    #[test]
    fn lines_that_name_no_code_are_counted_and_change_nothing() {
        let lines: [&[u8]; 9] = [
            b"root:x:0:0:root:/root:/bin/bash\n",
            b"1000 20\n",
            b"1000 20 \n",
            b"1000 0 empty\n",
            b"ffffffffffffffff 2 beyond the end\n",
            b"-1 20 negative\n",
            b"+1000 20 signed\n",
            b"10000000000000000 20 too large\n",
            b"1000 xyz name\n",
        ];
        let map = map(&lines.concat());
        assert_eq!((map.malformed, map.len()), (lines.len() as u64, 0));
    }

    #[test]
    fn a_line_without_end_is_skipped_and_holds_no_memory() {
        let (mut map, mut budget) = (PerfMap::default(), 1 << 20);
        for _ in 0..64 {
            map.feed(&[0; 64 << 10], &mut budget);
        }
        assert!(map.unfinished.capacity() <= 2 * MAX_LINE);
        map.feed(b"\n1000 10 good\n", &mut budget);
        assert_eq!((map.malformed, map.find(0x1000)), (1, Some("good")));
    }

    #[test]
    fn the_budget_ends_what_is_held_and_the_rest_is_counted() {
        let (mut map, mut budget) = (PerfMap::default(), 10_000);
        for at in 0..1000 {
            map.feed(format!("{:x} 10 f{at}\n", 0x1000 + at * 16).as_bytes(), &mut budget);
        }
        assert!(map.len() > 10 && map.refused > 900, "{} {}", map.len(), map.refused);
        assert_eq!(map.cost + budget, 10_000);
    }

    proptest::proptest! {
        /// Whatever the file holds: the last line that covers an address is the one that names it.
        #[test]
        fn it_agrees_with_reading_backwards(pieces in proptest::collection::vec((0_u64..200, 1_u64..60), 0..60)) {
            let text: String = pieces.iter().enumerate()
                .map(|(at, (start, size))| format!("{start:x} {size:x} n{at}\n")).collect();
            let map = map(text.as_bytes());
            for address in 0..300 {
                let last = pieces.iter().rposition(|(start, size)| (*start..start + size).contains(&address));
                let expected = last.map(|at| format!("n{at}"));
                proptest::prop_assert_eq!(map.find(address), expected.as_deref());
            }
        }

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            map(&bytes);
        }
    }
}
