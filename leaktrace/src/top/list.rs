//! A list that is longer than the screen: where the cursor is, and what is in view. Pure.

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    /// Place of the cursor.
    pub cursor: usize,
    /// First line in view.
    pub top: usize,
    /// Lines in view when it was last drawn.
    page: usize,
}

/// How far the cursor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To the line before.
    Up,
    /// To the next line.
    Down,
    /// A screen back.
    PageUp,
    /// A screen on.
    PageDown,
    /// To the first line.
    First,
    /// To the last line.
    Last,
}

impl List {
    /// Moves within so many lines.
    pub(super) fn step(&mut self, step: Step, lines: usize) {
        let page = self.page.saturating_sub(1).max(1);
        self.cursor = match step {
            Step::Up => self.cursor.saturating_sub(1),
            Step::Down => self.cursor.saturating_add(1),
            Step::PageUp => self.cursor.saturating_sub(page),
            Step::PageDown => self.cursor.saturating_add(page),
            Step::First => 0,
            Step::Last => usize::MAX,
        };
        self.keep_within(lines);
    }

    /// The list has so many lines now.
    pub(super) fn keep_within(&mut self, lines: usize) {
        self.cursor = self.cursor.min(lines.saturating_sub(1));
    }

    /// So many of its lines are drawn: the cursor is one of them, and no line stays empty while there are more.
    pub(super) fn fit(&mut self, height: usize, lines: usize) {
        self.page = height;
        self.keep_within(lines);
        let least = (self.cursor + 1).saturating_sub(height);
        self.top = self.top.clamp(least, self.cursor.max(least)).min(lines.saturating_sub(height));
    }

    /// The same for text without a cursor: it stands for the first line in view.
    pub(super) fn scroll(&mut self, height: usize, lines: usize) {
        self.page = height;
        self.cursor = self.cursor.min(lines.saturating_sub(height));
        self.top = self.cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_stays_in_the_list_and_in_view() {
        let mut list = List::default();
        list.fit(3, 10);
        list.step(Step::Up, 10);
        assert_eq!((list.cursor, list.top), (0, 0));
        (0..4).for_each(|_| list.step(Step::Down, 10));
        list.fit(3, 10);
        assert_eq!((list.cursor, list.top), (4, 2));
        list.step(Step::Up, 10);
        list.fit(3, 10);
        assert_eq!((list.cursor, list.top), (3, 2), "what is in view stays where it is");
        list.step(Step::Last, 10);
        list.fit(3, 10);
        assert_eq!((list.cursor, list.top), (9, 7));
        list.step(Step::PageUp, 10);
        assert_eq!(list.cursor, 7);
        list.fit(3, 2);
        assert_eq!((list.cursor, list.top), (1, 0), "the list has become shorter");
    }

    #[test]
    fn text_is_scrolled_to_its_last_line_and_no_further() {
        let mut list = List { cursor: usize::MAX, ..List::default() };
        list.scroll(4, 10);
        assert_eq!(list.top, 6);
        list.step(Step::Up, usize::MAX);
        list.scroll(4, 10);
        assert_eq!(list.top, 5);
    }

    #[test]
    fn no_room_and_no_lines_are_no_error() {
        let mut list = List::default();
        list.fit(0, 0);
        list.step(Step::Last, 0);
        list.fit(0, 5);
        assert_eq!(list.cursor, 0);
    }
}
