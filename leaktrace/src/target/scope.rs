//! Which processes are to be traced, now and as they come and go. What was named is looked up once; from then on a scope is known by
//! what nothing else can take over: a cgroup's inode, an open namespace.

mod named_cgroup;

use std::{ffi::OsStr, path::Path, sync::Arc};

use super::{
    Container, TargetSpec,
    container::{self, Extent, catalog::is_alive, record::Init},
};
use crate::{
    cli::Failure,
    process::{
        self, Cgroup, PidNamespace, ProcessError, RunState, cgroup::Mounts, namespace::NamespaceError, status,
    },
    report::human::{noun_of, printable},
};

/// Which processes are to be traced.
#[derive(Clone, Debug)]
pub struct Scope {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Those that were named or started, and what they fork.
    Named(Vec<u32>),
    /// Those of a container.
    Container { container: Container, init: Option<Init>, group: Group },
    /// Those of a PID namespace and below, or of a cgroup and below.
    Group(Group),
    /// Every process of the host.
    All,
}

/// Processes that belong together by the kernel's account.
#[derive(Clone, Debug)]
enum Group {
    Cgroup(Cgroup),
    Namespace(Arc<PidNamespace>),
    /// One process, which shares its cgroups and its PID namespace with others.
    Process(Init),
}

impl Group {
    fn members(&self) -> Vec<u32> {
        match self {
            Self::Cgroup(cgroup) => cgroup.members(),
            Self::Namespace(namespace) => namespace.members(),
            Self::Process(init) => vec![init.pid],
        }
    }

    fn contains(&self, pid: u32) -> bool {
        match self {
            Self::Cgroup(cgroup) => cgroup.contains(pid),
            Self::Namespace(namespace) => namespace.contains(pid),
            Self::Process(init) => init.pid == pid && is_alive(*init),
        }
    }

    /// Whether nothing can come into it any more.
    fn is_over(&self) -> bool {
        match self {
            Self::Cgroup(cgroup) => !cgroup.exists(),
            // The kernel lets nobody into a namespace whose first process has ended, and all others end with that one.
            Self::Namespace(_) => !self.members().into_iter().any(is_traceable),
            Self::Process(init) => !is_alive(*init),
        }
    }

    fn title(&self) -> String {
        match self {
            // Whoever makes a cgroup chooses its name.
            Self::Cgroup(cgroup) => format!("cgroup {}", printable(&cgroup.place.path.to_string_lossy())),
            Self::Namespace(namespace) => format!("PID namespace {}", namespace.inode()),
            Self::Process(init) => format!("process {}", init.pid),
        }
    }
}

impl Scope {
    /// Finds out what the user means.
    ///
    /// # Errors
    /// If nothing, or more than one thing, goes by that name (the message lists candidates), or it has no process.
    pub fn resolve(spec: &TargetSpec) -> Result<Self, Failure> {
        let kind = match spec {
            TargetSpec::Pids(pids) => Kind::Named(pids.clone()),
            TargetSpec::Command(_) => Kind::Named(Vec::new()),
            TargetSpec::All => Kind::All,
            TargetSpec::Container(name) => container(name)?,
            TargetSpec::PidNamespace(named) => Kind::Group(Group::Namespace(Arc::new(namespace(named)?))),
            TargetSpec::Cgroup(path) => Kind::Group(Group::Cgroup(named_cgroup::find(path)?)),
        };
        let scope = Self { kind };
        if scope.is_open() && scope.members().is_empty() {
            return Err(Failure::NoTarget(format!("{} has no process to trace", scope.title())));
        }
        Ok(scope)
    }

    /// Processes that are in scope now. Threads of the kernel and leaktrace itself never are.
    pub fn members(&self) -> Vec<u32> {
        self.members_except(|_| false)
    }

    /// As [`Self::members`], without those that are `known`, which are not looked at.
    pub fn members_except(&self, known: impl Fn(u32) -> bool) -> Vec<u32> {
        let listed = match &self.kind {
            Kind::Named(pids) => return pids.iter().copied().filter(|pid| !known(*pid)).collect(),
            Kind::Container { group, .. } | Kind::Group(group) => group.members(),
            Kind::All => process::all(),
        };
        listed.into_iter().filter(|pid| !known(*pid) && is_traceable(*pid)).collect()
    }

