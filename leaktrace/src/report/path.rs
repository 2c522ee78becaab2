//! Source paths as people read them: `flask/app.py` for a library's file, `json/decoder.py` for the standard library's,
//! relative to the application's root for its own. A short name is always an end of the path, and two files of one
//! report never share one: both then keep as much as tells them apart. Pure.

use std::collections::HashMap;

use super::model::{Frame, FrameKind};

/// Directories that installed packages lie in: what follows is what `import` says.
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];

/// How often names that collide grow by one directory before they are given up for the whole path. Paths come from the
/// target, which may make them as deep as it likes.
const MAX_ROUNDS: usize = 32;

/// The short names of the source files of one report.
#[derive(Clone, Debug, Default)]
pub struct ShortPaths<'a> {
    /// Where each path's short name begins.
    begins: HashMap<&'a str, usize>,
}

impl<'a> ShortPaths<'a> {
    /// Shortens the files of these frames. `roots`: where applications lie; the deepest that holds a file counts.
    pub fn new(roots: &[&str], frames: impl IntoIterator<Item = &'a Frame>) -> Self {
        let mut begins = HashMap::new();
        for frame in frames {
            if let Some(file) = frame.file.as_deref() {
                begins.entry(file).or_insert_with(|| begin(file, frame.kind, roots));
            }
        }
        tell_apart(&mut begins);
        Self { begins }
    }

    /// The short name of a file; of one that was not among the frames, the whole path.
    pub fn short<'p>(&self, file: &'p str) -> &'p str {
        self.begins.get(file).and_then(|begin| file.get(*begin..)).unwrap_or(file)
    }
}

/// Where the program's own code lies, as far as that can be told: the directory it works in if its script lies below it,
/// or if it was started by a tool; else the script's directory.
pub fn application_root(directory: Option<&str>, command: &[String]) -> Option<String> {
    let directory = directory.map(|path| path.trim_end_matches('/')).filter(|path| path.starts_with('/'));
    let script = command.iter().skip(1).find(|argument| argument.ends_with(".py"));
    let script = script.and_then(|script| match (script.starts_with('/'), directory) {
        (true, _) => Some(script.clone()),
        (false, Some(directory)) => Some(format!("{directory}/{}", script.trim_start_matches("./"))),
        (false, None) => None,
    });
    let beside = script.as_deref().and_then(|script| script.rsplit_once('/')).map(|(parent, _)| parent);
    match (directory, beside) {
        (Some(directory), Some(beside)) if below(beside, directory).is_none() => Some(beside.to_owned()),
        (None, beside) => beside.map(str::to_owned),
        (directory, _) => directory.map(str::to_owned),
    }
    .filter(|root| !root.is_empty())
}

/// Where the short name of a path begins, if no other file interferes.
fn begin(path: &str, kind: FrameKind, roots: &[&str]) -> usize {
    if kind != FrameKind::Python {
        return path.rfind('/').map(|slash| slash + 1).filter(|begin| *begin < path.len()).unwrap_or(0);
    }
    // "<frozen importlib._bootstrap>", "<string>": no path, whatever is in it.
    if path.starts_with('<') {
        return 0;
    }
    let begin = behind_packages(path)
        .or_else(|| behind_standard_library(path))
        .or_else(|| roots.iter().filter_map(|root| below(path, root)).max());
    begin.filter(|begin| *begin < path.len()).unwrap_or(0)
}

/// The components of a path and where each begins.
fn components(path: &str) -> impl DoubleEndedIterator<Item = (usize, &str)> {
    path.split('/').map(|part| (part.as_ptr() as usize - path.as_ptr() as usize, part))
}

fn behind_packages(path: &str) -> Option<usize> {
    let (begin, part) = components(path).rev().find(|(_, part)| PACKAGES.contains(part))?;
    Some(begin + part.len() + 1)
}

/// Behind `lib/python3.11/`, `lib64/python3.13t/`.
fn behind_standard_library(path: &str) -> Option<usize> {
    let mut inner = components(path).rev().peekable();
    while let Some((begin, part)) = inner.next() {
        let library = inner.peek().is_some_and(|(_, parent)| matches!(*parent, "lib" | "lib64"));
        if library && is_versioned_python(part) {
            return Some(begin + part.len() + 1);
        }
    }
    None
}

