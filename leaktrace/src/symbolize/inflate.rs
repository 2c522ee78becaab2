//! Compressed parts of objects: sections with `SHF_COMPRESSED` (zlib, zstd) and MiniDebugInfo (xz). Every reader here
//! gives at most what its caller asks for, and needs no more memory than its window.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// `ch_type` of a compressed section.
const ZLIB: u32 = 1;
const ZSTD: u32 = 2;
/// Largest zstd window, bytes. Level 19 uses 8 MiB.
const MAX_ZSTD_WINDOW: u64 = 64 << 20;
/// Most memory of the xz decoder, KiB. `xz -9` needs 65 MiB.
const MAX_XZ_MEMORY: u32 = 72 << 10;

/// The contents of a compressed section; `kind` is what its header says, `packed` what follows the header. `None` if
/// the kind is not known or the data does not begin as it should.
pub fn section<'a>(kind: u32, packed: impl Read + 'a) -> Option<Box<dyn Read + 'a>> {
    match kind {
        ZLIB => Some(Box::new(ZlibDecoder::new(packed))),
        ZSTD => Some(Box::new(StreamingDecoder::new_with_max_window_size(packed, MAX_ZSTD_WINDOW).ok()?)),
        _ => None,
    }
}

/// Writes the contents of an xz stream out; more than `most` bytes are an error.
pub fn xz(packed: impl Read, most: u64, out: &mut dyn io::Write) -> io::Result<()> {
    let contents = XzReader::new_mem_limit(packed, false, MAX_XZ_MEMORY);
    let written = io::copy(&mut contents.take(most + 1), out)?;
    match written <= most {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than is unpacked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// The input packed by the tool that distributions use.
    fn packed(tool: &str, options: &[&str], contents: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut child = Command::new(tool)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect(tool);
        let mut stdin = child.stdin.take().expect("piped");
        let contents = contents.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&contents));
        let output = child.wait_with_output().expect(tool);
        writer.join().expect("thread").expect("written");
        output.stdout
    }

    #[test]
    fn xz_is_unpacked_up_to_the_bound_and_no_further() {
        let contents: Vec<u8> = (0..3_000_000_u32).flat_map(|at| (at / 7).to_le_bytes()).collect();
        let stream = packed("xz", &["-9", "-c"], &contents);
        let mut out = Vec::new();
        xz(&stream[..], contents.len() as u64, &mut out).expect("unpacked");
        assert_eq!(out, contents);
        let mut out = Vec::new();
        assert!(xz(&stream[..], 1000, &mut out).is_err());
        assert!(out.len() <= 1001);
    }

    #[test]
    fn an_xz_dictionary_of_gigabytes_is_refused() {
        let stream = packed("xz", &["--lzma2=dict=1GiB", "-c"], b"small");
        let error = xz(&stream[..], 1 << 20, &mut Vec::new()).expect_err("too much memory");
        assert!(error.to_string().contains("mem"), "{error}");
    }

    #[test]
    fn damaged_streams_are_errors() {
        let whole = packed("xz", &["-c"], &[7; 10_000]);
        for end in 0..whole.len() {
            assert!(xz(&whole[..end], 1 << 20, &mut Vec::new()).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x40;
            let _ = xz(&broken[..], 1 << 20, &mut Vec::new());
            for kind in [ZLIB, ZSTD] {
                if let Some(reader) = section(kind, &broken[..]) {
                    let _ = io::copy(&mut reader.take(1 << 20), &mut io::sink());
                }
            }
        }
        assert!(section(3, &whole[..]).is_none());
    }
}