    /// Whether a process is in scope, apart from being a child of one that is.
    pub fn contains(&self, pid: u32) -> bool {
        match &self.kind {
            Kind::Named(pids) => pids.contains(&pid),
            Kind::Container { group, .. } | Kind::Group(group) => is_traceable(pid) && group.contains(pid),
            Kind::All => is_traceable(pid),
        }
    }

    /// Whether processes can come into scope that no target has forked (`docker exec`, new containers).
    pub fn is_open(&self) -> bool {
        !matches!(self.kind, Kind::Named(_))
    }

    /// Why tracing ends now that no process of it is left; `None`: others may come.
    pub fn has_ended(&self) -> Option<String> {
        let over = match &self.kind {
            Kind::Named(_) => return Some("is gone".to_owned()),
            Kind::All => false,
            Kind::Group(group) => group.is_over(),
            // Runtimes keep the empty cgroup of one that has stopped until they are told to forget it.
            Kind::Container { group, init, .. } => {
                group.is_over() || (init.is_some_and(|init| !is_alive(init)) && self.members().is_empty())
            }
        };
        over.then(|| format!("{} is gone", self.name()))
    }

    /// What it is, for messages: `container web (docker 3f2a9b1c4d5e)`.
    pub fn title(&self) -> String {
        match &self.kind {
            Kind::Container { container, .. } => {
                let runtime = container.runtime.as_deref().unwrap_or("unknown runtime");
                match container.short_id() {
                    id if id == container.short() => format!("{} ({runtime})", self.name()),
                    id => format!("{} ({runtime} {id})", self.name()),
                }
            }
            _ => self.name(),
        }
    }

    /// What is said of it before its processes are.
    pub fn announcement(&self, processes: usize) -> String {
        format!("{}: {processes} {}", self.title(), noun_of(processes as u64, "process"))
    }

    /// The same in as few words as possible.
    fn name(&self) -> String {
        match &self.kind {
            Kind::Named(_) => "target".to_owned(),
            Kind::Container { container, .. } => format!("container {}", container.short()),
            Kind::Group(group) => group.title(),
            Kind::All => "the whole host".to_owned(),
        }
    }

    /// The container that was named.
    pub fn container(&self) -> Option<&Container> {
        match &self.kind {
            Kind::Container { container, .. } => Some(container),
            _ => None,
        }
    }

    /// What its processes have in common, where that is more than a name: the cgroup or the PID namespace.
    pub fn extent(&self) -> Option<String> {
        match &self.kind {
            Kind::Container { group, .. } | Kind::Group(group) => Some(group.title()),
            Kind::Named(_) | Kind::All => None,
        }
    }
}

/// Whether a process may be traced at all: it lives, has a user space, and is neither leaktrace nor of its making.
fn is_traceable(pid: u32) -> bool {
    let own = std::process::id();
    pid != own
        && status::read_stat(pid)
            .is_ok_and(|stat| !stat.kernel_thread && stat.parent != own && stat.state != RunState::Zombie)
}

fn container(name: &str) -> Result<Kind, Failure> {
    let mut catalog = container::host();
    let gone = || Failure::NoTarget(format!("container {name} ended while it was looked up"));
    let candidate =
        container::resolve(&mut catalog, name).map_err(|error| Failure::NoTarget(error.to_string()))?;
    let located = candidate.located;
    let init = candidate.init;
    let group = match located.extent {
        Extent::Cgroup(place) => Group::Cgroup(Cgroup::at(place, &Mounts::own()).ok_or_else(gone)?),
        Extent::Namespace(inode) => {
            let namespace = init.and_then(|init| PidNamespace::of(init.pid).ok()).ok_or_else(gone)?;
            if namespace.inode() != inode {
                return Err(gone());
            }
            Group::Namespace(Arc::new(namespace))
        }
        Extent::Init(_) => Group::Process(init.ok_or_else(gone)?),
    };
    Ok(Kind::Container { container: located.container, init, group })
}

fn namespace(named: &OsStr) -> Result<PidNamespace, Failure> {
    let pid = named.to_str().and_then(|text| text.parse().ok());
    let found = match pid {
        Some(pid) => PidNamespace::of(pid),
        None => PidNamespace::open(Path::new(named)),
    };
    found.map_err(|error| match &error {
        NamespaceError::Process(process) if process.is_gone() => {
            Failure::NoTarget(format!("there is no process {}", named.display()))
        }
        NamespaceError::Process(ProcessError::Denied { .. }) => Failure::Unsupported(error.to_string()),
        _ => Failure::NoTarget(error.to_string()),
    })
}
