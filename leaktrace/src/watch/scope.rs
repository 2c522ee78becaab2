//! Which processes the configuration means: patterns of names, labels, cgroups and command lines, looked at when a process is first
//! seen and now and then afterwards. Pure, apart from PID namespaces, which are looked up by path.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use globset::{Glob, GlobBuilder, GlobMatcher};
use serde::Deserialize;

use crate::process::{PidNamespace, cgroup::Place};

/// The kernel gives no PID beyond; numbers of namespaces begin far above.
const LARGEST_PID: u64 = 1 << 22;

/// `[[scope]]` of the configuration: who is watched. Of each list, one pattern must fit; of several keys, all must.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScopeConfig {
    /// What it is called in history and alerts.
    pub name: String,
    /// Everybody.
    pub all: bool,
    /// Containers: patterns of names, of IDs, or of `pod/container`.
    pub container: Vec<String>,
    /// Labels and annotations of containers: each of these must be there, with a value that fits its pattern.
    pub label: BTreeMap<String, String>,
    /// Cgroups as `/proc/PID/cgroup` names them, with all below them. `*` stays within one level, `**` does not. Of nested ones
    /// that fit, the innermost is meant.
    pub cgroup: Vec<String>,
    /// Processes: patterns of short names, or of base names of executables.
    pub process: Vec<String>,
    /// Processes: patterns of whole command lines, words separated by one blank.
    pub command: Vec<String>,
    /// Processes by number.
    pub pid: Vec<u32>,
    /// PID namespaces, with all below them: the number that `/proc/PID/ns/pid` shows, a path of that form, or the PID of a process.
    pub pid_namespace: Vec<String>,
    /// Who is left out although the rest fits: whoever fits any of these patterns.
    pub exclude: ExcludeConfig,
}

/// `exclude` of a `[[scope]]`. Each key means what it means there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExcludeConfig {
    /// Containers.
    pub container: Vec<String>,
    /// Labels: one that fits is enough.
    pub label: BTreeMap<String, String>,
    /// Cgroups.
    pub cgroup: Vec<String>,
    /// Processes by short name or executable.
    pub process: Vec<String>,
    /// Processes by command line.
    pub command: Vec<String>,
    /// Processes by number.
    pub pid: Vec<u32>,
    /// PID namespaces.
    pub pid_namespace: Vec<String>,
}

impl ScopeConfig {
    /// The scope that everybody is in.
    pub fn everybody(name: &str) -> Self {
        Self { name: name.to_owned(), all: true, ..Self::default() }
    }

    /// Its patterns, without what it leaves out.
    fn included(&self) -> ExcludeConfig {
        ExcludeConfig {
            container: self.container.clone(),
            label: self.label.clone(),
            cgroup: self.cgroup.clone(),
            process: self.process.clone(),
            command: self.command.clone(),
            pid: self.pid.clone(),
            pid_namespace: self.pid_namespace.clone(),
        }
    }
}

/// Why a `[[scope]]` cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScopeError {
    /// A pattern is none.
    #[error("scope {scope}: the pattern {pattern:?} of {key} cannot be used: {reason}")]
    Pattern {
        /// [`ScopeConfig::name`].
        scope: String,
        /// Which key.
        key: &'static str,
        /// As it was written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It says nothing.
    #[error(
        "scope {scope} names nobody: give it container, label, cgroup, process, command, pid or pid_namespace, or all = true"
    )]
    Nobody {
        /// [`ScopeConfig::name`].
        scope: String,
    },
    /// It says that everybody is meant, and that only some are.
    #[error("scope {scope} means everybody (all = true) and has patterns too: leave out one of them")]
    Everybody {
        /// [`ScopeConfig::name`].
        scope: String,
    },
    /// Two have one name.
    #[error("two scopes are called {scope}: give each a name of its own")]
    SameName {
        /// [`ScopeConfig::name`].
        scope: String,
    },
}

