//! Puts the view and the trace together. Three threads: one draws, one reads keys, one listens to the process that traces and to
//! signals. A terminal that takes nothing (a connection that hangs) stops only the first; reports are dropped meanwhile, so that the
//! trace never waits for a screen.

use std::{
    path::PathBuf,
    process::ExitStatus,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use crossterm::event::KeyEvent;

use super::{
    About, Action, App, Theme, draw,
    terminal::{Keys, Screen},
    watcher::Watcher,
};
use crate::{
    cli::Failure,
    report::{OutputFormat, aside::say, human::printable, model::Report, write_file},
    session::SessionPlan,
};

/// Happenings that wait for the thread that draws.
const WAITING: usize = 256;

/// What the thread that draws is told.
#[derive(Debug)]
pub(super) enum Happening {
    /// A key was pressed.
    Key(KeyEvent),
    /// Text was pasted.
    Pasted(String),
    /// The screen has another size.
    Resized,
    /// A report has come.
    Report(Box<Report>),
    /// The process that traces has said something.
    Said(String),
    /// It has ended.
    Ended(Ending),
    /// A file that was to be written is there already.
    Exists(PathBuf),
    /// The terminal is gone, or a signal asks for the end.
    Stop,
}

/// How the process that traces has ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// With this status.
    Status(ExitStatus),
    /// It was not started, or lost, for this reason.
    Error(String),
}

impl Ending {
    fn is_good(&self) -> bool {
        matches!(self, Self::Status(status) if status.success())
    }

    fn words(&self) -> String {
        match self {
            Self::Status(status) if status.success() => "nothing more to trace".to_owned(),
            Self::Status(status) => format!("the process that traces ended with {status}"),
            Self::Error(error) => error.clone(),
        }
    }

    /// As a failure of this command, with what the tracer said last.
    fn failure(&self, said: Option<String>) -> Failure {
        let text = said.unwrap_or_else(|| self.words());
        match self {
            Self::Status(status) => match status.code() {
                Some(2) => Failure::Usage(text),
                Some(3) => Failure::Unsupported(text),
                Some(4) => Failure::NoTarget(text),
                _ => Failure::Failed(text),
            },
            Self::Error(_) => Failure::Failed(text),
        }
    }
}

/// Shows a trace until the user has seen enough.
///
/// # Errors
/// If the terminal cannot be used, or the trace failed: then with its reason and its exit code.
pub fn run(plan: &SessionPlan) -> Result<(), Failure> {
    let (tell, happenings) = sync_channel(WAITING);
    let watcher = Watcher::start(plan.clone(), tell.clone())?;
    let mut view = View::new(App::new(About::of(plan)), tell);
    let shown = view.show(&happenings);
    // The thread that draws is here: what is told from now on is not looked at.
    drop(happenings);
    watcher.end();
    shown?;
    view.failure().map_or(Ok(()), Err)
}

/// The view, on its thread.
struct View {
    app: App,
    theme: Theme,
    tell: SyncSender<Happening>,
    leaving: bool,
    ending: Option<Ending>,
    /// What was said before the first report: if none comes, that is all there is to show.
    said: Vec<String>,
}

impl View {
    fn new(app: App, tell: SyncSender<Happening>) -> Self {
        Self { app, theme: Theme::from_environment(), tell, leaving: false, ending: None, said: Vec::new() }
    }

    fn show(&mut self, happenings: &Receiver<Happening>) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::Failed(format!("the terminal cannot be used: {error}"));
        let mut screen = Screen::enter().map_err(failed)?;
        let _keys = Keys::read(self.tell.clone()).map_err(failed)?;
        while !self.leaving {
            // A terminal that is gone is the end, not an error.
            if screen.draw(|frame| draw(&mut self.app, self.theme, frame)).is_err() {
                return Ok(());
            }
            let Ok(first) = happenings.recv() else { return Ok(()) };
            let more = happenings.try_iter().take(WAITING);
            std::iter::once(first).chain(more).for_each(|happening| self.take(happening));
        }
        Ok(())
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Key(key) => {
                let action = self.app.key(key);
                self.act(action);
            }
            Happening::Pasted(text) => self.app.paste(&text),
            Happening::Resized => {}
            Happening::Report(report) => self.app.update(*report),
            Happening::Said(sentence) => self.hear(&sentence),
            Happening::Ended(ending) => self.end(ending),
            Happening::Exists(path) => self.app.exists(&path),
            Happening::Stop => self.leaving = true,
        }
    }

    fn hear(&mut self, sentence: &str) {
        if !self.app.has_report() && self.said.len() < WAITING {
            self.said.push(sentence.strip_prefix("leaktrace: ").unwrap_or(sentence).to_owned());
        }
        self.app.said(sentence);
    }

    fn end(&mut self, ending: Ending) {
        self.leaving |= !self.app.has_report();
        self.app.end(&ending.words());
        self.ending = Some(ending);
    }

    fn act(&mut self, action: Option<Action>) {
        match action {
            None => {}
            Some(Action::Quit) => self.leaving = true,
            Some(Action::Save { report, path, replace }) => self.save(report, path, replace),
        }
    }

    /// Writes a file, which may take a while: the picture goes on.
    fn save(&mut self, report: Arc<Report>, path: PathBuf, replace: bool) {
        let tell = self.tell.clone();
        let writing = move || {
            let _ = tell.send(write(&report, path, replace));
        };
        if let Err(error) = thread::Builder::new().name("write".into()).spawn(writing) {
            self.app.said(&format!("could not start writing: {error}"));
        }
    }

    /// Why the command has failed, if it has. Sentences before the last one are said beside it.
    fn failure(&mut self) -> Option<Failure> {
        let ending = self.ending.as_ref().filter(|ending| !ending.is_good())?;
        let last = self.said.pop().filter(|_| !self.app.has_report());
        if last.is_some() {
            self.said.iter().for_each(say);
        }
        Some(ending.failure(last))
    }
}

/// Writes a report to a file, and says what came of it.
fn write(report: &Report, path: PathBuf, replace: bool) -> Happening {
    if !replace && path.symlink_metadata().is_ok() {
        return Happening::Exists(path);
    }
    let written = OutputFormat::from_path(&path).and_then(|format| write_file(report, &path, format));
    Happening::Said(match written {
        Ok(()) => format!("{} is written", printable(&path.to_string_lossy())),
        Err(error) => error.to_string(),
    })
}
