//! What a runtime's state says about one container, from however many places.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

/// The first process of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// As the host sees it.
    pub pid: u32,
    /// When it started, in clock ticks since boot, where that is on record.
    pub start_ticks: Option<u64>,
}

/// Most labels of one container that are kept, and their longest keys and values, bytes: whoever makes it chooses them, and
/// engines put whole manifests there.
const MAX_LABELS: usize = 256;
const MAX_LABEL_KEY: usize = 317;
const MAX_LABEL_VALUE: usize = 1024;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// In full.
    pub id: String,
    /// Who keeps this record.
    pub runtime: Option<&'static str>,
    /// What people call it, the best name first.
    pub names: Vec<String>,
    /// UID of its Kubernetes pod.
    pub pod: Option<String>,
    /// What engines and people have attached to it: labels, annotations. At most 256.
    pub labels: BTreeMap<String, String>,
    /// Its first process.
    pub init: Option<Init>,
    /// Its own cgroups: directories, or paths in a hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// The user whose word this is.
    pub owner: u32,
}

/// Who knows more about a container than whom: engines than what they run.
const RANKS: [&str; 8] = ["docker", "podman", "cri-o", "containerd", "lxc", "youki", "crun", "runc"];

impl Record {
    /// Attaches a label, unless it has one of that name, or that one is too long for anybody to have typed it.
    pub(super) fn label(&mut self, key: &str, value: &str) {
        let fits = key.len() <= MAX_LABEL_KEY && value.len() <= MAX_LABEL_VALUE;
        if fits && self.labels.len() < MAX_LABELS && !self.labels.contains_key(key) {
            self.labels.insert(key.to_owned(), value.to_owned());
        }
    }

    /// Adds what another record of the same container says.
    fn add(&mut self, other: Self) {
        let rank = |runtime: Option<&str>| {
            runtime.and_then(|name| RANKS.iter().position(|known| *known == name)).unwrap_or(RANKS.len())
        };
        if rank(other.runtime) < rank(self.runtime) {
            self.runtime = other.runtime;
            self.names.splice(0..0, other.names);
        } else {
            self.names.extend(other.names);
        }
        let mut seen = std::collections::HashSet::new();
        self.names.retain(|name| seen.insert(name.clone()));
        self.pod = self.pod.take().or(other.pod);
        // One with a start time says more.
        if self.init.is_none_or(|init| init.start_ticks.is_none()) {
            self.init = other.init.or(self.init);
        }
        self.cgroups.extend(other.cgroups);
        other.labels.iter().for_each(|(key, value)| self.label(key, value));
    }
}

/// Puts records of the same container together, in the order of their first ones. What one user says is never added to
/// what another has said.
pub fn put_together(records: Vec<Record>) -> Vec<Record> {
    let mut places: HashMap<(String, u32), usize> = HashMap::new();
    let mut together: Vec<Record> = Vec::new();
    for record in records {
        match places.get(&(record.id.clone(), record.owner)).and_then(|at| together.get_mut(*at)) {
            Some(known) => known.add(record),
            None => {
                places.insert((record.id.clone(), record.owner), together.len());
                together.push(record);
            }
        }
    }
    together
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(runtime: &'static str, names: &[&str]) -> Record {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Record { id: "a".to_owned(), runtime: Some(runtime), names, ..Record::default() }
    }

    #[test]
    fn the_engine_knows_more_than_the_runtime_that_it_uses() {
        let init = Some(Init { pid: 7, start_ticks: Some(9) });
        let runc = Record { init, ..record("runc", &[]) };
        let docker = Record { init: Some(Init { pid: 7, start_ticks: None }), ..record("docker", &["web"]) };
        for records in [vec![runc.clone(), docker.clone()], vec![docker, runc]] {
            let together = put_together(records);
            assert_eq!(together.len(), 1);
            assert_eq!(
                (together[0].runtime, together[0].names.as_slice()),
                (Some("docker"), &["web".to_owned()][..])
            );
            assert_eq!(together[0].init, init);
        }
    }

    #[test]
    fn labels_add_up_and_have_a_bound() {
        let labelled = |runtime, key: &str| {
            let mut record = record(runtime, &[]);
            record.label(key, "1");
            record
        };
        let mut together = put_together(vec![labelled("runc", "a"), labelled("docker", "b")]).remove(0);
        assert_eq!(together.labels.keys().collect::<Vec<_>>(), ["a", "b"]);
        together.label("a", "2");
        together.label("long", &"x".repeat(MAX_LABEL_VALUE + 1));
        assert_eq!((together.labels.len(), together.labels["a"].as_str()), (2, "1"));
        (0..1000).for_each(|number| together.label(&number.to_string(), ""));
        assert_eq!(together.labels.len(), MAX_LABELS);
    }

    #[test]
    fn users_do_not_speak_for_each_other() {
        let claim = Record { owner: 1000, ..record("crun", &["web"]) };
        assert_eq!(put_together(vec![record("runc", &["db"]), claim]).len(), 2);
    }
}
