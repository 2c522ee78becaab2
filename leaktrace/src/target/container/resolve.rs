//! Which container a user means by an ID, the beginning of one, or a name.

use std::{collections::HashMap, fmt::Write as _, fs, os::unix::fs::MetadataExt, path::Path};

use super::{
    Container,
    catalog::{Catalog, Extent, Located},
    record::Init,
};
use crate::process::{self, cgroup::Mounts};
use crate::report::human::noun_of;

/// Lines of candidates in a message.
const MAX_LINES: usize = 20;
/// Letters to which columns of that list are filled up; longer names stick out.
const MAX_WIDTH: usize = 64;

/// A container that might be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which, and its processes.
    pub located: Located,
    /// What else people call it.
    pub names: Vec<String>,
    /// The user whose word all this is.
    pub owner: u32,
    /// Its first process, where that is on record.
    pub init: Option<Init>,
    /// Its processes now.
    pub processes: usize,
}

/// Why no container was found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveError {
    /// Nothing goes by that name.
    #[error("no container is called {name}, nor has an ID that begins so; {}", listed(candidates))]
    Unknown {
        /// As it was named.
        name: String,
        /// All there are, the nearest names first.
        candidates: Vec<Candidate>,
    },
    /// More than one does.
    #[error("{} containers go by {name}: name one by more of its ID; {}", candidates.len(), listed(candidates))]
    Ambiguous {
        /// As it was named.
        name: String,
        /// Those that do.
        candidates: Vec<Candidate>,
    },
    /// It is known, but nothing runs in it.
    #[error("container {name} has no process: it has stopped, or was never started")]
    Stopped {
        /// What it is called.
        name: String,
    },
}

/// Finds the one container that is meant.
///
/// # Errors
/// If there is none, more than one, or none that runs.
pub fn resolve(catalog: &mut Catalog, name: &str) -> Result<Candidate, ResolveError> {
    choose(name, candidates(catalog))
}

/// Every container that runs or is on record.
pub fn candidates(catalog: &mut Catalog) -> Vec<Candidate> {
    let mut found: HashMap<(String, Extent), Candidate> = HashMap::new();
    for pid in process::all() {
        let Some(located) = catalog.locate(pid) else { continue };
        let key = (located.container.id.clone(), located.extent.clone());
        found.entry(key).or_insert_with(|| Candidate::new(located)).processes += 1;
    }
    for known in catalog.known() {
        let located = known.located();
        let key = (located.container.id.clone(), located.extent.clone());
        let candidate = found.entry(key).or_insert_with(|| Candidate::new(located));
        candidate.names.clone_from(&known.record.names);
        candidate.owner = known.record.owner;
        candidate.init = known.record.init;
    }
    let mut candidates: Vec<Candidate> = found.into_values().collect();
    candidates.sort_by_key(order);
    candidates
}

/// Running ones first, then by name.
fn order(candidate: &Candidate) -> (bool, String, String) {
    (candidate.processes == 0, candidate.located.container.short(), candidate.located.container.id.clone())
}

/// Picks the one that a name means.
pub fn choose(name: &str, mut candidates: Vec<Candidate>) -> Result<Candidate, ResolveError> {
    // As Kubernetes writes an ID: `containerd://3f2a...`.
    let wanted = name.split_once("://").map_or(name, |(_, id)| id);
    let mut fitting: Vec<Candidate> = fitting(wanted, &candidates);
    match (fitting.len(), fitting.pop()) {
        (1, Some(only)) if only.processes == 0 => {
            Err(ResolveError::Stopped { name: only.located.container.short() })
        }
        (1, Some(only)) => Ok(only),
        (_, Some(last)) => {
            fitting.push(last);
            Err(ResolveError::Ambiguous { name: name.to_owned(), candidates: fitting })
        }
        (_, None) => {
            candidates.sort_by_cached_key(|candidate| distance(wanted, candidate));
            Err(ResolveError::Unknown { name: name.to_owned(), candidates })
        }
    }
}

