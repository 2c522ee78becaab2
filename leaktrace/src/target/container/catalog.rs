//! Which container a process belongs to: by how its cgroups are spelled, by what runtimes have on record, and where a container has
//! no cgroup of its own, by its PID namespace. The answer is remembered for each cgroup for as long as no container is
//! made or removed.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Container,
    record::{Init, Record},
    roots::{Roots, Stamp},
    spelling::{self, Spelled},
};
use crate::{
    process::{
        PidNamespace, RunState,
        cgroup::{self, Mounts, Place},
        namespace, status,
    },
    report::human::printable,
};

/// How long it is taken for granted that no container was made or removed.
const FRESH: Duration = Duration::from_millis(20);
/// How often records that may not be complete are read again.
const REREAD: Duration = Duration::from_millis(100);
/// Longest name that is believed, bytes.
const MAX_NAME: usize = 256;
/// Answers remembered.
const MAX_ANSWERS: usize = 16_384;

/// What tells the processes of a container from all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Those of a cgroup and below it.
    Cgroup(Place),
    /// Those of the PID namespace of its first process, and below.
    Namespace(u64),
    /// Its first process alone is known: it shares its cgroups and its PID namespace with others.
    Init(u32),
}

/// A container, and which processes are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Which.
    pub container: Container,
    /// Its processes.
    pub extent: Extent,
}

/// A container that a runtime has on record.
#[derive(Clone, Debug)]
pub struct Known {
    /// What is on record.
    pub record: Record,
    /// Its own cgroups, by hierarchy; none: it has none of its own, or has no process.
    pub places: Vec<Place>,
    /// The PID namespace of its first process, if it is not the host's.
    pub namespace: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Catalog {
    roots: Roots,
    stamp: Option<Stamp>,
    /// When the stamp was taken, and when the records were read.
    looked: Instant,
    read: Instant,
    known: Vec<Known>,
    answers: HashMap<Vec<Place>, Option<Located>>,
}

impl Catalog {
    /// Nothing is read before it is needed.
    pub fn new(roots: Roots) -> Self {
        let now = Instant::now();
        Self { roots, stamp: None, looked: now, read: now, known: Vec::new(), answers: HashMap::new() }
    }

    /// The container that a process belongs to.
    pub fn locate(&mut self, pid: u32) -> Option<Located> {
        let places = cgroup::places(pid).ok()?;
        // What is asked for the first time may be the first process of a container that has just been made.
        if !self.answers.contains_key(&places) || self.looked.elapsed() > FRESH {
            self.refresh();
        }
        let by_cgroup = match self.answers.get(&places) {
            Some(answer) => answer.clone(),
            None => {
                let answer = self.by_cgroup(&places);
                if self.answers.len() >= MAX_ANSWERS {
                    self.answers.clear();
                }
                self.answers.insert(places, answer.clone());
                answer
            }
        };
        by_cgroup.or_else(|| self.by_namespace(pid))
    }

    /// What is on record of a container that was located; `None`: nothing but how its cgroup is spelled.
    pub fn record(&self, located: &Located) -> Option<&Record> {
        let of =
            |known: &&Known| known.record.id == located.container.id && known.extends_over(&located.extent);
        self.known.iter().find(of).map(|known| &known.record)
    }

    /// Containers on record.
    pub fn known(&mut self) -> &[Known] {
        self.refresh();
        &self.known
    }

    /// Reads the records again if containers were made or removed.
    fn refresh(&mut self) {
        let stamp = self.roots.stamp();
        self.looked = Instant::now();
        let is_complete = || stamp.is_settled() || self.read.elapsed() < REREAD;
        if self.stamp.as_ref() == Some(&stamp) && is_complete() {
            return;
        }
        self.read = Instant::now();
        let mounts = Mounts::own();
        self.known = self.roots.records().into_iter().filter_map(|record| know(record, &mounts)).collect();
        self.stamp = Some(stamp);
        self.answers.clear();
    }

