//! Code objects in forged memory: each thing that can be wrong with them, and what the fuzzer found.

use std::path::Path;

use leaktrace_common::python::PythonFrame;
use proptest::prelude::*;

use super::code::{self, Code, Gone, MAX_TABLE};
use super::soundness::{self, BASE, Image, frame, offsets};

/// Bytes of an input of the fuzz target before its memory.
const HEAD: usize = 12;

/// A memory being written.
struct Forge {
    version: u8,
    bytes: Vec<u8>,
}

impl Forge {
    fn new(version: u8) -> Self {
        Self { version, bytes: Vec::new() }
    }

    /// Appends something and returns its address.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let address = BASE + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        address
    }

    /// A type of that name, with a base.
    fn class(&mut self, name: &str, base: u64) -> u64 {
        let name = self.put(&[name.as_bytes(), b"\0"].concat());
        let mut object = vec![0; 264];
        object[24..32].copy_from_slice(&name.to_le_bytes());
        object[256..264].copy_from_slice(&base.to_le_bytes());
        self.put(&object)
    }

    fn header(class: u64, size: usize) -> Vec<u8> {
        let mut object = vec![0; size];
        object[..8].copy_from_slice(&3_u64.to_le_bytes());
        object[8..16].copy_from_slice(&class.to_le_bytes());
        object
    }

    /// A string of `kind` bytes a character; ASCII if `kind` is 0.
    fn string(&mut self, class: u64, kind: usize, text: &[u32]) -> u64 {
        let offsets = offsets(self.version);
        let size = if kind == 0 { offsets.ascii_size } else { offsets.compact_size } as usize;
        let mut object = Self::header(class, size);
        object[16..24].copy_from_slice(&(text.len() as u64).to_le_bytes());
        object[32] = 0x80 | 1 << 5 | if kind == 0 { 1 << 6 | 1 << 2 } else { (kind as u8) << 2 };
        for character in text {
            object.extend(&character.to_le_bytes()[..kind.max(1)]);
        }
        self.put(&object)
    }

    fn bytes(&mut self, class: u64, contents: &[u8]) -> u64 {
        let mut object = Self::header(class, 32);
        object[16..24].copy_from_slice(&(contents.len() as u64).to_le_bytes());
        object.extend(contents);
        self.put(&object)
    }

    fn code(&mut self, class: u64, name: u64, file: u64, table: u64) -> u64 {
        let offsets = offsets(self.version);
        let mut object = Self::header(class, 192);
        let mut set = |at: u32, bytes: &[u8]| object[at as usize..][..bytes.len()].copy_from_slice(bytes);
        set(offsets.layout.code_flags, &0x43_u32.to_le_bytes());
        set(offsets.layout.code_first_line, &10_u32.to_le_bytes());
        set(offsets.layout.code_name, &name.to_le_bytes());
        set(offsets.layout.code_file, &file.to_le_bytes());
        if offsets.code_qualname != 0 {
            set(offsets.code_qualname, &name.to_le_bytes());
        }
        set(offsets.code_line_table, &table.to_le_bytes());
        self.put(&object)
    }
}

/// What a plain code object is made of.
struct Plain {
    forge: Forge,
    code: u64,
    name: u64,
    string: u64,
    of_bytes: u64,
    of_code: u64,
    table: u64,
}

/// `f` in `a.py`, whose first two instructions stand in line 12.
fn plain(version: u8) -> Plain {
    let mut forge = Forge::new(version);
    let object = forge.class("object", 0);
    let [string, of_bytes, of_code] = ["str", "bytes", "code"].map(|name| forge.class(name, object));
    let name = forge.string(string, 0, &[0x66]);
    let file = forge.string(string, 0, &ascii("a.py"));
    let table: &[u8] = if version < 2 { &[0, 2, 4, 1] } else { &[0x80 | 12 << 3 | 1, 1, 1] };
    let table: &[u8] = if version == 1 { &[4, 2, 4, 1] } else { table };
    let table = forge.bytes(of_bytes, table);
    let code = forge.code(of_code, name, file, table);
    Plain { forge, code, name, string, of_bytes, of_code, table }
}

/// Memory with one code object, `f` in `a.py`, and its address.
pub fn one_object(version: u8) -> (Vec<u8>, u64) {
    let plain = plain(version);
    (plain.forge.bytes, plain.code)
}

