//! Real OCI containers: a runtime of the distribution's, a root of Debian's below an overlay, and around the service
//! what container engines put there by default. Nothing is written into the root, and nothing stays behind: the overlay
//! is mounted in the runtime's own mount namespace and goes with it.

use super::{Outcomes, Target, interpreters, longest_wait, mounts};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    fs,
    io::ErrorKind,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What engines grant unless told otherwise.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Where the scripts of `targets/python` lie in a container.
const SCRIPTS: &str = "/srv";
/// Where packages lie in a container.
const PACKAGES: &str = "/opt/packages";
/// Where the host mounts its hierarchies of cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

static STARTED: AtomicU32 = AtomicU32::new(0);

/// What starts containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// crun.
    Crun,
    /// runc.
    Runc,
}

/// Where a container's processes are kept, among the host's cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// In one of their own, as the runtime finds the host.
    Own,
    /// In one of their own, of the second version only.
    Unified,
    /// Where the test runs itself.
    None,
}

/// What a container has for its root, below what it writes itself.
enum Root {
    /// That of a suite of Debian's.
    Suite(String),
    /// Any directory.
    Directory(PathBuf),
}

/// How a container is started.
pub struct ContainerBuilder {
    root: Root,
    id: String,
    runtime: Runtime,
    cgroup: Cgroup,
    /// Between the hierarchy's root and the container's own cgroup.
    parent: PathBuf,
    read_only: bool,
    seccomp: bool,
    nested: bool,
    annotations: Vec<(String, String)>,
    memory_limit: Option<u64>,
    packages: bool,
}

/// A container that runs.
pub struct Container {
    /// As the runtime knows it.
    pub id: String,
    /// PID of its first process, as the host sees it.
    pub pid: u32,
    /// PID of its service, as the host sees it.
    pub service_pid: u32,
    // Goes first, and takes all processes with it.
    handle: Handle,
    /// Its service, which takes commands.
    pub service: Target,
    bundle: TempDir,
}

/// A container as its runtime knows it, whether or not it has come to run. Nothing is left of it afterwards.
struct Handle {
    id: String,
    runtime: Runtime,
    cgroup: Cgroup,
    parent: PathBuf,
}

/// What a runtime says of a container.
#[derive(Deserialize)]
struct State {
    pid: u32,
    status: String,
}

impl ContainerBuilder {
    /// Gives it an ID that people have chosen.
    pub fn named(mut self, name: &str) -> Self {
        self.id = format!("{name}-{}", unique());
        self
    }

    /// Starts it with this runtime.
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// Keeps its processes there.
    pub fn cgroup(mut self, cgroup: Cgroup) -> Self {
        self.cgroup = cgroup;
        self
    }

    /// Keeps its processes in a cgroup beside another container's, as those of one pod are.
    pub fn beside(mut self, other: &Container) -> Self {
        self.parent.clone_from(&other.handle.parent);
        self
    }

    /// Has its cgroup lie below others: `kubepods/burstable/podUID`.
    pub fn below(mut self, path: &str) -> Self {
        self.parent.push(path);
        self
    }

    /// Nothing in it can be written but what is mounted into it.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Filters its system calls as engines do by default.
    pub fn seccomp(mut self) -> Self {
        self.seccomp = true;
        self
    }

    /// Attaches an annotation, as engines do with their labels.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Limits its memory, bytes.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// It has the packages of the services, as an image of theirs would; its interpreter must be the one they were installed for.
    pub fn packages(mut self) -> Self {
        self.packages = true;
        self
    }

    /// The service runs in a PID namespace of its own inside the container's.
    pub fn nested_pid_namespace(mut self) -> Self {
        self.nested = true;
        self
    }

    /// Starts a script of `targets/python` in it and waits until that is ready.
    pub fn start(self, script: &str) -> Outcomes<Container> {
        self.start_with(script, &[])
    }

    /// The same with arguments.
    pub fn start_with(self, script: &str, arguments: &[&str]) -> Outcomes<Container> {
        self.run(&[&["/usr/bin/python3", &format!("{SCRIPTS}/{script}")], arguments].concat())
    }

