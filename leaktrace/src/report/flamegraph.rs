//! Flamegraphs: an SVG file with survivors' bytes as width, one colour per language, the truth line under the title.
//! Drawn by inferno from our own folded stacks.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};

use inferno::flamegraph::color::{Color, PaletteMap};
use inferno::flamegraph::{Options, from_lines};

use super::folded::{FoldedKind, FoldedStack, join, stacks};
use super::heading;
use super::human::{bytes, duration, plural};
use super::merge::{Unit, units};
use super::model::{Amount, Report};

/// Characters of the truth line that fit under the title at the initial width.
const SUBTITLE_CHARS: usize = 150;

/// Stands for the parts of the truth line that do not fit.
const SUBTITLE_CUT: &str = "; ... (rest: comment in this file)";

/// Sum of all weights at most: inferno adds them up unchecked.
const MAX_TOTAL: u64 = 1 << 60;

/// Writes the flamegraph.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let stacks = stacks(report);
    if stacks.is_empty() {
        return write_empty(report, out);
    }
    let mut palette = palette(&stacks);
    let mut options = Options::default();
    options.title = title(report);
    options.subtitle = Some(subtitle(report, &legend(&stacks)));
    options.notes = comment(&truth(report));
    options.count_name = "bytes".to_owned();
    options.name_type = "Function:".to_owned();
    options.palette_map = Some(&mut palette);
    let lines = lines(&stacks);
    from_lines(&mut options, lines.iter().map(String::as_str), out)
}

/// The folded lines, with weights that can be added up without overflow.
fn lines(stacks: &BTreeMap<FoldedStack, u64>) -> Vec<String> {
    let mut left = MAX_TOTAL;
    stacks
        .iter()
        .map(|(stack, weight)| {
            let weight = (*weight).min(left);
            left -= weight;
            format!("{} {weight}", join(stack))
        })
        .collect()
}

fn title(report: &Report) -> String {
    let units = units(report);
    let holding: Vec<&Unit<'_>> = units.iter().filter(|unit| !unit.survivors().is_zero()).collect();
    let who = match holding.as_slice() {
        [one] => heading::who(one),
        many => plural(many.iter().map(|unit| unit.processes.len() as u64).sum(), "process"),
    };
    let total = report.processes.iter().fold(Amount::default(), |sum, process| sum.plus(process.survivors));
    format!(
        "{who}: {} in {} alive > {}, after {} of tracing",
        bytes(total.bytes),
        plural(total.blocks, "block"),
        duration(report.min_age_s),
        duration(report.elapsed_s)
    )
}

fn truth(report: &Report) -> String {
    format!("truth: {}", report.truth_line())
}

/// What the colours mean, if there are several: kinds of frames in the order of their hues.
fn legend(stacks: &BTreeMap<FoldedStack, u64>) -> String {
    let drawn = |kind| stacks.keys().flatten().any(|frame| frame.kind == kind);
    let hues: Vec<&str> = [
        (FoldedKind::Python, "blue: Python"),
        (FoldedKind::Native, "orange: native"),
        (FoldedKind::Interpreter, "yellow: interpreter"),
        (FoldedKind::Other, "violet: kernel, other"),
    ]
    .into_iter()
    .filter_map(|(kind, hue)| drawn(kind).then_some(hue))
    .collect();
    if hues.len() > 1 { format!("{} | ", hues.join(", ")) } else { String::new() }
}

/// The legend, and as much of the truth line as the picture has room for; the whole of it is in the file's NOTES comment.
fn subtitle(report: &Report, legend: &str) -> String {
    let subtitle = format!("{legend}{}", truth(report));
    if subtitle.chars().count() <= SUBTITLE_CHARS {
        return subtitle;
    }
    let kept: String = subtitle.chars().take(SUBTITLE_CHARS - SUBTITLE_CUT.len()).collect();
    let whole_parts = kept.rsplit_once("; ").map_or(kept.as_str(), |(parts, _)| parts);
    format!("{whole_parts}{SUBTITLE_CUT}")
}

/// An XML comment may not hold two hyphens in a row, nor end with one.
fn comment(text: &str) -> String {
    format!("{} ", text.replace('-', "\u{2010}"))
}

/// One hue per kind of frame, its shade by name so that neighbours can be told apart.
fn palette(stacks: &BTreeMap<FoldedStack, u64>) -> PaletteMap {
    let mut palette = PaletteMap::default();
    palette.insert("", Color { r: 200, g: 200, b: 200 });
    for frame in stacks.keys().flatten() {
        palette.insert(&frame.name, colour(frame.kind, &frame.name));
    }
    palette
}

