//! ELF objects: symbols, build ID, sections. Files come from the target and are not trusted.

pub mod address;
pub mod dynamic;
pub mod elf;
pub mod note;
pub mod open;
pub mod remembered;
pub mod section;
pub mod source;
pub mod symbols;

#[cfg(test)]
mod fuzz;