/// What patterns are held against.
#[derive(Clone, Debug, Default)]
pub struct Candidate<'a> {
    /// As the host sees it.
    pub pid: u32,
    /// Short name.
    pub name: &'a str,
    /// Where its executable lies, as it sees it.
    pub executable: Option<&'a Path>,
    /// Command line.
    pub command: &'a [String],
    /// Names and IDs of its container; empty: it is in none.
    pub container: Vec<&'a str>,
    /// Labels of its container.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Its cgroups.
    pub places: &'a [Place],
    /// Its PID namespace and those around it, by number.
    pub namespaces: &'a [u64],
}

/// A scope that a process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Which, counted from 0.
    pub scope: usize,
    /// The cgroup by which it is in it.
    pub cgroup: Option<Place>,
}

/// All scopes of a configuration.
#[derive(Debug)]
pub struct Scopes(Vec<Scope>);

#[derive(Debug)]
struct Scope {
    name: String,
    all: bool,
    included: Patterns,
    excluded: Patterns,
}

#[derive(Debug, Default)]
struct Patterns {
    container: Vec<GlobMatcher>,
    label: Vec<(String, GlobMatcher)>,
    cgroup: Vec<GlobMatcher>,
    process: Vec<GlobMatcher>,
    command: Vec<GlobMatcher>,
    pid: Vec<u32>,
    namespaces: Vec<NamedNamespace>,
}

/// A PID namespace of the configuration. Once found it is held open, so that its number is given to no other.
#[derive(Debug)]
struct NamedNamespace {
    named: String,
    found: Option<PidNamespace>,
}

impl Scopes {
    /// Reads patterns.
    ///
    /// # Errors
    /// If a scope names nobody, a pattern is none, or two scopes have one name.
    pub fn new(scopes: &[ScopeConfig]) -> Result<Self, ScopeError> {
        let mut names = HashSet::new();
        if let Some(twice) = scopes.iter().find(|scope| !names.insert(&scope.name)) {
            return Err(ScopeError::SameName { scope: twice.name.clone() });
        }
        scopes.iter().map(Scope::new).collect::<Result<_, _>>().map(Self)
    }

    /// What a scope is called.
    pub fn name(&self, scope: usize) -> &str {
        self.0.get(scope).map_or("", |scope| &scope.name)
    }

    /// The first scope that a process is in.
    pub fn fit(&self, candidate: &Candidate<'_>) -> Option<Fit> {
        self.0.iter().enumerate().find_map(|(number, scope)| {
            let cgroup = scope.fit(candidate)?;
            Some(Fit { scope: number, cgroup })
        })
    }

    /// Whether anybody is named by PID namespace: only then do they have to be looked at.
    pub fn need_namespaces(&self) -> bool {
        let mut patterns = self.0.iter().flat_map(|scope| [&scope.included, &scope.excluded]);
        patterns.any(|patterns| !patterns.namespaces.is_empty())
    }

    /// Looks for PID namespaces that were not there yet.
    pub fn find_namespaces(&mut self) {
        let patterns = self.0.iter_mut().flat_map(|scope| [&mut scope.included, &mut scope.excluded]);
        patterns.flat_map(|patterns| &mut patterns.namespaces).for_each(NamedNamespace::find);
    }
}

impl Scope {
    fn new(config: &ScopeConfig) -> Result<Self, ScopeError> {
        let scope = || config.name.clone();
        let included = config.included();
        let is_empty = included == ExcludeConfig::default();
        match (config.all, is_empty) {
            (false, true) => return Err(ScopeError::Nobody { scope: scope() }),
            (true, false) => return Err(ScopeError::Everybody { scope: scope() }),
            _ => {}
        }
        Ok(Self {
            name: scope(),
            all: config.all,
            included: Patterns::new(&config.name, &included)?,
            excluded: Patterns::new(&config.name, &config.exclude)?,
        })
    }

    /// The cgroup that was named, if one was; the outer `None`: the process is not in scope.
    fn fit(&self, candidate: &Candidate<'_>) -> Option<Option<Place>> {
        if self.excluded.any(candidate) {
            return None;
        }
        if self.all {
            return Some(None);
        }
        self.included.all(candidate)
    }
}

