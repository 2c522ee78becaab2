//! Demangled C++ names. What the standard library does to own storage for its caller says nothing that the caller's own
//! line does not say: its inner functions, which by the language's rule have names that begin with an underscore, and
//! its containers, strings and smart pointers. Streams, threads, regular expressions and the like stay: they tell.

/// Classes and functions of `std` that own storage for their caller, or only pass it on.
const STORAGE: &[&str] = &[
    "allocator",
    "allocator_traits",
    "allocate_shared",
    "any",
    "basic_string",
    "char_traits",
    "construct_at",
    "copy",
    "copy_backward",
    "copy_n",
    "deque",
    "fill_n",
    "forward",
    "forward_list",
    "function",
    "get_temporary_buffer",
    "initializer_list",
    "inplace_vector",
    "list",
    "make_any",
    "make_pair",
    "make_shared",
    "make_tuple",
    "make_unique",
    "map",
    "move",
    "move_only_function",
    "multimap",
    "multiset",
    "operator+",
    "optional",
    "pair",
    "pmr",
    "priority_queue",
    "queue",
    "set",
    "shared_ptr",
    "stack",
    "string",
    "swap",
    "to_string",
    "tuple",
    "uninitialized_copy",
    "uninitialized_fill_n",
    "uninitialized_move",
    "unique_ptr",
    "unordered_map",
    "unordered_multimap",
    "unordered_multiset",
    "unordered_set",
    "variant",
    "vector",
    "wstring",
];

/// Namespaces that only say which binary interface or mode a class has: libstdc++'s and libc++'s.
const INLINE_NAMESPACES: &[&str] =
    &["__cxx11::", "__1::", "__ndk1::", "__debug::", "__cxx1998::", "__8::", "__7::"];

/// Whether a function only obtains or owns storage.
pub fn is_storage(function: &str) -> bool {
    if let Some(class) = mangled_class(function) {
        return STORAGE.contains(&class) || class.starts_with('_');
    }
    let name = declared(function);
    if is_operator_new(name) {
        return true;
    }
    if name.starts_with("__gnu_cxx::") {
        return true;
    }
    let Some(name) = in_std(name) else { return false };
    let class = component(name);
    STORAGE.contains(&class) || is_internal(name)
}

/// The global one, or one of a class: it obtains storage and no more.
fn is_operator_new(name: &str) -> bool {
    name.split_once("operator new").is_some_and(|(class, parameters)| {
        let qualified = class.is_empty() || class.ends_with("::") && !class.contains('(');
        qualified && (parameters.starts_with('(') || parameters.starts_with("[]("))
    })
}

/// Whether a function stands between the start of a thread and what the thread was made for.
pub fn is_thread_start(function: &str) -> bool {
    in_std(declared(function)).is_some_and(is_internal)
}

/// The class in `std` that a member belongs to whose name could not be demangled.
fn mangled_class(function: &str) -> Option<&str> {
    let rest = function.strip_prefix("_ZNSt").or_else(|| function.strip_prefix("_ZNKSt"))?;
    let rest = rest.strip_prefix("7__cxx11").unwrap_or(rest);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (length, rest) = rest.split_at_checked(digits)?;
    rest.get(..length.parse().ok()?)
}

/// What follows `std::`, without inline namespaces.
fn in_std(name: &str) -> Option<&str> {
    let mut name = name.strip_prefix("std::")?;
    while let Some(rest) = INLINE_NAMESPACES.iter().find_map(|namespace| name.strip_prefix(namespace)) {
        name = rest;
    }
    Some(name)
}

/// Whether a part of the qualified name is reserved for the library's own use.
fn is_internal(mut name: &str) -> bool {
    loop {
        if component(name).starts_with('_') {
            return true;
        }
        match behind_component(name) {
            Some(rest) => name = rest,
            None => return false,
        }
    }
}

/// The first part of a qualified name, without template arguments and parameters.
fn component(name: &str) -> &str {
    name.split(['<', ':', '(', '[', ' ']).next().unwrap_or(name)
}

/// What follows the first part and its template arguments, if that is another part.
fn behind_component(name: &str) -> Option<&str> {
    let rest = name.get(component(name).len()..)?;
    let mut depth = 0_usize;
    for (at, letter) in rest.char_indices() {
        match letter {
            '<' | '(' if depth > 0 || letter == '<' => depth += 1,
            '>' | ')' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            ':' => return rest.get(at..)?.strip_prefix("::"),
            _ => return None,
        }
    }
    None
}

/// The qualified name that a demangled name declares: function templates carry their return type before it.
fn declared(function: &str) -> &str {
    let (mut start, mut depth) = (0, 0_usize);
    for (at, letter) in function.char_indices() {
        let rest = function.get(at..).unwrap_or_default();
        match letter {
            '(' if depth == 0 && !rest.starts_with("(anonymous namespace)") => break,
            '<' | '(' | '[' | '{' => depth += 1,
            '>' | ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => start = at + 1,
            // Whatever follows is the operator's own name, with signs that are no brackets.
            'o' if depth == 0 && is_operator(function, at) => break,
            _ => {}
        }
    }
    function.get(start..).unwrap_or(function)
}

fn is_operator(function: &str, at: usize) -> bool {
    let part_of_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let before = function.get(..at).and_then(|before| before.chars().next_back());
    let rest = function.get(at..).and_then(|rest| rest.strip_prefix("operator"));
    let behind = rest.and_then(|rest| rest.chars().next());
    behind.is_some_and(|letter| !part_of_name(letter)) && !before.is_some_and(part_of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_name_is_found_behind_any_return_type() {
        let names = [
            ("operator new(unsigned long)", "operator new(unsigned long)"),
            (
                "void std::vector<int>::_M_realloc_insert<int>(int&&)",
                "std::vector<int>::_M_realloc_insert<int>(int&&)",
            ),
            ("std::shared_ptr<Big> std::make_shared<Big>()", "std::make_shared<Big>()"),
            ("std::ostream& std::operator<< <char>(std::ostream&)", "std::operator<< <char>(std::ostream&)"),
            ("my::operator_table(int)", "my::operator_table(int)"),
            ("(anonymous namespace)::f(int)", "(anonymous namespace)::f(int)"),
            ("main", "main"),
            ("", ""),
        ];
        for (function, expected) in names {
            assert_eq!(declared(function), expected);
        }
    }

    #[test]
    fn members_of_the_library_are_known_by_their_mangled_names_too() {
        assert!(is_storage("_ZNSt6vectorI!") && is_storage("_ZNKSt7__cxx1112basic_stringI!"));
        assert!(is_storage("_ZNSt12__shared_ptrI!"));
        assert!(
            !is_storage("_ZNSt6threadI!") && !is_storage("_ZN3app6vectorI!") && !is_storage("_ZNSt99vector")
        );
    }

    #[test]
    fn a_classes_own_operator_new_is_one_too() {
        assert!(is_storage("v8::internal::Malloced::operator new(unsigned long)"));
        assert!(is_storage("operator new[](unsigned long)"));
        assert!(!is_storage("app::f(app::operator new)") && !is_storage("operator newline()"));
    }

    #[test]
    fn internal_names_are_found_at_any_depth_but_not_in_arguments() {
        assert!(is_internal("thread::_State_impl<std::thread::_Invoker<std::tuple<f()> > >::_M_run()"));
        assert!(is_internal("vector<int, std::allocator<int> >::_M_default_append(unsigned long)"));
        assert!(!is_internal("thread::thread<std::_Bind<f()> >(std::_Bind<f()>&&)"));
        assert!(!is_internal("operator<< <std::char_traits<char> >(std::_x)"));
    }
}
