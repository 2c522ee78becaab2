//! Where things lie in CPython's structures, by version: data. The tables are printed by `offsets/print.c` from each
//! version's own headers and matched on version and the size of `_PyRuntime`; from 3.13 on the interpreter itself says
//! most of it ([`super::debug_offsets`]) and the table only what it leaves out.
//!
//! What differs within a minor series, as far as headers of several releases show: in 3.9 `PyInterpreterState` grew by
//! `int_max_str_digits` between .2 and .18; 3.11 nothing that is read here; 3.13 `_PyRuntime` and `PyInterpreterState` grew at their
//! ends. So a release whose table is missing is tried with its series' nearest one, and only what the live process
//! confirms is believed (`validate`): sizes decide between tables, never alone.

mod tables;

use leaktrace_common::python::Layout;

use super::Version;

/// Offsets in bytes, sizes in bytes. 0 where a version has no such member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// What walks need.
    pub layout: Layout,
    /// Size of `_PyRuntimeState`.
    pub runtime_size: u64,
    /// Size of `PyInterpreterState`.
    pub interpreter_size: u64,
    /// Size of `PyThreadState`.
    pub thread_size: u64,
    /// `_PyRuntimeState.initialized`, an `int`.
    pub initialized: u32,
    /// `_PyRuntimeState.interpreters.head`.
    pub interpreters_head: u32,
    /// `_PyRuntimeState.interpreters.main`.
    pub interpreters_main: u32,
    /// `PyInterpreterState.id`, eight bytes.
    pub interpreter_id: u32,
    /// `_PyRuntimeState.gilstate.tstate_current` (up to 3.11).
    pub tstate_current: u32,
    /// GIL holder in `PyInterpreterState` (3.12 and later).
    pub gil_holder: u32,
    /// `PyThreadState.interp`.
    pub thread_interp: u32,
    /// `_PyRuntimeState.allocators.standard.raw` (3.12 and later; `mem` and `obj` follow, 40 bytes each).
    pub allocators: u32,
    /// `PyCodeObject.co_qualname` (3.11 and later).
    pub code_qualname: u32,
    /// `PyCodeObject.co_code`, a bytes object (up to 3.10).
    pub code_bytes: u32,
    /// `PyCodeObject.co_linetable`, or `co_lnotab` up to 3.9.
    pub code_line_table: u32,
    /// Size of `PyASCIIObject`: where the characters of a compact ASCII string begin.
    pub ascii_size: u32,
    /// Size of `PyCompactUnicodeObject`: where those of another compact string begin.
    pub compact_size: u32,
    /// `PyASCIIObject.length`.
    pub unicode_length: u32,
    /// `PyASCIIObject.state`.
    pub unicode_state: u32,
    /// `PyBytesObject.ob_size`.
    pub bytes_size: u32,
    /// `PyBytesObject.ob_sval`.
    pub bytes_data: u32,
    /// Bytes of a pool of the small-object allocator.
    pub pool_bytes: u32,
    /// Free lists that are linked.
    pub free_lists: FreeLists,
    /// Where the small-object allocator keeps its arenas.
    pub pools: Pools,
}

/// Linked free lists with a counter, in `PyInterpreterState` (3.10 and later; before, they are static variables).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeLists {
    /// The first free float (up to 3.13).
    pub float_head: u32,
    /// How many there are, an `int`.
    pub float_count: u32,
    /// An array of first free tuples, by length.
    pub tuple_heads: u32,
    /// An array of how many there are, `int`s.
    pub tuple_counts: u32,
    /// Elements of both.
    pub tuple_lists: u32,
    /// Length of the tuples in the first element.
    pub tuple_first: u32,
    /// An array of `struct _Py_freelist` (3.14 and later), floats first.
    pub uniform: u32,
    /// Its elements.
    pub uniform_lists: u32,
}

/// The small-object allocator's bookkeeping (3.12 and later; before, it is in static variables).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// Bytes of an arena.
    pub arena_bytes: u32,
    /// `PyInterpreterState.obmalloc`.
    pub state: u32,
    /// 1: that is a pointer (3.13 and later); 0: the state itself.
    pub indirect: u32,
    /// `mgmt.arenas` in the state.
    pub arenas: u32,
    /// `mgmt.maxarenas`.
    pub arena_count: u32,
    /// `mgmt.raw_allocated_blocks`.
    pub large_blocks: u32,
    /// `_PyRuntimeState.obmalloc.interpreter_leaks`.
    pub leaked_blocks: u32,
    /// `PyInterpreterState.feature_flags`, which say whether an interpreter has a state of its own.
    pub features: u32,
}

impl Offsets {
    /// Address of the word that names the thread which holds the GIL, or held it last.
    pub fn holder(&self, runtime: u64, main: u64) -> u64 {
        match self.tstate_current {
            0 => main.wrapping_add(self.gil_holder.into()),
            current => runtime.wrapping_add(current.into()),
        }
    }
}

/// The offsets of one release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose headers they come from.
    pub version: Version,
    /// What they say.
    pub offsets: Offsets,
}

/// The table for an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where things lie.
    pub offsets: Offsets,
    /// `_PyRuntime` has the very size that the table knows.
    pub same_size: bool,
}

/// Oldest minor version with a table.
pub const OLDEST: Version = Version { major: 3, minor: 8, micro: 0 };

/// Newest minor version with a table.
pub const NEWEST: Version = Version { major: 3, minor: 14, micro: 0 };

/// Every table, by version.
pub fn all() -> &'static [Table] {
    tables::ALL
}

/// The table for a version; among several of its series the one with that size of `_PyRuntime`, then the one of the nearest
/// release. `None` for a series that has none.
pub fn choose(version: Version, runtime_size: Option<u64>) -> Option<Choice> {
    let fits = |table: &Table| Some(table.offsets.runtime_size) == runtime_size;
    let series = all().iter().filter(|table| (table.version.major, table.version.minor) == version.series());
    let nearest = series.min_by_key(|table| (!fits(table), table.version.micro.abs_diff(version.micro)))?;
    Some(Choice { offsets: nearest.offsets, same_size: fits(nearest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(minor: u8, micro: u8) -> Version {
        Version { major: 3, minor, micro }
    }

    #[test]
    fn every_supported_series_has_a_table_and_no_other() {
        for minor in OLDEST.minor..=NEWEST.minor {
            assert!(choose(version(minor, 0), None).is_some(), "3.{minor}");
        }
        assert_eq!(choose(version(OLDEST.minor - 1, 16), None), None);
        assert_eq!(choose(version(NEWEST.minor + 1, 0), None), None);
    }

    #[test]
    fn the_size_of_the_runtime_decides_before_the_release() {
        let [of_0, of_5] = [283_320, 283_376];
        let chosen = choose(version(13, 0), Some(of_5)).expect("3.13");
        assert!(chosen.same_size);
        assert_eq!(chosen.offsets.runtime_size, of_5);
        let unknown = choose(version(13, 1), Some(1)).expect("3.13");
        assert!(!unknown.same_size);
        assert_eq!(unknown.offsets.runtime_size, of_0);
    }

    #[test]
    fn a_frame_fits_into_what_the_kernel_side_reads() {
        for table in all() {
            let layout = table.offsets.layout;
            let fields = [layout.frame_code, layout.frame_previous, layout.frame_instruction];
            assert!(layout.frame_bytes <= 128, "{}", table.version);
            assert!(fields.iter().all(|at| at + 4 <= layout.frame_bytes), "{}", table.version);
        }
    }
}
