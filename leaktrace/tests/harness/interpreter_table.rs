//! The table in `docs/interpreters.md`: one row per interpreter, and columns that tests measure. A test fails when what it
//! measured is not what the table says; with `LEAKTRACE_UPDATE_TABLES` set it writes the table instead.

use super::Outcomes;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// The columns, as the table's head names them. What varies from run to run or moves with a distribution is compared by
/// no test: the version.
const COLUMNS: [&str; 8] = [
    INTERPRETER,
    VERSION,
    "build",
    "allocations seen / made",
    "survivors right",
    "lines right",
    "frames right",
    ATTACH,
];

/// The first column.
pub const INTERPRETER: &str = "interpreter";
/// Not compared.
pub const VERSION: &str = "version";
/// Whether attaching and detaching left everything as it was.
pub const ATTACH: &str = "attach, detach";

/// What stands where nothing was measured yet.
const UNKNOWN: &str = "-";

/// Cells of an interpreter by column.
pub type Cells = BTreeMap<&'static str, String>;

/// One writer at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Compares what was measured with the table, or writes it.
pub fn check(measured: &[(&str, Cells)]) -> Outcomes<()> {
    let _turn = TURN.lock().map_err(|e| e.to_string())?;
    let file = file();
    let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    if env::var_os("LEAKTRACE_UPDATE_TABLES").is_some() {
        return fs::write(&file, with(&text, measured)?).map_err(|e| format!("{}: {e}", file.display()));
    }
    let rows = rows(&text);
    let differences: Vec<String> =
        measured.iter().flat_map(|(name, cells)| differences(&rows, name, cells)).collect();
    if differences.is_empty() {
        return Ok(());
    }
    let way_out = "if that is right, run the test with LEAKTRACE_UPDATE_TABLES=1";
    Err(format!("docs/interpreters.md says otherwise; {way_out}:\n{}", differences.join("\n")))
}

/// A share as the table shows it: exact where it is all, else rounded down, so that it flatters nobody.
pub fn share(part: i64, whole: i64) -> String {
    match (part, whole) {
        (_, 0) => "nothing to see".to_owned(),
        (part, whole) if part == whole => "all".to_owned(),
        (part, whole) => {
            let hundredths = part.saturating_mul(10_000) / whole;
            format!("{}.{:02} %", hundredths / 100, hundredths % 100)
        }
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interpreters.md")
}

/// How what was measured of one interpreter differs from its row.
pub fn differences(rows: &[Vec<String>], name: &str, cells: &Cells) -> Vec<String> {
    let Some(row) = rows.iter().find(|row| row[0] == name) else {
        return vec![format!("{name}: has no row")];
    };
    let compared = cells.iter().filter(|(column, _)| **column != VERSION);
    let differing = compared.filter(|(column, cell)| said(row, column) != Some(cell.as_str()));
    differing
        .map(|(column, cell)| {
            format!("{name}: {column}: measured {cell:?}, the table has {:?}", said(row, column))
        })
        .collect()
}

fn said<'a>(row: &'a [String], column: &str) -> Option<&'a str> {
    row.get(COLUMNS.iter().position(|name| *name == column)?).map(String::as_str)
}

/// The rows of the table in a text, without its head.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.map(cells).filter(|row: &Vec<String>| row.len() == COLUMNS.len()).collect()
}

/// The text with other cells in its table.
pub fn with(text: &str, measured: &[(&str, Cells)]) -> Outcomes<String> {
    let mut table = rows(text);
    for (name, cells) in measured {
        let row = match table.iter().position(|row| row[0] == *name) {
            Some(index) => index,
            None => {
                table.push(
                    std::iter::once((*name).to_owned())
                        .chain(vec![UNKNOWN.to_owned(); COLUMNS.len() - 1])
                        .collect(),
                );
                table.len() - 1
            }
        };
        for (column, cell) in cells {
            let index =
                COLUMNS.iter().position(|known| known == column).ok_or(format!("no column {column}"))?;
            table[row][index].clone_from(cell);
        }
    }
    let first = text.lines().position(|line| line.starts_with('|')).ok_or("there is no table")?;
    let before: Vec<&str> = text.lines().take(first).collect();
    let after: Vec<&str> = text.lines().skip(first).skip_while(|line| line.starts_with('|')).collect();
    let lines: Vec<String> = table.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    let head = [format!("| {} |", COLUMNS.join(" | ")), format!("|{}", " --- |".repeat(COLUMNS.len()))];
    let all = before.iter().map(|line| (*line).to_owned()).chain(head).chain(lines);
    let all: Vec<String> = all.chain(after.iter().map(|line| (*line).to_owned())).collect();
    Ok(all.join("\n") + "\n")
}
