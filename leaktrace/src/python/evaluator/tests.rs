//! Objects made by the system's compiler, with a loop that is laid out by hand.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::object::symbols::Symbol;

/// A loop with a rare part elsewhere that jumps back, a function that the loop ends in, and one that it calls. The rare
/// part holds the entry of no function.
const SOURCE: &str = r#"
    .text
    .globl other, called
    .type other, @function
other:
    .cfi_startproc
    ret
    .cfi_endproc
    .size other, .-other
called:
    .cfi_startproc
    jmp _PyEval_EvalFrameDefault
    .cfi_endproc
rare:
    .cfi_startproc
    .cfi_def_cfa_offset 64
    nop
rare_middle:
    nop
    jmp back
    .cfi_endproc
rare_end:
    .globl _PyEval_EvalFrameDefault
    .type _PyEval_EvalFrameDefault, @function
_PyEval_EvalFrameDefault:
    .cfi_startproc
    push %rbx
    .cfi_def_cfa_offset 16
    call called
    test %eax, %eax
    jne rare_middle
back:
    pop %rbx
    jmp other
    .cfi_endproc
    .size _PyEval_EvalFrameDefault, SIZE
    .globl rare_start_for_test, rare_end_for_test
    .set rare_start_for_test, rare
    .set rare_end_for_test, rare_end
    .type rare_start_for_test, @function
    .type rare_end_for_test, @function
    .section .note.GNU-stack,"",@progbits
"#;

fn object(directory: &TempDir, size: &str, options: &[&str]) -> Elf {
    let (source, output) = (directory.path().join("loop.S"), directory.path().join("loop.so"));
    std::fs::write(&source, SOURCE.replace("SIZE", size)).expect("source");
    let status = Command::new("gcc")
        .args(["-shared", "-nostdlib", "-o"])
        .args([&output, &source])
        .args(options)
        .status()
        .expect("gcc runs");
    assert!(status.success());
    Elf::open(Path::new(&output)).expect("an object")
}

fn at(elf: &Elf, name: &str) -> Symbol {
    elf.symbol(Table::Dynamic, name).expect("readable").expect("defined")
}

#[test]
fn the_rare_part_is_found_and_neither_callee_nor_tail_call_are_taken_for_one() {
    let directory = TempDir::new().expect("directory");
    for (size, options) in [(".-_PyEval_EvalFrameDefault", vec![]), ("0", vec!["-Wl,-s"])] {
        let elf = object(&directory, size, &options);
        let start = at(&elf, LOOP).address.0;
        let rare = at(&elf, "rare_start_for_test").address.0..at(&elf, "rare_end_for_test").address.0;
        let found = find(&elf, 0x7000_0000_0000).expect("readable");
        let [first, second] = found.as_slice() else { panic!("{found:x?}") };
        assert_eq!((first.start - 0x7000_0000_0000, first.end - 0x7000_0000_0000), (rare.start, rare.end));
        assert_eq!(second.start - 0x7000_0000_0000, start);
        assert!(second.end > second.start + 8, "{second:x?}");
    }
}

#[test]
fn an_object_without_the_loop_has_none() {
    let own = Elf::open(Path::new("/proc/self/exe")).expect("own executable");
    assert!(find(&own, 0).expect("readable").is_empty());
}
