//! Probe sites in real functions of C libraries, in hand-assembled traps, and in random bytes.

use proptest::prelude::*;

use super::super::cost::{Cost, CostSource, CostTable, InstructionClass as Class};
use super::super::hooks::HookId;
use super::super::plan::requirements;
use super::super::site::{Architecture, Choice, Function, Requirements, SiteError, choose};
use super::*;
use crate::object::address::VirtualOffset;

const ENTRY_ONLY: Requirements = Requirements { arguments: 1, needs_return: false, no_op_when_null: None };

/// glibc 2.36 (Debian 12), `free`, all 257 bytes.
const GLIBC_FREE: &str = "
    4885ff0f84bf00000055488d77f0534883ec18488b1dd69e1300488b47f8648b2ba802755b488b155c9e13006448833a
    000f8499000000488d3d32ad1300a8047426488b1537a41300488d04950000000048f7d84885d248c7c2000000fc480f
    44c24821f0488b3831d2e8c1d1ffff64892b4883c4185b5dc30f1f80000000008b1512a4130085d27526483905cfa313
    00731d483d0000000277154883e0f8488905baa313004801c0488905a0a313004889f7e808baffff64892b4883c4185b
    5dc3660f1f440000c30f1f8000000000488b15b99d130048893c2464803a000f8552ffffff4889742408e831f2ffff48
    8b3c24488b742408488b47f8e936ffffff";
/// Its `malloc`, the beginning.
const GLIBC_MALLOC: &str = "415455534889fb4883ec10803d461b1400000f84f80100004885db0f88fd010000";
/// Its `calloc`, the beginning.
const GLIBC_CALLOC: &str = "41554889f8415455534883ec1848f7e64889c30f90c04885db0f88d9020000";
/// Its `realloc`, the beginning.
const GLIBC_REALLOC: &str = "4157415641554154554889f5534889fb4883ec28803d3d131400000f8457010000";
/// Its `memalign`, whole.
const GLIBC_MEMALIGN: &str = "
    803d710e1400007407e932f6ffff66904883ec18488974240848893c24e8bebcffff488b742408488b3c244883c418e9
    0cf6ffff";
/// Its `posix_memalign`, whole.
const GLIBC_POSIX_MEMALIGN: &str = "
    803d010214000041544989d4554889fd534889f3745a4889da48c1ea03488d42ff4821d04889da83e2074809d0753148
    85db742c4c89e64889dfe891e9ffff4889c2b80c0000004885d274064889550031c05b5d415cc3660f1f440000000000
    5bb8160000005d415cc3660f1f440000e8fbafffffeb9f";
/// Its `mmap`, whole.
const GLIBC_MMAP: &str = "
    4189ca41f7c1ff0f00007514b8090000000f05483d00f0ffff7725c30f1f4000488b0519140d0064c7001600000048c7
    c0ffffffffc3662e0f1f840000000000488b15f9130d00f7d864890248c7c0ffffffffc3";
/// Its `munmap`, whole.
const GLIBC_MUNMAP: &str = "b80b0000000f05483d01f0ffff7301c3488b0dc9130d00f7d86489014883c8ffc3";
/// Its `reallocarray`, whole.
const GLIBC_REALLOCARRAY: &str = "4889f048f7e24889c67005e940b8f8ff488b05e985130064c7000c00000031c0c3";
/// musl 1.2.3 (Debian 12), `malloc`, whole: a jump.
const MUSL_MALLOC: &str = "e96b190000";
/// Its `posix_memalign`, whole.
const MUSL_POSIX_MEMALIGN: &str = "
    53b8160000004889fb4889f74883fe0776124889d6e896b0feff4885c0741148890331c05bc3662e0f1f840000000000
    e8eb13ffff5b8b00c3";
/// Its `munmap`, whole.
const MUSL_MUNMAP: &str =
    "554889f5534889fb4883ec08e86fc30200b80b0000004889df4889ee0f054889c7e8daebfdff4883c4085b5dc3";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: String = hexadecimal.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn whole(bytes: &[u8]) -> Function<'_> {
    Function { address: VirtualOffset(0x98ef0), bytes, complete: true }
}