    /// The innermost container that these places lie in.
    fn by_cgroup(&self, places: &[Place]) -> Option<Located> {
        let mut best: Option<(usize, Located)> = None;
        for place in places {
            let known = self.known.iter().filter_map(|known| on_record(known, place));
            let spelled = place.path.to_str().map(spelling::containers).unwrap_or_default();
            let spelled = spelled.into_iter().filter_map(|spelled| self.spelled(spelled, place));
            for (depth, located) in known.chain(spelled) {
                // Of two that say the same, the record (which comes first) knows the name.
                if best.as_ref().is_none_or(|(deepest, _)| depth > *deepest) {
                    best = Some((depth, located));
                }
            }
            // Other hierarchies would say the same with other paths.
            if best.is_some() {
                break;
            }
        }
        best.map(|(_, located)| located)
    }

    /// A container by its spelling alone; `None`: a record says that one of this ID is elsewhere, so this is a cgroup that
    /// somebody has given its name.
    fn spelled(&self, spelled: Spelled, place: &Place) -> Option<(usize, Located)> {
        let elsewhere = self.known.iter().any(|known| {
            known.record.id == spelled.id
                && !known.places.is_empty()
                && !known
                    .places
                    .iter()
                    .any(|own| own.hierarchy != place.hierarchy || place.path.starts_with(&own.path))
        });
        if elsewhere {
            return None;
        }
        let path = place.path.components().take(spelled.depth + 1).collect();
        let extent = Extent::Cgroup(Place { hierarchy: place.hierarchy.clone(), path });
        let runtime = spelled.runtime.map(str::to_owned);
        let container = Container { id: spelled.id, name: None, runtime, pod: spelled.pod };
        Some((spelled.depth, Located { container, extent }))
    }

    /// The container without a cgroup of its own whose PID namespace a process is in.
    fn by_namespace(&self, pid: u32) -> Option<Located> {
        let mut without = self.known.iter().filter(|known| known.places.is_empty()).peekable();
        without.peek()?;
        let found = without.find(|known| match (known.namespace, known.record.init) {
            // The number of a namespace that is gone is given again: its first process must still be there.
            (Some(inode), Some(init)) => is_alive(init) && is_in(pid, inode),
            (None, Some(init)) => init.pid == pid && is_alive(init),
            _ => false,
        })?;
        Some(found.located())
    }
}

impl Known {
    /// The same as an answer.
    pub fn located(&self) -> Located {
        let extent = match (self.places.first(), self.namespace, self.record.init) {
            (Some(place), ..) => Extent::Cgroup(place.clone()),
            (None, Some(inode), _) => Extent::Namespace(inode),
            (None, None, init) => Extent::Init(init.map_or(0, |init| init.pid)),
        };
        Located { container: self.container(), extent }
    }

    /// Whether its processes are those.
    fn extends_over(&self, extent: &Extent) -> bool {
        match extent {
            Extent::Cgroup(place) => self.places.contains(place),
            other => self.located().extent == *other,
        }
    }

    fn container(&self) -> Container {
        let record = &self.record;
        let spelled = self.places.first().and_then(|place| spelling::containers(place.path.to_str()?).pop());
        let spelled = spelled.filter(|spelled| spelled.id == record.id).unwrap_or_default();
        Container {
            id: record.id.clone(),
            name: record.names.first().cloned(),
            runtime: spelled.runtime.or(record.runtime).map(str::to_owned),
            pod: record.pod.clone().or(spelled.pod),
        }
    }

