//! From bytes to rows.

#[path = "../../leaktrace/src/unwind/compile.rs"]
pub mod compile;
#[path = "../../leaktrace/src/unwind/entries.rs"]
mod entries;
#[path = "../../leaktrace/src/unwind/functions.rs"]
mod functions;
#[path = "../../leaktrace/src/unwind/rows.rs"]
mod rows;
#[path = "../../leaktrace/src/unwind/sections.rs"]
pub mod sections;
#[path = "../../leaktrace/src/unwind/soundness.rs"]
pub mod soundness;
#[path = "../../leaktrace/src/unwind/table.rs"]
mod table;
#[path = "../../leaktrace/src/unwind/x86_64.rs"]
pub mod x86_64;

pub use table::{Statistics, Table};
