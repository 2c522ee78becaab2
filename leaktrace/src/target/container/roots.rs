//! Where runtimes and engines keep their state on a host, and reading all of it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    containerd, docker, oci, podman,
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
/// A directory is made before the state in it is written: what changed so lately may not be complete.
const SETTLING: Duration = Duration::from_secs(5);

/// The directories below which everything is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/run`.
    pub run: PathBuf,
    /// `/var/lib`.
    pub lib: PathBuf,
    /// `/etc`.
    pub etc: PathBuf,
    /// A runtime directory that our environment names.
    pub own: Option<PathBuf>,
}

/// When each directory was last changed: differs whenever a container was made or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, (i64, u64))>);

impl Stamp {
    /// Whether the latest change is so long ago that all of it is on disk.
    pub fn is_settled(&self) -> bool {
        let latest = self.0.iter().map(|(_, (seconds, _))| *seconds).max().unwrap_or(0);
        let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(latest).unwrap_or(0));
        latest.elapsed().is_ok_and(|age| age > SETTLING)
    }
}

/// Directories whose entries are containers, by who keeps them.
#[derive(Default)]
struct Stores {
    oci: Vec<Store>,
    containerd: Vec<Store>,
    docker: Vec<Store>,
    /// Each with the directory that has the state of those that run.
    podman: Vec<(Store, Option<Store>)>,
}

impl Roots {
    /// Those of this host.
    pub fn host() -> Self {
        let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        Self { run: "/run".into(), lib: "/var/lib".into(), etc: "/etc".into(), own }
    }

    /// What runtimes have left, one record a container.
    pub fn records(&self) -> Vec<Record> {
        let Stores { oci, containerd, docker, podman } = self.stores();
        let mut records: Vec<Record> = docker.iter().flat_map(docker::records).collect();
        records.extend(podman.iter().flat_map(|(list, running)| podman::records(list, running.as_ref())));
        records.extend(containerd.iter().flat_map(containerd::records));
        records.extend(oci.iter().flat_map(oci::records));
        put_together(records)
    }

    /// See [`Stamp`].
    pub fn stamp(&self) -> Stamp {
        let Stores { oci, containerd, docker, podman } = self.stores();
        let all = oci.iter().chain(&containerd).chain(&docker).chain(podman.iter().map(|(list, _)| list));
        Stamp(all.filter_map(|store| Some((store.path().to_owned(), store.changed()?))).collect())
    }

    fn stores(&self) -> Stores {
        let mut stores = Stores::default();
        for base in self.bases() {
            stores.oci.extend(oci_roots(&base));
            stores.containerd.extend(base.below(containerd::BUNDLES).iter().flat_map(Store::directories));
        }
        stores.docker.extend(self.docker());
        let running = || Store::open(&self.run)?.below(podman::STORAGE);
        stores.podman.extend(lists(
            Store::open(&self.lib).and_then(|lib| lib.below(podman::STORAGE)).as_ref(),
            running,
        ));
        for (uid, base) in self.users() {
            let home = home(&self.etc, uid).and_then(|home| Store::open(&home));
            let storage = home.and_then(|home| home.below(podman::USER_STORAGE));
            stores.podman.extend(lists(storage.as_ref(), || Store::open(&base)?.below("containers")));
        }
        stores
    }

    /// `/run`, and what users have in its place.
    fn bases(&self) -> Vec<Store> {
        let users: Vec<PathBuf> = self.users().into_iter().map(|(_, path)| path).collect();
        let own = self.own.as_ref().filter(|own| !users.contains(own));
        [&self.run].into_iter().chain(&users).chain(own).filter_map(|path| Store::open(path)).collect()
    }

    /// Users that are logged in, or have services that run without them.
    fn users(&self) -> Vec<(u32, PathBuf)> {
        let users = self.run.join("user");
        let names = Store::open(&users).iter().flat_map(Store::names).take(MAX_USERS).collect::<Vec<_>>();
        names.iter().filter_map(|name| Some((name.parse().ok()?, users.join(name)))).collect()
    }

