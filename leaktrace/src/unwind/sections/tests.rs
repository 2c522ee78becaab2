//! What is read from objects that real tools made.

use std::process::Command;

use super::*;
use crate::unwind::{Limits, compile};

const SOURCE: &str = "int other(void *); int first(int a) { return other(&a) + 1; }
    int second(int a) { int b[100]; b[a] = first(a); return other(b); }";

/// A library, by GCC with these options, then changed by `objcopy` with those.
fn library(gcc: &[&str], objcopy: &[&str]) -> Sections {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("a.c"), SOURCE).expect("source");
    run(Command::new("gcc")
        .args(["-shared", "-fPIC", "-nostdlib", "-O2", "-o"])
        .args([at("a.so"), at("a.c")])
        .args(gcc));
    run(Command::new("objcopy").args(objcopy).args([at("a.so"), at("b.so")]));
    read(&at("b.so"))
}

fn run(command: &mut Command) {
    assert!(command.status().expect("runs").success(), "{command:?}");
}

fn read(path: &Path) -> Sections {
    Sections::read(&File::open(path).expect("opened"), path).expect("read")
}

fn kind(sections: &Sections) -> Option<FrameKind> {
    sections.frames.as_ref().map(|frames| frames.kind)
}

fn functions(sections: &Sections) -> u64 {
    compile(sections, &Limits::default()).expect("a table").statistics.functions
}

#[test]
fn frames_are_found_with_and_without_headers_of_segments_and_sections() {
    let whole = library(&[], &[]);
    assert_eq!((kind(&whole), functions(&whole) >= 2), (Some(FrameKind::EhFrame), true));
    let stripped = library(&[], &["--strip-all", "--remove-section=.comment"]);
    assert_eq!(stripped.digest(), whole.digest());
    let unnamed = library(&[], &["--rename-section", ".eh_frame=.other"]);
    assert_eq!(unnamed.digest(), whole.digest(), "the terminator ends it");
    let by_name = library(&["-Wl,--no-eh-frame-hdr"], &[]);
    assert_eq!((kind(&by_name), functions(&by_name)), (Some(FrameKind::EhFrame), functions(&whole)));
}

const ONLY_FOR_DEBUGGERS: [&str; 4] =
    ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-g", "-Wl,--no-ld-generated-unwind-info"];

#[test]
fn what_debuggers_use_counts_only_where_there_is_nothing_else() {
    let plain = library(&[ONLY_FOR_DEBUGGERS.as_slice(), &["-gz=none"]].concat(), &[]);
    assert_eq!((kind(&plain), functions(&plain)), (Some(FrameKind::DebugFrame), 2));
    let compressed = library(&[ONLY_FOR_DEBUGGERS.as_slice(), &["-gz=zlib"]].concat(), &[]);
    assert_eq!(compressed.digest(), plain.digest());
    let none = library(&ONLY_FOR_DEBUGGERS, &["--strip-all"]);
    assert_eq!(none.frames, None);
    let both = library(&["-g", "-fno-dwarf2-cfi-asm"], &[]);
    assert_eq!(kind(&both), Some(FrameKind::EhFrame));
}

#[test]
fn the_vdso_is_read_from_memory() {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own mappings");
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).expect("a vDSO");
    let (start, rest) = line.split_once('-').expect("a range");
    let (end, _) = rest.split_once(' ').expect("a range");
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).expect("hexadecimal"));
    // SAFETY: the kernel keeps the vDSO mapped and readable.
    let image = unsafe { std::slice::from_raw_parts(start as *const u8, end - start) };
    let sections = Sections::from_image(image, Path::new("[vdso]")).expect("an object");
    assert!(functions(&sections) >= 4);
    assert!(sections.build_id.is_some());
    assert!(matches!(
        Sections::from_image(&image[1..], Path::new("[vdso]")),
        Err(SectionsError::NotElf { .. })
    ));
}

