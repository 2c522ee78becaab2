//! Which frames are plumbing: they are in every stack and say nothing about who asked for the memory. Inside: the
//! allocator's own layers and thin wrappers. Outside: what the C library and language runtimes put around `main`.
//! Only runs at the two ends of a stack are folded away, so that a function between two others always shows.

use super::model::Frame;

/// Layers of an allocator, by exact name.
const ALLOCATOR_NAMES: &[&str] = &[
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "cfree",
    "mmap",
    "mmap64",
    "mremap",
    "strdup",
    "strndup",
    "xmalloc",
    "xcalloc",
    "xrealloc",
    "xstrdup",
    "g_malloc",
    "g_malloc0",
    "g_malloc_n",
    "g_malloc0_n",
    "g_realloc",
    "g_realloc_n",
    "g_try_malloc",
    "g_slice_alloc",
    "g_slice_alloc0",
    "g_strdup",
    "__rust_alloc",
    "__rust_alloc_zeroed",
    "__rust_realloc",
    "__rdl_alloc",
    "__rdl_alloc_zeroed",
    "__rdl_realloc",
    "exchange_malloc",
    "PyMem_Malloc",
    "PyMem_Calloc",
    "PyMem_Realloc",
    "PyMem_RawMalloc",
    "PyMem_RawCalloc",
    "PyMem_RawRealloc",
    "PyObject_Malloc",
    "PyObject_Calloc",
    "PyObject_Realloc",
    "_PyObject_Malloc",
    "_PyObject_Calloc",
    "_PyObject_Realloc",
    "_PyMem_RawMalloc",
    "_PyMem_RawCalloc",
    "_PyMem_RawRealloc",
    "_PyObject_ArenaMmap",
    "new_arena",
    "allocate_from_new_pool",
];

/// Beginnings of names that belong to an allocator: C++ and Rust put types and arguments behind them.
const ALLOCATOR_PREFIXES: &[&str] = &[
    "__libc_malloc",
    "__libc_calloc",
    "__libc_realloc",
    "__libc_memalign",
    "__GI___libc_malloc",
    "operator new(",
    "operator new[](",
    "std::allocator<",
    "std::__new_allocator<",
    "std::allocator_traits<",
    "__gnu_cxx::new_allocator<",
    "__gnu_cxx::__new_allocator<",
    "__gnu_cxx::__alloc_traits<",
    "alloc::alloc::",
    "<alloc::alloc::Global as ",
    "alloc::raw_vec::",
    "std::alloc::",
    "std::sys::alloc::",
    "__rustc::__r",
];

/// Members of C++ containers that only obtain the storage.
const CONTAINER_STORAGE: &[&str] =
    &["::_M_allocate(", "::_M_create(", "::_M_get_node(", "::_M_allocate_node"];

/// What surrounds `main` or a thread's function, by exact name.
const STARTUP_NAMES: &[&str] = &[
    "_start",
    "__libc_start_main",
    "__libc_start_main_impl",
    "__libc_start_call_main",
    "libc_start_main_stage2",
    "start_thread",
    "clone",
    "clone3",
    "__clone",
    "__clone3",
    "__clone_internal",
    "__rust_begin_short_backtrace",
];

/// Beginnings of names around a Rust program's `main` and thread functions.
const STARTUP_PREFIXES: &[&str] = &[
    "std::rt::lang_start",
    "std::sys::backtrace::__rust_begin_short_backtrace",
    "std::sys_common::backtrace::__rust_begin_short_backtrace",
    "std::panicking::catch_unwind",
    "std::panicking::try",
    "std::panic::catch_unwind",
    "__libc_start_main@",
];

/// The frames that say something, innermost first. A stack of nothing but plumbing is returned whole.
pub fn telling(frames: &[Frame]) -> &[Frame] {
    let outer = frames.iter().rev().take_while(|frame| named(frame, is_startup)).count();
    let inner = frames.iter().take_while(|frame| named(frame, is_allocator)).count();
    match frames.get(inner..frames.len().saturating_sub(outer)) {
        Some(telling) if !telling.is_empty() => telling,
        _ => frames,
    }
}

fn named(frame: &Frame, test: fn(&str) -> bool) -> bool {
    frame.function.as_deref().is_some_and(test)
}

fn is_allocator(function: &str) -> bool {
    let name = unversioned(function);
    ALLOCATOR_NAMES.contains(&name)
        || ALLOCATOR_PREFIXES.iter().any(|prefix| function.starts_with(prefix))
        || (function.starts_with("std::") && CONTAINER_STORAGE.iter().any(|part| function.contains(part)))
}

fn is_startup(function: &str) -> bool {
    STARTUP_NAMES.contains(&unversioned(function))
        || STARTUP_PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}

/// The name without a symbol version (`malloc@@GLIBC_2.2.5`) or a compiler's suffix (`xmalloc.part.0`).
fn unversioned(function: &str) -> &str {
    function.split(['@', '.']).next().unwrap_or(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|name| Frame { function: Some((*name).to_owned()), ..Frame::default() }).collect()
    }

    fn kept(names: &[&str]) -> Vec<String> {
        telling(&stack(names)).iter().filter_map(|frame| frame.function.clone()).collect()
    }

    #[test]
    fn both_ends_are_folded_and_the_middle_stays() {
        let names =
            ["operator new(unsigned long)", "std::allocator<int>::allocate(unsigned long)", "grow", "main"];
        assert_eq!(kept(&names), ["grow", "main"]);
        assert_eq!(kept(&["work", "main", "__libc_start_call_main", "_start"]), ["work", "main"]);
        assert_eq!(kept(&["work", "malloc", "main"]), ["work", "malloc", "main"]);
    }

    #[test]
    fn a_stack_of_nothing_but_plumbing_is_shown_whole() {
        assert_eq!(kept(&["malloc", "_start"]), ["malloc", "_start"]);
        assert!(telling(&[]).is_empty());
    }

    #[test]
    fn names_that_only_resemble_the_allocator_stay() {
        for name in ["malloc_stats_of_mine", "operator newline()", "my::std::allocator<int>", "startup"] {
            assert!(!is_allocator(name) && !is_startup(name), "{name}");
        }
        assert!(is_allocator("xmalloc.part.0") && is_allocator("calloc@@GLIBC_2.2.5"));
    }
}
