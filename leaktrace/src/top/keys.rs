//! What each key does. Pure.

use std::path::{Path, PathBuf};

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    Action, App,
    app::{Focus, Overlay},
    list::Step,
    prompt::{Progress, Prompt, Purpose},
};
use crate::report::{
    OutputFormat,
    human::{self, plural},
    merge::Bond,
    model::{GroupBy, MergeBy, Report, SortKey},
};

/// The keys, for the user. The first column is what to press.
pub(super) const HELP: &[(&str, &str)] = &[
    ("↑ ↓ PgUp PgDn Home End", "move (also j and k); the cursor follows its line, unless it is the first"),
    ("Enter →", "show the stack below a suspect; ← hides it, v adds frames that say little"),
    ("b c g", "sort by survivors' bytes, by count of blocks, by growth"),
    ("l f s", "one suspect per line, per function, per whole stack"),
    ("p Tab", "to the list of processes and back: ↑ ↓ there choose whose suspects are shown"),
    ("o", "processes one by one, or containers"),
    ("/", "show only stacks in which a name or path has this text"),
    ("Space", "pause: the picture stands still, tracing goes on"),
    ("w", "write what is shown: flamegraph (.svg), .folded, .pb.gz (pprof), .json, .txt"),
    ("m t", "what the tracer said; what this picture does not know"),
    ("q Ctrl-C", "end tracing and leave; Esc closes what is open first"),
];

/// Longest name of a program in the name of a file.
const MAX_STEM: usize = 40;

