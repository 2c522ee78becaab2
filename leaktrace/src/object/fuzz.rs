//! The parser against files that lie: cut, flipped, forged, sparse and random. Nothing may panic, hang or take
//! memory by a size that the file claims.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::address::{FileOffset, VirtualOffset};
use super::elf::{Elf, ElfError};
use super::symbols::Table;

/// Bytes of this test's own executable that are mutated: its headers, dynamic symbols and notes lie in front.
const OWN_BYTES: u64 = 256 << 10;

/// Asks an object everything there is to ask.
fn interrogate(elf: &Elf) {
    let _ = (elf.kind(), elf.machine(), elf.is_static_executable(), elf.dynamic_address());
    let _ = elf.interpreter();
    let _ = elf.dynamic();
    let _ = elf.build_id();
    for table in [Table::Dynamic, Table::Full] {
        if let Ok(symbols) = elf.symbols(table, &["malloc", "free", "__libc_start_main", ""]) {
            for symbol in symbols.into_iter().flatten() {
                let _ = elf.code_at(symbol.address, symbol.size);
            }
        }
    }
    for segment in elf.segments() {
        let _ = elf.file_offset(segment.address);
        let _ = elf.virtual_offset(segment.offset);
    }
    let _ = elf.code_at(elf.entry(), 64);
    let _ = (elf.file_offset(VirtualOffset(u64::MAX)), elf.virtual_offset(FileOffset(u64::MAX)));
}

fn parse(bytes: &[u8]) -> Result<(), ElfError> {
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(bytes).expect("written");
    Elf::from_file(file, Path::new("forged")).map(|elf| interrogate(&elf))
}

/// Small real objects: a library with symbol versions made by the system's compiler, and this test's own beginning.
fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        vec![library(&["-Wl,--hash-style=gnu"]), library(&["-Wl,--hash-style=sysv"]), own_beginning()]
    })
}

fn own_beginning() -> Vec<u8> {
    let file = File::open("/proc/self/exe").expect("own executable");
    let mut bytes = vec![0; usize::try_from(OWN_BYTES).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("own beginning");
    bytes
}

fn library(options: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (source, output) = (directory.path().join("a.c"), directory.path().join("a.so"));
    std::fs::write(
        &source,
        "void *malloc(unsigned long n) { return (void *)n; } void free(void *p) { (void)p; }",
    )
    .expect("source");
    let status = std::process::Command::new("gcc")
        .args(["-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-o"])
        .args([&output, &source])
        .args(options)
        .status()
        .expect("gcc runs");
    assert!(status.success());
    std::fs::read(output).expect("compiled")
}

#[test]
fn every_seed_is_understood_before_it_is_damaged() {
    for seed in &seeds()[..2] {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(seed).expect("written");
        let elf = Elf::from_file(file, Path::new("seed")).expect("an object");
        for table in [Table::Dynamic, Table::Full] {
            let symbol = elf.symbol(table, "malloc").expect("readable").expect("defined");
            assert!(symbol.size > 0);
            assert!(!elf.code_at(symbol.address, symbol.size).expect("code").is_empty());
        }
        assert!(elf.symbol(Table::Dynamic, "calloc").expect("readable").is_err());
    }
}

#[test]
fn sizes_claimed_by_a_sparse_file_of_four_gigabytes_are_not_allocated() {
    let file = tempfile::tempfile().expect("temporary file");
    let mut seed = seeds()[0].clone();
    // Every program header claims 3.9 GiB of file from its place on.
    let headers = usize::try_from(u64_at(&seed, 32)).expect("small");
    let count = usize::from(u16::from_le_bytes([seed[56], seed[57]]));
    for header in 0..count {
        let size = headers + header * 56 + 32;
        seed[size..size + 8].copy_from_slice(&(0xf9c0_0000_u64).to_le_bytes());
    }
    file.write_all_at(&seed, 0).expect("written");
    file.set_len(4 << 30).expect("sparse");
    let before = peak_memory();
    interrogate(&Elf::from_file(file, Path::new("sparse")).expect("an object"));
    // Every single read has a cap; the largest that this object can make leaktrace do is 16 MiB of code.
    assert!(peak_memory() - before < 300 << 20, "{} -> {}", before, peak_memory());
}

#[test]
fn a_symbol_table_that_claims_a_sparse_file_is_refused() {
    let file = tempfile::tempfile().expect("temporary file");
    let mut seed = seeds()[0].clone();
    let (sections, count) = (u64_at(&seed, 40), u16::from_le_bytes([seed[60], seed[61]]));
    for section in 0..usize::from(count) {
        let size = usize::try_from(sections).expect("small") + section * 64 + 32;
        seed[size..size + 8].copy_from_slice(&(4_000_000_000_u64).to_le_bytes());
    }
    file.write_all_at(&seed, 0).expect("written");
    file.set_len(4 << 30).expect("sparse");
    let elf = Elf::from_file(file, Path::new("sparse")).expect("an object");
    assert!(matches!(elf.symbols(Table::Full, &["malloc"]), Err(ElfError::TooLarge { .. })));
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let header = |class: u8, order: u8, machine: u16| {
        let mut bytes = own_beginning()[..64].to_vec();
        (bytes[4], bytes[5]) = (class, order);
        let machine = if order == 2 { machine.to_be_bytes() } else { machine.to_le_bytes() };
        bytes[18..20].copy_from_slice(&machine);
        bytes
    };
    assert!(matches!(parse(b"#!/bin/sh\n"), Err(ElfError::NotElf { .. })));
    assert!(matches!(parse(b""), Err(ElfError::NotElf { .. })));
    assert!(matches!(parse(&header(1, 1, 3)), Err(ElfError::ThirtyTwoBit { .. })));
    assert!(matches!(
        parse(&header(2, 2, 22)),
        Err(ElfError::ForeignMachine { machine: 22, order: "big", .. })
    ));
    assert!(matches!(parse(&header(2, 1, 183)), Err(ElfError::ForeignMachine { machine: 183, .. })));
    let message = parse(&header(1, 1, 3)).expect_err("refused").to_string();
    assert!(message.starts_with("forged is a 32-bit program"), "{message}");
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Most resident memory that this process ever had, bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("own status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

/// Where a mutation strikes: mostly the headers, where everything is decided.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..64, 0_usize..1024, 0_usize..16384]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_truncated_object_does_no_harm(seed in 0_usize..3, length in 0_usize..20_000) {
        let seed = &seeds()[seed];
        let _ = parse(&seed[..length.min(seed.len())]);
    }

    #[test]
    fn flipped_bits_do_no_harm(seed in 0_usize..3, flips in prop::collection::vec((place(), 0_u32..8), 1..24)) {
        let mut bytes = seeds()[seed].clone();
        for (at, bit) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        let _ = parse(&bytes);
    }

    #[test]
    fn forged_words_do_no_harm(
        seed in 0_usize..3,
        words in prop::collection::vec((place(), prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), 0_u64..20_000]), 1..8),
    ) {
        let mut bytes = seeds()[seed].clone();
        for (at, word) in words {
            if let Some(target) = bytes.get_mut(at & !7..(at & !7) + 8) {
                target.copy_from_slice(&word.to_le_bytes());
            }
        }
        let _ = parse(&bytes);
    }

    #[test]
    fn random_bytes_behind_a_valid_header_do_no_harm(tail in prop::collection::vec(any::<u8>(), 0..4096)) {
        let mut bytes = seeds()[0][..64].to_vec();
        bytes.extend(tail);
        let _ = parse(&bytes);
    }
}
