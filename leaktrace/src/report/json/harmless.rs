//! Strings that are safe on a terminal too. JSON itself only demands that controls below U+0020 be escaped; terminals also
//! obey those from U+007F to U+009F, and some characters reorder or hide what stands around them. Programs read the same
//! string either way.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::report::human::is_unprintable;

/// Writes a value as one line.
pub fn write_compact(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    write(value, out, CompactFormatter)
}

/// Writes a value indented.
pub fn write_pretty(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    write(value, out, PrettyFormatter::new())
}

fn write(value: &impl Serialize, out: &mut dyn Write, inner: impl Formatter) -> io::Result<()> {
    Ok(value.serialize(&mut Serializer::with_formatter(out, Harmless(inner)))?)
}

/// Another formatter's layout, with more characters escaped.
struct Harmless<F>(F);

impl<F: Formatter> Formatter for Harmless<F> {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for piece in fragment.split_inclusive(is_unprintable) {
            let odd = piece.chars().next_back().filter(|letter| is_unprintable(*letter));
            let plain = odd.and_then(|odd| piece.strip_suffix(odd)).unwrap_or(piece);
            writer.write_all(plain.as_bytes())?;
            let mut units = [0; 2];
            let units = odd.map(|odd| odd.encode_utf16(&mut units)).into_iter().flatten();
            units.into_iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_terminals_obey_is_escaped_and_reads_the_same() {
        let hostile = "\u{9b}31m\x1b[2J\x7f\u{202e}\u{9b}\u{9b}\"a\\é😀\u{85}";
        let value = std::collections::BTreeMap::from([(hostile, vec![hostile, "plain"])]);
        for pretty in [false, true] {
            let mut out = Vec::new();
            let write = if pretty { write_pretty } else { write_compact };
            write(&value, &mut out).expect("written");
            let text = String::from_utf8(out).expect("text");
            assert!(!text.chars().any(|letter| is_unprintable(letter) && letter != '\n'), "{text:?}");
            assert!(text.contains("\\u009b31m") && text.contains("é😀"), "{text}");
            let read: std::collections::BTreeMap<String, Vec<String>> =
                serde_json::from_str(&text).expect("JSON");
            assert_eq!(read[hostile], [hostile, "plain"]);
        }
    }

    #[test]
    fn the_layout_is_that_of_the_library() {
        let value = serde_json::json!({ "a": [1, { "b": null }], "c": {}, "d": [] });
        let (mut line, mut pretty) = (Vec::new(), Vec::new());
        write_compact(&value, &mut line).expect("written");
        write_pretty(&value, &mut pretty).expect("written");
        assert_eq!(line, serde_json::to_vec(&value).expect("JSON"));
        assert_eq!(pretty, serde_json::to_vec_pretty(&value).expect("JSON"));
    }
}
