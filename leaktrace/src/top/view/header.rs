//! The upper lines: who is traced and how, sums, and whether anything was lost.

use ratatui::{
    buffer::Buffer,
    style::{Modifier, Style},
    text::{Line, Span},
};

use super::{Rows, ends, put};
use crate::{
    report::{
        human::{duration, signed_bytes},
        model::Detail,
        wording::{amount, growth},
    },
    top::{App, Theme, picture::Picture, spark},
};

/// Widest row of bars.
const MAX_BARS: usize = 48;
/// Lines that warnings may take.
const MAX_WARNINGS: usize = 2;

pub(super) fn draw(app: &App, theme: Theme, buffer: &mut Buffer, rest: &mut Rows) {
    let (width, height) = (rest.0.width, rest.0.height);
    let area = rest.take(1);
    put(buffer, area, &title(app, width), theme.title());
    let Some(picture) = &app.picture else { return };
    put(buffer, rest.take(1), &survivors(app, picture, theme, width), Style::new());
    if height >= 7 {
        put(buffer, rest.take(1), &memory(picture, theme, width), Style::new());
    }
    let warnings = if height >= 12 { MAX_WARNINGS } else { usize::from(height >= 5) };
    for warning in picture.warnings.iter().take(warnings) {
        put(buffer, rest.take(1), &Line::from(format!(" {warning}")), theme.alarm());
    }
}

fn title(app: &App, width: u16) -> Line<'static> {
    let about = &app.about;
    let who =
        app.picture.as_ref().map(|picture| picture.scope.title.clone()).filter(|title| !title.is_empty());
    let mut left =
        vec![Span::raw(format!(" leaktrace top  {}", who.unwrap_or_else(|| about.target.clone())))];
    let state = match (&app.ended, app.paused) {
        (Some(_), _) => Some(" ENDED "),
        (None, true) => Some(" PAUSED "),
        (None, false) => None,
    };
    if let Some(state) = state {
        left.push(Span::raw("  "));
        // Upright on the reversed bar.
        left.push(Span::styled(state, Style::new().remove_modifier(Modifier::REVERSED)));
    }
    let detail = match about.detail {
        Detail::Exact => "exact",
        Detail::Light => "light",
    };
    let since = app
        .picture
        .as_ref()
        .map_or(String::new(), |picture| format!(", traced for {}", duration(picture.elapsed_s)));
    let every = duration(about.interval.as_secs_f64());
    let right = vec![Span::raw(format!("  {detail}, every {every}{since} "))];
    ends(left, right, width)
}

fn survivors(app: &App, picture: &Picture, theme: Theme, width: u16) -> Line<'static> {
    let scope = &picture.scope;
    let mut left = vec![
        Span::styled(" survivors ", theme.quiet()),
        Span::styled(amount(scope.survivors), theme.heading()),
        Span::raw(format!("  {}", signed_bytes(scope.change.bytes))),
    ];
    let growing = scope.growth.is_some_and(|growth| growth.bytes_per_hour >= 1.0 && growth.steady_s > 0.0);
    let style = if growing { theme.growth() } else { Style::new() };
    if !scope.survivors.is_zero() {
        left.push(Span::styled(format!("  {}", growth(scope.growth)), style));
    }
    let used: usize = left.iter().map(Span::width).sum();
    let bars = usize::from(width).saturating_sub(used + 3).min(MAX_BARS);
    let reading = app.shown.as_ref().map_or(0, |shown| shown.reading);
    let values = match &scope.processes {
        Some(processes) => app.history.sums(processes, reading, bars),
        None => app.history.totals(reading, bars),
    };
    let right = vec![Span::styled(spark::line(&values, bars), theme.bars()), Span::raw(" ")];
    ends(left, right, width)
}

fn memory(picture: &Picture, theme: Theme, width: u16) -> Line<'static> {
    let scope = &picture.scope;
    let left = vec![
        Span::styled(" live ", theme.quiet()),
        Span::raw(amount(scope.live)),
        Span::raw(format!("  {}", scope.resident)),
    ];
    let right = if picture.warnings.is_empty() {
        vec![Span::styled("nothing lost ", theme.good())]
    } else {
        Vec::new()
    };
    ends(left, right, width)
}
