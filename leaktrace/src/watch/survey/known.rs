//! What is known of a process from one look to the next: whether it is watched, and as part of what. Reading that costs some
//! ten times what its memory costs, so it is done when the process is first seen, while it is young (runtimes move what
//! they have just started), when its name changes (exec), and now and then.

use std::{collections::BTreeMap, fs, sync::Arc};

use crate::{
    process::{
        self,
        cgroup::{self, Place},
        identity, status,
    },
    target::{
        Container,
        container::{self, Extent, Located},
    },
    watch::scope::{Candidate, Scopes, namespaces_of},
    watched::SubjectKind,
};

/// Parents that are asked for whether leaktrace is among them.
const MAX_ANCESTORS: usize = 32;
/// Most of a command line that is kept, bytes.
const MAX_COMMAND: usize = 4096;

/// A process that was seen at the last look.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// With the PID, this names it for good.
    pub start_ticks: u64,
    /// Short name.
    pub name: Vec<u8>,
    /// The look at which it was last identified.
    pub identified: u64,
    /// The look at which it was last seen.
    pub seen: u64,
    /// Whether leaktrace is it, or has started it.
    pub own: bool,
    /// A thread of the kernel.
    pub kernel_thread: bool,
    /// CPU time that it had used when it was last seen, clock ticks.
    pub cpu_ticks: u64,
    /// How much of it is on another subject's account, of which it was a part before.
    pub cpu_before: u64,
    /// Where its memory is charged to.
    pub memory_place: Option<Arc<Place>>,
    /// What it is part of; `None`: it is not in scope.
    pub part: Option<Part>,
}

/// What a process that is watched is a part of.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// [`crate::watched::Subject::key`].
    pub key: Arc<str>,
    /// What that is.
    pub kind: SubjectKind,
    /// What people call it.
    pub title: String,
    /// The scope, counted from 0.
    pub scope: usize,
    /// The container that it is, or runs in.
    pub container: Option<Container>,
    /// Its own cgroup, if it is one or has one.
    pub place: Option<Place>,
    /// Command line of the process.
    pub command: Vec<String>,
}

/// A container and what people call it.
struct Described {
    located: Located,
    names: Vec<String>,
    labels: BTreeMap<String, String>,
    owner: u32,
}

/// What identifying takes.
pub struct Identifier<'a> {
    /// Who is meant.
    pub scopes: &'a Scopes,
    /// The process whose descendants are never watched, nor itself.
    pub watcher: u32,
    /// Of this boot.
    pub boot: &'a str,
}

impl Known {
    /// CPU time on its present subject's account, clock ticks.
    pub fn cpu(&self) -> u64 {
        self.cpu_ticks.saturating_sub(self.cpu_before)
    }
}

impl Identifier<'_> {
    /// Whether leaktrace is a process, or has started it.
    pub fn is_own(&self, pid: u32) -> bool {
        let mut next = pid;
        for _ in 0..MAX_ANCESTORS {
            if next == self.watcher {
                return true;
            }
            match status::read_stat(next) {
                Ok(stat) if stat.parent > 1 => next = stat.parent,
                _ => return false,
            }
        }
        false
    }

    /// Finds out what a process is part of, and where its memory is charged. `None`: it has ended; nothing is changed.
    pub fn identify(&self, pid: u32, known: &mut Known) -> Option<()> {
        let places = cgroup::places(pid).ok()?;
        let memory = cgroup::memory_place(&places);
        if known.memory_place.as_deref() != memory {
            known.memory_place = memory.cloned().map(Arc::new);
        }
        known.part = if known.own { None } else { self.part(pid, known, &places) };
        Some(())
    }

    fn part(&self, pid: u32, known: &Known, places: &[Place]) -> Option<Part> {
        let described = describe(pid);
        let name = String::from_utf8_lossy(&known.name).into_owned();
        let executable = fs::read_link(process::directory(pid).join("exe")).ok();
        let command = command(pid);
        let namespaces = if self.scopes.need_namespaces() { namespaces_of(pid) } else { Vec::new() };
        let fit = self.scopes.fit(&Candidate {
            pid,
            name: &name,
            executable: executable.as_deref(),
            command: &command,
            container: described.as_ref().map(Described::names).unwrap_or_default(),
            labels: described.as_ref().map(|described| &described.labels),
            places,
            namespaces: &namespaces,
        })?;
        let whole = Part {
            key: format!("process:{}:{pid}:{}", self.boot, known.start_ticks).into(),
            kind: SubjectKind::Process,
            title: title(&name, &command),
            scope: fit.scope,
            container: None,
            place: None,
            command,
        };
        Some(match (described, fit.cgroup) {
            (Some(described), _) => whole.of_container(described),
            (None, Some(place)) => whole.of_cgroup(place),
            (None, None) => whole,
        })
    }
}