fn is_versioned_python(directory: &str) -> bool {
    let Some(version) = directory.strip_prefix("python") else { return false };
    let version = version.strip_suffix('t').unwrap_or(version);
    !version.is_empty() && version.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// Where in a path the part below a directory begins; `None` if it does not lie there, or the directory is `/`.
fn below(path: &str, directory: &str) -> Option<usize> {
    let directory = directory.trim_end_matches('/');
    let rest = path.strip_prefix(directory)?;
    match (directory.is_empty(), rest.is_empty(), rest.starts_with('/')) {
        (true, ..) => None,
        (_, true, _) => Some(path.len()),
        (_, _, true) => Some(directory.len() + 1),
        _ => None,
    }
}

/// Lets short names grow, a directory at a time, until no two files share one.
fn tell_apart(begins: &mut HashMap<&str, usize>) {
    for round in 0.. {
        let colliding = colliding(begins);
        if colliding.is_empty() {
            return;
        }
        for path in colliding {
            let shorter = begins.get(path).copied().unwrap_or(0);
            let grown = if round < MAX_ROUNDS { grown(path, shorter) } else { 0 };
            begins.insert(path, grown);
        }
    }
}

/// Paths that share their short name with another one, and can still grow. Of those that cannot there is at most one.
fn colliding<'a>(begins: &HashMap<&'a str, usize>) -> Vec<&'a str> {
    let mut sharing: HashMap<&str, Vec<(&'a str, usize)>> = HashMap::new();
    for (path, begin) in begins {
        sharing.entry(path.get(*begin..).unwrap_or(path)).or_default().push((path, *begin));
    }
    let groups = sharing.into_values().filter(|group| group.len() > 1);
    groups.flatten().filter(|(_, begin)| *begin > 0).map(|(path, _)| path).collect()
}

