//! What a runtime's state says about one container, from however many places.

use std::{collections::HashMap, path::PathBuf};

/// The first process of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// As the host sees it.
    pub pid: u32,
    /// When it started, in clock ticks since boot, where that is on record.
    pub start_ticks: Option<u64>,
}

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
    fn users_do_not_speak_for_each_other() {
        let claim = Record { owner: 1000, ..record("crun", &["web"]) };
        assert_eq!(put_together(vec![record("runc", &["db"]), claim]).len(), 2);
    }
}
