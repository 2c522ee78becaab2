//! Which frames are plumbing: they are in every stack and say nothing about who asked for the memory. Inside: the
//! allocator's own layers, thin wrappers, and what libraries do to own storage for their caller. Outside: what the C
//! library and language runtimes put around `main` and a thread's function. Only runs at the two ends of a stack are
//! folded away, so that a function between two others always shows. In a stack with Python frames the interpreter's own
//! functions are plumbing wherever they are; without any they are all there is to tell.

mod cpp;
mod names;
mod rust;

use super::human::base_name;
use super::model::{Frame, FrameKind};

/// Libraries whose unnamed functions at the outer end of a stack are start-up code: stripped as they are shipped, they
/// have no names for what calls `main` and a thread's function.
const RUNTIME_LIBRARIES: &[&str] =
    &["libc.so", "libc-2.", "libpthread", "ld-linux", "ld-musl", "libc.musl", "libstdc++.so", "libc++"];

/// The frames that say something, innermost first. A stack of nothing but plumbing is returned whole.
pub fn telling(frames: &[Frame]) -> impl Iterator<Item = &Frame> + Clone {
    let python = frames.iter().any(|frame| frame.kind == FrameKind::Python);
    let hidden = move |frame: &Frame| python && frame.interpreter;
    let outer = (0..frames.len())
        .rev()
        .take_while(|&at| frames.get(at).is_some_and(hidden) || is_startup_at(frames, at))
        .count();
    let inner =
        frames.iter().take_while(|frame| hidden(frame) || function(frame).is_some_and(is_allocator)).count();
    let (telling, python) = match frames.get(inner..frames.len().saturating_sub(outer)) {
        Some(telling) if !telling.is_empty() => (telling, python),
        _ => (frames, false),
    };
    telling.iter().filter(move |frame| !(python && frame.interpreter))
}

/// The name of a native function; those of Python functions mean nothing here.
fn function(frame: &Frame) -> Option<&str> {
    frame.function.as_deref().filter(|_| frame.kind != FrameKind::Python)
}

fn is_allocator(function: &str) -> bool {
    names::ALLOCATORS.contains(&names::bare(function))
        || cpp::is_storage(function)
        || rust::is_storage(function)
}

/// Whether a frame whose callers are all start-up code is such code too. A runtime's own `main` is: the program's
/// `main` is further in.
fn is_startup_at(frames: &[Frame], at: usize) -> bool {
    let Some(frame) = frames.get(at).filter(|frame| frame.kind != FrameKind::Python) else { return false };
    let callee = at.checked_sub(1).and_then(|at| frames.get(at));
    match function(frame) {
        Some("main") => callee.and_then(function).is_some_and(is_runtime_entry),
        Some(name) => is_startup(name),
        // A stripped program's own `_start` has no name, but whom it calls.
        None => {
            is_runtime_library(frame)
                || at + 1 == frames.len() && callee.is_some_and(starts_main)
                || callee.and_then(function).is_some_and(is_runtime_entry)
        }
    }
}

fn is_runtime_library(frame: &Frame) -> bool {
    let name = frame.object.as_deref().map(base_name);
    name.is_some_and(|name| RUNTIME_LIBRARIES.iter().any(|library| name.starts_with(library)))
}

fn starts_main(frame: &Frame) -> bool {
    match function(frame) {
        Some(name) => names::bare(name).starts_with("libc_start_"),
        None => is_runtime_library(frame),
    }
}

fn is_startup(function: &str) -> bool {
    names::STARTUP.contains(&names::bare(function))
        || cpp::is_thread_start(function)
        || rust::is_startup(function)
}

