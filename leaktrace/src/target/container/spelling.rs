//! How engines and runtimes spell containers in the names of cgroups. A process may be in containers within containers (kind,
//! Docker in Docker): they are found outermost first.
//!
//! ```text
//! /system.slice/docker-ID.scope           /docker/ID                          Docker
//! /machine.slice/libpod-ID.scope          /libpod_parent/libpod-ID            Podman
//! .../kubepods-burstable-podUID.slice/cri-containerd-ID.scope                 containerd
//! .../kubepods-podUID.slice:cri-containerd:ID    /kubepods/podUID/ID          the same, without systemd
//! .../kubepods-besteffort-podUID.slice/crio-ID.scope                          CRI-O
//! /user.slice/crun-ID.scope               /system.slice/runc-ID.scope         no engine
//! /machine.slice/machine-NAME.scope       /lxc.payload.NAME                   systemd-nspawn, LXC
//! ```

/// A container as a cgroup's path spells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelled {
    /// Its ID; for machines, their name.
    pub id: String,
    /// Who made it, where the spelling says so.
    pub runtime: Option<&'static str>,
    /// UID of its Kubernetes pod.
    pub pod: Option<String>,
    /// How many components of the path lead to the container's own cgroup.
    pub depth: usize,
}

/// Digits of an ID that engines make up.
const ID_DIGITS: usize = 64;
/// Longest ID or name that is believed.
const MAX_ID: usize = 256;
/// Most components of a path that are looked at.
const MAX_DEPTH: usize = 64;

/// Prefixes of systemd scopes, or of cgroups that stand in their place, for IDs that engines make up.
const ENGINES: [(&str, &str); 7] = [
    ("docker-", "docker"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("cri-o-", "cri-o"),
];
/// Prefixes of systemd scopes for IDs that people choose.
const RUNTIMES: [(&str, &str); 3] = [("crun-", "crun"), ("runc-", "runc"), ("youki-", "youki")];

/// Every container that a path leads through, outermost first.
pub fn containers(path: &str) -> Vec<Spelled> {
    let mut found = Vec::new();
    let mut parent = "";
    let mut pod = None;
    for (at, name) in path.split('/').filter(|name| !name.is_empty()).take(MAX_DEPTH).enumerate() {
        if let Some(uid) = pod_uid(name, parent) {
            pod = Some(uid);
        }
        if let Some((id, runtime)) = container(name, parent) {
            // What is below a container is not in its pod, but in one of its own.
            found.push(Spelled { id, runtime, pod: pod.take(), depth: at + 1 });
        }
        parent = name;
    }
    found
}

/// The ID that one component spells, and who spells like that.
fn container(name: &str, parent: &str) -> Option<(String, Option<&'static str>)> {
    let scope = name.strip_suffix(".scope");
    let unit = scope.unwrap_or(name);
    for (prefix, runtime) in ENGINES {
        if let Some(id) = unit.strip_prefix(prefix).filter(|id| is_made_up(id)) {
            return Some((id.to_owned(), Some(runtime)));
        }
    }
    // kubelet speaks systemd's language, containerd does not: `podUID.slice:cri-containerd:ID`.
    let mut parts = name.rsplitn(3, ':');
    if let (Some(id), Some(prefix), Some(slice)) = (parts.next(), parts.next(), parts.next())
        && slice.ends_with(".slice")
        && is_chosen(id)
    {
        let known = ENGINES.iter().find(|(known, _)| known.trim_end_matches('-') == prefix);
        return Some((id.to_owned(), known.map(|(_, runtime)| *runtime)));
    }
    if is_made_up(name) {
        return Some((name.to_owned(), (parent == "docker").then_some("docker")));
    }
    let chosen = RUNTIMES.iter().find_map(|(prefix, runtime)| Some((scope?.strip_prefix(prefix)?, *runtime)));
    chosen.or_else(|| lxc(name, parent)).filter(|(id, _)| is_chosen(id)).map_or_else(
        || machine(name, parent).filter(|id| is_chosen(id)).map(|id| (id, Some("systemd-nspawn"))),
        |(id, runtime)| Some((id.to_owned(), Some(runtime))),
    )
}

/// LXC's and Incus's containers, but not the processes that watch them (`lxc.monitor.NAME`).
fn lxc<'a>(name: &'a str, parent: &str) -> Option<(&'a str, &'static str)> {
    let payload = name.strip_prefix("lxc.payload.");
    payload.or_else(|| matches!(parent, "lxc" | "lxc.payload").then_some(name)).map(|name| (name, "lxc"))
}