    /// Starts a program that takes commands in it and waits until that is ready.
    pub fn run(self, arguments: &[&str]) -> Outcomes<Container> {
        let bundle = self.bundle(arguments)?;
        let mut command = self.runtime.command(self.cgroup);
        mounts::overlay(&mut command, &self.root.directory()?, bundle.path())?;
        self.runtime.arrange(&mut command, self.cgroup);
        command.arg("run").arg("--bundle").arg(bundle.path()).arg(&self.id);
        let Self { id, runtime, cgroup, parent, nested, .. } = self;
        let handle = Handle { id: id.clone(), runtime, cgroup, parent };
        let service = Target::command(command).start()?;
        let pid = handle.state()?.pid;
        let service_pid = if nested { only_child(pid)? } else { pid };
        Ok(Container { id, pid, service_pid, handle, service, bundle })
    }

    /// The directory that the runtime is given.
    fn bundle(&self, arguments: &[&str]) -> Outcomes<TempDir> {
        let bundle = TempDir::new().map_err(|e| format!("temporary directory: {e}"))?;
        mounts::prepare_overlay(bundle.path())?;
        let config = bundle.path().join("config.json");
        fs::write(&config, self.config(arguments)?.to_string())
            .map_err(|e| format!("{}: {e}", config.display()))?;
        Ok(bundle)
    }

    fn config(&self, arguments: &[&str]) -> Outcomes<Value> {
        let mut config = data("config.json")?;
        let mut capabilities = CAPABILITIES.to_vec();
        let mut arguments = arguments.to_vec();
        if self.nested {
            arguments.splice(0..0, ["/usr/bin/unshare", "--pid", "--fork", "--kill-child"]);
            capabilities.push("CAP_SYS_ADMIN");
        }
        config["process"]["args"] = json!(arguments);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(capabilities);
        }
        config["root"]["readonly"] = json!(self.read_only);
        if self.seccomp {
            config["linux"]["seccomp"] = data("seccomp.json")?;
        }
        for (key, value) in &self.annotations {
            config["annotations"][key] = json!(value);
        }
        if let Some(bytes) = self.memory_limit {
            config["linux"]["resources"]["memory"]["limit"] = json!(bytes);
        }
        config["linux"]["cgroupsPath"] = json!(Path::new("/").join(&self.parent).join(&self.id));
        let scripts = json!({
            "destination": SCRIPTS, "type": "bind", "source": interpreters::scripts(), "options": ["rbind", "ro"],
        });
        let mounts = config["mounts"].as_array_mut().ok_or("config.json has no mounts")?;
        mounts.push(scripts);
        if self.packages {
            mounts.push(json!({
                "destination": PACKAGES, "type": "bind", "source": interpreters::packages()?, "options": ["rbind", "ro"],
            }));
            let environment =
                config["process"]["env"].as_array_mut().ok_or("config.json has no environment")?;
            environment.push(json!(format!("PYTHONPATH={PACKAGES}")));
        }
        Ok(config)
    }
}

impl Root {
    fn directory(&self) -> Outcomes<PathBuf> {
        match self {
            Self::Suite(suite) => interpreters::root(suite),
            Self::Directory(directory) => Ok(directory.clone()),
        }
    }
}

impl Container {
    /// Prepares a container on the root of a suite of Debian's. Its ID looks as engines make them.
    pub fn on(suite: &str) -> ContainerBuilder {
        Self::of(Root::Suite(suite.to_owned()))
    }

    /// Prepares a container on a directory that has what its program needs.
    pub fn on_directory(root: &Path) -> ContainerBuilder {
        Self::of(Root::Directory(root.to_owned()))
    }

    fn of(root: Root) -> ContainerBuilder {
        ContainerBuilder {
            root,
            id: engine_id(),
            runtime: Runtime::Crun,
            cgroup: Cgroup::Own,
            parent: PathBuf::from(format!("leaktrace-test-{}", unique())),
            read_only: false,
            seccomp: false,
            nested: false,
            packages: false,
            annotations: Vec::new(),
            memory_limit: None,
        }
    }

    /// Starts another program in it, which takes commands as well.
    pub fn execute(&self, script: &str, arguments: &[&str]) -> Outcomes<Target> {
        let mut command = self.handle.command();
        command
            .arg("exec")
            .arg(&self.id)
            .args(["/usr/bin/python3", &format!("{SCRIPTS}/{script}")])
            .args(arguments);
        Target::command(command).start()
    }

