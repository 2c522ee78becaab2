//! The storage that Podman and CRI-O share: `containers.json` lists IDs and names; each container has its specification and its PID in
//! a directory of its own, below `/var/lib` and `/run`.

use serde::Deserialize;

use super::{
    oci::{Specification, init},
    record::Record,
    spelling::is_made_up,
    store::Store,
};

/// Where it lies below `/var/lib` and `/run`.
pub(super) const STORAGE: &str = "containers/storage";
/// Where a user has it, below home.
pub(super) const USER_STORAGE: &str = ".local/share/containers/storage";
/// How the directories of storage drivers end.
const CONTAINERS: &str = "-containers";
/// Most containers of one list.
const MAX_CONTAINERS: usize = 4096;

/// One element of the list, as far as it matters here.
#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
}

/// Directories with lists: one for each storage driver that was ever used.
pub(super) fn lists(storage: &Store) -> Vec<Store> {
    let names = storage.names();
    names.iter().filter(|name| name.ends_with(CONTAINERS)).filter_map(|name| storage.below(name)).collect()
}

/// Every container of a list. `running` has the state of those that run, in a directory of the same name.
pub(super) fn records(list: &Store, running: Option<&Store>) -> Vec<Record> {
    let Some(file) = list.json::<Vec<Entry>>("containers.json") else { return Vec::new() };
    let running = running.zip(list.path().file_name()).and_then(|(running, name)| running.below(name));
    let entries = file.content.into_iter().take(MAX_CONTAINERS).filter(|entry| is_made_up(&entry.id));
    entries.map(|entry| record(entry, file.owner, list, running.as_ref())).collect()
}

fn record(entry: Entry, owner: u32, list: &Store, running: Option<&Store>) -> Record {
    let data = |store: &Store| store.below(&entry.id)?.below("userdata");
    let (kept, state) = (data(list), running.and_then(data));
    let pid = state.as_ref().and_then(|state| state.number("pidfile")).map_or(0, |file| file.content);
    let mut names = entry.names.unwrap_or_default();
    // CRI-O keeps what Kubernetes calls it in one name: `k8s_APP_POD_NAMESPACE_UID_ATTEMPT`.
    let is_kubernetes = names.iter().any(|name| name.starts_with("k8s_"));
    let runtime = Some(if is_kubernetes { "cri-o" } else { "podman" });
    let mut record = Record { id: entry.id.clone(), runtime, init: init(pid, 0), owner, ..Record::default() };
    let specification =
        [state, kept].iter().flatten().find_map(|data| data.json::<Specification>("config.json"));
    if let Some(specification) = specification.filter(|file| file.owner == owner) {
        specification.content.describe(&mut record);
    }
    record.names.append(&mut names);
    record
}