/// Those that a name fits best: whole IDs and names before beginnings, those that run before those that do not, root's word
/// before users'.
fn fitting(wanted: &str, candidates: &[Candidate]) -> Vec<Candidate> {
    let exact = |candidate: &&Candidate| {
        candidate.located.container.id == wanted || candidate.all_names().any(|known| known == wanted)
    };
    let begins =
        |candidate: &&Candidate| !wanted.is_empty() && candidate.located.container.id.starts_with(wanted);
    let mut fitting: Vec<Candidate> = candidates.iter().filter(exact).cloned().collect();
    if fitting.is_empty() {
        fitting = candidates.iter().filter(begins).cloned().collect();
    }
    prefer(&mut fitting, |candidate| candidate.processes > 0);
    prefer(&mut fitting, |candidate| candidate.owner == 0);
    // Within a container somebody may have made a cgroup that is called like another one.
    if fitting.windows(2).all(|pair| matches!(pair, [one, other] if one.is_named_like(other))) {
        fitting.sort_by_key(Candidate::depth);
        fitting.truncate(1);
    }
    fitting
}

/// Leaves only those with a property, if there are any.
fn prefer(candidates: &mut Vec<Candidate>, property: impl Fn(&Candidate) -> bool) {
    if candidates.iter().any(&property) {
        candidates.retain(property);
    }
}

impl Candidate {
    fn new(located: Located) -> Self {
        let owner = match &located.extent {
            Extent::Cgroup(place) => Mounts::own().directory(place).and_then(|directory| owner(&directory)),
            Extent::Namespace(_) | Extent::Init(_) => None,
        };
        Self { located, names: Vec::new(), owner: owner.unwrap_or(0), init: None, processes: 0 }
    }

    /// Whether both have the same ID, which only one of them can have been given by a runtime.
    fn is_named_like(&self, other: &Self) -> bool {
        self.located.container.id == other.located.container.id
    }

    /// How deep its cgroup lies.
    fn depth(&self) -> usize {
        match &self.located.extent {
            Extent::Cgroup(place) => place.path.components().count(),
            Extent::Namespace(_) | Extent::Init(_) => 0,
        }
    }

    /// Everything that people call it.
    fn all_names(&self) -> impl Iterator<Item = &str> {
        self.located.container.name.iter().chain(&self.names).map(String::as_str)
    }
}

/// The user whom a directory belongs to.
fn owner(directory: &Path) -> Option<u32> {
    Some(fs::symlink_metadata(directory).ok()?.uid())
}

/// How unlike a name is to those of a candidate: edits from the nearest one, of those first that it is a part of (people say
/// `web` where engines say `shop-web-1`).
fn distance(wanted: &str, candidate: &Candidate) -> (bool, usize) {
    let container = &candidate.located.container;
    let beginning = container.id.get(..wanted.len()).unwrap_or(&container.id);
    let unlike = |name: &str| (!name.contains(wanted), edits(wanted, name));
    // Without an engine, the ID is what people have chosen.
    candidate
        .all_names()
        .chain([beginning, container.short_id()])
        .map(unlike)
        .min()
        .unwrap_or((true, usize::MAX))
}

/// Letters to be put in, left out or exchanged; names are cut to what a person would type.
fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) =
        (one.chars().take(64).collect(), other.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, candidate) in row.iter_mut().skip(1).zip(&other) {
            let above = *cell;
            left = (above + 1).min(left + 1).min(diagonal + usize::from(letter != candidate));
            (*cell, diagonal) = (left, above);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The list of candidates in a message, in columns.
fn listed(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "there is no container on this host".to_owned();
    }
    let rows: Vec<[String; 4]> = candidates.iter().take(MAX_LINES).map(Candidate::columns).collect();
    let wide = |column: &String| column.chars().count();
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(wide).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)].map(|width| width.min(MAX_WIDTH));
    let mut text = "these there are:".to_owned();
    for [id, name, runtime, processes] in &rows {
        let [first, second, third] = widths;
        let _ = write!(text, "\n  {id:first$}  {name:second$}  {runtime:third$}  {processes}");
    }
    let more = candidates.len().saturating_sub(MAX_LINES);
    if more > 0 {
        let _ = write!(text, "\n  and {more} more");
    }
    text
}