impl Patterns {
    fn new(scope: &str, config: &ExcludeConfig) -> Result<Self, ScopeError> {
        let compile = |key: &'static str, pattern: &String| {
            matcher(key, pattern).map_err(|error| ScopeError::Pattern {
                scope: scope.to_owned(),
                key,
                pattern: pattern.clone(),
                reason: error.kind().to_string(),
            })
        };
        let list = |key: &'static str, patterns: &[String]| {
            patterns.iter().map(|pattern| compile(key, pattern)).collect::<Result<Vec<_>, _>>()
        };
        let labels = config.label.iter().map(|(key, value)| Ok((key.clone(), compile("label", value)?)));
        let named = |named: &String| NamedNamespace { named: named.clone(), found: None };
        Ok(Self {
            container: list("container", &config.container)?,
            label: labels.collect::<Result<_, _>>()?,
            cgroup: list("cgroup", &config.cgroup)?,
            process: list("process", &config.process)?,
            command: list("command", &config.command)?,
            pid: config.pid.clone(),
            namespaces: config.pid_namespace.iter().map(named).collect(),
        })
    }

    /// Whether every kind of pattern that there is fits; the cgroup by which.
    fn all(&self, of: &Candidate<'_>) -> Option<Option<Place>> {
        let cgroup = self.cgroup_of(of);
        let fits = (self.container.is_empty() || self.fits_container(of))
            && self.label.iter().all(|label| fits_label(label, of))
            && (self.cgroup.is_empty() || cgroup.is_some())
            && (self.process.is_empty() || self.fits_process(of))
            && (self.command.is_empty() || self.fits_command(of))
            && (self.pid.is_empty() || self.pid.contains(&of.pid))
            && (self.namespaces.is_empty() || self.fits_namespace(of));
        fits.then_some(cgroup)
    }

    /// Whether any pattern fits.
    fn any(&self, of: &Candidate<'_>) -> bool {
        self.fits_container(of)
            || self.label.iter().any(|label| fits_label(label, of))
            || self.cgroup_of(of).is_some()
            || self.fits_process(of)
            || self.fits_command(of)
            || self.pid.contains(&of.pid)
            || self.fits_namespace(of)
    }

    fn fits_container(&self, of: &Candidate<'_>) -> bool {
        of.container.iter().any(|name| self.container.iter().any(|glob| glob.is_match(name)))
    }

    fn fits_process(&self, of: &Candidate<'_>) -> bool {
        let executable = of.executable.and_then(Path::file_name).map(Path::new);
        let fits = |name: &Path| self.process.iter().any(|glob| glob.is_match(name));
        fits(Path::new(of.name)) || executable.is_some_and(fits)
    }

    fn fits_command(&self, of: &Candidate<'_>) -> bool {
        !self.command.is_empty() && {
            let line = of.command.join(" ");
            self.command.iter().any(|glob| glob.is_match(&line))
        }
    }

    fn fits_namespace(&self, of: &Candidate<'_>) -> bool {
        let mut found = self.namespaces.iter().filter_map(|named| named.found.as_ref());
        found.any(|namespace| of.namespaces.contains(&namespace.inode()))
    }

    /// The innermost cgroup around a process that fits, in the hierarchy that says most.
    fn cgroup_of(&self, of: &Candidate<'_>) -> Option<Place> {
        let fits = |path: &&Path| self.cgroup.iter().any(|glob| glob.is_match(path));
        of.places.iter().filter(|_| !self.cgroup.is_empty()).find_map(|place| {
            let path = place.path.ancestors().find(fits)?.to_owned();
            Some(Place { hierarchy: place.hierarchy.clone(), path })
        })
    }
}

fn fits_label((key, glob): &(String, GlobMatcher), of: &Candidate<'_>) -> bool {
    of.labels.and_then(|labels| labels.get(key)).is_some_and(|value| glob.is_match(value))
}

