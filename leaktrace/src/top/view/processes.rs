//! The list of processes, or of containers. Its first entry is all of them.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    Rows,
    columns::{Columns, Figures},
    put, put_under_the_cursor, rule,
};
use crate::{
    report::{
        human::{bytes, count, plural},
        model::MergeBy,
    },
    top::{App, Theme, app::Focus, row::UnitRow},
};

pub(super) fn draw(app: &mut App, theme: Theme, buffer: &mut Buffer, area: Rect) {
    let Some(picture) = app.picture.as_ref().filter(|_| area.height > 1) else { return };
    let mut rest = Rows(area);
    let columns = Columns::of(area.width);
    put(buffer, rest.take(1), &heading(app, theme, columns, area.width), Style::new());
    let lines = picture.units.len() + 1;
    let height = usize::from(rest.0.height);
    app.processes.fit(height, lines);
    let reading = app.shown.as_ref().map_or(0, |shown| shown.reading);
    for at in app.processes.top..lines.min(app.processes.top + height) {
        let chosen = at == app.processes.cursor;
        let line = match at.checked_sub(1).and_then(|at| picture.units.get(at)) {
            None => Line::from(format!("{} all together", mark(chosen))),
            Some(unit) => {
                let trend = app.history.sums(&unit.processes, reading, columns.trend());
                entry(unit, chosen, &trend, columns, theme)
            }
        };
        let area = rest.take(1);
        match (chosen, app.focus) {
            (true, Focus::Processes) => put_under_the_cursor(buffer, area, line, theme),
            (true, Focus::Suspects) => put(buffer, area, &line, theme.heading()),
            _ => put(buffer, area, &line, Style::new()),
        }
    }
}

fn mark(chosen: bool) -> &'static str {
    if chosen { "›" } else { " " }
}

fn heading(app: &App, theme: Theme, columns: Columns, width: u16) -> Line<'static> {
    let picture = app.picture.as_ref();
    let units = picture.map_or(0, |picture| picture.units.len());
    let what = match app.choice.merge {
        MergeBy::Process => plural(units as u64, "process"),
        MergeBy::Container | MergeBy::All => format!("{} containers and processes", count(units as u64)),
    };
    let gone = picture.map_or(0, |picture| picture.ended_before);
    let gone = if gone > 0 { format!(", {} ended before", count(gone)) } else { String::new() };
    let title = format!("{what}{gone}");
    if width < 80 {
        return rule(vec![Span::styled(title, theme.heading())], theme, width);
    }
    let mut spans = vec![Span::raw(" ")];
    spans.extend(columns.headings("RSS", "", theme));
    spans.push(Span::styled(title, theme.heading()));
    Line::from(spans)
}

fn entry(unit: &UnitRow, chosen: bool, trend: &[u64], columns: Columns, theme: Theme) -> Line<'static> {
    let figures = Figures {
        survivors: unit.survivors.bytes,
        change: unit.change,
        count: unit.rss_bytes.map_or("?".to_owned(), bytes),
        growth: unit.growth,
        trend,
    };
    let mut spans = vec![Span::raw(mark(chosen))];
    spans.extend(columns.figures(&figures, theme));
    spans.push(Span::raw(format!("{} ", unit.number)));
    let style = if unit.ended { theme.quiet() } else { Style::new() };
    spans.push(Span::styled(unit.name.clone(), style));
    Line::from(spans)
}
