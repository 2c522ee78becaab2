//! Demangled Rust names. What `core` and `alloc` do at the inner end of a stack, they do for their caller: collections,
//! strings, smart pointers, iterator adapters, formatting into a string. Of `std` only the allocator and the hash tables
//! are so; its files, threads and channels tell.

/// Paths of functions and types that own storage for their caller.
const STORAGE: &[&str] = &[
    "alloc::",
    "core::",
    "hashbrown::",
    "std::alloc::",
    "std::collections::",
    "std::sys::alloc::",
    "std::sys::pal::unix::alloc::",
    "__rustc::__r",
];

/// What surrounds `main` and a thread's function.
const STARTUP: &[&str] = &[
    "std::rt::",
    "std::sys::backtrace::__rust_begin_short_backtrace",
    "std::sys_common::backtrace::__rust_begin_short_backtrace",
    "std::panicking::catch_unwind",
    "std::panicking::try",
    "std::panic::catch_unwind",
    "std::thread::lifecycle::spawn_unchecked",
    "std::thread::Builder::spawn_unchecked",
    "core::ops::function::",
    "core::panic::unwind_safe::AssertUnwindSafe<",
    "alloc::boxed::Box<dyn core::ops::function::FnOnce<",
    "alloc::boxed::Box<F",
];

/// A function of the standard library that a thread begins with; its module has moved often.
const THREAD_START: &str = "::thread_start";

/// Whether a function only obtains or owns storage.
pub fn is_storage(function: &str) -> bool {
    if is_cpp(function) {
        return false;
    }
    let path = path(function);
    STORAGE.iter().any(|prefix| path.starts_with(prefix)) || is_builtin(path, function)
}

/// Whether a function stands outside of `main` or of a thread's own function.
pub fn is_startup(function: &str) -> bool {
    if is_cpp(function) {
        return false;
    }
    let path = path(function);
    STARTUP.iter().any(|prefix| path.starts_with(prefix))
        || path.starts_with("std::sys::") && function.ends_with(THREAD_START)
        || is_call_through_trait(function)
}

/// The glue between a trait object or a generic caller and a function; nobody but the compiler can write it.
fn is_call_through_trait(function: &str) -> bool {
    let glue = [">::call", ">::call_once", ">::call_mut"].iter().any(|end| function.ends_with(end));
    glue && function.starts_with('<') && function.contains(" as core::ops::function::Fn")
}

/// Whether this is where Rust's own `main` is called from.
pub fn is_lang_start(function: &str) -> bool {
    path(function).starts_with("std::rt::lang_start")
}

/// Namespaces of C++ programs may have the names of Rust's libraries; but their functions have parameters.
fn is_cpp(function: &str) -> bool {
    function.ends_with([')', ']', '&']) || function.contains(") ") && !function.starts_with('<')
}

/// The path that says whose code it is: of `<Type as Trait>::f` and `<Type>::f`, that of the type.
fn path(function: &str) -> &str {
    function.trim_start_matches('<')
}

/// Methods of slices, numbers, references and the like: their own, or through a trait of `core` or `alloc`.
fn is_builtin(path: &str, function: &str) -> bool {
    const BUILTIN: &[&str] = &[
        "str", "char", "bool", "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128",
        "isize", "f32", "f64",
    ];
    if !function.starts_with('<') {
        return false;
    }
    let is_builtin =
        |receiver: &str| BUILTIN.contains(&receiver.trim_start_matches('&')) || receiver.starts_with('[');
    match path.split_once(" as ") {
        Some((receiver, of)) => {
            is_builtin(receiver) && (of.starts_with("alloc::") || of.starts_with("core::"))
        }
        None => path.rsplit_once(">::").is_some_and(|(receiver, _)| is_builtin(receiver)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trait_of_the_library_on_somebodys_type_is_somebodys_code() {
        assert!(!is_storage("<app::Record as core::clone::Clone>::clone"));
        assert!(!is_storage("<app::Record as core::fmt::Display>::fmt"));
        assert!(!is_storage("allocations::of_mine") && !is_storage("core_loop"));
        assert!(is_storage("<alloc::vec::Vec<u64> as core::clone::Clone>::clone"));
        assert!(is_storage("<str as alloc::string::ToString>::to_string"));
        assert!(is_storage("<[u8] as alloc::slice::ConvertVec>::to_vec"));
        assert!(is_storage("<alloc::raw_vec::RawVecInner>::try_allocate_in"));
        assert!(is_storage("<[u8]>::repeat") && is_storage("<str>::repeat"));
        assert!(!is_storage("<[u8] as app::Digest>::digest") && !is_storage("<str as app::Parse>::parse"));
    }

    #[test]
    fn namespaces_of_cpp_are_not_rusts_libraries() {
        for name in [
            "core::Engine::load(int)",
            "alloc::Pool::grow(unsigned long) const",
            "core::f(int)::{lambda()#1}::operator()() const",
        ] {
            assert!(!is_storage(name) && !is_startup(name), "{name}");
        }
    }

    #[test]
    fn what_tells_in_std_stays() {
        for name in
            ["std::thread::Builder::spawn", "std::fs::read", "std::env::args", "std::io::BufReader<R>::new"]
        {
            assert!(!is_storage(name), "{name}");
        }
    }
}
