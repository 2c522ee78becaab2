//! What a code object says that tells it from others, and where its traceable instructions begin.

use super::{
    Layout, identity,
    window::{WINDOW_BYTES, Window, half, word},
};

/// A code object as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// See [`identity`].
    pub identity: u32,
    /// Index of the first instruction that belongs to the function as written, in code units.
    pub first_traceable: u32,
}

/// The part of a code object that holds all that is asked of it: where it begins and how long it is, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// From the object's beginning, a multiple of 8.
    pub start: u32,
    /// A multiple of 8, at most [`WINDOW_BYTES`].
    pub bytes: u32,
}

impl Extent {
    /// From the flags, the first member asked for in every version, to the last one.
    #[inline(always)]
    pub const fn of(layout: &Layout) -> Self {
        let start = layout.code_flags & !7;
        let mut last = layout.code_first_line;
        if layout.code_name > last {
            last = layout.code_name;
        }
        if layout.code_file > last {
            last = layout.code_file;
        }
        if layout.code_first_traceable > last {
            last = layout.code_first_traceable;
        }
        let bytes = (last & !7).wrapping_add(8).wrapping_sub(start);
        Self { start, bytes: if bytes > WINDOW_BYTES { WINDOW_BYTES } else { bytes } }
    }
}

impl Code {
    /// Reads the fields out of the object's [`Extent`].
    #[inline(always)]
    pub const fn decode(layout: &Layout, window: &Window) -> Self {
        let start = layout.code_flags & !7;
        let traceable = if layout.code_first_traceable == 0 {
            0
        } else {
            half(window, layout.code_first_traceable.wrapping_sub(start))
        };
        Self {
            identity: identity(
                half(window, layout.code_first_line.wrapping_sub(start)),
                half(window, layout.code_flags.wrapping_sub(start)),
                word(window, layout.code_name.wrapping_sub(start)),
                word(window, layout.code_file.wrapping_sub(start)),
            ),
            first_traceable: traceable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::samples::samples;

    #[test]
    fn code_objects_of_every_kind_say_what_the_interpreter_said() {
        for sample in samples() {
            let code = Code::decode(&sample.layout, &sample.code);
            let expected = identity(sample.first_line, sample.flags, sample.name, sample.file);
            assert_eq!(code, Code { identity: expected, first_traceable: 0 });
        }
    }

    #[test]
    fn a_read_begins_and_ends_with_what_is_asked_for() {
        for sample in samples() {
            let layout = &sample.layout;
            let Extent { start, bytes } = Extent::of(layout);
            let members = [layout.code_flags, layout.code_first_line, layout.code_name, layout.code_file];
            assert!(members.iter().all(|member| (start..start + bytes).contains(member)));
            assert!(layout.code_first_traceable < start + bytes && bytes <= 144);
        }
    }

    #[test]
    fn no_layout_makes_a_read_longer_than_the_window() {
        let far = Layout { code_name: 100_000, ..samples()[0].layout };
        assert_eq!(Extent::of(&far).bytes, WINDOW_BYTES);
        let backwards = Layout { code_flags: 4000, code_name: 8, ..samples()[0].layout };
        assert!(Extent::of(&backwards).bytes <= WINDOW_BYTES);
        Code::decode(&backwards, &samples()[0].code);
    }
}
