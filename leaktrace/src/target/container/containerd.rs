//! containerd's bundles: `/run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID/{init.pid,config.json}`. Docker, nerdctl and
//! Kubernetes each have a namespace of theirs.

use super::{
    oci::{Specification, init},
    record::Record,
    spelling::is_chosen,
    store::Store,
};

/// Where bundles lie below `/run`.
pub(super) const BUNDLES: &str = "containerd/io.containerd.runtime.v2.task";

/// Every container of a namespace.
pub(super) fn records(namespace: &Store) -> Vec<Record> {
    let is_docker = namespace.path().file_name().is_some_and(|name| name == "moby");
    let runtime = Some(if is_docker { "docker" } else { "containerd" });
    let ids = namespace.names().into_iter().filter(|id| is_chosen(id));
    ids.filter_map(|id| record(namespace, id, runtime)).collect()
}

fn record(namespace: &Store, id: String, runtime: Option<&'static str>) -> Option<Record> {
    let bundle = namespace.below(&id)?;
    let pid = bundle.number("init.pid")?;
    let mut record =
        Record { id, runtime, init: init(pid.content, 0), owner: pid.owner, ..Record::default() };
    if let Some(specification) = bundle.json::<Specification>("config.json") {
        specification.content.describe(&mut record);
    }
    Some(record)
}
