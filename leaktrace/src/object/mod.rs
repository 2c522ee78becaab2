//! ELF objects: symbols, build ID, sections. Files come from the target and are not trusted.

pub mod address;