/// Names of cgroups are paths; in all others a slash is a letter like any other.
fn matcher(key: &str, pattern: &str) -> Result<GlobMatcher, globset::Error> {
    let glob: Glob = match key {
        "cgroup" => {
            let pattern = format!("/{}", pattern.trim_matches('/'));
            GlobBuilder::new(&pattern).literal_separator(true).build()?
        }
        _ => Glob::new(pattern)?,
    };
    Ok(glob.compile_matcher())
}

impl NamedNamespace {
    fn find(&mut self) {
        if self.found.is_some() {
            return;
        }
        let by_pid = |pid: u32| PidNamespace::of(pid).ok();
        self.found = match self.named.parse::<u64>() {
            Ok(inode) if inode > LARGEST_PID => by_inode(inode),
            Ok(pid) => u32::try_from(pid).ok().and_then(by_pid),
            Err(_) => PidNamespace::open(Path::new(&self.named)).ok(),
        };
    }
}

/// Some process must be in it, or it is nobody's.
fn by_inode(inode: u64) -> Option<PidNamespace> {
    let namespaces = crate::process::all().into_iter().filter_map(|pid| PidNamespace::of(pid).ok());
    namespaces.into_iter().find(|namespace| namespace.inode() == inode)
}

/// The PID namespace of a process and those around it, by number, innermost first.
pub fn namespaces_of(pid: u32) -> Vec<u64> {
    let mut inodes = Vec::new();
    let mut next = PidNamespace::of(pid).ok();
    while let Some(namespace) = next {
        inodes.push(namespace.inode());
        next = namespace.parent();
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::cgroup::Hierarchy;
    use std::path::PathBuf;

    fn config(text: &str) -> ScopeConfig {
        toml::from_str(text).expect("a scope")
    }

    fn scopes(texts: &[&str]) -> Scopes {
        let configs: Vec<ScopeConfig> =
            texts.iter().enumerate().map(|(at, text)| config(&format!("name = \"{at}\"\n{text}"))).collect();
        Scopes::new(&configs).expect("scopes")
    }

    fn fits(text: &str, candidate: &Candidate<'_>) -> bool {
        scopes(&[text]).fit(candidate).is_some()
    }

    fn place(path: &str) -> Place {
        Place { hierarchy: Hierarchy::Unified, path: PathBuf::from(path) }
    }

    #[test]
    fn containers_go_by_any_of_their_names() {
        let web =
            Candidate { container: vec!["3f2a9b1c4d5e", "web-1", "shop/web-1"], ..Candidate::default() };
        for pattern in ["web-*", "3f2a*", "shop/*", "*/web-?", "{db,web}-1"] {
            assert!(fits(&format!("container = [\"{pattern}\"]"), &web), "{pattern}");
        }
        assert!(!fits("container = [\"web\"]", &web));
        assert!(!fits("container = [\"*\"]", &Candidate::default()), "in no container");
    }

    #[test]
    fn every_label_that_is_named_must_fit() {
        let labels: BTreeMap<String, String> =
            [("app", "shop"), ("tier", "web")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let shop = Candidate { labels: Some(&labels), ..Candidate::default() };
        assert!(fits("label = { app = \"shop\", tier = \"*\" }", &shop));
        assert!(!fits("label = { app = \"shop\", region = \"*\" }", &shop));
        assert!(!fits("label = { app = \"*\" }", &Candidate::default()));
    }

    #[test]
    fn a_star_in_a_cgroup_stays_within_a_level_and_the_innermost_is_meant() {
        let places = [place("/system.slice/nginx.service/sub")];
        let nginx = Candidate { places: &places, ..Candidate::default() };
        let cgroup = |pattern: &str| {
            let fit = scopes(&[&format!("cgroup = [\"{pattern}\"]")]).fit(&nginx)?;
            fit.cgroup.map(|place| place.path.to_string_lossy().into_owned())
        };
        let service = Some("/system.slice/nginx.service".to_owned());
        assert_eq!(cgroup("/system.slice/*.service"), service);
        assert_eq!(cgroup("system.slice/*.service/"), service);
        assert_eq!(cgroup("/system.slice/**"), Some("/system.slice/nginx.service/sub".to_owned()));
        assert_eq!(cgroup("/*.service"), None);
    }

    #[test]
    fn processes_go_by_short_name_executable_or_command_line() {
        let command = ["/usr/bin/python3".to_owned(), "-m".to_owned(), "gunicorn".to_owned()];
        let executable = Path::new("/usr/bin/python3.11");
        let gunicorn = Candidate {
            pid: 7,
            name: "gunicorn: master",
            executable: Some(executable),
            command: &command,
            ..Candidate::default()
        };
        for text in ["process = [\"gunicorn*\"]", "process = [\"python3*\"]", "command = [\"*-m gunicorn*\"]"]
        {
            assert!(fits(text, &gunicorn), "{text}");
        }
        assert!(fits("pid = [6, 7]", &gunicorn) && !fits("pid = [6]", &gunicorn));
        assert!(!fits("command = [\"gunicorn\"]", &gunicorn));
        assert!(fits("all = true", &gunicorn));
    }

    #[test]
    fn all_keys_must_fit_and_any_exclusion_is_enough() {
        let of = |name: &'static str| Candidate { container: vec!["web-1"], name, ..Candidate::default() };
        let text = "container = [\"web-*\"]\nprocess = [\"python*\"]\n";
        assert!(fits(text, &of("python3")) && !fits(text, &of("sh")));
        let without = format!("{text}exclude = {{ process = [\"*3\"], container = [\"db\"] }}");
        assert!(!fits(&without, &of("python3")) && fits(&without, &of("python")));
        assert!(!fits("all = true\nexclude = { container = [\"web-*\"] }", &of("python3")));
    }

    #[test]
    fn the_first_scope_that_fits_is_the_one() {
        let scopes = scopes(&["process = [\"a\"]", "process = [\"b*\"]", "all = true"]);
        let scope = |name| scopes.fit(&Candidate { name, ..Candidate::default() }).map(|fit| fit.scope);
        assert_eq!((scope("a"), scope("bb"), scope("c")), (Some(0), Some(1), Some(2)));
    }

    #[test]
    fn namespaces_go_by_number_path_or_process() {
        let own = std::process::id();
        let inodes = namespaces_of(own);
        let me = Candidate { pid: own, namespaces: &inodes, ..Candidate::default() };
        for named in [inodes[0].to_string(), "/proc/self/ns/pid".to_owned(), own.to_string()] {
            let mut scopes = scopes(&[&format!("pid_namespace = [\"{named}\"]")]);
            assert!(scopes.need_namespaces() && scopes.fit(&me).is_none(), "not looked for yet");
            scopes.find_namespaces();
            assert!(scopes.fit(&me).is_some(), "{named}");
        }
        let mut absent = scopes(&["pid_namespace = [\"/proc/4194305/ns/pid\"]"]);
        absent.find_namespaces();
        assert!(absent.fit(&me).is_none());
    }

    #[test]
    fn what_means_nobody_or_nothing_is_refused_in_a_sentence() {
        let refused = |texts: &[&str]| {
            let configs: Vec<ScopeConfig> = texts.iter().map(|text| config(text)).collect();
            Scopes::new(&configs).expect_err("refused").to_string()
        };
        assert!(refused(&["name = \"x\""]).contains("scope x names nobody"));
        assert!(refused(&["name = \"x\"\nall = true\npid = [1]"]).contains("leave out one"));
        let bad = refused(&["name = \"x\"\nprocess = [\"a[\"]"]);
        assert!(bad.contains("\"a[\"") && bad.contains("process"), "{bad}");
        assert!(refused(&["name = \"x\"\nall = true", "name = \"x\"\npid = [1]"]).contains("two scopes"));
        assert!(toml::from_str::<ScopeConfig>("names = \"x\"").is_err());
    }
}
