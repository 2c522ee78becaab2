//! A terminal's screen as an SVG picture, as a terminal with a dark background would show it.

use std::fmt::Write;

/// Size of a cell.
const CELL: (f64, f64) = (8.4, 18.0);
/// Around the text.
const MARGIN: f64 = 10.0;
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d8dbe2";

/// Draws it.
pub fn svg(screen: &vt100::Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let (width, height) =
        (f64::from(columns) * CELL.0 + 2.0 * MARGIN, f64::from(rows) * CELL.1 + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\" xml:space=\"preserve\">\n"
    );
    for row in 0..rows {
        draw_row(screen, row, columns, &mut svg);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// Cells that look alike are one run.
fn draw_row(screen: &vt100::Screen, row: u16, columns: u16, svg: &mut String) {
    let mut column = 0;
    while column < columns {
        let Some(cell) = screen.cell(row, column) else { return };
        let look = Look::of(cell);
        let (begin, mut text) = (column, String::new());
        while let Some(cell) =
            screen.cell(row, column).filter(|cell| column < columns && Look::of(cell) == look)
        {
            text.push_str(if cell.has_contents() { cell.contents() } else { " " });
            column += 1;
        }
        draw_run(&text, &look, begin, column, row, svg);
    }
}

fn draw_run(text: &str, look: &Look, begin: u16, end: u16, row: u16, svg: &mut String) {
    let (x, y) = (MARGIN + f64::from(begin) * CELL.0, MARGIN + f64::from(row) * CELL.1);
    let width = f64::from(end - begin) * CELL.0;
    let (ink, paper) =
        if look.inverse { (BACKGROUND, Some(look.ink.as_str())) } else { (look.ink.as_str(), None) };
    if let Some(paper) = paper {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{paper}\"/>",
            CELL.1
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
    let opacity = if look.dim { " fill-opacity=\"0.55\"" } else { "" };
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" fill=\"{ink}\"{weight}{opacity}>{escaped}</text>",
        y + 13.5
    );
}

#[derive(PartialEq)]
struct Look {
    ink: String,
    bold: bool,
    dim: bool,
    inverse: bool,
}

impl Look {
    fn of(cell: &vt100::Cell) -> Self {
        let ink = match cell.fgcolor() {
            vt100::Color::Idx(index @ 16..) => tone(index),
            _ => FOREGROUND.to_owned(),
        };
        Self { ink, bold: cell.bold(), dim: cell.dim(), inverse: cell.inverse() }
    }
}

/// The colour cube and the greys of terminals with 256 colours.
fn tone(index: u8) -> String {
    let step = |value: u8| if value == 0 { 0 } else { 55 + 40 * value };
    match index {
        232.. => format!("#{0:02x}{0:02x}{0:02x}", 8 + 10 * (index - 232)),
        _ => {
            let cube = index - 16;
            format!("#{:02x}{:02x}{:02x}", step(cube / 36), step(cube / 6 % 6), step(cube % 6))
        }
    }
}
