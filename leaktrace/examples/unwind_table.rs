//! Prints what becomes of the call frame information of objects: `cargo run --example unwind_table -- FILE ...`

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use leaktrace::unwind::{Limits, Sections, compile_observed};

fn main() -> anyhow::Result<()> {
    for name in std::env::args().skip(1) {
        let begin = Instant::now();
        let sections = Sections::read(&File::open(&name)?, Path::new(&name))?;
        let digest = sections.digest();
        let read = begin.elapsed();
        let mut unsupported = BTreeMap::<_, u64>::new();
        let table = compile_observed(&sections, &Limits::default(), &mut |why| {
            *unsupported.entry(why).or_default() += 1;
        })?;
        println!("{name}: {:016x}", u128::from_be_bytes(digest));
        println!("  {:?}, {} trampolines", table.statistics, sections.trampolines.len());
        println!(
            "  {} rows, {} pages, {} rules, {} bytes; read and digested in {read:.1?}, compiled in {:.1?}",
            table.rows.len(),
            table.pages.len(),
            table.rules.len(),
            table.bytes(),
            begin.elapsed() - read
        );
        println!("  unsupported: {unsupported:?}");
    }
    Ok(())
}
