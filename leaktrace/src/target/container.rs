//! Containers, as far as the host knows them: which one a process belongs to, and which one a user means. Runtimes are not asked,
//! which would take their sockets and their clients: cgroups and the state that runtimes leave on disk say it all.

pub mod catalog;
mod containerd;
mod docker;
mod oci;
mod podman;
pub mod record;
pub mod resolve;
mod roots;
mod spelling;
mod store;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use catalog::{Catalog, Extent, Known, Located};
pub use resolve::{Candidate, ResolveError, resolve};

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

/// Digits of an ID that are shown where nobody could remember all of them.
const SHORT_ID: usize = 12;

impl Container {
    /// The container that a process belongs to; `None`: none that is known.
    pub fn of_process(pid: u32) -> Option<Self> {
        host().locate(pid).map(|located| located.container)
    }

    /// The shortest words that tell a person which one it is: its name, else twelve digits of its ID.
    pub fn short(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => self.short_id().to_owned(),
        }
    }

    /// Its ID, cut to twelve digits if an engine has made it up.
    pub fn short_id(&self) -> &str {
        if spelling::is_made_up(&self.id) { self.id.get(..SHORT_ID).unwrap_or(&self.id) } else { &self.id }
    }
}

/// The containers of this host. One for the whole program: what was read for one process holds for the next.
pub fn host() -> MutexGuard<'static, Catalog> {
    static HOST: LazyLock<Mutex<Catalog>> = LazyLock::new(|| Mutex::new(Catalog::new(roots::Roots::host())));
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
}
