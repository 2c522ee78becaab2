//! The list of suspects, with the stacks of those that are open. Only what is in view is formatted.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Paragraph, Widget, Wrap},
};

use super::{
    Rows,
    columns::{Columns, Figures, short_count},
    grouping, order, put, put_under_the_cursor, rule,
};
use crate::{
    report::human::{count, cut_middle, printable},
    top::{App, Theme, app::Focus, lines::Place, picture::Picture},
};

/// How far stacks are set in.
const INDENT: usize = 4;

pub(super) fn draw(app: &mut App, theme: Theme, buffer: &mut Buffer, area: Rect, roomy: bool) {
    let mut rest = Rows(area);
    let columns = Columns::of(area.width);
    let Some(picture) = &app.picture else {
        return waiting(app, buffer, area);
    };
    if roomy {
        put(buffer, rest.take(1), &heading(app, picture, theme, area.width), Style::new());
    }
    if let Some(why) = &picture.empty {
        Paragraph::new(why.as_str()).wrap(Wrap { trim: true }).render(inset(rest.0), buffer);
        return;
    }
    if roomy {
        let mut spans = vec![Span::raw("  ")];
        spans.extend(columns.headings("blocks", order(app.choice.sort), theme));
        spans.push(Span::styled(grouping(app.choice.group_by), theme.quiet()));
        put(buffer, rest.take(1), &Line::from(spans), Style::new());
    }
    let height = usize::from(rest.0.height);
    app.suspects.fit(height, app.places.len());
    let top = app.suspects.top;
    for (at, place) in app.places.iter().enumerate().skip(top).take(height) {
        let chosen = at == app.suspects.cursor && app.focus == Focus::Suspects;
        let line = line(app, picture, *place, columns, theme, area.width);
        let (line, area) = (line.unwrap_or_default(), rest.take(1));
        match chosen {
            true => put_under_the_cursor(buffer, area, line, theme),
            false => put(buffer, area, &line, Style::new()),
        }
    }
}

fn waiting(app: &App, buffer: &mut Buffer, area: Rect) {
    let text = match &app.ended {
        None => format!("{}: probes are being placed, the first report follows", app.about.target),
        Some(why) => format!("tracing has ended before the first report: {why}"),
    };
    Paragraph::new(text).wrap(Wrap { trim: true }).render(inset(area), buffer);
}

fn inset(area: Rect) -> Rect {
    Rect { x: area.x + area.width.min(1), width: area.width.saturating_sub(2), ..area }
}

fn heading(app: &App, picture: &Picture, theme: Theme, width: u16) -> Line<'static> {
    let what = format!("{} suspects by {}", count(picture.rows.len() as u64), order(app.choice.sort));
    let mut title = vec![Span::styled(what, theme.heading())];
    if let Some(unit) = picture.units.iter().find(|unit| Some(&unit.key) == app.choice.only.as_ref()) {
        title.push(Span::raw(format!(" of {} {}", unit.number, unit.name)));
    }
    if !app.choice.search.is_empty() {
        title.push(Span::styled(format!(" with {:?}", printable(&app.choice.search)), theme.heading()));
    }
    rule(title, theme, width)
}

fn line(
    app: &App,
    picture: &Picture,
    place: Place,
    columns: Columns,
    theme: Theme,
    width: u16,
) -> Option<Line<'static>> {
    match place.part {
        None => row(app, picture, place.row, columns, theme, width),
        Some(part) => {
            let (_, lines) = picture.stacks.iter().find(|(row, _)| *row == place.row)?;
            let line = lines.get(part)?;
            let style = line.kind.map_or(theme.quiet(), |kind| theme.frame(kind));
            let room = usize::from(width).saturating_sub(INDENT);
            let text = cut_middle(&line.text, room).into_owned();
            Some(Line::from(vec![Span::raw(" ".repeat(INDENT)), Span::styled(text, style)]))
        }
    }
}

fn row(
    app: &App,
    picture: &Picture,
    at: usize,
    columns: Columns,
    theme: Theme,
    width: u16,
) -> Option<Line<'static>> {
    let row = picture.rows.get(at)?;
    let reading = app.shown.as_ref().map_or(0, |shown| shown.reading);
    let trend = app.history.sums(&row.sites, reading, columns.trend());
    let figures = Figures {
        survivors: row.survivors.bytes,
        change: row.change,
        count: short_count(row.survivors.blocks),
        growth: row.growth,
        trend: &trend,
    };
    let open = if app.open.contains(&row.key) { "▾ " } else { "▸ " };
    let mut spans = vec![Span::styled(open, theme.quiet())];
    spans.extend(columns.figures(&figures, theme));
    let used: usize = spans.iter().map(Span::width).sum();
    let name = cut_middle(&row.name, usize::from(width).saturating_sub(used)).into_owned();
    spans.push(Span::styled(name, theme.frame(row.kind)));
    Some(Line::from(spans))
}
