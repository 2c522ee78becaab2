//! What each description becomes, and what descriptions cannot do.

use leaktrace_common::unwind::{Cfa, Saved};

use super::*;
use crate::unwind::hand_made::{INITIAL, Maker};
use crate::unwind::sections::Start;
use crate::unwind::x86_64::Trampoline;

fn compiled(sections: &Sections) -> Table {
    compile(sections, &Limits::default()).expect("a table")
}

fn rule_at(table: &Table, address: u64) -> Rule {
    table.rule_at(VirtualOffset(address))
}

fn cfa(kind: u8, offset: i64) -> Rule {
    Rule::cfa_at(kind, offset).expect("fits")
}

/// The rule of a function whose only row is made by these instructions, and what was said against it.
fn rule_of(augmentation: &str, instructions: &[u8]) -> (Rule, Option<Unsupported>) {
    let mut maker = Maker::default();
    let common = maker.common(augmentation, &INITIAL);
    maker.function_of(common, 0x1000, 0x100, instructions);
    let mut reason = None;
    let table = compile_observed(&maker.object(0x2000), &Limits::default(), &mut |why| reason = Some(why));
    let table = table.expect("a table");
    assert_eq!(table.statistics.unsupported, u64::from(reason.is_some()));
    assert_eq!((table.statistics.functions, table.statistics.malformed), (1, 0));
    assert_eq!(rule_at(&table, 0x10ff), rule_at(&table, 0x1000));
    assert_eq!(rule_at(&table, 0x1100), Rule::NONE);
    (rule_at(&table, 0x1000), reason)
}

/// `DW_CFA_def_cfa_expression`.
fn expression(operations: &[u8]) -> Vec<u8> {
    [&[0x0f, u8::try_from(operations.len()).expect("short")], operations].concat()
}

/// `DW_CFA_expression` of a register: `breg7 offset`.
fn at_stack_pointer(register: u8, offset: u8) -> Vec<u8> {
    // Two bytes of signed LEB128.
    vec![0x10, register, 3, 0x77, offset & 0x7f | 0x80, offset >> 7]
}

#[test]
fn the_cfa_can_be_counted_from_three_registers() {
    assert_eq!(rule_of("", &[]), (cfa(Cfa::SP, 8), None));
    assert_eq!(rule_of("", &[0x0e, 32]), (cfa(Cfa::SP, 32), None));
    assert_eq!(rule_of("", &[0x0c, 6, 16]), (cfa(Cfa::BP, 16), None));
    assert_eq!(rule_of("", &[0x0c, 3, 24]), (cfa(Cfa::BX, 24), None));
    let other = rule_of("", &[0x0c, 10, 0]);
    assert_eq!(other, (Rule::UNSUPPORTED, Some(Unsupported::CfaRegister(10))));
    let far = rule_of("", &[0x0e, 0x80, 0x80, 0x80, 0x04]);
    assert_eq!(far, (Rule::UNSUPPORTED, Some(Unsupported::CfaOffset)));
}

#[test]
fn the_cfa_can_be_one_of_three_expressions() {
    let word = |kind, offset, more| Rule::cfa_in_memory(kind, offset, more).expect("fits");
    assert_eq!(rule_of("", &expression(&[0x76, 0x78, 0x06])), (word(Cfa::AT_BP, -8, 0), None));
    assert_eq!(rule_of("", &expression(&[0x76, 0x78, 0x06, 0x23, 56])), (word(Cfa::AT_BP, -8, 56), None));
    assert_eq!(rule_of("", &expression(&[0x77, 0x10, 0x06])), (word(Cfa::AT_SP, 16, 0), None));
    assert_eq!(rule_of("", &expression(&[0x77, 0x10, 0x06, 0x38, 0x22])), (word(Cfa::AT_SP, 16, 8), None));
    let plt = |from: u8| expression(&[0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x30 + from, 0x2a, 0x33, 0x24, 0x22]);
    for from in [9, 11] {
        assert_eq!(rule_of("", &plt(from)), (cfa(Cfa::PLT, i64::from(from)), None));
    }
    let unknown: [&[u8]; 8] = [
        &plt(16),
        &expression(&[]),
        &expression(&[0x76, 0x78]),
        &expression(&[0x76, 0x78, 0x06, 0x06]),
        &expression(&[0x7a, 0x78, 0x06]),
        &expression(&[0x77, 0x10, 0x06, 0x23, 16, 0x06]),
        &expression(&[0x77, 0x10, 0x94, 4]),
        &expression(&[0x30; 100]),
    ];
    for instructions in unknown {
        assert_eq!(rule_of("", instructions), (Rule::UNSUPPORTED, Some(Unsupported::CfaExpression)));
    }
}