/// Programs that are known by what they run, by how their short names begin.
const INTERPRETERS: [&str; 7] = ["python", "pypy", "perl", "ruby", "node", "php", "bash"];

/// What people call a process: its short name; an interpreter, which all of them share, by its script or module.
fn title(name: &str, command: &[String]) -> String {
    let is_interpreter = INTERPRETERS.iter().any(|known| name.starts_with(known));
    let script = is_interpreter.then(|| script(command)).flatten();
    script.unwrap_or(name).to_owned()
}

/// The base name of the script among an interpreter's arguments, or the module that `-m` names; `None`: it runs neither.
fn script(command: &[String]) -> Option<&str> {
    let mut arguments = command.iter().skip(1).map(String::as_str);
    loop {
        match arguments.next()? {
            "-m" => return arguments.next(),
            "-c" | "-e" => return None,
            // Those of Python that take a value of their own.
            "-W" | "-X" => drop(arguments.next()),
            option if option.starts_with('-') => {}
            script => return script.rsplit('/').next().filter(|script| !script.is_empty()),
        }
    }
}

impl Part {
    fn of_container(self, described: Described) -> Self {
        let Described { located: Located { container, extent }, owner, .. } = described;
        // Another user can give a container of his the ID of one of root's.
        let owner = if owner == 0 { String::new() } else { format!("@{owner}") };
        Self {
            key: format!("container:{}{owner}", container.id).into(),
            kind: SubjectKind::Container,
            title: container.short().to_owned(),
            container: Some(container),
            place: match extent {
                Extent::Cgroup(place) => Some(place),
                Extent::Namespace(_) | Extent::Init(_) => None,
            },
            ..self
        }
    }

    fn of_cgroup(self, place: Place) -> Self {
        let path = place.path.to_string_lossy().into_owned();
        Self {
            key: format!("cgroup:{path}").into(),
            kind: SubjectKind::Cgroup,
            title: path,
            place: Some(place),
            ..self
        }
    }
}

impl Described {
    /// Everything that a pattern may mean it by.
    fn names(&self) -> Vec<&str> {
        let container = &self.located.container;
        let own = [container.id.as_str(), container.short_id()].into_iter();
        let names = self.names.iter().chain(&container.name).chain(&container.pod).map(String::as_str);
        own.chain(names).collect()
    }
}

/// The container that a process is in.
fn describe(pid: u32) -> Option<Described> {
    let mut catalog = container::host();
    let located = catalog.locate(pid)?;
    let record = catalog.record(&located);
    Some(Described {
        names: record.map(|record| record.names.clone()).unwrap_or_default(),
        labels: record.map(|record| record.labels.clone()).unwrap_or_default(),
        owner: record.map_or(0, |record| record.owner),
        located,
    })
}

fn command(pid: u32) -> Vec<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = fs::File::open(process::directory(pid).join("cmdline"));
    let read = file.and_then(|file| file.take(MAX_COMMAND as u64).read_to_end(&mut bytes));
    read.map(|_| identity::parse_command(&bytes)).unwrap_or_default()
}
