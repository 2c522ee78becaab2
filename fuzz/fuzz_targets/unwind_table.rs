//! See `soundness::object`.

#![no_main]

use leaktrace_fuzz::unwind::soundness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    soundness::object(bytes);
});
