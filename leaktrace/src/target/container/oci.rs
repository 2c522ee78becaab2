//! State of OCI runtimes: `ROOT/ID/state.json` of runc, `ROOT/ID/status` of crun. Engines give them roots of their own.

use std::{collections::HashMap, path::PathBuf};

use serde::Deserialize;

use super::{
    record::{Init, Record},
    spelling::is_chosen,
    store::{StateFile, Store},
};

/// runc's, as far as it matters here.
#[derive(Deserialize)]
struct RuncState {
    init_process_pid: u32,
    #[serde(default)]
    init_process_start: u64,
    #[serde(default)]
    cgroup_paths: HashMap<String, PathBuf>,
    #[serde(default)]
    config: RuncConfig,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuncConfig {
    /// Annotations of the specification, `key=value`, and one of runc's own for where that lies.
    labels: Vec<String>,
}

/// crun's, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CrunStatus {
    pid: u32,
    #[serde(default)]
    process_start_time: u64,
    #[serde(default)]
    cgroup_path: PathBuf,
    #[serde(default)]
    bundle: PathBuf,
}

/// What the specification of a container says, as far as it matters here.
#[derive(Default, Deserialize)]
pub(super) struct Specification {
    #[serde(default)]
    pub(super) annotations: HashMap<String, String>,
}

/// What Kubernetes calls things, and what its annotations in containerd's specifications are called.
const KUBERNETES: &[(&str, &str)] = &[
    ("io.kubernetes.pod.name", "io.kubernetes.cri.sandbox-name"),
    ("io.kubernetes.pod.namespace", "io.kubernetes.cri.sandbox-namespace"),
    ("io.kubernetes.pod.uid", "io.kubernetes.cri.sandbox-uid"),
    ("io.kubernetes.container.name", "io.kubernetes.cri.container-name"),
];

/// Every container in a runtime's root directory.
pub(super) fn records(root: &Store) -> Vec<Record> {
    let ids = root.names().into_iter().filter(|id| is_chosen(id));
    ids.filter_map(|id| record(root, id)).collect()
}

fn record(root: &Store, id: String) -> Option<Record> {
    let directory = root.below(&id)?;
    if let Some(file) = directory.json::<RuncState>("state.json") {
        return Some(of_runc(id, file));
    }
    let StateFile { content, owner } = directory.json::<CrunStatus>("status")?;
    let mut record = Record {
        id,
        runtime: Some("crun"),
        init: init(content.pid, content.process_start_time),
        cgroups: vec![content.cgroup_path],
        owner,
        ..Record::default()
    };
    // Only root's word is taken for where to read on.
    if owner == 0
        && let Some(bundle) = Store::open(&content.bundle)
        && let Some(specification) = bundle.json::<Specification>("config.json")
    {
        specification.content.describe(&mut record);
    }
    Some(record)
}

fn of_runc(id: String, StateFile { content, owner }: StateFile<RuncState>) -> Record {
    let mut record = Record {
        id,
        runtime: Some("runc"),
        init: init(content.init_process_pid, content.init_process_start),
        cgroups: content.cgroup_paths.into_values().collect(),
        owner,
        ..Record::default()
    };
    let pairs = content.config.labels.iter().filter_map(|label| label.split_once('='));
    let annotations = pairs.filter(|(key, _)| *key != "bundle");
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Specification { annotations }.describe(&mut record);
    record
}

/// A container that was made but has no process yet has PID 0.
pub(super) fn init(pid: u32, start_ticks: u64) -> Option<Init> {
    (pid != 0).then_some(Init { pid, start_ticks: (start_ticks != 0).then_some(start_ticks) })
}

