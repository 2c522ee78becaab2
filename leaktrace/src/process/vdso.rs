//! The vDSO: code that the kernel maps into every process. No file lies behind it, but all 64-bit processes of a host have
//! the same image, so our own copy of it speaks for theirs.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::maps;

/// What the kernel calls its mapping.
pub const LABEL: &str = "[vdso]";
/// Largest image that is believed: they have some pages.
const MAX_BYTES: u64 = 1 << 20;

/// The image, an ELF object as it lies in memory; `None` where the kernel maps none.
pub fn image() -> Option<Vec<u8>> {
    let mappings = maps::read(std::process::id()).ok()?;
    let own = mappings.iter().find(|mapping| mapping.label.as_deref() == Some(LABEL))?;
    let length = usize::try_from(own.len()).ok().filter(|_| own.len() <= MAX_BYTES)?;
    let mut bytes = vec![0; length];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, own.start.0).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_image_is_an_elf_object() {
        let image = super::image().expect("this kernel maps a vDSO");
        assert!(image.starts_with(b"\x7fELF"));
    }
}
