//! Promise: probes do not change what the target computes. Allocators whose functions are leaves that keep values
//! below the stack pointer, with five-byte nops in between, find them undamaged.

mod harness;

use harness::{Outcomes, Target, check_exact};

fn undamaged(library: &str) -> Outcomes<()> {
    let mut target = Target::prepare("red_zone")?.arg("100000").preload(library)?.start()?;
    check_exact(&mut target, &["go"], &[])?;
    assert_eq!(target.ask("nothing")?.number("damaged")?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_function_that_begins_by_using_its_red_zone_is_undamaged() -> Outcomes<()> {
    undamaged("red_zone_allocator-store-first.so")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_function_that_begins_with_a_five_byte_nop_is_undamaged() -> Outcomes<()> {
    undamaged("red_zone_allocator-nop-first.so")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_function_that_begins_with_endbr64_is_undamaged() -> Outcomes<()> {
    undamaged("red_zone_allocator-endbr-first.so")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_function_with_a_short_nop_before_the_long_one_is_undamaged() -> Outcomes<()> {
    undamaged("red_zone_allocator-push-late.so")
}