#[test]
fn the_return_address_lies_below_the_cfa_or_nowhere() {
    assert_eq!(rule_of("", &[0x07, 16]), (Rule::END, None));
    let elsewhere: [&[u8]; 4] = [&[0x90, 2], &[0x08, 16], &[0x09, 16, 5], &[0x10, 16, 2, 0x77, 0]];
    for instructions in elsewhere {
        assert_eq!(rule_of("", instructions), (Rule::UNSUPPORTED, Some(Unsupported::ReturnAddress)));
    }
    let mut maker = Maker::default();
    let silent = maker.common("", &[0x0c, 7, 8]);
    maker.function_of(silent, 0x1000, 16, &[]);
    assert_eq!(rule_at(&compiled(&maker.object(0x2000)), 0x1000), Rule::UNSUPPORTED);
}

#[test]
fn two_registers_are_followed_to_where_they_were_saved() {
    let base = cfa(Cfa::SP, 8);
    let bp = |saved, offset| base.with_bp(saved, offset).expect("fits");
    let bx = |saved, offset| base.with_bx(saved, offset).expect("fits");
    assert_eq!(rule_of("", &[0x86, 2]).0, bp(Saved::AT_CFA, -16));
    assert_eq!(rule_of("", &[0x83, 3]).0, bx(Saved::AT_CFA, -24));
    assert_eq!(rule_of("", &[0x83, 3, 0xc3]).0, base, "restored");
    assert_eq!(rule_of("", &[0x86, 2, 0x08, 6]).0, base, "same value");
    assert_eq!(rule_of("", &[0x10, 6, 2, 0x76, 0]).0, bp(Saved::AT_BP, 0));
    assert_eq!(rule_of("", &[0x10, 3, 2, 0x76, 0x58]).0, bx(Saved::AT_BP, -40));
    let lost: [(u8, &[u8]); 6] = [
        (6, &[0x07, 6]),
        (3, &[0x09, 3, 0]),
        (6, &[0x14, 6, 2]),
        (3, &[0x10, 3, 2, 0x77, 0]),
        (6, &[0x10, 6, 2, 0x76, 4]),
        (3, &[0x16, 3, 2, 0x76, 0]),
    ];
    for (register, instructions) in lost {
        let expected = if register == 6 { bp(Saved::LOST, 0) } else { bx(Saved::LOST, 0) };
        assert_eq!(rule_of("", instructions), (expected, None), "{instructions:x?}");
    }
}

#[test]
fn a_signal_frame_counts_only_if_everything_is_where_the_kernel_puts_it() {
    let restore = |sp: u8| {
        let mut instructions = expression(&[0x77, sp & 0x7f | 0x80, sp >> 7, 0x06]);
        for (register, offset) in [(16, 168), (6, 120), (3, 128), (0, 144)] {
            instructions.extend(at_stack_pointer(register, offset));
        }
        instructions
    };
    assert_eq!(rule_of("zS", &restore(160)), (Rule::SIGNAL, None));
    for other in [restore(152), [restore(160), at_stack_pointer(6, 128)].concat(), Vec::new()] {
        assert_eq!(rule_of("zS", &other), (Rule::UNSUPPORTED, Some(Unsupported::SignalFrame)));
    }
}

#[test]
fn a_large_hole_is_code_of_another_compiler_and_has_frame_pointers() {
    let mut maker = Maker::new();
    maker.function(0x1010, 0x10, &[]);
    maker.function(0x8_1020, 0x10, &[]);
    let mut object = maker.object(0x8_1100);
    let table = compiled(&object);
    assert_eq!(rule_at(&table, 0x1000), Rule::NONE);
    assert_eq!(rule_at(&table, 0x1020), Rule::FRAME_POINTER);
    assert_eq!(rule_at(&table, 0x8_101f), Rule::FRAME_POINTER);
    assert_eq!(rule_at(&table, 0x8_1030), Rule::NONE);
    // musl's whole code is such a hole, and has none.
    object.is_c_library = true;
    assert_eq!(rule_at(&compiled(&object), 0x1020), Rule::NONE);
}