impl Specification {
    /// Adds what annotations say of a container: its names, its pod, its labels.
    pub(super) fn describe(&self, record: &mut Record) {
        let say = |keys: &[&str]| keys.iter().find_map(|key| self.annotations.get(*key)).cloned();
        let name = say(&["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"]);
        let pod_name = say(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
        self.label(record);
        let is_sandbox = say(&["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"])
            .is_some_and(|kind| kind == "sandbox");
        match (name, pod_name) {
            (_, Some(pod)) if is_sandbox => record.names.push(format!("{pod}/sandbox")),
            (Some(name), Some(pod)) => record.names.extend([name.clone(), format!("{pod}/{name}")]),
            (Some(name), None) => record.names.push(name),
            _ => {}
        }
        record.pod = say(&["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]).or(record.pod.take());
    }

    /// Annotations are labels too. What Kubernetes says goes by one name, whichever engine has written it down.
    fn label(&self, record: &mut Record) {
        for (one, other) in KUBERNETES {
            if let Some(value) = self.annotations.get(*other).or_else(|| self.annotations.get(*one)) {
                record.label(one, value);
            }
        }
        // CRI-O keeps those of the container, or of its pod, in one annotation.
        let labels = self.annotations.get("io.kubernetes.cri-o.Labels");
        let labels = labels.and_then(|text| serde_json::from_str::<HashMap<String, String>>(text).ok());
        for (key, value) in labels.iter().flatten().chain(&self.annotations) {
            record.label(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().expect("directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, text).expect("file");
        }
        let store = Store::open(root.path()).expect("there");
        (root, store)
    }

    #[test]
    fn runc_names_its_first_process_and_its_cgroups() {
        let state = r#"{"id":"web","init_process_pid":17,"init_process_start":99,"config":{"labels":["app=shop","bundle=/b"]},
            "cgroup_paths":{"":"/sys/fs/cgroup/unified/web","memory":"/sys/fs/cgroup/memory/a/web"}}"#;
        let (_root, store) = root(&[("web/state.json", state), ("lock", ""), ("empty/other", "")]);
        let records = records(&store);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].id.as_str(), records[0].runtime), ("web", Some("runc")));
        assert_eq!(records[0].init, Some(Init { pid: 17, start_ticks: Some(99) }));
        assert_eq!(records[0].cgroups.len(), 2);
        assert_eq!(records[0].labels, [("app".to_owned(), "shop".to_owned())].into());
    }

    #[test]
    fn crun_leads_to_the_bundle_whose_annotations_have_names() {
        let bundle = tempfile::tempdir().expect("directory");
        let annotations = r#"{"annotations":{"io.kubernetes.cri.container-name":"app",
            "io.kubernetes.cri.sandbox-name":"shop-1","io.kubernetes.cri.sandbox-uid":"u-1"}}"#;
        fs::write(bundle.path().join("config.json"), annotations).expect("file");
        let status = format!(
            r#"{{"pid":20,"process-start-time":7,"cgroup-path":"/web","bundle":"{}"}}"#,
            bundle.path().display()
        );
        let (_root, store) = root(&[("web/status", &status)]);
        let record = records(&store).pop().expect("one");
        assert_eq!(
            (record.runtime, record.init),
            (Some("crun"), Some(Init { pid: 20, start_ticks: Some(7) }))
        );
        assert_eq!(record.cgroups, [PathBuf::from("/web")]);
        if record.owner == 0 {
            assert_eq!(record.names, ["app", "shop-1/app"]);
            assert_eq!(record.pod.as_deref(), Some("u-1"));
            let label = |key: &str| record.labels.get(key).map(String::as_str);
            assert_eq!(label("io.kubernetes.pod.name"), Some("shop-1"));
            assert_eq!(label("io.kubernetes.pod.uid"), Some("u-1"));
            assert_eq!(label("io.kubernetes.container.name"), Some("app"));
        }
    }

    #[test]
    fn labels_that_cri_o_keeps_in_one_annotation_are_labels() {
        let mut record = Record::default();
        let text = r#"{"app":"shop","io.kubernetes.pod.name":"shop-1"}"#;
        let annotations = [("io.kubernetes.cri-o.Labels".to_owned(), text.to_owned())].into();
        Specification { annotations }.describe(&mut record);
        assert_eq!(record.labels.get("app").map(String::as_str), Some("shop"));
        assert_eq!(record.labels.get("io.kubernetes.pod.name").map(String::as_str), Some("shop-1"));
    }

    #[test]
    fn what_is_no_state_is_left_out() {
        let (_root, store) = root(&[
            ("a/state.json", "{}"),
            ("b/state.json", "\"text\""),
            ("c/status", "{\"pid\":\"x\"}"),
            ("d/status", ""),
            ("a b/status", "{\"pid\":1}"),
        ]);
        assert!(records(&store).is_empty());
    }
}
