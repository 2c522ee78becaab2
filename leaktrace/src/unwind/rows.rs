//! Rows in the making: rules laid over addresses one range after the other, each touching the one before.

use std::collections::HashMap;

use leaktrace_common::unwind::{MAX_RULES, PAGE_SHIFT, Page, Rule, row};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Writes rows. Addresses are counted from the beginning of page 0.
#[derive(Debug)]
pub struct Rows {
    cursor: u64,
    pages: Vec<Page>,
    rows: Vec<u32>,
    rules: Vec<Rule>,
    numbers: HashMap<Rule, u16>,
    last: (Rule, u16),
    without_number: u64,
}

/// What has been written.
#[derive(Debug)]
pub struct Written {
    /// As in [`super::Table`].
    pub pages: Vec<Page>,
    /// As in [`super::Table`].
    pub rows: Vec<u32>,
    /// As in [`super::Table`].
    pub rules: Vec<Rule>,
    /// Ranges whose rule became [`Rule::UNSUPPORTED`] because there were too many different ones.
    pub without_number: u64,
}

impl Rows {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            cursor: 0,
            pages: Vec::new(),
            rows: Vec::new(),
            rules: vec![Rule::NONE],
            numbers: HashMap::from([(Rule::NONE, 0)]),
            last: (Rule::NONE, 0),
            without_number: 0,
        }
    }

    /// Where the next range begins.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// A rule holds from the cursor up to `until`. Nothing is written if that is no range.
    pub fn cover(&mut self, until: u64, rule: Rule) {
        if until <= self.cursor {
            return;
        }
        let before = self.last.1;
        let number = self.number(rule);
        if self.cursor & (PAGE_BYTES - 1) != 0 && number != before {
            self.push(number);
        }
        // A page says for itself what holds at its beginning.
        let mut page_start = self.cursor.next_multiple_of(PAGE_BYTES);
        while page_start < until {
            self.cursor = page_start;
            self.pages.push(Page { first: u32::try_from(self.rows.len()).unwrap_or(u32::MAX), count: 0 });
            self.push(number);
            page_start += PAGE_BYTES;
        }
        self.cursor = until;
    }

    /// A row that begins at the cursor.
    fn push(&mut self, number: u16) {
        let low = u16::try_from(self.cursor & (PAGE_BYTES - 1)).unwrap_or(0);
        self.rows.push(row(low, number));
        if let Some(page) = self.pages.last_mut() {
            page.count += 1;
        }
    }

    fn number(&mut self, rule: Rule) -> u16 {
        if self.last.0 == rule {
            return self.last.1;
        }
        let number = match self.numbers.get(&rule) {
            Some(number) => *number,
            None => self.new_number(rule),
        };
        self.last = (rule, number);
        number
    }

    /// The last number is kept for [`Rule::UNSUPPORTED`].
    fn new_number(&mut self, rule: Rule) -> u16 {
        let room = if rule == Rule::UNSUPPORTED { MAX_RULES } else { MAX_RULES - 1 };
        match u16::try_from(self.rules.len()) {
            Ok(number) if self.rules.len() < room => {
                self.rules.push(rule);
                self.numbers.insert(rule, number);
                number
            }
            _ => {
                self.without_number += 1;
                self.number(Rule::UNSUPPORTED)
            }
        }
    }

    /// All of it.
    pub fn finish(self) -> Written {
        let Self { pages, rows, rules, without_number, .. } = self;
        Written { pages, rows, rules, without_number }
    }
}

#[cfg(test)]
mod tests {
    use leaktrace_common::unwind::Cfa;

    use super::*;

    fn sp(offset: i64) -> Rule {
        Rule::cfa_at(Cfa::SP, offset).expect("fits")
    }

    #[test]
    fn equal_neighbours_are_one_row_and_every_page_begins_with_the_rule_in_force() {
        let mut rows = Rows::new();
        rows.cover(0x10, Rule::NONE);
        rows.cover(0x20, sp(8));
        rows.cover(0x20, sp(16));
        rows.cover(0x18, sp(24));
        rows.cover(0x30, sp(8));
        rows.cover(0x2_8000, sp(16));
        rows.cover(0x3_0000, sp(8));
        rows.cover(0x4_0000, sp(8));
        let written = rows.finish();
        assert_eq!(written.rules, [Rule::NONE, sp(8), sp(16)]);
        assert_eq!(
            written.rows,
            [row(0, 0), row(0x10, 1), row(0x30, 2), row(0, 2), row(0, 2), row(0x8000, 1), row(0, 1)]
        );
        let page = |first, count| Page { first, count };
        assert_eq!(written.pages, [page(0, 3), page(3, 1), page(4, 2), page(6, 1)]);
    }

    #[test]
    fn rules_beyond_the_last_number_are_unsupported_and_counted() {
        let mut rows = Rows::new();
        for index in 0..70_000_u64 {
            rows.cover(index + 1, sp(i64::try_from(index).expect("small")));
        }
        let written = rows.finish();
        assert_eq!(written.rules.len(), MAX_RULES);
        assert_eq!(written.rules.last(), Some(&Rule::UNSUPPORTED));
        assert_eq!(written.without_number, 70_000 - (MAX_RULES as u64 - 2));
        assert_eq!(written.rows.last().map(|row| row & 0xffff), Some(0xffff));
    }
}