/// Machines of systemd: `machine-NAME.scope`, `systemd-nspawn@NAME.service`. Virtual machines are called so too.
fn machine(name: &str, parent: &str) -> Option<String> {
    let nspawn = name.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service"));
    let scope = || name.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope"));
    let name = nspawn.or_else(|| (parent == "machine.slice").then(scope).flatten()).map(unescape)?;
    (!name.starts_with("qemu-")).then_some(name)
}

/// systemd writes characters that mean something to it as `\xHH`.
fn unescape(name: &str) -> String {
    let mut pieces = name.split("\\x");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let byte = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(u8::is_ascii_graphic) {
            Some(byte) => {
                text.push(char::from(byte));
                text.push_str(piece.get(2..).unwrap_or_default());
            }
            None => {
                text.push_str("\\x");
                text.push_str(piece);
            }
        }
    }
    text
}

/// The UID of a pod: `kubepods-burstable-podUID.slice`, where `_` stands for `-`, or `podUID` below `kubepods`.
fn pod_uid(name: &str, parent: &str) -> Option<String> {
    let name = name.split(':').next().unwrap_or(name);
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.contains("kubepods").then(|| slice.rsplit_once("-pod")).flatten()?.1,
        None => name
            .strip_prefix("pod")
            .filter(|_| matches!(parent, "kubepods" | "burstable" | "besteffort" | "guaranteed"))?,
    };
    is_uid(uid).then(|| uid.replace('_', "-"))
}

/// A UUID, or the digest that a static pod has in its place.
fn is_uid(text: &str) -> bool {
    let digit = |letter: u8| letter.is_ascii_hexdigit() || matches!(letter, b'-' | b'_');
    (32..=64).contains(&text.len()) && text.bytes().all(digit)
}