fn is_runtime_entry(function: &str) -> bool {
    rust::is_lang_start(function)
        || matches!(names::bare(function), "Py_BytesMain" | "Py_Main" | "pymain_main")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|name| Frame { function: Some((*name).to_owned()), ..Frame::default() }).collect()
    }

    fn kept(names: &[&str]) -> Vec<String> {
        telling(&stack(names)).filter_map(|frame| frame.function.clone()).collect()
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
        assert_eq!(telling(&[]).count(), 0);
    }

    #[test]
    fn names_that_only_resemble_the_allocator_stay() {
        for name in ["malloc_stats_of_mine", "operator newline()", "my::std::allocator<int>", "startup"] {
            assert!(!is_allocator(name) && !is_startup(name), "{name}");
        }
        assert!(is_allocator("xmalloc.part.0") && is_allocator("calloc@@GLIBC_2.2.5"));
    }

    #[test]
    fn a_thread_of_cpp_begins_with_the_function_it_was_made_for() {
        let names = [
            "malloc",
            "operator new(unsigned long)",
            "work(int)",
            "void std::__invoke_impl<void, void (*)(int), int>(std::__invoke_other, void (*&&)(int), int&&)",
            "std::__invoke_result<void (*)(int), int>::type std::__invoke<void (*)(int), int>(void (*&&)(int), int&&)",
            "void std::thread::_Invoker<std::tuple<void (*)(int), int> >::_M_invoke<0ul, 1ul>(std::_Index_tuple<0ul, 1ul>)",
            "std::thread::_Invoker<std::tuple<void (*)(int), int> >::operator()()",
            "std::thread::_State_impl<std::thread::_Invoker<std::tuple<void (*)(int), int> > >::_M_run()",
            "execute_native_thread_routine",
            "start_thread",
            "clone3",
        ];
        assert_eq!(kept(&names), ["work(int)"]);
    }

    #[test]
    fn containers_strings_and_pointers_of_cpp_give_way_to_their_caller() {
        let inner = [
            "std::__new_allocator<int>::allocate(unsigned long, void const*)",
            "std::allocator_traits<std::allocator<int> >::allocate(std::allocator<int>&, unsigned long)",
            "std::_Vector_base<int, std::allocator<int> >::_M_allocate(unsigned long)",
            "void std::vector<int, std::allocator<int> >::_M_realloc_insert<int const&>(__gnu_cxx::__normal_iterator<int*, std::vector<int, std::allocator<int> > >, int const&)",
            "std::vector<int, std::allocator<int> >::push_back(int const&)",
            "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >::_M_mutate(unsigned long, unsigned long, char const*, unsigned long)",
            "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >::append(char const*)",
            "std::_Rb_tree<int, int, std::_Identity<int>, std::less<int>, std::allocator<int> >::_Alloc_node::operator()<int>(int&&) const",
            "std::__1::basic_string<char, std::__1::char_traits<char>, std::__1::allocator<char> >::__init(char const*, unsigned long)",
            "std::shared_ptr<Big> std::make_shared<Big>()",
            "std::_Function_handler<int (), site(Big)::{lambda()#1}>::_M_create",
            "__gnu_cxx::new_allocator<int>::allocate(unsigned long, void const*)",
            "std::_MakeUniq<Big>::__single_object std::make_unique<Big>()",
            "std::__cxx11::basic_string<char> std::operator+<char>(char const*, std::__cxx11::basic_string<char> const&)",
            "__cxa_allocate_exception",
        ];
        for name in inner {
            assert_eq!(kept(&["malloc", name, "user(int)", "main"]), ["user(int)", "main"], "{name}");
        }
    }

    #[test]
    fn what_tells_in_cpp_stays() {
        let telling = [
            "std::thread::thread<f()::{lambda()#1}, , void>(f()::{lambda()#1}&&)",
            "std::__cxx11::basic_stringbuf<char, std::char_traits<char>, std::allocator<char> >::overflow(int)",
            "std::locale::classic()",
            "my::vector<int>::push_back(int)",
            "vector<int>::_M_allocate(unsigned long)",
            "operator newline()",
            "user(std::vector<int>, std::_Rb_tree<int>)",
            "user::operator()(std::vector<int>&) const",
            "std::ostream& user::operator<< <std::vector<int> >(std::ostream&)",
        ];
        for name in telling {
            assert_eq!(kept(&["malloc", name, "main"]), [name, "main"]);
        }
    }

    #[test]
    fn rusts_main_is_the_programs_and_its_runtime_is_folded() {
        let names = [
            "malloc",
            "__rustc::__rdl_alloc",
            "alloc::raw_vec::RawVecInner<A>::try_allocate_in",
            "<alloc::vec::Vec<T> as alloc::vec::spec_from_iter::SpecFromIter<T,I>>::from_iter",
            "core::iter::traits::iterator::Iterator::collect",
            "app::load",
            "app::main",
            "core::ops::function::FnOnce::call_once",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "std::rt::lang_start::<()>::{closure#0}",
            "<&dyn core::ops::function::Fn<(), Output = i32> + core::marker::Sync as core::ops::function::FnOnce<()>>::call_once",
            "core::ops::function::impls::<impl core::ops::function::FnOnce<A> for &F>::call_once",
            "std::panicking::catch_unwind::do_call",
            "std::rt::lang_start_internal",
            "std::rt::lang_start",
            "main",
            "__libc_start_call_main",
            "__libc_start_main_impl",
            "_start",
        ];
        assert_eq!(kept(&names), ["app::load", "app::main"]);
    }

    #[test]
    fn a_thread_of_rust_begins_with_its_closure() {
        let names = [
            "app::main::{{closure}}",
            "<app::work as core::ops::function::FnOnce<()>>::call_once",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "std::thread::lifecycle::spawn_unchecked::{{closure}}::{{closure}}",
            "<core::panic::unwind_safe::AssertUnwindSafe<F> as core::ops::function::FnOnce<()>>::call_once",
            "std::panicking::catch_unwind::do_call",
            "__rust_try",
            "std::thread::lifecycle::spawn_unchecked::{{closure}}",
            "core::ops::function::FnOnce::call_once{{vtable.shim}}",
            "<alloc::boxed::Box<dyn core::ops::function::FnOnce<(), Output = ()>> as core::ops::function::FnOnce<()>>::call_once",
            "std::sys::thread::unix::Thread::new::thread_start",
            "start_thread",
            "clone3",
        ];
        assert_eq!(kept(&names), ["app::main::{{closure}}"]);
    }

    #[test]
    fn the_start_of_an_interpreter_is_folded_and_a_programs_main_is_not() {
        let names =
            ["work", "_PyEval_EvalFrameDefault", "Py_RunMain", "Py_BytesMain", "main", "__libc_start_main"];
        assert_eq!(kept(&names), ["work", "_PyEval_EvalFrameDefault"]);
        assert_eq!(kept(&["malloc", "main", "__libc_start_main@@GLIBC_2.34"]), ["main"]);
    }

    /// Frames from one letter and a name each: a Python function, the interpreter's own, another native one.
    fn mixed(names: &[&str]) -> Vec<Frame> {
        let frame = |name: &&str| {
            let (kind, name) = name.split_at(1);
            let function = Some(name.trim().to_owned()).filter(|name| !name.is_empty());
            let of = if kind == "P" { FrameKind::Python } else { FrameKind::Native };
            Frame { kind: of, function, interpreter: kind == "I", ..Frame::default() }
        };
        names.iter().map(frame).collect()
    }

    fn kept_of_mixed(names: &[&str]) -> Vec<String> {
        telling(&mixed(names)).filter_map(|frame| frame.function.clone()).collect()
    }

    #[test]
    fn the_interpreters_own_functions_give_way_to_python_wherever_they_are() {
        let names = [
            "N malloc",
            "I _PyMem_RawMalloc",
            "I PyList_Append",
            "N append_in_extension",
            "I method_vectorcall",
            "P key",
            "I",
            "I list_sort",
            "P main",
            "I Py_RunMain",
            "I Py_BytesMain",
            "N main",
            "N __libc_start_main",
            "N",
        ];
        assert_eq!(kept_of_mixed(&names), ["append_in_extension", "key", "main"]);
        let shared = ["P f", "I Py_RunMain", "I Py_BytesMain", "N", "N __libc_start_call_main", "N _start"];
        assert_eq!(kept_of_mixed(&shared), ["f"]);
        let thread = ["P run", "I thread_run", "I pythread_wrapper", "N start_thread", "N clone3"];
        assert_eq!(kept_of_mixed(&thread), ["run"]);
    }

    #[test]
    fn without_python_frames_the_interpreter_is_all_there_is_to_tell() {
        let names = ["N malloc", "I PyObject_Malloc", "I PyType_Ready", "I Py_InitializeEx", "N embedder"];
        assert_eq!(kept_of_mixed(&names), ["PyType_Ready", "Py_InitializeEx", "embedder"]);
    }

    #[test]
    fn a_python_function_that_is_called_like_an_allocator_is_none() {
        assert_eq!(
            kept_of_mixed(&["N malloc", "I x", "P malloc", "P main", "P _start"]),
            ["malloc", "main", "_start"]
        );
    }

    #[test]
    fn stripped_libraries_and_programs_are_folded_at_the_outer_end_only() {
        let unnamed = |object: &str| Frame { object: Some(object.into()), ..Frame::default() };
        let named = |name: &str| Frame { function: Some(name.into()), ..unnamed("/lib/libc.so.6") };
        let (libc, program) = (unnamed("/lib/x86_64-linux-gnu/libc.so.6"), unnamed("/app/server"));
        let started = [program.clone(), libc.clone(), named("__libc_start_main"), program.clone()];
        assert!(telling(&started).eq(&started[..1]));
        let thread = [program.clone(), unnamed("/lib/libstdc++.so.6.0.30"), libc.clone(), libc.clone()];
        assert!(telling(&thread).eq(&thread[..1]));
        let inside = [libc.clone(), program.clone(), program.clone()];
        assert!(telling(&inside).eq(&inside));
    }

    #[test]
    fn constructors_show_what_runs_them() {
        let names = ["__GI___libc_malloc", "Global::Global()", "call_init", "_dl_init", "_dl_start_user"];
        assert_eq!(kept(&names), ["Global::Global()", "call_init", "_dl_init"]);
    }

    #[test]
    fn a_signal_handler_does_not_stop_folding_at_either_end() {
        let names = ["malloc", "handler", Frame::SIGNAL_RETURN, "work", "main", "_start"];
        assert_eq!(kept(&names), ["handler", Frame::SIGNAL_RETURN, "work", "main"]);
        let interrupted = ["handler", Frame::SIGNAL_RETURN, "__libc_start_call_main", "_start"];
        assert_eq!(kept(&interrupted), ["handler", Frame::SIGNAL_RETURN]);
    }
}