#[test]
fn rows_follow_the_instructions_and_gaps_have_no_rule() {
    let mut maker = Maker::new();
    maker.function(0x1080, 0x20, &[0x41, 0x0e, 16, 0x86, 2, 0x0a, 0x50, 0x0e, 64, 0x4d, 0x0b]);
    maker.function(0x1010, 0x10, &[]);
    let table = compiled(&maker.object(0x1100));
    let pushed = cfa(Cfa::SP, 16).with_bp(Saved::AT_CFA, -16).expect("fits");
    let expected = [
        (0x1000, Rule::NONE),
        (0x100f, Rule::NONE),
        (0x1010, cfa(Cfa::SP, 8)),
        (0x101f, cfa(Cfa::SP, 8)),
        (0x1020, Rule::NONE),
        (0x1080, cfa(Cfa::SP, 8)),
        (0x1081, pushed),
        (0x1090, pushed),
        (0x1091, cfa(Cfa::SP, 64).with_bp(Saved::AT_CFA, -16).expect("fits")),
        (0x109e, pushed),
        (0x109f, pushed),
        (0x10a0, Rule::NONE),
        (0x1fff, Rule::NONE),
        (0xffff, Rule::NONE),
        (0x1_0000, Rule::NONE),
        (0, Rule::NONE),
    ];
    for (address, rule) in expected {
        assert_eq!(rule_at(&table, address), rule, "{address:#x}");
    }
    assert_eq!((table.rows.len(), table.pages.len(), table.base), (8, 1, VirtualOffset(0)));
}

#[test]
fn a_rule_is_carried_over_the_borders_of_pages() {
    let mut maker = Maker::new();
    maker.function(0x1010, 0x4_0000, &[0x0e, 48]);
    let table = compiled(&maker.object(0x8_0000));
    for address in [0x1010, 0xffff, 0x1_0000, 0x1_0001, 0x3_8000, 0x4_0000, 0x4_100f] {
        assert_eq!(rule_at(&table, address), cfa(Cfa::SP, 48), "{address:#x}");
    }
    assert_eq!(rule_at(&table, 0x4_1010), Rule::NONE);
    assert_eq!((table.rows.len(), table.pages.len()), (10, 8));
}

#[test]
fn a_function_ends_where_the_next_begins_and_the_first_described_of_two_counts() {
    let mut maker = Maker::new();
    maker.function(0x1000, 0x100, &[0x0e, 16]);
    maker.function(0x1040, 0x10, &[0x0e, 24]);
    maker.function(0x1040, 0x80, &[0x0e, 32]);
    maker.function(0x1020, 0, &[0x0e, 40]);
    let table = compiled(&maker.object(0x2000));
    assert_eq!(rule_at(&table, 0x103f), cfa(Cfa::SP, 16));
    assert_eq!(rule_at(&table, 0x104f), cfa(Cfa::SP, 24));
    assert_eq!(rule_at(&table, 0x1050), Rule::NONE);
}

#[test]
fn functions_outside_of_code_are_left_out_and_clipped_at_its_end() {
    let mut maker = Maker::new();
    maker.function(0x800, 0x1000, &[]);
    maker.function(0x2000, 0x10, &[]);
    maker.function(u64::MAX - 4, 8, &[]);
    maker.function(0x1ff0, u64::MAX / 2, &[]);
    let table = compiled(&maker.object(0x2000));
    assert_eq!((table.statistics.functions, table.statistics.malformed), (1, 3));
    assert_eq!(rule_at(&table, 0x1000), Rule::NONE);
    assert_eq!(rule_at(&table, 0x1fff), cfa(Cfa::SP, 8));
    assert_eq!(rule_at(&table, 0x2000), Rule::NONE);
}

