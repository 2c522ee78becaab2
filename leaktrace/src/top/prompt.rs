//! One line of text that the user types. Pure.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Longest text, characters.
const MAX_TEXT: usize = 1024;

/// What the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Only sites with this in their stacks.
    Search,
    /// The name of a file.
    Save,
    /// Whether the file of this name is to be replaced.
    Replace,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// What for.
    pub purpose: Purpose,
    /// What was typed so far.
    pub text: String,
}

/// What became of it after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on.
    Typing,
    /// Enter: it is meant.
    Done,
    /// Escape: it is not.
    Given,
}

impl Prompt {
    pub(super) fn new(purpose: Purpose, text: String) -> Self {
        Self { purpose, text }
    }

    /// What is asked.
    pub(super) fn question(&self) -> &'static str {
        match self.purpose {
            Purpose::Search => "show stacks with: ",
            Purpose::Save => "write to (.svg .folded .pb.gz .json .txt): ",
            Purpose::Replace => "this file exists; Enter replaces it, Esc does not: ",
        }
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Progress {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return Progress::Done,
            KeyCode::Esc => return Progress::Given,
            KeyCode::Char('c' | 'g') if control => return Progress::Given,
            _ if self.purpose == Purpose::Replace => {}
            KeyCode::Char('u') if control => self.text.clear(),
            KeyCode::Char('w') if control => self.delete_word(),
            KeyCode::Char('h') if control => drop(self.text.pop()),
            KeyCode::Backspace => drop(self.text.pop()),
            KeyCode::Char(c) if !control => self.type_in(c),
            _ => {}
        }
        Progress::Typing
    }

    /// Adds text that was pasted.
    pub(super) fn paste(&mut self, text: &str) {
        if self.purpose != Purpose::Replace {
            text.chars().for_each(|c| self.type_in(c));
        }
    }

    fn type_in(&mut self, c: char) {
        if !c.is_control() && self.text.chars().count() < MAX_TEXT {
            self.text.push(c);
        }
    }

    fn delete_word(&mut self) {
        let ends_word = |c: char| c == ' ' || c == '/';
        let kept = self.text.trim_end_matches(ends_word);
        let begin = kept.rfind(ends_word).map_or(0, |at| at + 1);
        self.text.truncate(begin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_typed_and_taken_back() {
        let mut prompt = Prompt::new(Purpose::Save, "a/leak".into());
        let mut press = |code, modifiers| prompt.key(KeyEvent::new(code, modifiers));
        press(KeyCode::Char('w'), KeyModifiers::CONTROL);
        press(KeyCode::Char('ü'), KeyModifiers::NONE);
        press(KeyCode::Char('x'), KeyModifiers::NONE);
        press(KeyCode::Backspace, KeyModifiers::NONE);
        assert_eq!(press(KeyCode::Enter, KeyModifiers::NONE), Progress::Done);
        assert_eq!(prompt.text, "a/ü");
        prompt.paste("\u{1b}[b\n");
        assert_eq!(prompt.text, "a/ü[b");
    }

    #[test]
    fn a_question_takes_no_text() {
        let mut prompt = Prompt::new(Purpose::Replace, "a".into());
        assert_eq!(prompt.key(KeyEvent::from(KeyCode::Char('y'))), Progress::Typing);
        assert_eq!(prompt.key(KeyEvent::from(KeyCode::Esc)), Progress::Given);
        assert_eq!(prompt.text, "a");
    }
}