impl Candidate {
    /// ID, name, who runs it for whom, and how much runs in it.
    fn columns(&self) -> [String; 4] {
        let container: &Container = &self.located.container;
        let mut runtime = container.runtime.as_deref().unwrap_or("unknown runtime").to_owned();
        if self.owner != 0 {
            let _ = write!(runtime, " of user {}", self.owner);
        }
        if let Some(pod) = &container.pod {
            let _ = write!(runtime, ", pod {pod}");
        }
        let processes = match self.processes {
            0 => "not running".to_owned(),
            some => format!("{some} {}", noun_of(some as u64, "process")),
        };
        let name = container.name.clone().unwrap_or_else(|| "-".to_owned());
        [container.short_id().to_owned(), name, runtime, processes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::cgroup::{Hierarchy, Place};

    fn candidate(id: &str, name: &str, processes: usize) -> Candidate {
        let container = Container {
            id: id.to_owned(),
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            ..Container::default()
        };
        let place = Place { hierarchy: Hierarchy::Unified, path: format!("/docker/{id}").into() };
        let located = Located { container, extent: Extent::Cgroup(place) };
        Candidate { processes, ..Candidate::new(located) }
    }

    fn chosen(name: &str, candidates: &[Candidate]) -> String {
        match choose(name, candidates.to_vec()) {
            Ok(candidate) => candidate.located.container.id,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_ids_and_beginnings_of_ids_are_understood() {
        let all = [candidate("3f2a", "web", 1), candidate("3f77", "db", 1), candidate("99", "3f", 1)];
        for (name, id) in [("web", "3f2a"), ("3f7", "3f77"), ("containerd://3f77", "3f77"), ("3f", "99")] {
            assert_eq!(chosen(name, &all), id, "{name}");
        }
        let mut more = all[0].clone();
        more.names = vec!["shop-1/app".to_owned()];
        assert_eq!(chosen("shop-1/app", &[more]), "3f2a");
    }

    #[test]
    fn several_are_listed_and_none_lists_the_nearest_first() {
        let all = [candidate("3f2a", "web", 2), candidate("3f77", "db", 1), candidate("99", "webb", 0)];
        let several = chosen("3f", &all);
        assert!(several.starts_with("2 containers go by 3f: "), "{several}");
        assert!(
            several.contains("\n  3f2a  web  unknown runtime  2 processes\n  3f77  db   unknown"),
            "{several}"
        );
        let none = chosen("wbe", &all);
        assert!(none.lines().nth(1).is_some_and(|line| line.contains("web")), "{none}");
        assert!(none.contains("not running"), "{none}");
        for parts in [[("aa", "db"), ("bb", "shop-web-1")], [("shop-db-1", ""), ("shop-web-1", "")]] {
            let part = chosen("web", &parts.map(|(id, name)| candidate(id, name, 1)));
            assert!(part.lines().nth(1).is_some_and(|line| line.contains("shop-web-1")), "{part}");
        }
        assert!(chosen("", &all).starts_with("no container"), "{}", chosen("", &all));
        assert!(chosen("x", &[]).ends_with("there is no container on this host"));
    }

    #[test]
    fn a_long_list_is_cut() {
        let all: Vec<Candidate> = (0..50).map(|at| candidate(&format!("{at:04}"), "", 1)).collect();
        let text = chosen("web", &all);
        assert_eq!(text.lines().count(), MAX_LINES + 2);
        assert!(text.ends_with("and 30 more"), "{text}");
    }

    #[test]
    fn one_that_runs_is_meant_before_one_that_does_not() {
        let stopped = candidate("aaaa", "web", 0);
        assert_eq!(chosen("web", &[stopped.clone(), candidate("bbbb", "web", 1)]), "bbbb");
        assert!(chosen("web", &[stopped]).contains("has no process"));
    }

    #[test]
    fn what_a_user_calls_like_a_container_of_roots_does_not_get_in_its_way() {
        let forged = Candidate { owner: 1000, ..candidate("bbbb", "web", 1) };
        assert_eq!(chosen("web", &[forged.clone(), candidate("aaaa", "web", 1)]), "aaaa");
        assert_eq!(chosen("web", &[forged]), "bbbb");
    }

    #[test]
    fn a_cgroup_within_a_container_that_takes_another_one_s_id_is_not_meant() {
        let real = candidate("aaaa", "", 1);
        let mut forged = real.clone();
        let place = Place { hierarchy: Hierarchy::Unified, path: "/docker/bbbb/docker/aaaa".into() };
        forged.located.extent = Extent::Cgroup(place);
        assert_eq!(choose("aa", vec![forged, real.clone()]), Ok(real));
    }

    #[test]
    fn edits_are_counted() {
        for (one, other, count) in
            [("", "", 0), ("web", "web", 0), ("web", "wbe", 2), ("web", "", 3), ("a", "web", 3)]
        {
            assert_eq!(edits(one, other), count, "{one} {other}");
        }
    }
}