fn select(function: Function<'_>, needs: Requirements) -> Result<Choice, SiteError> {
    choose(Architecture::X86_64, function, needs, &CostTable::default())
}

/// Offset and class of the site for a hooked function.
fn site(name: &str, code: &str, complete: bool) -> (u64, Class) {
    let code = bytes(code);
    let needs = requirements(HookId::by_name(name).expect("in the table"));
    let site = select(Function { complete, ..whole(&code) }, needs).expect("a site").site;
    (site.offset, site.class)
}

/// Offsets of every legal site.
fn offsets(code: &[u8], needs: Requirements) -> Vec<u64> {
    candidates(whole(code), needs).expect("code").into_iter().map(|found| found.offset).collect()
}

fn with_emulated(class: Class, emulated: bool) -> CostTable {
    let mut table = CostTable::default();
    let ns = if emulated { 400 } else { 10_000 };
    table.set(class, Cost { entry_ns: ns, return_ns: ns + 200, emulated, source: CostSource::Measured });
    table
}

#[test]
fn glibc_functions_that_begin_with_push_are_probed_there() {
    assert_eq!(site("malloc", GLIBC_MALLOC, false), (0, Class::Push));
    assert_eq!(site("calloc", GLIBC_CALLOC, false), (0, Class::Push));
    assert_eq!(site("realloc", GLIBC_REALLOC, false), (0, Class::Push));
}

#[test]
fn glibc_functions_that_begin_dearly_are_probed_behind_their_beginning() {
    assert_eq!(site("memalign", GLIBC_MEMALIGN, true), (7, Class::Jcc));
    assert_eq!(site("posix_memalign", GLIBC_POSIX_MEMALIGN, true), (7, Class::Push));
    assert_eq!(site("mmap", GLIBC_MMAP, true), (10, Class::Jcc));
}

#[test]
fn glibc_free_is_probed_behind_its_null_test() {
    let code = bytes(GLIBC_FREE);
    let needs = requirements(HookId::by_name("free").expect("in the table"));
    assert_eq!(code.len(), 257);
    // test, je, push, lea, push; `sub` is the last before the stack no longer only holds words pushed.
    let found = candidates(whole(&code), needs).expect("code");
    let summary: Vec<_> =
        found.iter().map(|site| (site.offset, site.class, site.pushed_words)).take(5).collect();
    let expected = [
        (0, Class::Other, 0),
        (3, Class::Jcc, 0),
        (9, Class::Push, 0),
        (10, Class::Other, 1),
        (14, Class::Push, 1),
    ];
    assert_eq!(summary, expected);
    // Where conditional jumps are dear, the first push is taken; free(NULL) does not pass it.
    let costs = with_emulated(Class::Jcc, false);
    let choice = choose(Architecture::X86_64, whole(&code), needs, &costs).expect("a site");
    assert_eq!((choice.site.offset, choice.site.class), (9, Class::Push));
    assert_eq!(choice.site.instruction, "push rbp");
}

#[test]
fn no_site_lies_behind_a_system_call_or_a_changed_argument() {
    assert_eq!(site("munmap", GLIBC_MUNMAP, true), (0, Class::Other));
    assert_eq!(site("reallocarray", GLIBC_REALLOCARRAY, true), (0, Class::Other));
}

#[test]
fn musl_functions() {
    assert_eq!(site("malloc", MUSL_MALLOC, true), (0, Class::Jmp));
    assert_eq!(site("posix_memalign", MUSL_POSIX_MEMALIGN, true), (0, Class::Push));
    assert_eq!(site("munmap", MUSL_MUNMAP, true), (0, Class::Push));
}

#[test]
fn only_a_call_that_does_nothing_may_leave_before_the_site() {
    // test rdi, rdi; je to the return; push rbp; ret: the return itself is also reached by the jump
    let code = [0x48, 0x85, 0xff, 0x74, 0x01, 0x55, 0xc3];
    let null = Requirements { no_op_when_null: Some(1), ..ENTRY_ONLY };
    assert_eq!(offsets(&code, null), [0, 3, 5]);
    assert_eq!(offsets(&code, ENTRY_ONLY), [0, 3]);
    // The same with jne: taken by every call that does something.
    let mut other = code;
    other[3] = 0x75;
    assert_eq!(offsets(&other, null), [0, 3]);
    // The same with another register: rsi.
    let mut other = code;
    other[2] = 0xf6;
    assert_eq!(offsets(&other, null), [0, 3]);
    // Only the lower half is tested: edi.
    let half = [0x85, 0xff, 0x74, 0x01, 0x55, 0xc3];
    assert_eq!(offsets(&half, null), [0, 2]);
}

