//! Tables of real objects against two others who read the same descriptions: gimli, which looks every address up as
//! exception handling does, and the C library, which walks this process's own stack.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EvaluationResult, Format, LittleEndian, Location,
    Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow, Value,
};
use leaktrace_common::unwind::{Cfa, Registers, Rule, step};
use leaktrace_common::walk::end;

use super::compile::{Limits, compile};
use super::sections::Sections;
use super::table::Table;
use super::x86_64::{self as arch, Bytes};
use crate::object::address::VirtualOffset;
use crate::object::elf::Elf;

type Row = UnwindTableRow<usize>;

/// An object of this process, or one that most machines have.
struct Object {
    path: PathBuf,
    sections: Sections,
    table: Table,
    /// Its frame table, and where that is loaded.
    lookup: (Vec<u8>, u64),
}

impl Object {
    fn open(path: &Path) -> Self {
        let elf = Elf::open(path).expect("an object");
        let address = elf.frame_table_address().expect("a frame table");
        let lookup = elf.bytes_at("its frame table", address, 64 << 20, 64 << 20);
        let sections = Sections::read(&File::open(path).expect("opened"), path).expect("read");
        let table = compile(&sections, &Limits::default()).expect("a table");
        Self {
            path: path.to_owned(),
            sections,
            table,
            lookup: (lookup.expect("read").unwrap_or_else(|| panic!("{path:?} {address:#x}")), address.0),
        }
    }

    /// Hands the rows that gimli finds for addresses to `check`, `None` where it finds none.
    fn look_up(
        &self,
        addresses: impl Iterator<Item = u64>,
        mut check: impl FnMut(u64, Option<(&Row, Rule, EhFrame<Bytes<'_>>)>),
    ) {
        let frames = self.sections.frames.as_ref().expect("frames");
        let section = EhFrame::from(Bytes::new(&frames.bytes, LittleEndian));
        let bases = BaseAddresses::default().set_eh_frame(frames.address.0).set_eh_frame_hdr(self.lookup.1);
        let parsed = EhFrameHdr::new(&self.lookup.0, LittleEndian).parse(&bases, 8).expect("a frame table");
        let lookup = parsed.table().expect("sorted");
        let mut context = UnwindContext::new();
        for address in addresses {
            let found = lookup.fde_for_address(&section, &bases, address, EhFrame::cie_from_offset);
            let found = found.ok().and_then(|function| {
                let row = function.unwind_info_for_address(&section, &bases, &mut context, address).ok()?;
                Some((row, arch::rule(row, function.cie(), &section).unwrap_or(Rule::UNSUPPORTED)))
            });
            check(address, found.map(|(row, rule)| (row, rule, section)));
        }
    }

    /// Addresses at which something could change, and others spread over all code.
    fn addresses(&self) -> Vec<u64> {
        let mut addresses = BTreeSet::new();
        for (number, page) in self.table.pages.iter().enumerate() {
            let base = self.table.base.0 + (number << 16) as u64;
            for row in &self.table.rows[page.first as usize..(page.first + page.count) as usize] {
                let start = base + u64::from(row >> 16);
                addresses.extend([start.saturating_sub(1), start, start + 1]);
            }
        }
        for range in &self.sections.code {
            let step = ((range.end.0 - range.start.0) / 20_000).max(1);
            addresses.extend((range.start.0..range.end.0).step_by(usize::try_from(step).expect("small")));
        }
        addresses.retain(|address| {
            self.sections.code.iter().any(|range| (range.start.0..range.end.0).contains(address))
        });
        addresses.into_iter().collect()
    }
}

/// What is mapped into this process; the C++ library and Python where they are installed.
fn objects() -> Vec<Object> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own mappings");
    let code = maps.lines().filter(|line| line.contains(" r-xp "));
    let mapped = code.filter_map(|line| line.split_whitespace().nth(5)).map(PathBuf::from);
    let mut paths: BTreeSet<PathBuf> = mapped.filter(|path| Elf::open(path).is_ok()).collect();
    assert!(paths.len() >= 4, "own executable, C library, dynamic linker, libgcc: {paths:?}");
    let libraries = "/usr/lib/x86_64-linux-gnu";
    let others = [format!("{libraries}/libstdc++.so.6"), format!("{libraries}/libcrypto.so.3")];
    paths.extend(
        others.into_iter().chain(["/usr/bin/python3".into()]).map(PathBuf::from).filter(|path| path.exists()),
    );
    paths.iter().map(|path| Object::open(path)).collect()
}

#[test]
fn every_rule_is_the_one_that_exception_handling_would_use() {
    let mut kinds = HashSet::new();
    for object in objects() {
        let addresses = object.addresses();
        assert!(addresses.len() > 1000, "{}", object.path.display());
        object.look_up(addresses.into_iter(), |address, found| {
            let rule = object.table.rule_at(VirtualOffset(address));
            kinds.insert(rule.cfa());
            let name = object.path.display();
            match found {
                Some((_, expected, _)) => assert_eq!(rule, expected, "{name} {address:#x}"),
                None => assert!(
                    [Rule::NONE, Rule::END, Rule::SIGNAL].contains(&rule),
                    "{name} {address:#x}: {rule:?}"
                ),
            }
        });
    }
    for kind in [Cfa::NONE, Cfa::END, Cfa::SP, Cfa::BP, Cfa::BX, Cfa::PLT, Cfa::SIGNAL] {
        assert!(kinds.contains(&kind), "no object uses {kind}");
    }
}

/// A word of an imaginary stack, from which everything that is found lies further out.
fn word(address: u64) -> u64 {
    0x7fff_0000_0000 + (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36 << 4)
}

const SP: u64 = 0x7000_0000_1000;
const BP: u64 = SP + 0x1230;
const BX: u64 = SP + 0x4560;

fn register(register: Register, pc: u64) -> u64 {
    match register.0 {
        3 => BX,
        6 => BP,
        7 => SP,
        16 => pc,
        other => panic!("a rule must not need register {other}"),
    }
}

/// The address that an expression computes, by gimli's own machine.
fn evaluate(expression: &UnwindExpression<usize>, section: &EhFrame<Bytes<'_>>, pc: u64) -> u64 {
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
    let mut machine = expression.get(section).expect("inside").evaluation(encoding);
    let mut state = machine.evaluate().expect("evaluates");
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, .. } => {
                machine.resume_with_memory(Value::Generic(word(address))).expect("evaluates")
            }
            EvaluationResult::RequiresRegister { register: wanted, .. } => {
                machine.resume_with_register(Value::Generic(register(wanted, pc))).expect("evaluates")
            }
            other => panic!("an expression needs {other:?}"),
        };
    }
    match machine.result()[0].location {
        Location::Address { address } => address,
        ref other => panic!("an expression gives {other:?}"),
    }
}