fn colour(kind: FoldedKind, name: &str) -> Color {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let shade = (hasher.finish() % 48) as u8;
    match kind {
        FoldedKind::Python => Color { r: 90 + shade, g: 150 + shade, b: 235 },
        FoldedKind::Native => Color { r: 245, g: 120 + shade, b: 60 + shade },
        FoldedKind::Interpreter => Color { r: 235, g: 205 + shade, b: 60 + shade },
        FoldedKind::Other => Color { r: 185 + shade, g: 130 + shade, b: 225 },
        FoldedKind::Process | FoldedKind::Note => Color { r: 190, g: 190, b: 190 },
    }
}

/// A picture that says that there is nothing to draw: inferno writes an error message instead.
fn write_empty(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let text = format!(
        "Nothing survived that long: no block is known to be older than {} after {} of tracing.",
        duration(report.min_age_s),
        duration(report.elapsed_s)
    );
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(out, "<!--NOTES: {}-->", comment(&truth(report)))?;
    writeln!(
        out,
        concat!(
            r#"<svg version="1.1" width="1200" height="90" viewBox="0 0 1200 90" "#,
            r#"xmlns="http://www.w3.org/2000/svg" font-family="monospace">"#,
            "\n",
            r##"<rect width="100%" height="100%" fill="#f8f8f8"/>"##,
            "\n",
            r#"<text id="title" x="600" y="36" font-size="17" text-anchor="middle">{}</text>"#,
            "\n",
            r#"<text id="subtitle" x="600" y="66" font-size="12" text-anchor="middle">{}</text>"#,
            "\n</svg>",
        ),
        escape(&text),
        escape(&subtitle(report, ""))
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Frame, FrameKind, ProcessReport, SiteReport};

    fn report(name: &str, kind: FrameKind, bytes: u64) -> Report {
        let survivors = Amount { bytes, blocks: 1 };
        let frames = vec![Frame { kind, function: Some(name.into()), ..Frame::default() }];
        let site = SiteReport { survivors, frames, ..SiteReport::default() };
        let process =
            ProcessReport { survivors, sites: vec![site.clone(), site], ..ProcessReport::default() };
        Report { processes: vec![process], ..Report::default() }
    }

    fn svg(report: &Report) -> String {
        let mut out = Vec::new();
        write(report, &mut out).expect("a flamegraph can be written to memory");
        String::from_utf8(out).expect("a flamegraph is text")
    }

    #[test]
    fn odd_names_and_weights_never_fail() {
        let names = ["", ";;;", "a<b>&\"c\"", "x 1 2", "\u{0}\u{1b}\u{ffff}", "--", "# c", "a_[k]", "日本語"];
        for name in names {
            let drawn = svg(&report(name, FrameKind::Native, u64::MAX));
            assert!(drawn.ends_with("</svg>") && !drawn.contains("ERROR"), "{name:?}");
            assert!(!drawn.contains(['\u{0}', '\u{1b}', '\u{ffff}']), "{name:?}");
        }
    }

    #[test]
    fn python_and_native_frames_differ_in_hue() {
        let python = colour(FoldedKind::Python, "f");
        let native = colour(FoldedKind::Native, "f");
        assert!(python.b > python.r && native.r > native.b);
        assert!(
            svg(&report("f", FrameKind::Python, 8))
                .contains(&format!("rgb({},{},{})", python.r, python.g, python.b))
        );
    }

    #[test]
    fn a_mixed_picture_says_what_its_colours_mean_and_a_plain_one_does_not() {
        let mut mixed = report("f", FrameKind::Python, 8);
        let native = Frame { function: Some("push".into()), ..Frame::default() };
        mixed.processes[0].sites[0].frames.insert(0, native);
        assert!(svg(&mixed).contains("blue: Python, orange: native | truth: nothing lost"));
        assert!(!svg(&report("f", FrameKind::Python, 8)).contains("blue: Python"));
    }

    #[test]
    fn an_empty_report_says_that_nothing_survived() {
        let drawn = svg(&Report::default());
        assert!(drawn.contains("Nothing survived") && drawn.contains("truth: nothing lost"));
        assert!(drawn.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn the_whole_truth_line_is_in_the_comment_and_the_comment_is_well_formed() {
        let mut report = report("f", FrameKind::Native, 8);
        report.truth.notes.push(format!("{} ends -- here --->", "long ".repeat(60)));
        for report in [&report, &Report { processes: vec![], ..report.clone() }] {
            let drawn = svg(report);
            let comment = drawn.split("<!--NOTES: ").nth(1).and_then(|rest| rest.split("-->").next());
            let comment = comment.expect("a NOTES comment");
            assert!(comment.contains("ends \u{2010}\u{2010} here") && !comment.contains("--"), "{comment}");
        }
    }
}