#[test]
fn a_return_probe_needs_the_return_address_on_top() {
    // mov eax, 1; push rbx; push rbp; ret
    let code = [0xb8, 1, 0, 0, 0, 0x53, 0x50, 0xc3];
    let needs = Requirements { needs_return: true, ..ENTRY_ONLY };
    assert_eq!(offsets(&code, needs), [0, 5]);
    let found = candidates(whole(&code), ENTRY_ONLY).expect("code");
    assert_eq!(found.iter().map(|site| site.pushed_words).collect::<Vec<_>>(), [0, 0, 1, 2]);
}

#[test]
fn room_made_on_the_stack_counts_as_pushed() {
    // sub rsp, 0x18; push rbx; ret
    let found = candidates(whole(&[0x48, 0x83, 0xec, 0x18, 0x53, 0xc3]), ENTRY_ONLY).expect("code");
    assert_eq!(found.iter().map(|site| site.pushed_words).collect::<Vec<_>>(), [0, 3, 4]);
    // sub rsp, 0xffff...: released, not made.
    assert_eq!(offsets(&[0x48, 0x83, 0xec, 0xf8, 0x53, 0xc3], ENTRY_ONLY), [0]);
    // and rsp, -16: not known how far.
    assert_eq!(offsets(&[0x48, 0x83, 0xe4, 0xf0, 0x53, 0xc3], ENTRY_ONLY), [0]);
}

#[test]
fn no_site_lies_behind_a_changed_frame_pointer() {
    // push rbp; mov rbp, rsp; push rbx; ret
    assert_eq!(offsets(&[0x55, 0x48, 0x89, 0xe5, 0x53, 0xc3], ENTRY_ONLY), [0, 1]);
}

#[test]
fn a_clobbered_argument_ends_the_search() {
    // mov edi, 1; push rbx; ret: the write to the lower half counts
    assert_eq!(offsets(&[0xbf, 1, 0, 0, 0, 0x53, 0xc3], ENTRY_ONLY), [0]);
    // xor esi, esi; push rbx; ret: not an argument of ours
    assert_eq!(offsets(&[0x31, 0xf6, 0x53, 0xc3], ENTRY_ONLY), [0, 2, 3]);
    // mul rsi writes rdx implicitly
    let three = Requirements { arguments: 3, ..ENTRY_ONLY };
    assert_eq!(offsets(&[0x48, 0xf7, 0xe6, 0x53, 0xc3], three), [0]);
}

#[test]
fn a_site_that_a_jump_reaches_or_bypasses_is_refused() {
    // mov eax, 1; push rbx; nop; dec eax; jne to the push; ret
    let loop_to_push = [0xb8, 1, 0, 0, 0, 0x53, 0x90, 0xff, 0xc8, 0x75, 0xfa, 0xc3];
    assert_eq!(offsets(&loop_to_push, ENTRY_ONLY), [0]);
    // The same, jumping to the nop behind the push: the push is still passed once.
    let mut loop_behind = loop_to_push;
    loop_behind[10] = 0xfb;
    assert_eq!(offsets(&loop_behind, ENTRY_ONLY), [0, 5]);
}

#[test]
fn a_loop_back_to_the_first_instruction_is_told() {
    // push rbx; jmp to the start
    let found = candidates(whole(&[0x53, 0xeb, 0xfd]), ENTRY_ONLY).expect("code");
    assert!(found.iter().all(|site| site.reentered));
    // push rbx; call itself; ret: an ordinary recursion
    let found = candidates(whole(&[0x53, 0xe8, 0xfa, 0xff, 0xff, 0xff, 0xc3]), ENTRY_ONLY).expect("code");
    assert!(found.iter().all(|site| !site.reentered));
}