/// Memory with the code object of a module, with that line table, and its address.
pub fn module(version: u8, table: &[u8]) -> (Vec<u8>, u64) {
    let Plain { mut forge, of_code, of_bytes, string, name, .. } = plain(version);
    let table = forge.bytes(of_bytes, table);
    let file = forge.string(string, 0, &ascii("<string>"));
    let code = forge.code(of_code, name, file, table);
    let flags = usize::try_from(code - BASE).expect("small") + offsets(version).layout.code_flags as usize;
    forge.bytes[flags] &= !1;
    (forge.bytes, code)
}

fn ascii(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn read(forge: &Forge, code: u64) -> Result<Code, Gone> {
    read_as(forge, &frame(&Image::new(&forge.bytes), &offsets(forge.version), code, 2))
}

fn read_as(forge: &Forge, frame: &PythonFrame) -> Result<Code, Gone> {
    code::read(&Image::new(&forge.bytes), &offsets(forge.version), frame)
}

/// As the fuzz target takes it.
fn input(forge: &Forge, code: u64, tear: (u8, u16, u8)) -> Vec<u8> {
    let at = u16::try_from(code - BASE).expect("small");
    let mut bytes = vec![forge.version, tear.0];
    bytes.extend(tear.1.to_le_bytes());
    bytes.push(tear.2);
    bytes.extend(at.to_le_bytes());
    bytes.extend(2_u32.to_le_bytes());
    bytes.resize(HEAD, 0);
    bytes.extend(&forge.bytes);
    bytes
}

#[test]
fn a_plain_code_object_is_read_in_every_version() {
    for version in 0..4 {
        let plain = plain(version);
        let code = read(&plain.forge, plain.code).expect("plain");
        assert_eq!((code.name.as_str(), code.file.as_str()), ("f", "a.py"));
        assert_eq!(code.lines.line(2), Some(12), "version {version}");
    }
}

#[test]
fn characters_of_every_width_and_strings_of_derived_types_are_read() {
    let Plain { mut forge, of_code, string, table, .. } = plain(3);
    let wide = forge.string(string, 4, &[0x1f600, 0xdcff, 0x2f]);
    let narrow = forge.string(string, 1, &[0xe9]);
    let code = forge.code(of_code, narrow, wide, table);
    let found = read(&forge, code).expect("plain");
    assert_eq!((found.name.as_str(), found.file.as_str()), ("é", "😀\\udcff/"));

    let derived = forge.class("Path", string);
    let mut object = Forge::header(derived, 64);
    object[16..24].copy_from_slice(&2_u64.to_le_bytes());
    object[32] = 1 << 2 | 1 << 6;
    let characters = forge.put(b"xy");
    object[56..64].copy_from_slice(&characters.to_le_bytes());
    let elsewhere = forge.put(&object);
    let code = forge.code(of_code, elsewhere, wide, table);
    assert_eq!(read(&forge, code).expect("derived").name, "xy");
}

#[test]
fn a_long_file_name_is_cut_and_says_so() {
    let Plain { mut forge, of_code, string, name, table, .. } = plain(2);
    let file = forge.string(string, 0, &vec![0x61; 1 << 20]);
    let code = forge.code(of_code, name, file, table);
    let found = read(&forge, code).expect("plain").file;
    assert_eq!(found, format!("{}[... 1048576 characters]", "a".repeat(4096)));
}

#[test]
fn a_table_that_is_too_long_or_none_leaves_the_name_without_a_line() {
    let Plain { mut forge, of_code, string, of_bytes, name, .. } = plain(2);
    let file = forge.string(string, 0, &ascii("a.py"));
    let long = forge.bytes(of_bytes, &vec![0; MAX_TABLE + 1]);
    for table in [long, name, 0, u64::MAX] {
        let code = forge.code(of_code, name, file, table);
        let found = read(&forge, code).expect("named");
        assert_eq!(
            (found.name.as_str(), found.lines.table.is_none(), found.lines.line(2)),
            ("f", true, None)
        );
    }
}

#[test]
fn another_object_in_the_same_place_is_not_believed() {
    for version in 0..4 {
        let mut plain = plain(version);
        let offsets = offsets(version);
        let before = frame(&Image::new(&plain.forge.bytes), &offsets, plain.code, 2);
        let at = usize::try_from(plain.code - BASE).expect("small");
        let change = |forge: &mut Forge, at: usize, bytes: &[u8]| {
            let old = forge.bytes[at..][..bytes.len()].to_vec();
            forge.bytes[at..][..bytes.len()].copy_from_slice(bytes);
            let found = read_as(forge, &before);
            forge.bytes[at..][..bytes.len()].copy_from_slice(&old);
            found
        };
        // Given back: the allocator's list runs through the first word. Then another type, another first line.
        for gone in [0x7f12_3456_7890_u64, 0] {
            assert_eq!(change(&mut plain.forge, at, &gone.to_le_bytes()), Err(Gone::Replaced));
        }
        let string = plain.string.to_le_bytes();
        assert_eq!(change(&mut plain.forge, at + 8, &string), Err(Gone::Replaced));
        let line = at + offsets.layout.code_first_line as usize;
        assert_eq!(change(&mut plain.forge, line, &[11]), Err(Gone::Replaced));
        assert!(read_as(&plain.forge, &before).is_ok());
        let nowhere = PythonFrame { code: BASE + (1 << 30), ..before };
        assert_eq!(read_as(&plain.forge, &nowhere), Err(Gone::Unreadable));
    }
}

#[test]
fn a_name_that_is_no_string_is_no_name() {
    for version in 0..4 {
        let Plain { mut forge, of_code, name, table, string, .. } = plain(version);
        let number = forge.class("int", 0);
        let number = forge.put(&Forge::header(number, 80));
        let beyond = forge.string(string, 4, &[0x11_0000]);
        let cyclic = forge.class("Loop", 0);
        let at = usize::try_from(cyclic - BASE).expect("small") + 256;
        forge.bytes[at..at + 8].copy_from_slice(&cyclic.to_le_bytes());
        let cyclic = forge.string(cyclic, 0, &[0x66]);
        for file in [number, beyond, cyclic, table, 0, 8, u64::MAX] {
            let code = forge.code(of_code, name, file, table);
            assert_eq!(read(&forge, code), Err(Gone::Nameless), "version {version}, file at {file:#x}");
        }
    }
}

#[test]
fn an_object_that_changes_while_it_is_read_is_not_believed() {
    for version in 0..4 {
        let plain = plain(version);
        let offsets = offsets(version);
        let first = u16::try_from(plain.code - BASE).expect("small");
        let members =
            [0, 8, offsets.layout.code_first_line, offsets.layout.code_file, offsets.code_line_table];
        let mut refused = 0;
        for (after, member) in (0..40).flat_map(|after| members.map(|member| (after, member))) {
            let at = first + u16::try_from(member).expect("small");
            refused +=
                u32::from(soundness::code(&input(&plain.forge, plain.code, (after, at, 0xff))).is_none());
        }
        assert!(refused > 50, "{refused}");
    }
}

/// What the fuzzer found worth keeping, the seeds it started from among it.
fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/python_code");
    let entries = std::fs::read_dir(directory).expect("a corpus");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files.into_iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

#[test]
fn everything_that_the_fuzzer_found_is_harmless() {
    let files = corpus();
    let read = files.iter().filter(|bytes| soundness::code(bytes).is_some()).count();
    assert!(files.len() > 50 && read > 10, "{read} of {} files hold a code object", files.len());
}

#[test]
fn memory_cut_off_anywhere_is_harmless() {
    for version in 0..4 {
        let plain = plain(version);
        let whole = input(&plain.forge, plain.code, (0, 0, 0));
        assert!(soundness::code(&whole).is_some());
        assert!(
            (0..whole.len())
                .all(|length| soundness::code(&whole[..length]).is_none() || length + 64 >= whole.len())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forged_words_are_harmless(
        version in 0_u8..4,
        words in prop::collection::vec((0_usize..200, prop_oneof![any::<u64>(), Just(u64::MAX), BASE..BASE + 2000]), 1..8),
        tear in (0_u8..40, 0_u16..1600, any::<u8>()),
    ) {
        let plain = plain(version);
        let mut bytes = input(&plain.forge, plain.code, tear);
        for (at, word) in words {
            if let Some(place) = bytes.get_mut(HEAD + at * 8..HEAD + at * 8 + 8) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        let _ = soundness::code(&bytes);
    }
}
