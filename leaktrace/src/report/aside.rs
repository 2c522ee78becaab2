//! What is said beside the reports: on stderr, one sentence a line; on stdout by `doctor`. Names that targets have chosen
//! are among the words, so nothing is let through that a terminal would take for more than text.

use std::fmt::Display;
use std::io::{self, Write};

use super::human::printable;

/// Says one sentence. Nobody may be listening: that is no reason to stop.
pub fn say(sentence: impl Display) {
    say_to(&mut io::stderr(), &sentence.to_string());
}

/// The same for text of several lines.
pub fn say_lines(text: impl Display) {
    let lines: Vec<String> = text.to_string().lines().map(printable).collect();
    let _ = writeln!(io::stderr(), "leaktrace: {}", lines.join("\n"));
}

fn say_to(out: &mut dyn Write, sentence: &str) {
    let _ = writeln!(out, "leaktrace: {}", printable(sentence));
}

/// A writer that keeps to text: ends of lines stay, everything else that would steer a terminal is made visible.
#[derive(Debug)]
pub struct Text<W>(pub W);

impl<W: Write> Write for Text<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What is formatted arrives in whole characters.
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<String> = text.split('\n').map(printable).collect();
        self.0.write_all(lines.join("\n").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_lines_and_loses_what_steers_a_terminal() {
        let mut out = Text(Vec::new());
        writeln!(out, "größe {} {}", String::from("\u{9b}31m"), 7).expect("written");
        write!(out, "\x1b]0;title\x07\r").expect("written");
        let expected = "größe \u{fffd}31m 7\n\u{fffd}]0;title\u{fffd}\u{fffd}";
        assert_eq!(String::from_utf8_lossy(&out.0), expected);
    }

    #[test]
    fn a_sentence_is_one_line_of_text_whatever_names_are_in_it() {
        let mut out = Vec::new();
        say_to(&mut out, "tracing 7 (a\x1b[2J\n#1  9 TiB)");
        assert_eq!(String::from_utf8_lossy(&out), "leaktrace: tracing 7 (a\u{fffd}[2J\u{fffd}#1  9 TiB)\n");
    }
}