/// What a register of the caller is by the row; `None` if it cannot be known.
fn saved(row: &Row, wanted: Register, cfa: u64, section: &EhFrame<Bytes<'_>>, pc: u64) -> Option<u64> {
    match row.register(wanted) {
        None | Some(RegisterRule::SameValue) => Some(register(wanted, pc)),
        Some(RegisterRule::Offset(offset)) => Some(word(cfa.wrapping_add_signed(offset))),
        Some(RegisterRule::Expression(expression)) => Some(word(evaluate(&expression, section, pc))),
        _ => None,
    }
}

#[test]
fn a_step_gives_the_registers_that_the_description_says() {
    let mut seen = HashSet::new();
    for object in objects() {
        object.look_up(object.addresses().into_iter(), |pc, found| {
            let Some((row, rule, section)) = found else { return };
            let special = [Cfa::END, Cfa::SIGNAL, Cfa::UNSUPPORTED].contains(&rule.cfa());
            if special || (rule.cfa() != Cfa::PLT && !seen.insert(rule)) {
                return;
            }
            let cfa = match row.cfa() {
                CfaRule::RegisterAndOffset { register: from, offset } => {
                    register(*from, pc).wrapping_add_signed(*offset)
                }
                CfaRule::Expression(expression) => evaluate(expression, &section, pc),
            };
            let mut at = Registers { pc, sp: SP, bp: BP, bx: BX, ..Registers::default() };
            let done = step(rule, &mut at, &mut |address| Some(word(address)));
            let what = format!("{} {pc:#x}: {rule:x?}, {row:?}", object.path.display());
            if cfa <= SP || cfa % 8 != 0 {
                return assert_eq!(done, Err(end::NOT_ASCENDING), "{what}");
            }
            assert_eq!((done, at.sp, at.pc), (Ok(()), cfa, word(cfa - 8)), "{what}");
            let bp = (at.lost & 1 == 0).then_some(at.bp);
            let bx = if at.bx_at == 0 { at.bx } else { word(at.bx_at) };
            let bx = (at.lost & 2 == 0).then_some(bx);
            assert_eq!(bp, saved(row, Register(6), cfa, &section, pc), "rbp, {what}");
            assert_eq!(bx, saved(row, Register(3), cfa, &section, pc), "rbx, {what}");
        });
    }
    assert!(seen.len() > 300, "{} different rules", seen.len());
}

/// A piece of this process's memory that holds code.
struct Mapping {
    start: u64,
    end: u64,
    bias: u64,
    table: Rc<Table>,
}

fn own_mappings() -> Vec<Mapping> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own mappings");
    let mut tables = BTreeMap::<String, Option<(Rc<Table>, Elf)>>::new();
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    maps.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = words[0].split_once('-')?;
            let name = words.get(5).filter(|name| words[1].contains('x') && name.starts_with('/'))?;
            let found = tables.entry((*name).to_owned()).or_insert_with(|| {
                let elf = Elf::open(Path::new(name)).ok()?;
                let sections = Sections::of(&elf).expect("read");
                Some((Rc::new(compile(&sections, &Limits::default()).expect("a table")), elf))
            });
            let (table, elf) = found.as_ref()?;
            // Mapped from the page on in which the segment begins: that page can hold another segment's end.
            let offset = hex(words[2]);
            let segment =
                elf.segments().find(|found| found.executable && found.offset.0 & !0xfff == offset)?;
            let address = segment.address.0 & !0xfff;
            let (start, end) = (hex(start), hex(end));
            Some(Mapping { start, end, bias: start - address, table: Rc::clone(table) })
        })
        .collect()
}

