//! Tables out of files that lie: cut, flipped, forged, sparse, random, or changing while they are read. Nothing may
//! panic, hang, or take memory by a size that a file claims; whatever table comes out must be sound.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::sections::{FrameKind, Sections, SectionsError};
use super::soundness;
use super::table::Table;
use crate::object::elf::Elf;

/// Makes a table of a file's bytes.
type Target = fn(&[u8]) -> Option<Table>;

/// The fuzz targets, by the names of their corpora.
const TARGETS: [(&str, Target); 2] =
    [("unwind_table", soundness::object), ("unwind_frames", soundness::frames)];

/// What the fuzzer found worth keeping, the seeds it started from among it.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(directory).expect("a corpus");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

/// Small objects of this machine's compiler: one with a frame table, and one that only section headers lead into.
fn objects() -> &'static [Vec<u8>] {
    static OBJECTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    OBJECTS.get_or_init(|| vec![library(&[]), library(&["-Wl,--no-eh-frame-hdr"])])
}

fn library(options: &[&str]) -> Vec<u8> {
    const SOURCE: &str = "int f(void *, int); typedef int v __attribute__((vector_size(32)));
        int g(int a) { v w = {a}; char b[a]; return f(&w, 1) + f(b, a); } int h(int a) { return f(&a, a) + 1; }";
    let directory = tempfile::tempdir().expect("temporary directory");
    let (source, output) = (directory.path().join("a.c"), directory.path().join("a.so"));
    std::fs::write(&source, SOURCE).expect("source");
    let status = std::process::Command::new("gcc")
        .args(["-shared", "-fPIC", "-nostdlib", "-Os", "-s", "-fno-stack-protector", "-o"])
        .args([&output, &source])
        .args(["-Wl,-z,noseparate-code,-z,max-page-size=16,-z,common-page-size=16,--hash-style=sysv"])
        .args(options)
        .status()
        .expect("gcc runs");
    assert!(status.success());
    std::fs::read(output).expect("compiled")
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(bytes).expect("written");
    file
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn everything_that_the_fuzzer_found_is_harmless() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(files.len() > 50, "{} files in the corpus of {name}", files.len());
        let tables = files.iter().filter_map(|(_, bytes)| target(bytes));
        let described = tables.filter(|table| table.statistics.functions > 0).count();
        assert!(described > 10, "{described} of {} files describe functions", files.len());
    }
}

#[test]
fn an_object_cut_off_anywhere_is_harmless() {
    for bytes in objects() {
        assert!(soundness::object(bytes).is_some_and(|table| table.statistics.functions >= 2));
        for length in 0..bytes.len() {
            soundness::object(&bytes[..length]);
        }
    }
}

#[test]
fn frames_cut_off_anywhere_are_harmless() {
    for (_, bytes) in corpus("unwind_frames").iter().take(200) {
        for length in 0..bytes.len().min(400) {
            soundness::frames(&bytes[..length]);
        }
    }
}

/// Most resident memory that this process ever had, bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("own status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

/// Where the 8 bytes of a program header or section header's field are.
fn fields(bytes: &[u8], table: usize, count: usize, size: usize, field: usize) -> Vec<usize> {
    let start = usize::try_from(word_at(bytes, table)).expect("small");
    let count = usize::from(u16::from_le_bytes([bytes[count], bytes[count + 1]]));
    (0..count).map(|number| start + number * size + field).collect()
}

#[test]
fn sizes_claimed_by_a_sparse_file_of_four_gigabytes_are_not_believed() {
    let mut outcomes = Vec::new();
    for bytes in objects() {
        let mut forged = bytes.clone();
        // Segments, then sections, claim 3.9 GiB each.
        let segments = [32, 40].map(|field| fields(bytes, 32, 56, 56, field)).concat();
        let mut sections = fields(bytes, 40, 60, 64, 32);
        // Only those with content of the program's own: with their names the sections would be gone too.
        sections.retain(|at| bytes[at - 28] == 1);
        for round in [segments, sections] {
            for at in round {
                forged[at..at + 8].copy_from_slice(&0xf9c0_0000_u64.to_le_bytes());
            }
            let file = file_of(&forged);
            file.set_len(4 << 30).expect("sparse");
            let before = peak_memory();
            outcomes
                .push(Sections::read(&file, Path::new("sparse")).map(|sections| sections.frames.is_some()));
            assert!(peak_memory() - before < 700 << 20, "{before} -> {}", peak_memory());
        }
    }
    assert!(
        outcomes.iter().any(|outcome| matches!(outcome, Err(SectionsError::TooLarge { .. }))),
        "{outcomes:?}"
    );
}