#[test]
fn the_start_of_a_program_has_no_caller() {
    let mut maker = Maker::new();
    maker.function(0x1040, 0x10, &[]);
    let mut object = maker.object(0x2000);
    object.entry = VirtualOffset(0x1020);
    let table = compiled(&object);
    assert_eq!([0x101f, 0x1020, 0x103f].map(|at| rule_at(&table, at)), [Rule::NONE, Rule::END, Rule::END]);
    object.entry = VirtualOffset(0x1050);
    let table = compiled(&object);
    assert_eq!([0x1050, 0x114f, 0x1150].map(|at| rule_at(&table, at)), [Rule::END, Rule::END, Rule::NONE]);
    object.entry = VirtualOffset(0x1044);
    let table = compiled(&object);
    assert_eq!([0x1044, 0x1050].map(|at| rule_at(&table, at)), [cfa(Cfa::SP, 8), Rule::NONE]);
}

#[test]
fn undescribed_code_around_a_c_librarys_start_has_no_caller() {
    let mut maker = Maker::new();
    maker.function(0x1040, 0x10, &[]);
    maker.function(0x1400, 0x100, &[]);
    let mut object = maker.object(0x2000);
    object.starts = vec![
        Start { function: VirtualOffset(0x1200), before: 0x100, after: 0x80 },
        Start { function: VirtualOffset(0x1420), before: 0x100, after: 0x80 },
    ];
    let table = compiled(&object);
    let rules = [0x10ff, 0x1100, 0x127f, 0x1280, 0x1340].map(|at| rule_at(&table, at));
    assert_eq!(rules, [Rule::NONE, Rule::END, Rule::END, Rule::NONE, Rule::NONE]);
    assert_eq!([0x1420, 0x1500].map(|at| rule_at(&table, at)), [cfa(Cfa::SP, 8), Rule::NONE]);
}

#[test]
fn undescribed_trampolines_are_found_at_the_return_address_of_a_handler() {
    let mut maker = Maker::new();
    maker.function(0x1040, 0x10, &[]);
    let mut object = maker.object(0x2000);
    let at = |start: u64| Trampoline { start: VirtualOffset(start), length: 9 };
    object.trampolines = vec![at(0x1020), at(0x1044), at(0x1050), at(0x1ffe), at(0x3000)];
    let table = compiled(&object);
    for address in [0x101f, 0x1020, 0x1028, 0x1050, 0x1058, 0x1ffd, 0x1fff] {
        assert_eq!(rule_at(&table, address), Rule::SIGNAL, "{address:#x}");
    }
    for address in [0x101e, 0x1029, 0x1059] {
        assert_eq!(rule_at(&table, address), Rule::NONE, "{address:#x}");
    }
    assert_eq!([0x1044, 0x104f].map(|at| rule_at(&table, at)), [cfa(Cfa::SP, 8); 2]);
    object.frames = None;
    let table = compiled(&object);
    assert_eq!([0x1020, 0x1030].map(|at| rule_at(&table, at)), [Rule::SIGNAL, Rule::FRAME_POINTER]);
}

#[test]
fn undescribed_jumps_leave_the_stack_as_the_call_made_it() {
    let mut maker = Maker::new();
    maker.function(0x1040, 0x10, &[0x0e, 32]);
    let mut object = maker.object(0x2000);
    let range = |start, end| CodeRange { start: VirtualOffset(start), end: VirtualOffset(end) };
    // The last two lead out of the code, or backwards.
    object.jumps =
        vec![range(0x1010, 0x1030), range(0x1040, 0x1048), range(0x3000, 0x3010), range(0x1100, 0x1000)];
    let table = compiled(&object);
    assert_eq!([0x1010, 0x102f].map(|at| rule_at(&table, at)), [cfa(Cfa::SP, 8); 2]);
    assert_eq!([0x100f, 0x1030, 0x1100].map(|at| rule_at(&table, at)), [Rule::NONE; 3]);
    assert_eq!(rule_at(&table, 0x1040), cfa(Cfa::SP, 32));
}