    /// Its processes, as the host sees them.
    pub fn processes(&self) -> Outcomes<Vec<u32>> {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&self.pid.to_string()).ok_or("the container has ended")?;
        let entries = fs::read_dir("/proc").map_err(|e| e.to_string())?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names
            .filter(|name| namespace(name).as_ref() == Some(&own))
            .filter_map(|name| name.parse().ok())
            .collect())
    }

    /// The cgroup that its own lies in, with those of containers beside it.
    pub fn parent(&self) -> &Path {
        &self.handle.parent
    }

    /// Path of its cgroup below the mount point of a hierarchy.
    pub fn cgroup(&self) -> PathBuf {
        self.handle.parent.join(&self.id)
    }

    /// What it has written to its root, as the host sees it.
    pub fn upper(&self) -> PathBuf {
        self.bundle.path().join("upper")
    }

    /// Ends it at once, with everything in it.
    pub fn kill(&self) -> Outcomes<()> {
        self.handle.run(&["kill", &self.id, "KILL"]).map(|_| ())
    }
}

impl Handle {
    /// A command of the runtime's about this container.
    fn command(&self) -> Command {
        let mut command = self.runtime.command(self.cgroup);
        self.runtime.arrange(&mut command, self.cgroup);
        command
    }

    fn state(&self) -> Outcomes<State> {
        let deadline = Instant::now() + longest_wait();
        loop {
            let output = self.run(&["state", &self.id])?;
            let state: State = serde_json::from_slice(&output.stdout).map_err(|e| format!("state: {e}"))?;
            match state.status.as_str() {
                "running" => return Ok(state),
                _ if Instant::now() > deadline => return Err(format!("the container is {}", state.status)),
                _ => sleep(Duration::from_millis(20)),
            }
        }
    }

    fn run(&self, arguments: &[&str]) -> Outcomes<Output> {
        let mut command = self.command();
        let output =
            command.args(arguments).stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
        match output.status.success() {
            true => Ok(output),
            false => Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Gone already, where the test has ended it.
        self.run(&["delete", "--force", &self.id]).ok();
        remove_cgroups(&self.parent.join(&self.id));
    }
}

impl Runtime {
    fn command(self, cgroup: Cgroup) -> Command {
        match self {
            Self::Crun => {
                let mut command = Command::new("crun");
                command.arg(match cgroup {
                    Cgroup::None => "--cgroup-manager=disabled",
                    _ => "--cgroup-manager=cgroupfs",
                });
                command
            }
            Self::Runc => Command::new("runc"),
        }
    }

    /// Shows the runtime a host of cgroups that it can deal with: crun takes no hybrid hosts whose second version has
    /// controllers. Others go on seeing what there is.
    fn arrange(self, command: &mut Command, cgroup: Cgroup) {
        // SAFETY: plain system calls on constants.
        unsafe {
            command.pre_exec(move || match (cgroup, self) {
                (Cgroup::Unified, _) => mounts::unified_cgroups_only(),
                (_, Self::Crun) => mounts::legacy_cgroups_only(),
                _ => mounts::own(),
            });
        }
    }
}

/// Cgroups that a runtime has left, in every hierarchy, from the container's own up, unless another test's container lies there.
fn remove_cgroups(own: &Path) {
    let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from(CGROUPS)]) {
        remove_cgroup(&hierarchy.join(own));
        let above = own.ancestors().skip(1).filter(|level| !level.as_os_str().is_empty());
        above.for_each(|level| drop(fs::remove_dir(hierarchy.join(level))));
    }
}

/// Waits for what is still dying in it.
fn remove_cgroup(directory: &Path) {
    let deadline = Instant::now() + longest_wait();
    let is_busy = || fs::remove_dir(directory).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy);
    while is_busy() && Instant::now() < deadline {
        sleep(Duration::from_millis(10));
    }
}

/// PIDs of a process in each PID namespace that it is seen from, the host's first.
pub fn pids(pid: u32) -> Outcomes<Vec<u32>> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).ok_or("no NSpid")?;
    line.split_whitespace().map(|word| word.parse().map_err(|e| format!("{line}: {e}"))).collect()
}

fn only_child(pid: u32) -> Outcomes<u32> {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&children).map_err(|e| format!("{children}: {e}"))?;
    text.trim().parse().map_err(|e| format!("{children}: {e}: {text:?}"))
}

fn data(name: &str) -> Outcomes<Value> {
    let path = super::program::sources().join("container").join(name);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Told from every other of this machine's.
fn unique() -> String {
    format!("{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed))
}

/// 64 hexadecimal digits, whose first twelve tell it from others.
fn engine_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let digits = |_| format!("{:016x}", RandomState::new().hash_one(unique()));
    (0..4).map(digits).collect()
}
