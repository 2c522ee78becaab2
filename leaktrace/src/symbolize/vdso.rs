//! The vDSO as an object like others: it carries a symbol table.

use std::fs::File;

use crate::object::source::in_memory;
use crate::process::vdso;

/// A copy of this process's own image in a memory file. `length` is what another process has mapped: if it differs, that
/// process has another image.
pub fn image(length: u64) -> Option<File> {
    let bytes = vdso::image().filter(|bytes| bytes.len() as u64 == length)?;
    in_memory(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps;
    use crate::process::vdso::LABEL;
    use crate::symbolize::outline::Outline;

    #[test]
    fn our_own_image_is_an_object_with_dynamic_symbols() {
        let mappings = maps::read(std::process::id()).expect("own mappings");
        let own = mappings.iter().find(|mapping| mapping.label.as_deref() == Some(LABEL)).expect("vDSO");
        let outline = Outline::read(&image(own.len()).expect("copied")).expect("an ELF object");
        assert!(outline.section(".dynsym").is_some() && !outline.segments.is_empty());
        assert!(image(own.len() + 4096).is_none(), "another image");
    }
}
