//! The state of the live view: reports and keys go in, a picture comes out. Knows neither terminal nor time, and does nothing but
//! remember; what is to be done outside is handed back as an [`Action`].

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use super::{
    About,
    choice::Choice,
    history::History,
    lines::{Place, places},
    list::List,
    messages::Messages,
    picture::Picture,
    prompt::{Prompt, Purpose},
};
use crate::report::{
    human::printable,
    model::{ProcessReport, Reason, Report},
};

/// What the user asks for that is to be done outside.
#[derive(Clone, Debug)]
pub enum Action {
    /// End tracing, and leave.
    Quit,
    /// Write a report to a file, in the format that its name says.
    Save {
        /// What is shown.
        report: Arc<Report>,
        /// Where to.
        path: PathBuf,
        /// Whether a file that is there is replaced; if not, [`App::exists`] is to be told.
        replace: bool,
    },
}

/// Where keys go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    /// To the list of suspects.
    #[default]
    Suspects,
    /// To the list of processes.
    Processes,
}

/// What covers the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlay {
    /// The keys.
    Help,
    /// What was said.
    Messages,
    /// What the report does not know.
    Truth,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct App {
    pub(super) about: About,
    pub(super) choice: Choice,
    pub(super) history: History,
    /// The latest report, shown or not.
    latest: Option<Shown>,
    /// The report that is shown.
    pub(super) shown: Option<Shown>,
    /// Made of it.
    pub(super) picture: Option<Picture>,
    /// Lines of its list of suspects.
    pub(super) places: Vec<Place>,
    pub(super) paused: bool,
    pub(super) focus: Focus,
    pub(super) suspects: List,
    /// What the cursor follows: a row's key, and a line below it. `None`: it stays at the top, whatever is there.
    following: Option<(u64, Option<usize>)>,
    /// Its first entry is all of them.
    pub(super) processes: List,
    pub(super) open: BTreeSet<u64>,
    pub(super) overlay: Option<Overlay>,
    pub(super) overlay_list: List,
    pub(super) prompt: Option<Prompt>,
    pub(super) messages: Messages,
    /// The message line.
    pub(super) notice: Option<String>,
    /// Why no reports come any more.
    pub(super) ended: Option<String>,
}

/// A report, and where in the history it stands.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub report: Arc<Report>,
    pub reading: u64,
}

impl App {
    /// Before the first report.
    pub fn new(about: About) -> Self {
        Self {
            about,
            choice: Choice::default(),
            history: History::default(),
            latest: None,
            shown: None,
            picture: None,
            places: Vec::new(),
            paused: false,
            focus: Focus::default(),
            suspects: List::default(),
            following: None,
            processes: List::default(),
            open: BTreeSet::new(),
            overlay: None,
            overlay_list: List::default(),
            prompt: None,
            messages: Messages::default(),
            notice: None,
            ended: None,
        }
    }

    /// A report has come.
    pub fn update(&mut self, mut report: Report) {
        let reading = self.history.add(&report);
        report.merge = self.choice.merge;
        self.latest = Some(Shown { report: Arc::new(report), reading });
        if !self.paused {
            self.show_latest();
        }
    }

    /// The tracer has said something.
    pub fn said(&mut self, sentence: &str) {
        if let Some(sentence) = self.messages.add(sentence) {
            self.notice = Some(sentence);
        }
    }

    /// No report comes any more. The last picture stays.
    pub fn end(&mut self, why: &str) {
        let why = printable(match self.latest.as_ref().map(|latest| &latest.report.reason) {
            Some(Reason::Final(reason)) => reason,
            _ => why,
        });
        self.said(&format!("tracing has ended: {why}; the last picture stays (q leaves)"));
        self.ended = Some(why);
        self.paused = false;
        self.show_latest();
    }

    /// A file that was to be written is there already.
    pub fn exists(&mut self, path: &std::path::Path) {
        self.prompt = Some(Prompt::new(Purpose::Replace, path.to_string_lossy().into_owned()));
    }

    /// Whether any report has come.
    pub fn has_report(&self) -> bool {
        self.latest.is_some()
    }

    pub(super) fn show_latest(&mut self) {
        self.shown.clone_from(&self.latest);
        self.redo();
    }

    /// Makes the picture anew, and keeps the cursor on what it was on.
    pub(super) fn redo(&mut self) {
        let Some(shown) = &mut self.shown else { return };
        if shown.report.merge != self.choice.merge {
            Arc::make_mut(&mut shown.report).merge = self.choice.merge;
        }
        self.forget_what_is_gone();
        let Some(shown) = &self.shown else { return };
        let picture = Picture::of(&shown.report, &self.choice, &self.open);
        self.places = places(&picture.rows, &picture.stacks);
        if let Some(at) = self.place_to_follow(&picture) {
            self.suspects.cursor = at;
        }
        self.suspects.keep_within(self.places.len());
        let entries = picture.units.iter().map(|unit| &unit.key);
        let chosen = entries.zip(1..).find(|(key, _)| Some(*key) == self.choice.only.as_ref());
        self.processes.cursor = chosen.map_or(0, |(_, at)| at);
        if picture.units.len() < 2 && self.choice.only.is_none() {
            self.focus = Focus::Suspects;
        }
        self.picture = Some(picture);
    }

    /// A process that has ended and is listed no more cannot be the only one that is shown.
    fn forget_what_is_gone(&mut self) {
        let (Some(shown), Some(only)) = (&self.shown, &self.choice.only) else { return };
        if !shown.report.processes.iter().any(|process| only.holds(process)) {
            self.choice.only = None;
            self.notice = Some("that process has ended; all are shown".to_owned());
        }
    }

    /// Where the cursor belongs in this picture, if it follows something that is still there.
    fn place_to_follow(&self, picture: &Picture) -> Option<usize> {
        let (key, part) = self.following?;
        let row = picture.rows.iter().position(|row| row.key == key)?;
        let at = self.places.iter().position(|place| place.row == row)?;
        let below = self.places.iter().skip(at + 1).take_while(|place| place.row == row).count();
        Some(at + part.map_or(0, |part| part + 1).min(below))
    }

    /// The cursor was moved: from now on it follows what it is on.
    pub(super) fn follow(&mut self) {
        let place = self.place().filter(|_| self.suspects.cursor > 0);
        let rows = self.picture.as_ref().map(|picture| &picture.rows);
        self.following =
            place.zip(rows).and_then(|(place, rows)| Some((rows.get(place.row)?.key, place.part)));
    }
}

impl App {
    /// What the cursor is on.
    pub(super) fn place(&self) -> Option<Place> {
        self.places.get(self.suspects.cursor).copied()
    }

    /// What is shown, as a report of its own.
    pub(super) fn report_as_shown(&self) -> Option<Arc<Report>> {
        let report = &self.shown.as_ref()?.report;
        let mut copy =
            Report { sort: self.choice.sort, group_by: self.choice.group_by, ..Report::clone(report) };
        let chosen =
            |process: &ProcessReport| self.choice.only.as_ref().is_none_or(|only| only.holds(process));
        copy.processes.retain(chosen);
        Some(Arc::new(copy))
    }
}
