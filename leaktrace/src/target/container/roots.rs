//! Where runtimes and engines keep their state on a host, and reading all of it.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{
    oci,
    record::{Record, put_together},
    store::Store,
};

/// Most users' directories that are looked into.
const MAX_USERS: usize = 256;
/// Directories of OCI runtimes below `/run`, or below what a user has in its place.
const OCI: [&str; 3] = ["runc", "crun", "youki"];
/// Directories that have one of an OCI runtime for each namespace of their engine.
const OCI_BY_NAMESPACE: [&str; 4] =
    ["containerd/runc", "containerd/crun", "docker/runtime-runc", "docker/runtime-crun"];

/// The directories below which everything is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/run`.
    pub run: PathBuf,
    /// `/var/lib`.
    pub lib: PathBuf,
    /// A runtime directory that our environment names.
    pub own: Option<PathBuf>,
}

impl Roots {
    /// Those of this host.
    pub fn host() -> Self {
        let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        Self { run: "/run".into(), lib: "/var/lib".into(), own }
    }

    /// What runtimes have left, one record a container.
    pub fn records(&self) -> Vec<Record> {
        put_together(self.stores().iter().flat_map(oci::records).collect())
    }

    /// Changes whenever a container is made or removed: when which directory was last changed.
    pub fn stamp(&self) -> Vec<(PathBuf, (i64, u64))> {
        let stores = self.stores();
        stores.iter().filter_map(|store| Some((store.path().to_owned(), store.changed()?))).collect()
    }

    /// Root directories of OCI runtimes.
    fn stores(&self) -> Vec<Store> {
        self.bases().iter().flat_map(oci_roots).collect()
    }

    /// `/run`, and what users have in its place.
    fn bases(&self) -> Vec<Store> {
        let users = Store::open(&self.run.join("user"));
        let users = users.iter().flat_map(Store::names).take(MAX_USERS);
        let users: Vec<PathBuf> = users.map(|user| self.run.join("user").join(user)).collect();
        let own = self.own.as_deref().filter(|own| !users.iter().any(|user| user == own));
        let bases = [self.run.as_path()].into_iter().chain(users.iter().map(PathBuf::as_path)).chain(own);
        bases.filter_map(Store::open).collect()
    }
}

fn oci_roots(base: &Store) -> Vec<Store> {
    let plain = OCI.iter().filter_map(|name| base.below(name));
    let engines = OCI_BY_NAMESPACE.iter().filter_map(|name| base.below(name));
    plain.chain(engines.flat_map(|engine| namespaces(&engine))).collect()
}

/// Directories in a directory.
fn namespaces(store: &Store) -> Vec<Store> {
    store.names().iter().filter_map(|name| store.below(Path::new(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn runtimes_are_found_wherever_engines_and_users_put_them() {
        let host = tempfile::tempdir().expect("directory");
        let run = host.path().join("run");
        for (at, path) in [
            "runc/one",
            "crun/two",
            "containerd/runc/k8s.io/three",
            "docker/runtime-runc/moby/four",
            "user/1000/crun/five",
            "user/1000/runc/six",
        ]
        .iter()
        .enumerate()
        {
            let directory = run.join(path);
            fs::create_dir_all(&directory).expect("directory");
            let (file, text) = if path.contains("crun") {
                ("status", format!("{{\"pid\":{at}}}"))
            } else {
                ("state.json", format!("{{\"init_process_pid\":{at}}}"))
            };
            fs::write(directory.join(file), text).expect("file");
        }
        let own = run.join("user/1000");
        let roots = Roots { run, lib: host.path().join("lib"), own: Some(own) };
        let mut ids: Vec<String> = roots.records().into_iter().map(|record| record.id).collect();
        ids.sort();
        assert_eq!(ids, ["five", "four", "one", "six", "three", "two"]);

        let before = roots.stamp();
        fs::create_dir(roots.run.join("crun/seven")).expect("directory");
        assert_ne!(roots.stamp(), before);
    }

    #[test]
    fn a_host_without_any_has_none() {
        let nowhere = Roots { run: "/nowhere".into(), lib: "/nowhere".into(), own: None };
        assert!(nowhere.records().is_empty() && nowhere.stamp().is_empty());
    }
}
