//! Colours. Of the 256 that terminals have, tones that can be read on black and on white; everything else is told by the terminal's own
//! colours, bold, dim and reversed.

use std::env;

use ratatui::style::{Color, Modifier, Style};

use crate::report::model::FrameKind;

/// Which styles are used.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// Whether there are colours at all.
    pub colour: bool,
}

impl Theme {
    /// Colours unless `NO_COLOR` is set to anything.
    pub fn from_environment() -> Self {
        Self { colour: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn tone(self, index: u8) -> Style {
        if self.colour { Style::new().fg(Color::Indexed(index)) } else { Style::new() }
    }

    /// A name, by the language it is written in. As in flamegraphs: Python blue, native orange.
    pub(super) fn frame(self, kind: FrameKind) -> Style {
        match kind {
            FrameKind::Python => self.tone(33),
            FrameKind::Native => self.tone(166),
            FrameKind::Other => self.tone(134),
        }
    }

    /// Losses, ends, errors.
    pub(super) fn alarm(self) -> Style {
        self.tone(160).add_modifier(Modifier::BOLD)
    }

    /// What grows.
    pub(super) fn growth(self) -> Style {
        self.tone(160)
    }

    /// All is well.
    pub(super) fn good(self) -> Style {
        self.tone(28)
    }

    /// Bars.
    pub(super) fn bars(self) -> Style {
        self.tone(71)
    }

    /// What is beside the point.
    pub(super) fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Headings.
    pub(super) fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The line that keys act on, in the list that has the focus.
    pub(super) fn cursor(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The title bar.
    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }
}
