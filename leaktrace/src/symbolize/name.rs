//! Demangling with an end. A C++ name can refer back to parts of itself, so that a few hundred bytes unfold to more than
//! any memory holds; here the writer refuses what goes beyond [`MAX_NAME`], and then the mangled name is shown.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Longest name in bytes, mangled or not.
pub const MAX_NAME: usize = 4096;
/// How deep a C++ name may nest.
const MAX_DEPTH: u32 = 128;

/// A string that refuses to grow beyond [`MAX_NAME`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// The name as its author wrote it, or as the linker knows it where it is not mangled or too intricate; `None` if it
/// is empty.
pub fn demangle(name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    if name.len() > MAX_NAME {
        return Some(shortened(name));
    }
    Some(rust(name).or_else(|| cpp(name)).or_else(|| beginning(name)).unwrap_or_else(|| name.to_owned()))
}

/// The name of a function template whose arguments or types cannot be read: `std::make_shared<...>`. A member's name
/// stands behind its class's arguments, so members stay mangled.
fn beginning(name: &str) -> Option<String> {
    let rest = name.strip_prefix("_Z")?;
    let (namespace, rest) = match rest.strip_prefix("St") {
        Some(rest) => ("std::", rest),
        None => ("", rest),
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (length, rest) = rest.split_at_checked(digits)?;
    let (identifier, rest) = rest.split_at_checked(length.parse().ok()?)?;
    rest.starts_with('I').then(|| format!("{namespace}{identifier}<...>"))
}

fn rust(name: &str) -> Option<String> {
    let demangled = rustc_demangle::try_demangle(name).ok()?;
    let mut text = Bounded(String::new());
    // The alternate form leaves the hash away.
    write!(text, "{demangled:#}").ok()?;
    Some(text.0)
}

fn cpp(name: &str) -> Option<String> {
    // Anything else would be read as a type: `i` is no function called "int".
    if !name.starts_with("_Z") && !name.starts_with("__Z") {
        return None;
    }
    let options = ParseOptions::default().recursion_limit(MAX_DEPTH);
    let symbol = Symbol::new_with_options(name, &options).ok()?;
    let mut text = Bounded(String::new());
    symbol.structured_demangle(&mut text, &DemangleOptions::default().recursion_limit(MAX_DEPTH)).ok()?;
    Some(text.0)
}

/// The first [`MAX_NAME`] bytes, cut between characters.
pub fn shortened(text: &str) -> String {
    let end = (0..=MAX_NAME.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_cpp_and_plain_names_are_written_as_their_authors_did() {
        assert_eq!(
            demangle("_ZN4core9panicking9panic_fmt17h5f1a6fd39197ad62E").as_deref(),
            Some("core::panicking::panic_fmt")
        );
        assert_eq!(demangle("_ZN5space3fooEibc").as_deref(), Some("space::foo(int, bool, char)"));
        assert_eq!(demangle("malloc").as_deref(), Some("malloc"));
        assert_eq!(demangle("i").as_deref(), Some("i"));
        assert_eq!(demangle(""), None);
    }

    #[test]
    fn a_template_with_types_that_cannot_be_read_has_a_name_at_least() {
        let make_shared = "_ZSt11make_sharedI6RecordJEESt10shared_ptrINSt9enable_ifIXntsrSt8is_arrayIT_E5valueES4_E4typeEEDpOT0_";
        let shown = demangle(make_shared).expect("a name");
        assert!(shown.contains("std::make_shared<"), "{shown}");
        for name in ["_ZN3app5StoreI!", "_Z99fooIiE!", "_Z", "_ZSt", "_Z3fooq!", "_Z18446744073709551616fI!"]
        {
            assert_eq!(demangle(name).as_deref(), Some(name));
        }
    }

    #[test]
    fn a_name_that_unfolds_without_end_stays_mangled() {
        // Each argument is a function taking the previous one twice: 2^40 copies of "int".
        let mut name = "_Z1fPFviiE".to_owned();
        for level in 0..40_u32 {
            let digit = char::from_digit(level % 36, 36).expect("below 36").to_ascii_uppercase();
            let back = if level < 36 { format!("S{digit}_") } else { format!("S1{digit}_") };
            let _ = write!(name, "PFv{back}{back}E");
        }
        let shown = demangle(&name).expect("some name");
        assert!(shown.len() <= MAX_NAME);
    }

    #[test]
    fn deep_nesting_and_overlong_names_end() {
        let deep = format!("_Z1f{}i", "P".repeat(4000));
        assert_eq!(demangle(&deep), Some(deep.clone()));
        let long = "ä".repeat(MAX_NAME);
        assert_eq!(demangle(&long).map(|name| name.len()), Some(MAX_NAME));
    }
}