    /// Where Docker keeps its records; its configuration may name another directory for all its data.
    fn docker(&self) -> Option<Store> {
        let configuration = Store::open(&self.etc.join("docker"))
            .and_then(|etc| etc.json::<serde_json::Value>("daemon.json"));
        let named =
            configuration.and_then(|file| Some(PathBuf::from(file.content.get("data-root")?.as_str()?)));
        Store::open(
            &named.map_or_else(|| self.lib.join(docker::CONTAINERS), |named| named.join("containers")),
        )
    }
}

fn oci_roots(base: &Store) -> Vec<Store> {
    let plain = OCI.iter().filter_map(|name| base.below(name));
    let engines = OCI_BY_NAMESPACE.iter().filter_map(|name| base.below(name));
    plain.chain(engines.flat_map(|engine| engine.directories())).collect()
}

/// Podman's lists below one directory, with the directory that has the state of those that run.
fn lists(storage: Option<&Store>, running: impl Fn() -> Option<Store>) -> Vec<(Store, Option<Store>)> {
    storage.map(podman::lists).into_iter().flatten().map(|list| (list, running())).collect()
}

/// A user's home, from the list of users.
fn home(etc: &Path, uid: u32) -> Option<PathBuf> {
    let users = fs::read_to_string(etc.join("passwd")).ok()?;
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let user = users.lines().map(fields).find(|user| user.get(2).is_some_and(|id| *id == uid.to_string()))?;
    user.get(5).map(PathBuf::from).filter(|home| home.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "3f2a9b1c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";

    /// A host on which these files are.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
        let host = tempfile::tempdir().expect("directory");
        for (path, text) in files {
            let path = host.path().join(path.replace("ID", ID));
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            let home = host.path().join("home").display().to_string();
            fs::write(path, text.replace("ID", ID).replace("HOME", &home)).expect("file");
        }
        let at = |name| host.path().join(name);
        let roots = Roots { run: at("run"), lib: at("lib"), etc: at("etc"), own: None };
        (host, roots)
    }

    fn only(roots: &Roots) -> Record {
        let mut records = roots.records();
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    #[test]
    fn runtimes_are_found_wherever_engines_and_users_put_them() {
        let (runc, crun) = ("{\"init_process_pid\":7}", "{\"pid\":7}");
        let (_host, mut roots) = host(&[
            ("run/runc/one/state.json", runc),
            ("run/crun/two/status", crun),
            ("run/containerd/runc/k8s.io/three/state.json", runc),
            ("run/docker/runtime-runc/moby/four/state.json", runc),
            ("run/user/1000/crun/five/status", crun),
            ("run/user/1000/runc/six/state.json", runc),
            ("own/crun/seven/status", crun),
        ]);
        roots.own = Some(roots.run.with_file_name("own"));
        let mut ids: Vec<String> = roots.records().into_iter().map(|record| record.id).collect();
        ids.sort();
        assert_eq!(ids, ["five", "four", "one", "seven", "six", "three", "two"]);
    }

    #[test]
    fn a_container_that_is_made_changes_the_stamp() {
        let (_host, roots) = host(&[("run/crun/one/status", "{\"pid\":7}")]);
        let before = roots.stamp();
        assert_eq!(roots.stamp(), before);
        assert!(!before.is_settled() && Stamp::default().is_settled());
        fs::create_dir(roots.run.join("crun/two")).expect("directory");
        assert_ne!(roots.stamp(), before);
    }

    #[test]
    fn docker_knows_names_and_first_processes() {
        let configuration =
            r#"{"ID":"ID","Name":"/web","State":{"Running":true,"Pid":42},"Config":{"Labels":null}}"#;
        let (_host, roots) = host(&[
            ("lib/docker/containers/ID/config.v2.json", configuration),
            ("run/containerd/io.containerd.runtime.v2.task/moby/ID/init.pid", "42"),
            (
                "run/docker/runtime-runc/moby/ID/state.json",
                "{\"init_process_pid\":42,\"init_process_start\":9}",
            ),
        ]);
        let record = only(&roots);
        assert_eq!((record.runtime, record.names.as_slice()), (Some("docker"), &["web".to_owned()][..]));
        assert_eq!(record.init.map(|init| (init.pid, init.start_ticks)), Some((42, Some(9))));
    }

    #[test]
    fn docker_may_keep_its_data_elsewhere() {
        let (_host, roots) = host(&[
            ("etc/docker/daemon.json", "{\"data-root\":\"HOME/docker\"}"),
            ("home/docker/containers/ID/config.v2.json", "{\"Name\":\"/web\"}"),
        ]);
        assert_eq!(only(&roots).names, ["web"]);
    }

    #[test]
    fn containerd_has_what_kubernetes_says_of_a_container() {
        let specification = r#"{"annotations":{"io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"shop-1",
            "io.kubernetes.cri.sandbox-uid":"0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"}}"#;
        let bundle = "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID";
        let (_host, roots) = host(&[
            (&format!("{bundle}/init.pid"), "42"),
            (&format!("{bundle}/config.json"), specification),
            ("run/containerd/runc/k8s.io/ID/state.json", "{\"init_process_pid\":42}"),
        ]);
        let record = only(&roots);
        assert_eq!(
            (record.runtime, record.names),
            (Some("containerd"), vec!["app".to_owned(), "shop-1/app".to_owned()])
        );
        assert_eq!(record.pod.as_deref(), Some("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"));
    }

    #[test]
    fn podman_names_are_those_of_its_storage() {
        let (_host, roots) = host(&[
            ("lib/containers/storage/overlay-containers/containers.json", r#"[{"id":"ID","names":["web"]}]"#),
            ("run/containers/storage/overlay-containers/ID/userdata/pidfile", "42"),
            ("run/crun/ID/status", "{\"pid\":42,\"process-start-time\":5}"),
        ]);
        let record = only(&roots);
        assert_eq!((record.runtime, record.names.as_slice()), (Some("podman"), &["web".to_owned()][..]));
        assert_eq!(record.init.and_then(|init| init.start_ticks), Some(5));
    }

    #[test]
    fn a_user_s_podman_has_its_storage_at_home() {
        let (_host, roots) = host(&[
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::HOME:/bin/sh\n"),
            (
                "home/.local/share/containers/storage/vfs-containers/containers.json",
                r#"[{"id":"ID","names":["web"]}]"#,
            ),
            ("run/user/1000/containers/vfs-containers/ID/userdata/pidfile", "42"),
        ]);
        let record = only(&roots);
        assert_eq!(
            (record.names.as_slice(), record.init.map(|init| init.pid)),
            (&["web".to_owned()][..], Some(42))
        );
    }

    #[test]
    fn cri_o_keeps_names_in_annotations() {
        let specification = r#"{"annotations":{"io.kubernetes.container.name":"app","io.kubernetes.pod.name":"shop-1",
            "io.kubernetes.pod.uid":"u-1","io.kubernetes.cri-o.ContainerType":"container"}}"#;
        let (_host, roots) = host(&[
            (
                "lib/containers/storage/overlay-containers/containers.json",
                r#"[{"id":"ID","names":["k8s_app_shop-1_x_u-1_0"]}]"#,
            ),
            ("run/containers/storage/overlay-containers/ID/userdata/config.json", specification),
        ]);
        let record = only(&roots);
        assert_eq!((record.runtime, record.pod.as_deref()), (Some("cri-o"), Some("u-1")));
        assert_eq!(record.names, ["app", "shop-1/app", "k8s_app_shop-1_x_u-1_0"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_state_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[{}:,\"a-z0-9\\]]{0,80}") {
            for content in [bytes, text.into_bytes()] {
                let (host, roots) = host(&[]);
                for path in [
                    "run/runc/a/state.json",
                    "run/crun/a/status",
                    "run/containerd/io.containerd.runtime.v2.task/moby/ID/init.pid",
                    "run/containerd/io.containerd.runtime.v2.task/moby/ID/config.json",
                    "lib/docker/containers/ID/config.v2.json",
                    "lib/containers/storage/overlay-containers/containers.json",
                    "etc/docker/daemon.json",
                    "etc/passwd",
                ] {
                    let path = host.path().join(path.replace("ID", ID));
                    fs::create_dir_all(path.parent().expect("parent")).expect("directory");
                    fs::write(path, &content).expect("file");
                }
                prop_assert!(roots.records().len() <= 4);
            }
        }
    }

    #[test]
    fn a_host_without_any_has_none() {
        let nowhere = || PathBuf::from("/nowhere");
        let roots = Roots { run: nowhere(), lib: nowhere(), etc: nowhere(), own: Some(nowhere()) };
        assert!(roots.records().is_empty() && roots.stamp() == Stamp::default());
    }
}
