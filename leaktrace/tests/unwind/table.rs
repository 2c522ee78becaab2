//! What is printed: a line for each program, the differences by class, and one example of each.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
};

use super::{
    compare::{Verdict, common_frames, compare},
    debugger::Debugger,
    stacks::Pair,
};
use crate::harness::Outcomes;

/// Frames shown around the first that differs.
const SHOWN: usize = 12;

/// The results of one program.
pub struct Tally {
    /// The program.
    pub program: String,
    /// Stacks compared.
    pub stacks: usize,
    /// Of these, equal to the end.
    pub equal: usize,
    /// Of these, as far as leaktrace keeps frames.
    pub cut: usize,
    /// Of these, to `main`.
    pub to_main: usize,
    /// How many different stacks there were.
    pub distinct: usize,
    /// Most frames.
    pub deepest: usize,
    /// gdb's stops without a partner.
    pub alone: usize,
    /// How many differences there are of each class, and an example.
    pub differences: BTreeMap<String, (usize, String)>,
}

impl Tally {
    /// Judges every pair. gdb is still attached, to name addresses.
    pub fn of(program: &str, pairs: &[Pair], alone: usize, debugger: &mut Debugger) -> Outcomes<Self> {
        let verdicts: Vec<Verdict> = pairs.iter().map(|pair| compare(&pair.seen, &pair.walked)).collect();
        let count = |wanted: &Verdict| verdicts.iter().filter(|verdict| *verdict == wanted).count();
        let distinct: HashSet<Vec<u64>> =
            pairs.iter().map(|pair| pair.seen.frames.iter().map(|frame| frame.pc).collect()).collect();
        let mut tally = Self {
            program: program.to_owned(),
            stacks: pairs.len(),
            equal: verdicts.iter().filter(|verdict| verdict.is_equal()).count(),
            cut: count(&Verdict::EqualAsFarAsKept),
            to_main: count(&Verdict::EqualToMain),
            distinct: distinct.len(),
            deepest: pairs.iter().map(|pair| pair.seen.frames.len()).max().unwrap_or(0),
            alone,
            differences: BTreeMap::new(),
        };
        for (pair, verdict) in pairs.iter().zip(&verdicts) {
            if let Verdict::Differs(class) = verdict {
                tally.add(class, pair, debugger)?;
            }
        }
        Ok(tally)
    }

    fn add(&mut self, class: &str, pair: &Pair, debugger: &mut Debugger) -> Outcomes<()> {
        if let Some((count, _)) = self.differences.get_mut(class) {
            *count += 1;
            return Ok(());
        }
        self.differences.insert(class.to_owned(), (1, example(pair, debugger)?));
        Ok(())
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{:<22} {:>6} {:>6} {:>8.2} % {:>8} {:>7}",
            self.program,
            self.stacks,
            self.equal,
            share(self.equal, self.stacks),
            self.distinct,
            self.deepest
        );
        let notes = [
            (self.cut, "cut at 127 frames"),
            (self.to_main, "to main"),
            (self.alone, "stops without partner"),
        ];
        for (count, what) in notes.iter().filter(|(count, _)| *count > 0) {
            let _ = write!(line, "  [{count} {what}]");
        }
        for (class, (count, _)) in &self.differences {
            let _ = write!(line, "\n    {count} x {class}");
        }
        line
    }
}

/// Percent.
pub fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 }
}

/// The table and the examples.
pub fn print_table(tallies: &[Tally]) {
    println!(
        "{:<22} {:>6} {:>6} {:>10} {:>8} {:>7}",
        "program", "stacks", "equal", "share", "distinct", "deepest"
    );
    for tally in tallies {
        println!("{}", tally.line());
    }
    for tally in tallies {
        for (class, (_, example)) in &tally.differences {
            println!("\nexample, {}: {class}\n{example}", tally.program);
        }
    }
}

/// Both stacks from a little before the first frame that differs on.
fn example(pair: &Pair, debugger: &mut Debugger) -> Outcomes<String> {
    let common = common_frames(&pair.seen, &pair.walked);
    let from = common.saturating_sub(SHOWN / 3);
    let mut text = format!("  in {}; {common} frames are equal; gdb:\n", pair.seen.function);
    for (index, frame) in pair.seen.frames.iter().enumerate().skip(from).take(SHOWN) {
        let mark = if frame.interrupted { " (interrupted)" } else { "" };
        let _ = writeln!(text, "    #{index} {:#x} {}{mark}", frame.pc, frame.name);
    }
    let _ = writeln!(text, "    {} frames; end: {}", pair.seen.frames.len(), pair.seen.end);
    let _ = writeln!(text, "  leaktrace:");
    let shown: Vec<u64> = pair.walked.frames.iter().copied().skip(from).take(SHOWN).collect();
    let names = debugger.names(shown.iter().map(|frame| frame & !(1 << 63)))?;
    for (index, frame) in shown.iter().enumerate() {
        let mark = if frame >> 63 != 0 { " (interrupted)" } else { "" };
        let address = frame & !(1 << 63);
        let _ = writeln!(text, "    #{} {address:#x} {}{mark}", index + from, names[&address]);
    }
    let _ = writeln!(text, "    {} frames; end: {}", pair.walked.frames.len(), pair.walked.walk_end);
    Ok(text)
}