#[test]
fn a_static_program_brings_its_own_trampoline() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(
        at("a.c"),
        "#include <signal.h>\nint main(void) { return signal(2, SIG_IGN) == SIG_ERR; }",
    )
    .expect("source");
    for compiler in ["gcc", "musl-gcc"] {
        run(Command::new(compiler).args(["-static", "-o"]).args([at(compiler), at("a.c")]));
        let sections = read(&at(compiler));
        assert!(!sections.trampolines.is_empty(), "{compiler}");
        let table = compile(&sections, &Limits::default()).expect("a table");
        for trampoline in &sections.trampolines {
            let before = VirtualOffset(trampoline.start.0 - 1);
            assert_eq!(table.rule_at(before).cfa(), leaktrace_common::unwind::Cfa::SIGNAL, "{compiler}");
        }
        for jumps in &sections.jumps {
            assert_eq!(table.rule_at(jumps.start), arch::JUMP, "{compiler}");
        }
        // Only glibc chooses functions when the program starts.
        assert_eq!(sections.jumps.is_empty(), compiler == "musl-gcc");
    }
    // Needs the C library, and its trampoline is there.
    let own = read("/proc/self/exe".as_ref());
    assert!(own.trampolines.is_empty() && own.jumps.is_empty());
}

#[test]
fn trampolines_across_the_border_of_two_pieces_are_found_once() {
    let code = [
        0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05, 0x90, 0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05, 0x0f, 0, 0, 0,
        0x0f, 5,
    ];
    let mut found = Vec::new();
    arch::find_trampolines(&code, VirtualOffset(0x1000), &mut found);
    let at = |start, length| Trampoline { start: VirtualOffset(start), length };
    assert_eq!(found, [at(0x1000, 9), at(0x100a, 7)]);
    for length in 0..9 {
        found.clear();
        arch::find_trampolines(&code[..length], VirtualOffset(0), &mut found);
        assert_eq!(found, []);
    }
    for shift in 0..20 {
        let mut image = vec![0x90; usize::try_from(SEARCH_PIECE).expect("small") * 2];
        let start = image.len() / 2 - shift;
        image[start..start + 9].copy_from_slice(&code[..9]);
        let elf = static_program(&image);
        let found = Sections::from_image(&elf, Path::new("image")).expect("an object").trampolines;
        assert_eq!(found, [at(0x1_0000 + start as u64, 9)], "{shift} before the border");
    }
}

/// A program of one segment, loaded at 0x10000, that holds nothing but code.
fn static_program(code: &[u8]) -> Vec<u8> {
    let mut bytes = std::fs::read("/proc/self/exe").expect("own executable");
    bytes.truncate(64);
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(24, 0x1_0000);
    put(32, 64);
    put(40, 0);
    bytes[56..64].copy_from_slice(&[1, 0, 64, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable and executable.
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [120, 0x1_0000, 0x1_0000, code.len() as u64, code.len() as u64, 16] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(code);
    bytes
}

#[test]
fn the_digest_changes_with_everything_that_a_table_depends_on_and_with_nothing_else() {
    let original = library(&[], &[]);
    let change = |change: fn(&mut Sections)| {
        let mut changed = original.clone();
        change(&mut changed);
        changed.digest()
    };
    let trampoline = Trampoline { start: VirtualOffset(0x1000), length: 7 };
    let mut with_trampoline = original.clone();
    with_trampoline.trampolines.push(trampoline);
    let digests = [
        original.digest(),
        with_trampoline.digest(),
        change(|sections| sections.entry.0 += 1),
        change(|sections| sections.jumps.push(sections.code[0])),
        change(|sections| sections.code[0].end.0 += 1),
        change(|sections| sections.code[0].start.0 += 1),
        change(|sections| sections.frames = None),
        change(|sections| sections.frames.as_mut().expect("some").kind = FrameKind::DebugFrame),
        change(|sections| sections.frames.as_mut().expect("some").address.0 += 1),
        change(|sections| sections.frames.as_mut().expect("some").bytes[30] ^= 1),
        change(|sections| sections.frames.as_mut().expect("some").bytes.push(0)),
    ];
    assert_eq!(digests.iter().collect::<std::collections::HashSet<_>>().len(), digests.len());
    assert_eq!(change(|sections| sections.build_id = None), original.digest());
}

#[test]
fn executable_ranges_are_sorted_and_merged() {
    let own = read("/proc/self/exe".as_ref());
    assert!(!own.code.is_empty());
    assert!(own.code.windows(2).all(|pair| pair[0].end < pair[1].start));
    assert!(own.code.iter().any(|range| range.start <= own.entry && own.entry < range.end));
}
