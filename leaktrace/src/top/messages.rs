//! What the process that traces says to people, and what came of what the user asked for. Pure.

use std::collections::VecDeque;

use crate::report::human::printable;

/// Kept; older ones go.
const MAX_MESSAGES: usize = 500;
/// What each of the tracer's own sentences begins with on a terminal.
const PREFIX: &str = "leaktrace: ";

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages {
    all: VecDeque<String>,
    /// Those that were dropped for want of room.
    pub dropped: u64,
}

impl Messages {
    /// Adds a sentence; returns it as it is shown.
    pub(super) fn add(&mut self, sentence: &str) -> Option<String> {
        let sentence = printable(sentence.strip_prefix(PREFIX).unwrap_or(sentence).trim_end());
        if sentence.is_empty() {
            return None;
        }
        if self.all.len() >= MAX_MESSAGES {
            self.all.pop_front();
            self.dropped += 1;
        }
        self.all.push_back(sentence.clone());
        Some(sentence)
    }

    /// All that are kept, the oldest first.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.all.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_text_without_their_prefix_and_bounded() {
        let mut messages = Messages::default();
        assert_eq!(messages.add("leaktrace: a\u{1b}[2Jb").as_deref(), Some("a\u{fffd}[2Jb"));
        assert_eq!(messages.add("leaktrace: "), None);
        (0..MAX_MESSAGES).for_each(|number| drop(messages.add(&number.to_string())));
        assert_eq!((messages.lines().count(), messages.dropped), (MAX_MESSAGES, 1));
    }
}