#[test]
fn with_a_jump_table_only_the_start_and_pushes_are_trusted() {
    // mov eax, 1; nop; push rbx; jmp rax
    let code = [0xb8, 1, 0, 0, 0, 0x90, 0x53, 0xff, 0xe0];
    assert_eq!(offsets(&code, ENTRY_ONLY), [0, 6]);
    // notrack jmp rax, as compilers write jump tables under CET
    assert_eq!(offsets(&[0xb8, 1, 0, 0, 0, 0x90, 0x53, 0x3e, 0xff, 0xe0], ENTRY_ONLY), [0, 6]);
    // jmp through a fixed slot is a tail call
    let tail = [0xb8, 1, 0, 0, 0, 0x90, 0x53, 0xff, 0x25, 0, 0, 0, 0];
    assert_eq!(offsets(&tail, ENTRY_ONLY), [0, 5, 6, 7]);
}

#[test]
fn a_function_of_unknown_size_is_treated_like_one_with_a_jump_table() {
    let code = [0xb8, 1, 0, 0, 0, 0x90, 0x53, 0xc3];
    let function = Function { complete: false, ..whole(&code) };
    let found = candidates(function, ENTRY_ONLY).expect("code");
    assert_eq!(found.iter().map(|site| site.offset).collect::<Vec<_>>(), [0, 6]);
    // No conditional exit is skipped either, not even a harmless one.
    let free = bytes(GLIBC_FREE);
    let needs = requirements(HookId::by_name("free").expect("in the table"));
    let found = candidates(Function { complete: false, ..whole(&free[..64]) }, needs).expect("code");
    assert_eq!(found.iter().map(|site| site.offset).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_five_byte_nop_is_a_site_only_as_first_instruction() {
    let nop5 = [0x0f, 0x1f, 0x44, 0, 0];
    let first: Vec<u8> = nop5.into_iter().chain([0x53, 0xc3]).collect();
    let body: Vec<u8> = [0xb8, 1, 0, 0, 0].into_iter().chain(nop5).chain([0xc3]).collect();
    let costs = with_emulated(Class::Nop5, true);
    let chosen =
        |code: &[u8]| choose(Architecture::X86_64, whole(code), ENTRY_ONLY, &costs).expect("a site").site;
    assert_eq!((chosen(&first).offset, chosen(&first).class), (0, Class::Nop5));
    assert_eq!(chosen(&body).offset, 0, "a leaf's red zone would be overwritten");
    assert_eq!(offsets(&body, ENTRY_ONLY), [0, 10]);
    // Every other spelling of five bytes counts as well: the kernel goes by the length.
    let spelled: Vec<u8> = [0xb8, 1, 0, 0, 0, 0x66, 0x0f, 0x1f, 0x40, 0, 0xc3].to_vec();
    assert_eq!(offsets(&spelled, ENTRY_ONLY), [0, 10]);
}

#[test]
fn a_red_zone_leaf_is_never_probed_on_its_nop() {
    // mov [rsp-8], rdi; nop5; mov rax, [rsp-8]; ret
    let code = [0x48, 0x89, 0x7c, 0x24, 0xf8, 0x0f, 0x1f, 0x44, 0, 0, 0x48, 0x8b, 0x44, 0x24, 0xf8, 0xc3];
    assert!(!offsets(&code, ENTRY_ONLY).contains(&5));
}

#[test]
fn the_first_push_behind_endbr64_is_preferred() {
    let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x53, 0xc3];
    let site = select(whole(&code), Requirements { needs_return: true, ..ENTRY_ONLY }).expect("a site").site;
    assert_eq!((site.offset, site.class, site.pushed_words), (4, Class::Push, 0));
}

#[test]
fn of_equals_the_earliest_is_taken() {
    let site = select(whole(&[0x53, 0x50, 0xc3]), ENTRY_ONLY).expect("a site").site;
    assert_eq!(site.offset, 0);
}

fn class_of(code: &[u8]) -> Class {
    let instruction = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).decode();
    assert_eq!(instruction.len(), code.len(), "one instruction");
    classify(code, &instruction)
}

