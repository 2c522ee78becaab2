//! The vDSO: code that the kernel maps into every process. The image is the same for all 64-bit processes of a host, so
//! our own copy of it speaks for theirs.

use super::maps;

/// Largest image that is believed: they have two to four pages.
const MAX_BYTES: u64 = 1 << 20;

/// The image, an ELF object as it lies in memory; `None` where the kernel maps none.
pub fn image() -> Option<Vec<u8>> {
    let mappings = maps::read(std::process::id()).ok()?;
    let mapping = mappings.iter().find(|mapping| mapping.label.as_deref() == Some("[vdso]"))?;
    let length = usize::try_from(mapping.len()).ok().filter(|_| mapping.len() <= MAX_BYTES)?;
    let start = usize::try_from(mapping.start.0).ok()? as *const u8;
    // SAFETY: the kernel keeps this mapping readable and unchanged for as long as we run.
    Some(unsafe { std::slice::from_raw_parts(start, length) }.to_vec())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_image_is_an_elf_object() {
        let image = super::image().expect("this kernel maps a vDSO");
        assert!(image.starts_with(b"\x7fELF"));
    }
}
