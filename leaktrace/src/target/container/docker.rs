//! Docker's own records: `/var/lib/docker/containers/ID/config.v2.json`.

use std::collections::HashMap;

use serde::Deserialize;

use super::{
    oci::{Specification, init},
    record::Record,
    spelling::is_made_up,
    store::Store,
};

/// Where Docker keeps them below `/var/lib`, unless it was told otherwise.
pub(super) const CONTAINERS: &str = "docker/containers";

/// As far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Configuration {
    name: String,
    state: State,
    config: Image,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    pid: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Image {
    /// What people, Compose and Kubernetes have attached to it.
    labels: Option<HashMap<String, String>>,
}

/// Every container, those that have stopped too.
pub(super) fn records(containers: &Store) -> Vec<Record> {
    let ids = containers.names().into_iter().filter(|id| is_made_up(id));
    ids.filter_map(|id| record(containers, id)).collect()
}

fn record(containers: &Store, id: String) -> Option<Record> {
    let file = containers.below(&id)?.json::<Configuration>("config.v2.json")?;
    let Configuration { name, state, config } = file.content;
    let name = name.trim_start_matches('/').to_owned();
    let mut record = Record {
        id,
        runtime: Some("docker"),
        init: init(state.pid, 0),
        owner: file.owner,
        ..Record::default()
    };
    Specification { annotations: config.labels.unwrap_or_default() }.describe(&mut record);
    record.names.extend((!name.is_empty()).then_some(name));
    Some(record)
}