#[test]
fn classes_follow_the_kernel() {
    assert_eq!(class_of(&[0x55]), Class::Push);
    assert_eq!(class_of(&[0x41, 0x54]), Class::Push);
    // A prefix without effect: the kernel emulates only the plain spelling.
    assert_eq!(class_of(&[0x48, 0x55]), Class::Other);
    assert_eq!(class_of(&[0x90]), Class::Nop1);
    assert_eq!(class_of(&[0x66, 0x90]), Class::Nop2);
    assert_eq!(class_of(&[0x0f, 0x1f, 0x00]), Class::Nop3);
    assert_eq!(class_of(&[0x0f, 0x1f, 0x40, 0x00]), Class::Nop4);
    assert_eq!(class_of(&[0x0f, 0x1f, 0x44, 0, 0]), Class::Nop5);
    assert_eq!(class_of(&[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]), Class::MultiByteNop);
    assert_eq!(class_of(&[0xf3, 0x0f, 0x1e, 0xfa]), Class::Endbr);
    assert_eq!(class_of(&[0xeb, 0x00]), Class::Jmp);
    assert_eq!(class_of(&[0xe9, 0, 0, 0, 0]), Class::Jmp);
    assert_eq!(class_of(&[0xf2, 0xe9, 0, 0, 0, 0]), Class::Jmp);
    assert_eq!(class_of(&[0x74, 0x00]), Class::Jcc);
    assert_eq!(class_of(&[0x0f, 0x84, 0, 0, 0, 0]), Class::Jcc);
    assert_eq!(class_of(&[0xe8, 0, 0, 0, 0]), Class::Call);
    assert_eq!(class_of(&[0xc3]), Class::Other);
    assert_eq!(class_of(&[0xff, 0xe0]), Class::Other);
    // What the kernel refuses to probe.
    assert_eq!(class_of(&[0x0f, 0x05]), Class::Refused);
    assert_eq!(class_of(&[0xcc]), Class::Refused);
    assert_eq!(class_of(&[0x3e, 0xff, 0xe0]), Class::Refused);
    assert_eq!(class_of(&[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]), Class::Refused);
    assert_eq!(class_of(&[0xf0, 0x48, 0x0f, 0xc1, 0x07]), Class::Refused);
}

#[test]
fn what_cannot_be_probed_is_an_error() {
    assert_eq!(select(whole(&[]), ENTRY_ONLY), Err(SiteError::Empty));
    assert_eq!(select(whole(&[0x06]), ENTRY_ONLY), Err(SiteError::Undecodable));
    assert_eq!(select(whole(&[0x0f, 0x05, 0xc3]), ENTRY_ONLY), Err(SiteError::Nowhere));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes are, a chosen site keeps the promises.
    #[test]
    fn any_bytes_give_a_legal_site_or_an_error(
        code in prop::collection::vec(any::<u8>(), 0..400),
        address in any::<u64>(),
        complete in any::<bool>(),
        arguments in 0_u8..=6,
        needs_return in any::<bool>(),
        null in prop::option::of(0_u8..=8),
    ) {
        let needs = Requirements { arguments, needs_return, no_op_when_null: null };
        let function = Function { address: VirtualOffset(address), bytes: &code, complete };
        if let Ok(choice) = select(function, needs) {
            for site in [&choice.site].into_iter().chain(&choice.alternatives) {
                prop_assert!(site.offset < code.len() as u64);
                prop_assert!(site.class != Class::Refused);
                prop_assert!(site.class != Class::Nop5 || site.offset == 0);
                prop_assert!(!needs_return || site.pushed_words == 0);
                prop_assert!(choice.site.cost.per_hit_ns(needs_return) <= site.cost.per_hit_ns(needs_return));
            }
        }
    }

    /// Damaged real code, which gets deeper into the decoder than random bytes.
    #[test]
    fn damaged_functions_do_no_harm(at in 0_usize..257, bit in 0_u32..8, length in 0_usize..=257) {
        let mut code = bytes(GLIBC_FREE);
        code[at] ^= 1 << bit;
        code.truncate(length);
        let needs = requirements(HookId::by_name("free").expect("in the table"));
        let _ = select(whole(&code), needs);
    }
}
