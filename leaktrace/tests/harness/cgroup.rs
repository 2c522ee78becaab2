//! Cgroups that tests make: in the hierarchy that says most of those that are mounted, gone with the test.

use super::{Outcomes, Target, longest_wait};
use leaktrace::process::cgroup::{self, Mounts};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A cgroup of a test's own.
pub struct TestCgroup {
    root: PathBuf,
    /// Where it lies.
    pub directory: PathBuf,
    /// As `/proc/PID/cgroup` spells it.
    pub path: PathBuf,
}

impl TestCgroup {
    /// Makes one; `path` is below the hierarchy's root.
    pub fn make(path: &str) -> Outcomes<Self> {
        let mounts = Mounts::own();
        let own = cgroup::places(std::process::id()).map_err(|e| e.to_string())?;
        let root = own.into_iter().find_map(|place| {
            mounts.directory(&cgroup::Place { path: "/".into(), ..place }).filter(|root| is_writable(root))
        });
        Self::below(root.ok_or("no hierarchy of cgroups can be written to")?, path)
    }

    /// Makes one whose processes may use no more than that, bytes; in the hierarchy that accounts for memory.
    pub fn limited(path: &str, bytes: u64) -> Outcomes<Self> {
        let own = cgroup::places(std::process::id()).map_err(|e| e.to_string())?;
        let place = cgroup::memory_place(&own).ok_or("no hierarchy of cgroups accounts for memory")?;
        let top = cgroup::Place { path: "/".into(), ..place.clone() };
        let root = Mounts::own().directory(&top).ok_or("that hierarchy is not mounted")?;
        // Where it is v2's, its controller must be handed down.
        fs::write(root.join("cgroup.subtree_control"), "+memory").ok();
        let made = Self::below(root, path)?;
        let limits = ["memory.max", "memory.limit_in_bytes"].map(|name| made.directory.join(name));
        let limit =
            limits.into_iter().find(|limit| limit.exists()).ok_or("memory cannot be limited there")?;
        fs::write(&limit, bytes.to_string()).map_err(|e| format!("{}: {e}", limit.display()))?;
        Ok(made)
    }

    fn below(root: PathBuf, path: &str) -> Outcomes<Self> {
        let directory = root.join(path);
        fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        Ok(Self { root, directory, path: Path::new("/").join(path) })
    }

    /// Puts a process into it.
    pub fn take(&self, pid: u32) -> Outcomes<()> {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string())
            .map_err(|e| format!("{}: {e}", self.directory.display()))
    }

    /// Starts a target and puts it into it.
    pub fn start(&self) -> Outcomes<Target> {
        let target = Target::start("churn")?;
        self.take(target.pid())?;
        Ok(target)
    }

    /// Removes it, once its last process is gone for good.
    pub fn remove(&self) -> Outcomes<()> {
        let deadline = Instant::now() + longest_wait();
        while let Err(error) = fs::remove_dir(&self.directory) {
            if error.kind() == io::ErrorKind::NotFound {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{}: {error}", self.directory.display()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // What a failing test has left in it is killed by its own owner first: values drop in reverse order.
        self.remove().ok();
        let above = self.directory.ancestors().skip(1).take_while(|directory| *directory != self.root);
        above.for_each(|directory| drop(fs::remove_dir(directory)));
    }
}

fn is_writable(directory: &Path) -> bool {
    let probe = directory.join(format!("leaktrace-probe-{}", std::process::id()));
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).is_ok()
}

/// An ID as engines make them up, different for each test run and `number`.
pub fn made_up_id(number: u32) -> String {
    format!("{:08x}{number:056x}", std::process::id())
}
