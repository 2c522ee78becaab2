//! See `soundness::code`.

#![no_main]

use leaktrace_fuzz::python::soundness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    soundness::code(bytes);
});