    /// Whether its first process is there; `None`: it is not known.
    pub fn is_running(&self) -> Option<bool> {
        self.record.init.map(is_alive)
    }
}

/// Whether a first process is still the one on record.
pub fn is_alive(init: Init) -> bool {
    status::read_stat(init.pid).is_ok_and(|stat| {
        stat.state != RunState::Zombie && init.start_ticks.is_none_or(|ticks| ticks == stat.start_ticks)
    })
}

/// Looks at the processes of a container on record; `None`: whoever made the record cannot have made that container.
fn know(mut record: Record, mounts: &Mounts) -> Option<Known> {
    // Whoever makes a container chooses its names; they end up on terminals.
    let is_plain = |name: &String| !name.is_empty() && name.len() <= MAX_NAME && printable(name) == *name;
    record.names.retain(is_plain);
    record.pod = record.pod.filter(is_plain);
    let init = record.init.filter(|init| is_alive(*init));
    if init.is_some_and(|init| record.owner != 0 && !belongs_to(init.pid, record.owner)) {
        return None;
    }
    let places = init.and_then(|init| cgroup::places(init.pid).ok()).unwrap_or_default();
    let places = places.iter().filter_map(|place| own_place(&record, place, mounts)).collect();
    let host = namespace::inode(std::process::id(), "pid").ok();
    let namespace =
        init.and_then(|init| namespace::inode(init.pid, "pid").ok()).filter(|inode| Some(*inode) != host);
    Some(Known { record, places, namespace })
}

/// A user's containers run as that user, or in a user namespace that the user has made.
fn belongs_to(pid: u32, uid: u32) -> bool {
    namespace::pid::owner_of_user_namespace(pid) == Some(uid)
        || status::read(pid).is_ok_and(|status| status.uid == uid)
}

/// Which cgroup around its first process is the container's own: the one that its record or its spelling names.
fn own_place(record: &Record, place: &Place, mounts: &Mounts) -> Option<Place> {
    if place.is_root() {
        return None;
    }
    let own = |path: PathBuf| Some(Place { hierarchy: place.hierarchy.clone(), path });
    let mut spelled = place.path.to_str().map(spelling::containers).unwrap_or_default();
    if let Some(spelled) = spelled.drain(..).find(|spelled| spelled.id == record.id) {
        return own(place.path.components().take(spelled.depth + 1).collect());
    }
    if let Some(path) = place.path.ancestors().find(|path| path.file_name() == Some(record.id.as_ref())) {
        return own(path.to_owned());
    }
    let directory = mounts.directory(place);
    let named = |path: &&Path| {
        let directory_of = || {
            let below = place.path.strip_prefix(path).ok()?;
            let directory = directory.as_deref()?;
            let deeper = below.components().count();
            directory.ancestors().nth(deeper).map(Path::to_owned)
        };
        let is = |named: &PathBuf| named == path || directory_of().as_ref() == Some(named);
        path.parent().is_some() && record.cgroups.iter().any(is)
    };
    own(place.path.ancestors().find(named)?.to_owned())
}

/// The container on record whose own cgroup is around a place, and how deep that one lies.
fn on_record(known: &Known, place: &Place) -> Option<(usize, Located)> {
    let own = known
        .places
        .iter()
        .find(|own| own.hierarchy == place.hierarchy && place.path.starts_with(&own.path))?;
    let depth = own.path.components().count().saturating_sub(1);
    Some((depth, Located { extent: Extent::Cgroup(own.clone()), ..known.located() }))
}

/// Whether a process is in the PID namespace of that number, or below.
fn is_in(pid: u32, inode: u64) -> bool {
    let mut next = PidNamespace::of(pid).ok();
    while let Some(namespace) = next {
        if namespace.inode() == inode {
            return true;
        }
        next = namespace.parent();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::cgroup::Hierarchy;

    const ID: &str = "3f2a9b1c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";

    fn place(path: &str) -> Place {
        Place { hierarchy: Hierarchy::Unified, path: path.replace("ID", ID).into() }
    }

    fn legacy(controllers: &str, path: &str) -> Place {
        Place { hierarchy: Hierarchy::Legacy(controllers.to_owned()), ..place(path) }
    }

    fn catalog(known: Vec<Known>) -> Catalog {
        let nowhere = || PathBuf::from("/nowhere");
        let roots = Roots { run: nowhere(), lib: nowhere(), etc: nowhere(), own: None };
        Catalog { known, ..Catalog::new(roots) }
    }

    fn known(id: &str, name: &str, own: &str) -> Known {
        let record = Record { id: id.to_owned(), names: vec![name.to_owned()], ..Record::default() };
        Known { record, places: vec![place(own)], namespace: None }
    }

    /// What the container at these places is called, and where its own cgroup is.
    fn answer(catalog: &Catalog, places: &[Place]) -> Option<(String, Extent)> {
        let located = catalog.by_cgroup(places)?;
        Some((located.container.short(), located.extent))
    }

    #[test]
    fn a_spelled_container_needs_no_record() {
        let answer = answer(&catalog(Vec::new()), &[place("/system.slice/docker-ID.scope/a")]);
        let own = Extent::Cgroup(place("/system.slice/docker-ID.scope"));
        assert_eq!(answer, Some(("3f2a9b1c4d5e".to_owned(), own)));
    }

    #[test]
    fn a_record_gives_a_name_to_a_cgroup_whose_spelling_says_nothing() {
        let catalog = catalog(vec![known("x1", "web", "/any/web")]);
        let own = Extent::Cgroup(place("/any/web"));
        assert_eq!(answer(&catalog, &[place("/any/web/init.scope")]), Some(("web".to_owned(), own)));
        assert_eq!(answer(&catalog, &[place("/any/web2")]), None);
        assert_eq!(answer(&catalog, &[place("/")]), None);
    }

    #[test]
    fn what_is_on_record_of_a_located_container_is_found_and_no_other_s() {
        let mut labelled = known(ID, "web", "/docker/ID");
        labelled.record.labels.insert("app".to_owned(), "shop".to_owned());
        let catalog = catalog(vec![known("other", "other", "/docker/other"), labelled]);
        let located = catalog.by_cgroup(&[place("/docker/ID/x")]).expect("located");
        let record = catalog.record(&located).expect("on record");
        assert_eq!(record.labels.get("app").map(String::as_str), Some("shop"));
        let elsewhere = Located { extent: Extent::Cgroup(place("/user/ID")), ..located };
        assert!(catalog.record(&elsewhere).is_none());
    }

    #[test]
    fn a_record_and_a_spelling_of_one_container_are_one_answer() {
        let catalog = catalog(vec![known(ID, "web", "/docker/ID")]);
        let own = Extent::Cgroup(place("/docker/ID"));
        assert_eq!(answer(&catalog, &[place("/docker/ID/x")]), Some(("web".to_owned(), own)));
    }

    #[test]
    fn the_innermost_container_is_the_one() {
        let catalog = catalog(vec![known("outer", "node", "/docker/node")]);
        let nested = place("/docker/node/kubepods/pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9/ID");
        let (name, extent) = answer(&catalog, std::slice::from_ref(&nested)).expect("nested");
        assert_eq!((name.as_str(), extent), ("3f2a9b1c4d5e", Extent::Cgroup(nested)));
    }

    #[test]
    fn the_hierarchy_that_says_most_is_asked_first_and_others_where_it_says_nothing() {
        let places = [place("/"), legacy("name=systemd", "/docker/ID"), legacy("memory", "/docker/ID")];
        let (_, extent) = answer(&catalog(Vec::new()), &places).expect("docker");
        assert_eq!(extent, Extent::Cgroup(legacy("name=systemd", "/docker/ID")));
    }

    #[test]
    fn a_cgroup_that_takes_the_name_of_another_container_is_not_believed() {
        let catalog = catalog(vec![known(ID, "web", "/system.slice/docker-ID.scope")]);
        let forged = place("/user.slice/user-1000.slice/user@1000.service/docker-ID.scope");
        assert_eq!(answer(&catalog, &[forged]), None);
        let (name, _) = answer(&catalog, &[place("/system.slice/docker-ID.scope")]).expect("the real one");
        assert_eq!(name, "web");
    }

    #[test]
    fn a_user_s_record_of_somebody_else_s_process_is_not_believed() {
        let own = status::read(std::process::id()).expect("own").uid;
        let init = Some(Init { pid: std::process::id(), start_ticks: None });
        let record = |owner| Record { id: "web".to_owned(), init, owner, ..Record::default() };
        assert!(know(record(own), &Mounts::default()).is_some());
        assert!(know(record(own + 1), &Mounts::default()).is_none());
    }

    #[test]
    fn the_cgroup_that_a_record_names_is_the_containers_own() {
        let at = |cgroup: &str, path: &str| {
            let cgroups = vec![PathBuf::from(cgroup)];
            let record = Record { id: "x1".to_owned(), cgroups, ..Record::default() };
            let mounts = Mounts::parse(b"1 2 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
            own_place(&record, &place(path), &mounts).map(|own| own.path)
        };
        assert_eq!(at("/a/web", "/a/web/init.scope"), Some("/a/web".into()));
        assert_eq!(at("/sys/fs/cgroup/a/web", "/a/web/init.scope"), Some("/a/web".into()));
        assert_eq!(at("", "/a/x1/init.scope"), Some("/a/x1".into()));
        assert_eq!(at("", "/a/init.scope"), None);
        assert_eq!(at("/", "/a/b"), None);
        assert_eq!(at("/a", "/"), None);
    }
}