/// A word of this process's own memory, as the kernel would read it.
fn own_word(address: u64) -> Option<u64> {
    let mut word = 0_u64;
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: 8 };
    // SAFETY: the local vector is the variable above; whatever the remote one names, the call fails or copies.
    let read =
        unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    (read == 8).then_some(word)
}

/// Return addresses, innermost first, and why the walk ended.
fn walk(mut at: Registers, mappings: &[Mapping]) -> (Vec<u64>, u8) {
    let mut frames = Vec::new();
    for _ in 0..200 {
        let looked_up = if at.exact == 1 { at.pc } else { at.pc - 1 };
        let Some(mapping) = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&looked_up))
        else {
            return (frames, end::UNKNOWN_CODE);
        };
        let rule = mapping.table.rule_at(VirtualOffset(looked_up - mapping.bias));
        match step(rule, &mut at, &mut own_word) {
            Ok(()) => frames.push(at.pc),
            Err(reason) => return (frames, reason),
        }
    }
    (frames, end::TOO_DEEP)
}

unsafe extern "C" {
    fn backtrace(buffer: *mut *mut c_void, size: c_int) -> c_int;
}

/// Ours, its end, and the C library's.
type Walks = (Vec<u64>, u8, Vec<u64>);

thread_local! {
    /// Walks made in places that hand nothing back.
    static WALKS: RefCell<Vec<Walks>> = const { RefCell::new(Vec::new()) };
    static MAPPINGS: RefCell<Vec<Mapping>> = const { RefCell::new(Vec::new()) };
}

/// Walks from here twice, by the tables and by the C library.
#[inline(never)]
fn walk_twice() {
    let mut at = Registers { exact: 1, ..Registers::default() };
    // SAFETY: only copies registers.
    unsafe {
        std::arch::asm!(
            "lea rax, [rip]", "mov rcx, rsp", "mov rdx, rbp", "mov rsi, rbx",
            out("rax") at.pc, out("rcx") at.sp, out("rdx") at.bp, out("rsi") at.bx,
            options(nomem, nostack, preserves_flags),
        );
    }
    let (ours, reason) = MAPPINGS.with_borrow(|mappings| walk(at, mappings));
    let mut buffer = [std::ptr::null_mut(); 200];
    // SAFETY: the buffer has 200 elements.
    let count = unsafe { backtrace(buffer.as_mut_ptr(), 200) };
    let theirs = buffer[..usize::try_from(count).expect("not negative")].iter().map(|frame| *frame as u64);
    // The first of theirs is where this function called `backtrace`.
    WALKS.with_borrow_mut(|walks| walks.push((ours, reason, theirs.skip(1).collect())));
}

extern "C" fn compare(left: *const c_void, right: *const c_void) -> c_int {
    walk_twice();
    (left as usize).cmp(&(right as usize)) as c_int
}

extern "C" fn handler(_: c_int) {
    walk_twice();
}

#[inline(never)]
fn deeper(levels: u32) -> u32 {
    let padding = std::hint::black_box([levels; 37]);
    if levels == 0 {
        walk_twice();
    }
    let below = if levels == 0 { 0 } else { deeper(levels - 1) };
    std::hint::black_box(padding)[usize::try_from(levels % 37).expect("small")] + below
}

/// Every kind of place at once: recursion, a callback through the C library, a signal handler inside of it.
fn walk_everywhere() {
    MAPPINGS.set(own_mappings());
    walk_twice();
    deeper(30);
    let mut numbers = [5_u64, 3, 9];
    // SAFETY: three numbers of 8 bytes; the handler is async-signal-safe enough for a signal that is raised, not sent.
    unsafe {
        libc::qsort(numbers.as_mut_ptr().cast(), 3, 8, Some(compare));
        let before = libc::signal(libc::SIGUSR2, handler as *const () as usize);
        libc::raise(libc::SIGUSR2);
        libc::signal(libc::SIGUSR2, before);
    }
}

#[test]
fn walks_of_this_process_agree_with_the_c_library() {
    // A thread of its own, whose stack begins in `clone`.
    std::thread::spawn(|| {
        walk_everywhere();
        let walks = WALKS.take();
        assert!(walks.len() >= 5, "{}", walks.len());
        for (ours, reason, theirs) in walks {
            assert_eq!(reason, end::COMPLETE, "{ours:x?} {theirs:x?}");
            assert!(ours.len() > 4 && ours == theirs, "{ours:x?} {theirs:x?}");
        }
    })
    .join()
    .expect("the same");
}
