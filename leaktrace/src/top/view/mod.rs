//! Draws the live view. From the top: who and how, sums, losses, processes, suspects, a line of messages, the keys. What does not fit
//! gives way, the least telling first; on a screen of five lines the suspects are still there.

mod columns;
mod header;
mod overlay;
mod processes;
mod suspects;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Position, Rect},
    style::Style,
    text::{Line, Span},
};

use super::{App, Theme, app::Focus};
use crate::report::{
    human::printable,
    model::{GroupBy, SortKey},
};

/// Most processes that are listed while the list of suspects has the focus, and while that of processes has it.
const PROCESSES: [usize; 2] = [5, 16];
/// Lines from which on processes are listed without having the focus.
const ROOM_FOR_PROCESSES: u16 = 14;
/// Lines from which on there are headings and keys.
const ROOM_FOR_HEADINGS: u16 = 9;

/// Draws everything; remembers what is in view.
pub fn draw(app: &mut App, theme: Theme, frame: &mut Frame<'_>) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let mut rest = Rows(area);
    header::draw(app, theme, buffer, &mut rest);
    let roomy = area.height >= ROOM_FOR_HEADINGS;
    let keys = rest.take_below(u16::from(roomy));
    let message = rest.take_below(u16::from(roomy || app.prompt.is_some() || app.notice.is_some()));
    let height = processes_height(app, area.height, rest.0.height);
    processes::draw(app, theme, buffer, rest.take(height));
    suspects::draw(app, theme, buffer, rest.0, roomy);
    draw_keys(app, theme, buffer, keys);
    let cursor = draw_message(app, theme, buffer, message);
    overlay::draw(app, theme, buffer, area);
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// What is left of the screen.
struct Rows(Rect);

impl Rows {
    /// Takes so many lines from above, or as many as there are.
    fn take(&mut self, lines: u16) -> Rect {
        let lines = lines.min(self.0.height);
        let taken = Rect { height: lines, ..self.0 };
        self.0 = Rect { y: self.0.y + lines, height: self.0.height - lines, ..self.0 };
        taken
    }

    /// The same from below.
    fn take_below(&mut self, lines: u16) -> Rect {
        let lines = lines.min(self.0.height);
        self.0.height -= lines;
        Rect { y: self.0.bottom(), height: lines, ..self.0 }
    }
}

/// Lines for the list of processes, its heading included.
fn processes_height(app: &App, screen: u16, left: u16) -> u16 {
    let focused = app.focus == Focus::Processes;
    let units = app.picture.as_ref().map_or(0, |picture| picture.units.len());
    if units < 2 && app.choice.only.is_none() || screen < ROOM_FOR_PROCESSES && !focused {
        return 0;
    }
    // One for all of them, and the heading.
    let wanted = units.min(PROCESSES[usize::from(focused)]) + 2;
    let most = if focused { left / 2 } else { left / 3 };
    u16::try_from(wanted).unwrap_or(most).min(most)
}

/// One line of text, cut at its end, styled throughout where nothing else is said.
fn put(buffer: &mut Buffer, area: Rect, line: &Line<'_>, style: Style) {
    if area.height == 0 {
        return;
    }
    buffer.set_style(Rect { height: 1, ..area }, style);
    buffer.set_line(area.x, area.y, &line.clone().patch_style(style), area.width);
}

/// The line that keys act on: reversed as one, whatever colours its parts have otherwise.
fn put_under_the_cursor(buffer: &mut Buffer, area: Rect, line: Line<'_>, theme: Theme) {
    let plain = line.spans.into_iter().map(|span| Span::raw(span.content));
    put(buffer, area, &Line::from_iter(plain), theme.cursor());
}

/// Two texts at the ends of a line; of the right one nothing is shown if both do not fit.
fn ends<'a>(left: Vec<Span<'a>>, right: Vec<Span<'a>>, width: u16) -> Line<'a> {
    let (left, right) = (Line::from(left), Line::from(right));
    let gap = usize::from(width).saturating_sub(left.width() + right.width());
    if gap == 0 {
        return left;
    }
    let spans = left.spans.into_iter().chain([Span::raw(" ".repeat(gap))]).chain(right.spans);
    Line::from_iter(spans)
}

/// `── title ─────`.
fn rule(title: Vec<Span<'_>>, theme: Theme, width: u16) -> Line<'_> {
    let mut spans = vec![Span::styled("─ ", theme.quiet())];
    spans.extend(title);
    spans.push(Span::raw(" "));
    let left = usize::from(width).saturating_sub(spans.iter().map(Span::width).sum());
    spans.push(Span::styled("─".repeat(left), theme.quiet()));
    Line::from(spans)
}

/// The message line: what is asked, else what was said last. Returns where the terminal's cursor is to be.
fn draw_message(app: &App, theme: Theme, buffer: &mut Buffer, area: Rect) -> Option<Position> {
    let Some(prompt) = &app.prompt else {
        let notice = app.notice.as_deref().unwrap_or_default();
        put(buffer, area, &Line::from(format!(" {notice}")), theme.heading());
        return None;
    };
    let question = format!(" {}", prompt.question());
    // The end is what is being typed: of a long text the beginning gives way.
    let room = usize::from(area.width).saturating_sub(question.chars().count() + 1);
    let text = printable(&prompt.text);
    let mut shown = text.as_str();
    while Span::raw(shown).width() > room && !shown.is_empty() {
        shown = shown.chars().next().map_or("", |first| shown.get(first.len_utf8()..).unwrap_or(""));
    }
    let line = Line::from(vec![Span::raw(question), Span::styled(shown.to_owned(), theme.heading())]);
    let end = u16::try_from(line.width()).unwrap_or(u16::MAX).min(area.width.saturating_sub(1));
    put(buffer, area, &line, Style::new());
    (area.height > 0).then_some(Position::new(area.x + end, area.y))
}

/// The most wanted keys, as many as fit.
fn draw_keys(app: &App, theme: Theme, buffer: &mut Buffer, area: Rect) {
    let pause = if app.paused { "go on" } else { "pause" };
    let keys = [
        ("q", "quit"),
        ("?", "help"),
        ("Enter", "stack"),
        ("w", "write"),
        ("Space", pause),
        ("/", "search"),
        ("b c g", "sort"),
        ("l f s", "group"),
        ("p", "processes"),
        ("m", "messages"),
        ("t", "truth"),
    ];
    let (mut spans, mut used) = (vec![Span::raw(" ")], 1);
    for (key, does) in keys {
        let width = key.len() + does.len() + 3;
        if used + width > usize::from(area.width) + 2 {
            break;
        }
        used += width;
        spans.push(Span::styled(key, theme.heading()));
        spans.push(Span::styled(format!(" {does}  "), theme.quiet()));
    }
    put(buffer, area, &Line::from(spans), Style::new());
}

fn grouping(by: GroupBy) -> &'static str {
    match by {
        GroupBy::Line => "line",
        GroupBy::Function => "function",
        GroupBy::Stack => "stack",
    }
}

fn order(sort: SortKey) -> &'static str {
    match sort {
        SortKey::Bytes => "bytes",
        SortKey::Count => "blocks",
        SortKey::Growth => "growth",
    }
}