#[test]
fn what_is_malformed_is_counted_and_does_not_hide_what_follows() {
    let mut maker = Maker::new();
    // Restores a state that was never remembered, after one good row.
    maker.function(0x1000, 0x20, &[0x50, 0x0b]);
    let itself = maker.function(0x1100, 0x20, &[]);
    maker.function(0x1200, 0x20, &[]);
    maker.bytes[itself + 4..itself + 8].copy_from_slice(&4_u32.to_le_bytes());
    maker.bytes.extend([0xf0, 0xff, 0, 0]);
    let table = compiled(&maker.object(0x2000));
    assert_eq!((table.statistics.functions, table.statistics.malformed), (2, 3));
    assert_eq!([0x1000, 0x1010].map(|at| rule_at(&table, at)), [cfa(Cfa::SP, 8), Rule::UNSUPPORTED]);
    assert_eq!([0x1020, 0x1100].map(|at| rule_at(&table, at)), [Rule::NONE; 2]);
    assert_eq!(rule_at(&table, 0x1200), cfa(Cfa::SP, 8));
}

#[test]
fn debug_frame_is_read_like_eh_frame() {
    let mut bytes = vec![20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 3, 0, 1, 0x78, 16];
    bytes.extend(INITIAL);
    bytes.resize(24, 0);
    bytes.extend([20, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(0x1010_u64.to_le_bytes());
    bytes.extend(0x20_u64.to_le_bytes());
    let mut object = Maker::new().object(0x2000);
    object.frames = Some(Frames { kind: FrameKind::DebugFrame, address: VirtualOffset(0), bytes });
    let table = compiled(&object);
    assert_eq!(table.statistics.functions, 1);
    assert_eq!([0x100f, 0x1010, 0x102f, 0x1030].map(|at| rule_at(&table, at)), {
        let rule = cfa(Cfa::SP, 8);
        [Rule::NONE, rule, rule, Rule::NONE]
    });
}

#[test]
fn code_that_cannot_be_that_large_is_refused() {
    let limits = Limits::default();
    assert!(compile(&Maker::new().object(limits.span), &limits).is_ok());
    let refused = compile(&Maker::new().object(limits.span + 1), &limits);
    assert_eq!(refused, Err(Refusal::Span { bytes: limits.span + 1, cap: limits.span }));
    let mut empty = Maker::new().object(0x2000);
    empty.code.clear();
    assert_eq!(rule_at(&compiled(&empty), 0x1000), Rule::NONE);
}

#[test]
fn one_function_over_the_whole_span_is_a_row_a_page() {
    let limits = Limits::default();
    let mut maker = Maker::new();
    maker.function(0x1000, limits.span - 0x1000, &[]);
    let table = compiled(&maker.object(limits.span));
    assert_eq!(table.rows.len() as u64, limits.span / PAGE_BYTES + 1);
}

#[test]
fn a_large_common_entry_is_not_executed_for_every_function() {
    let mut maker = Maker::default();
    let common = maker.common("", &[INITIAL.as_slice(), &vec![0; 1 << 20]].concat());
    for index in 0..10_000 {
        maker.function_of(common, 0x1000 + index * 16, 16, &[]);
    }
    let table = compiled(&maker.object(0x10_0000));
    assert_eq!(table.statistics.functions, 10_000);
    let executed = table.statistics.functions - table.statistics.beyond_caps;
    assert!((1..10).contains(&executed), "{executed}");
    assert_eq!(
        [0x1000, 0x1000 + 9_999 * 16].map(|at| rule_at(&table, at)),
        [cfa(Cfa::SP, 8), Rule::UNSUPPORTED]
    );
    assert_eq!(rule_at(&table, 0x10_0000), Rule::NONE);
}

#[test]
fn other_caps_are_counted_too() {
    let mut maker = Maker::new();
    for index in 0..100 {
        let common = maker.common("", &INITIAL);
        maker.function_of(common, 0x1000 + index * 16, 16, &[0x41, 0x0e, 16]);
    }
    let object = maker.object(0x2000);
    let beyond = |limits: Limits| {
        let table = compile(&object, &limits).expect("a table");
        (table.statistics.functions, table.statistics.beyond_caps)
    };
    let limits = Limits::default();
    assert_eq!(beyond(limits), (100, 0));
    assert_eq!(beyond(Limits { rows: 20, ..limits }), (100, 90));
    assert_eq!(beyond(Limits { functions: 20, ..limits }), (20, 80));
    assert_eq!(beyond(Limits { work_bytes: 100 * 20 + 20 * 40, ..limits }), (100, 80));
    assert_eq!(beyond(Limits { common_entries: 20, ..limits }), (20, 80));
}
