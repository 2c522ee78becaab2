//! C and C++ programs of this repository: what their first lines say about how they are built.
//!
//! `// build: -O1 -g -pthread` in a file `x.c` makes a program `x`; `// build[variant]: FLAGS` makes `x-variant`; a
//! flag `-shared` makes `x.so`; flags that begin with the word `musl-gcc` or `g++` choose that compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// Used where a file says nothing.
const DEFAULT_FLAGS: &str = "-O1 -g -fno-omit-frame-pointer -pthread";

/// Compilers that flags may begin with.
const COMPILERS: [&str; 2] = ["musl-gcc", "g++"];

/// Endings of sources.
const LANGUAGES: [&str; 2] = ["c", "cpp"];

/// One way to build one file.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    compiler: String,
    flags: Vec<String>,
    output: String,
}

/// Compiles every C and C++ file of a directory into another one.
pub fn compile_all(sources: &Path, output: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(sources).with_context(|| format!("cannot read {}", sources.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| {
        file.extension().is_some_and(|ending| LANGUAGES.iter().any(|language| ending == *language))
    });
    files.sort();
    let mut built = Vec::new();
    for file in files {
        built.extend(compile(&file, output)?);
    }
    Ok(built)
}

/// Compiles one file in every way that it asks for.
pub fn compile(source: &Path, output: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
    let stem = source.file_stem().context("a source file without a name")?.to_string_lossy();
    let compiler = if source.extension().is_some_and(|ending| ending == "cpp") { "g++" } else { "gcc" };
    recipes(&stem, &text, compiler).iter().map(|recipe| follow(recipe, source, output)).collect()
}

fn follow(recipe: &Recipe, source: &Path, output: &Path) -> Result<PathBuf> {
    if command::find(&recipe.compiler).is_none() {
        bail!(
            "{} is needed to compile {}: run `cargo xtask setup --for test`",
            recipe.compiler,
            source.display()
        );
    }
    let program = output.join(&recipe.output);
    // Libraries come after the source: the linker drops what nothing before it has asked for.
    let (libraries, flags): (Vec<_>, Vec<_>) = recipe.flags.iter().partition(|flag| flag.starts_with("-l"));
    let mut compiler = Command::new(&recipe.compiler);
    command::run(compiler.args(flags).arg("-o").arg(&program).arg(source).args(libraries))?;
    Ok(program)
}

fn recipes(stem: &str, text: &str, compiler: &str) -> Vec<Recipe> {
    let asked: Vec<_> =
        text.lines().take_while(|line| line.starts_with("//")).filter_map(directive).collect();
    if asked.is_empty() {
        return vec![recipe(stem, None, DEFAULT_FLAGS, compiler)];
    }
    asked.into_iter().map(|(variant, flags)| recipe(stem, variant, flags, compiler)).collect()
}

/// The variant and the flags of a `// build: ...` or `// build[variant]: ...` line.
fn directive(line: &str) -> Option<(Option<&str>, &str)> {
    let rest = line.strip_prefix("//")?.trim_start().strip_prefix("build")?;
    let (head, flags) = rest.split_once(':')?;
    match head {
        "" => Some((None, flags)),
        _ => Some((Some(head.strip_prefix('[')?.strip_suffix(']')?), flags)),
    }
}

fn recipe(stem: &str, variant: Option<&str>, flags: &str, compiler: &str) -> Recipe {
    let mut words: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
    let named = words.first().is_some_and(|word| COMPILERS.contains(&word.as_str()));
    let compiler = if named { words.remove(0) } else { compiler.to_owned() };
    let suffix = if words.iter().any(|word| word == "-shared") { ".so" } else { "" };
    let name = variant.map_or_else(|| stem.to_owned(), |variant| format!("{stem}-{variant}"));
    Recipe { compiler, flags: words, output: format!("{name}{suffix}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_can_be_built_in_several_ways() {
        let text =
            "// build: -O1 -g\n// build[musl]: musl-gcc -O2\n// build[plugin]: -shared -fPIC\nint x;\n";
        let outputs: Vec<_> = recipes("a", text, "gcc").into_iter().map(|r| (r.compiler, r.output)).collect();
        let expected = [("gcc", "a"), ("musl-gcc", "a-musl"), ("gcc", "a-plugin.so")];
        assert_eq!(outputs, expected.map(|(compiler, output)| (compiler.to_owned(), output.to_owned())));
    }

    #[test]
    fn directives_below_the_leading_comment_are_text() {
        let found = recipes("a", "// A program.\nint x;\n// build: -O3\n", "gcc");
        assert_eq!(found, [recipe("a", None, DEFAULT_FLAGS, "gcc")]);
    }
}
