//! Columns of figures that both lists have: which there are depends on the width of the screen.

use ratatui::{style::Style, text::Span};

use crate::{
    report::{
        human::{bytes, count, rate, signed_bytes},
        model::{Change, Growth},
    },
    top::{Theme, spark},
};

/// Less than a byte an hour is the noise of a fit through a flat line.
const NOISE: f64 = 1.0;

/// Which columns there are; the widths of those without one are fixed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    change: bool,
    count: bool,
    growth: bool,
    /// Width of the bars.
    trend: usize,
}

/// What stands in them.
pub(super) struct Figures<'a> {
    /// Survivors, bytes.
    pub survivors: u64,
    /// Their change.
    pub change: Change,
    /// What else is counted: blocks, or resident bytes, as text.
    pub count: String,
    /// Their growth.
    pub growth: Option<Growth>,
    /// Their history.
    pub trend: &'a [u64],
}

impl Columns {
    /// Those for a screen so wide.
    pub(super) fn of(width: u16) -> Self {
        let trend = match width {
            0..60 => 0,
            60..100 => 8,
            100..140 => 12,
            _ => 20,
        };
        Self { change: width >= 80, count: width >= 80, growth: width >= 40, trend }
    }

    /// Values that the bars have room for.
    pub(super) fn trend(self) -> usize {
        self.trend
    }

    /// The headings. `count`: what the column of counts is called; `sorted`: which of them is in order.
    pub(super) fn headings(self, count: &'static str, sorted: &str, theme: Theme) -> Vec<Span<'static>> {
        let style = |heading: &str| {
            if heading == sorted { theme.heading() } else { theme.quiet() }
        };
        let mut spans = vec![Span::styled(format!("{:>10}", "survivors"), style("bytes"))];
        if self.change {
            spans.push(Span::styled(format!(" {:>11}", "change"), style("change")));
        }
        if self.count {
            spans.push(Span::styled(format!(" {count:>10}"), style(count)));
        }
        if self.growth {
            spans.push(Span::styled(format!(" {:>10}", "growth/h"), style("growth")));
        }
        if self.trend > 0 {
            spans.push(Span::styled(format!(" {:^1$}", "trend", self.trend), theme.quiet()));
        }
        spans.push(Span::raw("  "));
        spans
    }

    /// A line of figures.
    pub(super) fn figures(self, figures: &Figures<'_>, theme: Theme) -> Vec<Span<'static>> {
        let mut spans = vec![Span::raw(format!("{:>10}", bytes(figures.survivors)))];
        if self.change {
            spans.push(Span::raw(format!(" {:>11}", signed_bytes(figures.change.bytes))));
        }
        if self.count {
            spans.push(Span::raw(format!(" {:>10}", figures.count)));
        }
        if self.growth {
            let (text, style) = growth(figures.growth, theme);
            spans.push(Span::styled(format!(" {text:>10}"), style));
        }
        if self.trend > 0 {
            spans.push(Span::styled(format!(" {}", spark::line(figures.trend, self.trend)), theme.bars()));
        }
        spans.push(Span::raw("  "));
        spans
    }
}

/// The slope, without the hour that the heading names.
fn growth(growth: Option<Growth>, theme: Theme) -> (String, Style) {
    let Some(growth) = growth else { return ("?".to_owned(), theme.quiet()) };
    let slope = rate(growth.bytes_per_hour);
    let slope = slope.trim_end_matches("/h");
    match growth.bytes_per_hour {
        up if up >= NOISE && growth.steady_s > 0.0 => (format!("+{slope}"), theme.growth()),
        up if up >= NOISE => (format!("+{slope}"), Style::new()),
        down if down <= -NOISE => (format!("-{slope}"), theme.good()),
        _ => ("-".to_owned(), theme.quiet()),
    }
}

/// A count in ten columns at most: `168,388`, `1,234 M`.
pub(super) fn short_count(number: u64) -> String {
    match number {
        0..100_000_000 => count(number),
        _ => format!("{} M", count(number / 1_000_000)),
    }
}
