//! What covers the lists: the keys, what was said, what the report does not know.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Clear, Widget},
};

use super::put;
use crate::top::{App, Theme, app::Overlay, keys::HELP};

/// Widest.
const MAX_WIDTH: u16 = 110;

pub(super) fn draw(app: &mut App, theme: Theme, buffer: &mut Buffer, screen: Rect) {
    let Some(overlay) = app.overlay else { return };
    let width = screen.width.min(MAX_WIDTH);
    let room = usize::from(width.saturating_sub(4)).max(1);
    let (title, lines) = match overlay {
        Overlay::Help => (" keys ", help(theme, room)),
        Overlay::Messages => (" messages ", messages(app, room)),
        Overlay::Truth => (" what this picture does not know ", truth(app, room)),
    };
    let wanted = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    // Below the title bar, above the keys.
    let height = wanted.min(screen.height.saturating_sub(2)).max(3).min(screen.height);
    let area = Rect {
        x: screen.x + (screen.width - width) / 2,
        y: screen.y + (screen.height - height) / 2,
        width,
        height,
    };
    Clear.render(area, buffer);
    let block = Block::bordered().title(Span::styled(title, theme.heading()));
    let inner = block.inner(area);
    block.render(area, buffer);
    app.overlay_list.scroll(usize::from(inner.height), lines.len());
    let inner = Rect { x: inner.x + inner.width.min(1), width: inner.width.saturating_sub(2), ..inner };
    for (line, y) in lines.iter().skip(app.overlay_list.top).zip(inner.top()..inner.bottom()) {
        put(buffer, Rect { y, height: 1, ..inner }, line, ratatui::style::Style::new());
    }
}

fn help(theme: Theme, room: usize) -> Vec<Line<'static>> {
    let widest = HELP.iter().map(|(keys, _)| keys.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (keys, does) in HELP {
        let text = wrapped(does, room.saturating_sub(widest + 2).max(20));
        for (at, part) in text.into_iter().enumerate() {
            let keys = if at == 0 { *keys } else { "" };
            let pad = widest.saturating_sub(keys.chars().count()) + 2;
            lines.push(Line::from(vec![
                Span::styled(keys, theme.heading()),
                Span::raw(" ".repeat(pad)),
                Span::raw(part),
            ]));
        }
    }
    lines.push(Line::default());
    let legend = [
        ("Python code  ", theme.frame(crate::report::model::FrameKind::Python)),
        ("native code  ", theme.frame(crate::report::model::FrameKind::Native)),
        ("grows steadily", theme.growth()),
    ];
    lines.push(Line::from_iter(legend.map(|(text, style)| Span::styled(text, style))));
    let meaning = "survivors: blocks older than --min-age; change: since the last report; growth: a line fitted to the survivors; \
                   trend: the survivors of the last reports";
    lines.extend(wrapped(meaning, room).into_iter().map(Line::from));
    lines
}

fn messages(app: &App, room: usize) -> Vec<Line<'static>> {
    let dropped =
        (app.messages.dropped > 0).then(|| format!("... {} older ones are not kept", app.messages.dropped));
    let lines = dropped.iter().map(String::as_str).chain(app.messages.lines());
    let lines: Vec<Line<'static>> = lines.flat_map(|line| wrapped(line, room)).map(Line::from).collect();
    if lines.is_empty() { vec![Line::from("nothing was said so far")] } else { lines }
}

fn truth(app: &App, room: usize) -> Vec<Line<'static>> {
    let Some(shown) = &app.shown else { return vec![Line::from("there is no report yet")] };
    let said = shown.report.truth_line();
    let parts = said.split("; ").map(str::to_owned).chain(shown.report.truth.verbose_lines());
    parts.flat_map(|part| wrapped(&part, room)).map(Line::from).collect()
}

/// Lines of at most so many columns, broken between words where there are any.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let fits =
            |line: &str| line.is_empty() || Span::raw(line).width() + 1 + Span::raw(word).width() <= room;
        match lines.last_mut() {
            Some(line) if fits(line) => {
                let gap = if line.is_empty() { "" } else { " " };
                line.push_str(gap);
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
