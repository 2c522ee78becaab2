//! The vDSO: code that the kernel maps into every process. No file lies behind it, but every process of one kind has
//! the same image, this one too, and it carries a symbol table.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::process::maps::{self, Mapping};

/// What the kernel calls its mapping.
pub const LABEL: &str = "[vdso]";
/// Largest image that is copied; they have some pages.
const MAX_IMAGE: u64 = 1 << 20;

/// A copy of this process's own vDSO in a memory file. `length` is what another process has mapped: if it differs,
/// that process has another image.
pub fn image(length: u64) -> Option<File> {
    let mappings = maps::read(std::process::id()).ok()?;
    let own = mappings.iter().find(|mapping| mapping.label.as_deref() == Some(LABEL))?;
    if own.len() != length || length > MAX_IMAGE {
        return None;
    }
    copy(own).ok()
}

fn copy(own: &Mapping) -> io::Result<File> {
    let mut bytes = vec![0; usize::try_from(own.len()).unwrap_or_default()];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, own.start.0)?;
    let mut file = File::from(memfd_create("leaktrace-vdso", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
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
