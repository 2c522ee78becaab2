//! Caps and places.

use std::path::PathBuf;

/// Caps and places.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most distinct frames; about 48 bytes each, and their names.
    pub max_frames: usize,
    /// Most objects.
    pub max_objects: usize,
    /// Most object files held open.
    pub max_open: usize,
    /// Most bytes of names and paths kept.
    pub max_text: usize,
    /// Where separate debug files lie.
    pub debug_directories: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_frames: 1 << 20,
            max_objects: 16 << 10,
            max_open: 512,
            max_text: 256 << 20,
            debug_directories: vec![PathBuf::from("/usr/lib/debug")],
        }
    }
}