/// Whether it is an ID that an engine has made up.
pub fn is_made_up(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|letter| matches!(letter, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether it may be an ID that somebody has chosen: the letters that runtimes allow.
pub fn is_chosen(text: &str) -> bool {
    let allowed = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'_' | b'-' | b'+' | b'.');
    let dots = text.bytes().all(|letter| letter == b'.');
    !dots && text.len() <= MAX_ID && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "3f2a9b1c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";
    const OUTER: &str = "aaaa9b1c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8";
    const POD: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    const POD_UNIT: &str = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";

    /// The innermost container of a path in which `ID`, `OUTER`, `POD` and `UNIT` stand for real ones.
    fn innermost(path: &str) -> Option<Spelled> {
        let path =
            path.replace("OUTER", OUTER).replace("ID", ID).replace("POD", POD).replace("UNIT", POD_UNIT);
        containers(&path).pop()
    }

    #[test]
    fn every_spelling_is_understood() {
        let pod = "kubepods-besteffort-podUNIT.slice";
        for (path, runtime, has_pod) in [
            ("/docker/ID", Some("docker"), false),
            ("/docker/ID/init.scope", Some("docker"), false),
            ("/system.slice/docker-ID.scope", Some("docker"), false),
            ("/system.slice/docker.service/docker/ID", Some("docker"), false),
            ("/ID", None, false),
            ("/ecs/0123/ID", None, false),
            ("/machine.slice/libpod-ID.scope", Some("podman"), false),
            ("/machine.slice/libpod-ID.scope/container", Some("podman"), false),
            ("/libpod_parent/libpod-ID", Some("podman"), false),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                Some("podman"),
                false,
            ),
            ("/system.slice/web.service/libpod-payload-ID", Some("podman"), false),
            ("/system.slice/nerdctl-ID.scope", Some("containerd"), false),
            ("/default/ID", None, false),
            ("/kubepods/burstable/podPOD/ID", None, true),
            ("/kubepods/podPOD/ID", None, true),
            ("/kubepods/besteffort/podPOD/crio-ID", Some("cri-o"), true),
            (
                &format!("/kubepods.slice/kubepods-besteffort.slice/{pod}/cri-containerd-ID.scope"),
                Some("containerd"),
                true,
            ),
            (&format!("/kubepods.slice/kubepods-besteffort.slice/{pod}/crio-ID.scope"), Some("cri-o"), true),
            (
                &format!("/kubepods.slice/kubepods-besteffort.slice/{pod}/crio-ID.scope/container"),
                Some("cri-o"),
                true,
            ),
            (
                &format!("/kubepods.slice/kubepods-besteffort.slice/{pod}/docker-ID.scope"),
                Some("docker"),
                true,
            ),
            ("/kubepods.slice/kubepods-podUNIT.slice/cri-containerd-ID.scope", Some("containerd"), true),
            (&format!("/system.slice/containerd.service/{pod}:cri-containerd:ID"), Some("containerd"), true),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUNIT.slice/cri-containerd-ID.scope",
                Some("containerd"),
                true,
            ),
        ] {
            let found = innermost(path).unwrap_or_else(|| panic!("{path}: no container"));
            assert_eq!((found.id.as_str(), found.runtime), (ID, runtime), "{path}");
            assert_eq!(found.pod.as_deref(), has_pod.then_some(POD), "{path}");
        }
    }

    #[test]
    fn ids_and_names_that_people_choose_are_found_where_a_prefix_says_so() {
        for (path, id, runtime) in [
            ("/system.slice/crun-web.1.scope", "web.1", "crun"),
            ("/user.slice/runc-my_web.scope", "my_web", "runc"),
            ("/machine.slice/machine-db\\x2dold.scope", "db-old", "systemd-nspawn"),
            ("/machine.slice/systemd-nspawn@db.service/payload", "db", "systemd-nspawn"),
            ("/lxc/web/user.slice", "web", "lxc"),
            ("/lxc.payload.web/init.scope", "web", "lxc"),
            ("/lxc.payload/web", "web", "lxc"),
        ] {
            let found = innermost(path).unwrap_or_else(|| panic!("{path}: no container"));
            assert_eq!((found.id.as_str(), found.runtime), (id, Some(runtime)), "{path}");
        }
    }

    #[test]
    fn what_is_no_container_is_none() {
        for path in [
            "/",
            "/init.scope",
            "/user.slice/user-1000.slice/session-2.scope",
            "/system.slice/docker.service",
            "/system.slice/crio-conmon-ID.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope",
            "/lxc.monitor.web",
            "/kubepods/burstable/podPOD",
            "/process_api/dc691d9aad33759427e7807dc6e9377a",
            "/docker-short.scope",
        ] {
            assert_eq!(innermost(path), None, "{path}");
        }
    }

    #[test]
    fn the_innermost_of_nested_containers_comes_last() {
        let kind = format!(
            "/docker/{OUTER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{POD_UNIT}.slice/cri-containerd-{ID}.scope"
        );
        let found = containers(&kind);
        assert_eq!(
            found.iter().map(|found| (found.id.as_str(), found.depth)).collect::<Vec<_>>(),
            [(OUTER, 2), (ID, 6)]
        );
        assert_eq!(found[0].pod, None);
        assert_eq!(found[1].pod.as_deref(), Some(POD));
        let docker = containers(&format!("/docker/{OUTER}/docker/{ID}"));
        assert_eq!(
            docker.iter().map(|found| found.runtime).collect::<Vec<_>>(),
            [Some("docker"), Some("docker")]
        );
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(path in ".{0,200}", name in "[a-z\\\\x:@./_-]{0,60}") {
            for found in containers(&path).into_iter().chain(containers(&format!("/machine.slice/{name}"))) {
                prop_assert!(!found.id.is_empty() && found.id.len() <= MAX_ID);
            }
        }
    }
}