#[test]
fn frames_without_a_length_end_at_their_terminator_even_in_a_sparse_segment() {
    let mut bytes = objects()[0].clone();
    let described = soundness::object(&bytes).expect("a table").statistics;
    for at in [32, 40].map(|field| fields(&bytes, 32, 56, 56, field)[0]) {
        bytes[at..at + 8].copy_from_slice(&(4_u64 << 30).to_le_bytes());
    }
    // No section headers: nothing but the terminator says where the frames end. What follows is all zero.
    bytes[40..48].fill(0);
    let headers = word_at(&objects()[0], 40);
    let file = file_of(&bytes[..usize::try_from(headers).expect("small")]);
    file.set_len(4 << 30).expect("sparse");
    let sections = Sections::read(&file, Path::new("sparse")).expect("read");
    let frames = sections.frames.expect("frames");
    assert_eq!(frames.kind, FrameKind::EhFrame);
    assert!(frames.bytes.len() as u64 <= described.frame_bytes, "{}", frames.bytes.len());
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_and_no_signal() {
    let bytes = &objects()[0];
    let file = file_of(bytes);
    let elf = Elf::from_file(file.try_clone().expect("cloned"), Path::new("shrinks")).expect("an object");
    file.set_len(64 + 56).expect("truncated");
    let error = Sections::of(&elf).expect_err("its frames are gone");
    assert!(error.to_string().contains("has just become shorter"), "{error}");
}

#[test]
fn a_file_that_changes_all_the_time_gives_a_sound_table_or_a_reason() {
    let bytes = &objects()[0];
    let (file, stop) = (file_of(bytes), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                file.set_len(bytes.len() as u64 / 2).expect("truncated");
                file.write_all_at(bytes, 0).expect("written");
            }
        });
        for _ in 0..2000 {
            if let Ok(sections) = Sections::read(&file, Path::new("changes")) {
                let limits = super::Limits::default();
                let table = super::compile(&sections, &limits).expect("small");
                soundness::check(&sections, &table, &limits);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Every seed of both targets.
fn seeds() -> &'static [(Target, Vec<u8>)] {
    static SEEDS: OnceLock<Vec<(Target, Vec<u8>)>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let own = objects().iter().map(|bytes| (soundness::object as Target, bytes.clone()));
        let found = TARGETS
            .iter()
            .flat_map(|(name, target)| corpus(name).into_iter().map(|(_, bytes)| (*target, bytes)));
        own.chain(found).filter(|(_, bytes)| !bytes.is_empty()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_do_no_harm(
        seed in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 1..24),
    ) {
        let (target, mut bytes) = seeds()[seed.index(seeds().len())].clone();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        target(&bytes);
    }

    #[test]
    fn forged_words_do_no_harm(
        seed in any::<prop::sample::Index>(),
        words in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), 0_u64..20_000]),
            1..8,
        ),
    ) {
        let (target, mut bytes) = seeds()[seed.index(seeds().len())].clone();
        for (at, word) in words {
            let at = at.index(bytes.len());
            for (target, byte) in bytes[at..].iter_mut().zip(word.to_le_bytes()) {
                *target = byte;
            }
        }
        target(&bytes);
    }

    #[test]
    fn random_frames_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        soundness::frames(&bytes);
    }

    #[test]
    fn random_instructions_do_no_harm(instructions in prop::collection::vec(any::<u8>(), 0..256), common in any::<bool>()) {
        let mut maker = super::hand_made::Maker::default();
        let first = maker.common("", if common { &instructions } else { &super::hand_made::INITIAL });
        maker.function_of(first, 0x1000, 0x20_000, &instructions);
        soundness::frames(&[&[0], maker.bytes.as_slice()].concat());
    }
}