impl App {
    /// Takes a key. What is to be done outside is returned.
    pub fn key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if let Some(prompt) = self.prompt.take() {
            return self.key_in_prompt(prompt, key);
        }
        self.notice = None;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, step(key.code)) {
            (KeyCode::Char('c'), _) if control => return Some(Action::Quit),
            (KeyCode::Esc, _) => return self.close(),
            (_, Some(step)) => self.go(step),
            _ if control => {}
            (KeyCode::Char('q'), _) if self.overlay.is_none() => return Some(Action::Quit),
            (KeyCode::Char('q'), _) => self.overlay = None,
            (code, _) => self.key_of_the_view(code),
        }
        None
    }

    /// Text that was pasted goes where text is typed.
    pub fn paste(&mut self, text: &str) {
        if let Some(prompt) = &mut self.prompt {
            prompt.paste(text);
        }
    }

    fn key_of_the_view(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.toggle(Overlay::Help),
            KeyCode::Char('m') => self.toggle(Overlay::Messages),
            KeyCode::Char('t') => self.toggle(Overlay::Truth),
            KeyCode::Char(' ') => self.pause(),
            KeyCode::Char('b') => self.sort(SortKey::Bytes),
            KeyCode::Char('c') => self.sort(SortKey::Count),
            KeyCode::Char('g') => self.sort(SortKey::Growth),
            KeyCode::Char('l') => self.group(GroupBy::Line),
            KeyCode::Char('f') => self.group(GroupBy::Function),
            KeyCode::Char('s') => self.group(GroupBy::Stack),
            KeyCode::Char('v') => self.toggle_plumbing(),
            KeyCode::Char('p') | KeyCode::Tab | KeyCode::BackTab => self.change_focus(),
            KeyCode::Char('o') => self.change_merge(),
            KeyCode::Char('/') => {
                self.prompt = Some(Prompt::new(Purpose::Search, self.choice.search.clone()));
            }
            KeyCode::Char('w') => self.ask_for_a_file(),
            KeyCode::Enter if self.focus == Focus::Processes => self.focus = Focus::Suspects,
            KeyCode::Enter => self.open_or_close(None),
            KeyCode::Right => self.open_or_close(Some(true)),
            KeyCode::Left => self.open_or_close(Some(false)),
            _ => {}
        }
    }

    /// Escape: closes what was opened last; with nothing open, leaves.
    fn close(&mut self) -> Option<Action> {
        if self.overlay.take().is_some() {
            return None;
        }
        if self.focus == Focus::Processes {
            self.focus = Focus::Suspects;
            return None;
        }
        if self.choice.search.is_empty() {
            return Some(Action::Quit);
        }
        self.choice.search.clear();
        self.redo();
        None
    }

    fn go(&mut self, step: Step) {
        if self.overlay.is_some() {
            // How many lines there are is known once they are wrapped: drawing brings this back within them.
            return self.overlay_list.step(step, usize::MAX);
        }
        match self.focus {
            Focus::Suspects => {
                self.suspects.step(step, self.places.len());
                self.follow();
            }
            Focus::Processes => self.choose_process(step),
        }
    }

    fn toggle(&mut self, overlay: Overlay) {
        let open = self.overlay != Some(overlay);
        self.overlay = open.then_some(overlay);
        self.overlay_list = super::list::List::default();
        if overlay == Overlay::Messages {
            // The latest are what one wants to see.
            self.overlay_list.cursor = usize::MAX;
        }
    }

    fn pause(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.paused = !self.paused;
        if !self.paused {
            self.show_latest();
        }
    }

    fn sort(&mut self, sort: SortKey) {
        self.choice.sort = sort;
        self.redo();
    }

    fn group(&mut self, group_by: GroupBy) {
        if self.choice.group_by != group_by {
            self.choice.group_by = group_by;
            self.open.clear();
            self.redo();
        }
    }

    fn toggle_plumbing(&mut self) {
        self.choice.plumbing = !self.choice.plumbing;
        self.redo();
    }

    fn change_focus(&mut self) {
        let units = self.picture.as_ref().map_or(0, |picture| picture.units.len());
        self.focus = match self.focus {
            Focus::Processes => Focus::Suspects,
            Focus::Suspects if units > 1 || self.choice.only.is_some() => Focus::Processes,
            Focus::Suspects => {
                self.notice = Some("there is only one process".to_owned());
                Focus::Suspects
            }
        };
    }

    /// The first entry of the list stands for all of them.
    fn choose_process(&mut self, step: Step) {
        let Some(picture) = &self.picture else { return };
        self.processes.step(step, picture.units.len() + 1);
        let chosen = self.processes.cursor.checked_sub(1).and_then(|at| picture.units.get(at));
        self.choice.only = chosen.map(|unit| unit.key.clone());
        self.redo();
    }

    fn change_merge(&mut self) {
        let one_by_one = self.choice.merge == MergeBy::Process;
        self.choice.merge = if one_by_one { MergeBy::Container } else { MergeBy::Process };
        self.choice.only = None;
        self.redo();
        let containers = |report: &Report| report.processes.iter().any(|process| process.container.is_some());
        if one_by_one && !self.shown.as_ref().is_some_and(|shown| containers(&shown.report)) {
            self.notice = Some("none of the processes is in a container".to_owned());
        }
    }

    fn open_or_close(&mut self, open: Option<bool>) {
        if self.overlay.is_some() || self.focus == Focus::Processes {
            return;
        }
        let (Some(place), Some(picture)) = (self.place(), &self.picture) else { return };
        let Some(key) = picture.rows.get(place.row).map(|row| row.key) else { return };
        let is_open = self.open.contains(&key);
        match open.unwrap_or(!is_open) {
            true => drop(self.open.insert(key)),
            false => drop(self.open.remove(&key)),
        }
        self.suspects.cursor = self.suspects.cursor.saturating_sub(place.part.map_or(0, |part| part + 1));
        if is_open != self.open.contains(&key) {
            self.follow();
            self.redo();
        }
    }

    fn ask_for_a_file(&mut self) {
        match &self.picture {
            Some(_) => self.prompt = Some(Prompt::new(Purpose::Save, self.file_name())),
            None => self.notice = Some("there is nothing to write yet".to_owned()),
        }
    }

    /// `leaktrace-python3-20260501T120000Z.svg`.
    fn file_name(&self) -> String {
        let report = self.report_as_shown().unwrap_or_default();
        let unit =
            crate::report::merge::Unit { bond: Bond::All, processes: report.processes.iter().collect() };
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '-' };
        let name: String = unit.name().chars().map(plain).take(MAX_STEM).collect();
        let time: String =
            human::moment(report.at_unix_s).chars().filter(|c| !matches!(c, '-' | ':')).collect();
        format!("leaktrace-{}-{time}.svg", name.trim_matches(['.', '-']))
    }

    fn key_in_prompt(&mut self, mut prompt: Prompt, key: KeyEvent) -> Option<Action> {
        match prompt.key(key) {
            Progress::Typing => self.prompt = Some(prompt),
            Progress::Given if prompt.purpose == Purpose::Search => self.search(String::new()),
            Progress::Given => self.notice = Some("nothing was written".to_owned()),
            Progress::Done => match prompt.purpose {
                Purpose::Search => self.search(prompt.text),
                Purpose::Save => return self.save(prompt.text.trim(), false),
                Purpose::Replace => return self.save(&prompt.text, true),
            },
        }
        None
    }

    fn search(&mut self, text: String) {
        self.choice.search = text;
        self.redo();
        if let Some(rows) =
            self.picture.as_ref().map(|picture| picture.rows.len()).filter(|_| !self.choice.search.is_empty())
        {
            self.notice = Some(format!("{} found; Esc shows all", plural(rows as u64, "suspect")));
        }
    }

    fn save(&mut self, name: &str, replace: bool) -> Option<Action> {
        if name.is_empty() {
            self.notice = Some("nothing was written: the file needs a name".to_owned());
            return None;
        }
        if let Err(error) = OutputFormat::from_path(Path::new(name)) {
            self.said(&error.to_string());
            self.prompt = Some(Prompt::new(Purpose::Save, name.to_owned()));
            return None;
        }
        self.notice = Some(format!("writing {name} ..."));
        Some(Action::Save { report: self.report_as_shown()?, path: PathBuf::from(name), replace })
    }
}

fn step(code: KeyCode) -> Option<Step> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => Step::Up,
        KeyCode::Down | KeyCode::Char('j') => Step::Down,
        KeyCode::PageUp => Step::PageUp,
        KeyCode::PageDown => Step::PageDown,
        KeyCode::Home => Step::First,
        KeyCode::End => Step::Last,
        _ => return None,
    })
}