/// Where a name begins that has one directory more than the one that begins at `begin`.
fn grown(path: &str, begin: usize) -> usize {
    let parents = path.get(..begin).unwrap_or("").trim_end_matches('/');
    match parents.rfind('/') {
        Some(slash) => slash + 1,
        // Nothing is left but the leading slash.
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn frame(kind: FrameKind, file: &str) -> Frame {
        Frame { kind, file: Some(file.into()), ..Frame::default() }
    }

    fn python(file: &str) -> Frame {
        frame(FrameKind::Python, file)
    }

    fn one(root: &str, file: &str) -> String {
        let frames = [python(file)];
        ShortPaths::new(&[root], &frames).short(file).to_owned()
    }

    fn all(roots: &[&str], files: &[&str]) -> Vec<String> {
        let frames: Vec<Frame> = files.iter().map(|file| python(file)).collect();
        let paths = ShortPaths::new(roots, &frames);
        files.iter().map(|file| paths.short(file).to_owned()).collect()
    }

    #[test]
    fn packages_read_as_they_are_imported() {
        assert_eq!(one("/app", "/app/venv/lib/python3.11/site-packages/flask/app.py"), "flask/app.py");
        assert_eq!(one("/app", "/usr/lib/python3/dist-packages/yaml/loader.py"), "yaml/loader.py");
        assert_eq!(one("/", "/x/site-packages/a/site-packages/b.py"), "b.py");
        assert_eq!(one("/", "/x/my-site-packages/b.py"), "/x/my-site-packages/b.py");
        assert_eq!(one("/", "/x/site-packages/"), "/x/site-packages/");
    }

    #[test]
    fn the_standard_library_reads_as_it_is_imported() {
        assert_eq!(one("/", "/usr/lib/python3.11/json/decoder.py"), "json/decoder.py");
        assert_eq!(one("/usr", "/usr/local/lib/python3.13t/queue.py"), "queue.py");
        assert_eq!(one("/", "/usr/lib64/python3.9/threading.py"), "threading.py");
        assert_eq!(one("/", "/srv/python3.11/threading.py"), "/srv/python3.11/threading.py");
        assert_eq!(one("/", "/srv/lib/pythonista/a.py"), "/srv/lib/pythonista/a.py");
    }

    #[test]
    fn the_applications_own_code_reads_relative_to_its_root() {
        assert_eq!(one("/srv/shop", "/srv/shop/app/views.py"), "app/views.py");
        assert_eq!(one("/srv/shop/", "/srv/shop/app/views.py"), "app/views.py");
        assert_eq!(one("/srv/shop", "/srv/shopping/views.py"), "/srv/shopping/views.py");
        assert_eq!(one("/", "/srv/views.py"), "/srv/views.py", "a daemon's directory says nothing");
        assert_eq!(all(&["/srv", "/srv/shop"], &["/srv/shop/views.py"]), ["views.py"]);
    }

    #[test]
    fn what_is_no_path_stays_as_it_is() {
        for name in ["<frozen importlib._bootstrap>", "<string>", "<a/site-packages/b>", "", "views.py"] {
            assert_eq!(one("/srv", name), name);
        }
    }

    #[test]
    fn native_sources_read_by_their_last_part() {
        let frames = [frame(FrameKind::Native, "/src/a/util.c"), frame(FrameKind::Native, "/src/list.h")];
        let paths = ShortPaths::new(&[], &frames);
        assert_eq!((paths.short("/src/a/util.c"), paths.short("/src/list.h")), ("util.c", "list.h"));
        assert_eq!(paths.short("/never/seen.c"), "/never/seen.c");
    }

    #[test]
    fn two_files_never_share_a_name_and_both_keep_what_tells_them_apart() {
        let files = ["/srv/a/app/views.py", "/srv/b/app/views.py"];
        assert_eq!(all(&["/srv/a", "/srv/b"], &files), ["a/app/views.py", "b/app/views.py"]);
        let files = ["/usr/lib/python3.11/json/decoder.py", "/srv/json/decoder.py", "/srv/other.py"];
        let expected = ["python3.11/json/decoder.py", "srv/json/decoder.py", "other.py"];
        assert_eq!(all(&["/srv"], &files), expected);
        let relative = ["app.py", "/app.py", "/srv/app.py"];
        assert_eq!(all(&["/srv"], &relative), ["app.py", "/app.py", "srv/app.py"]);
    }

    #[test]
    fn paths_of_any_depth_are_told_apart_in_few_rounds() {
        let deep = "d/".repeat(10_000);
        let files =
            [format!("/x/{deep}site-packages/{deep}f.py"), format!("/y/{deep}site-packages/{deep}f.py")];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        assert_eq!(all(&[], &files), files);
    }

    #[test]
    fn the_root_is_where_the_script_or_the_process_lies() {
        let root = |directory, command: &[&str]| {
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            application_root(directory, &command)
        };
        assert_eq!(root(Some("/srv/shop"), &["python3", "app/main.py"]).as_deref(), Some("/srv/shop"));
        assert_eq!(root(Some("/home/me"), &["python3", "/srv/main.py"]).as_deref(), Some("/srv"));
        assert_eq!(root(Some("/"), &["python3", "/srv/main.py"]).as_deref(), Some("/srv"));
        assert_eq!(root(Some("/srv"), &["/venv/bin/gunicorn", "shop:app"]).as_deref(), Some("/srv"));
        assert_eq!(root(None, &["python3", "main.py"]), None);
        assert_eq!(root(Some("/"), &["python3", "-m", "shop"]), None);
    }

    fn path() -> impl Strategy<Value = String> {
        let parts = ["", "a", "b", "lib", "python3.11", "site-packages", "dist-packages", "é", "m.py"];
        (proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..8), any::<bool>())
            .prop_map(|(parts, absolute)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
    }

    proptest! {
        /// Short names are ends of their paths, never empty, and different for different files.
        #[test]
        fn short_names_tell_every_file_from_every_other(
            files in proptest::collection::hash_set(path(), 0..20),
            roots in proptest::collection::vec(path(), 0..3),
            native in any::<bool>(),
        ) {
            let kind = if native { FrameKind::Native } else { FrameKind::Python };
            let frames: Vec<Frame> = files.iter().map(|file| frame(kind, file)).collect();
            let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
            let paths = ShortPaths::new(&roots, &frames);
            let mut names = HashSet::new();
            for file in &files {
                let short = paths.short(file);
                prop_assert!(file.ends_with(short));
                prop_assert!(file.is_empty() || !short.is_empty());
                prop_assert!(names.insert(short), "{short} twice");
            }
        }

        /// Whatever a target calls its files: no panic, and nothing is made up.
        #[test]
        fn any_name_is_an_end_of_its_path(file in ".{0,60}", root in "/.{0,10}") {
            let frames = [python(&file)];
            let paths = ShortPaths::new(&[&root], &frames);
            prop_assert!(file.ends_with(paths.short(&file)));
        }
    }
}
