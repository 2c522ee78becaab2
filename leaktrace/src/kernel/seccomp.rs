//! Whether return probes are safe in processes that filter their system calls. Kernels 6.11 to early 6.13 return from
//! a probed function through a system call of their own that filters do not know: the target is killed
//! (systemd#34615). Asked of the kernel by trying it, on a child of ours.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use super::{AttachScope, Kernel, KernelError, calibrate};

impl Kernel {
    /// Runs a probed function in a child under the strictest filter there is. `false`: the child did not survive.
    ///
    /// # Errors
    /// If the trial could not be made.
    pub fn return_probes_survive_filters(&mut self) -> Result<bool, KernelError> {
        let failed = |source: io::Error| KernelError::Io {
            what: "trying a return probe under seccomp".into(),
            source,
        };
        let stub =
            calibrate::stubs().into_iter().next().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let point = calibrate::own_point(&stub)?;
        let (mut wait, mut go) = io::pipe().map_err(failed)?;
        // SAFETY: the child makes system calls only and never returns from `filtered_child`.
        let child = match unsafe { libc::fork() } {
            -1 => return Err(failed(io::Error::last_os_error())),
            0 => filtered_child(&mut wait, &stub),
            child => child,
        };
        drop(wait);
        let pid = u32::try_from(child).unwrap_or(0);
        let scope = AttachScope::Process(pid);
        let link = self.attach_program("calibration_return", Path::new("/proc/self/exe"), scope, &[&point]);
        // Whether or not the probe could be placed, the child must end.
        let told = go.write_all(&[1]);
        let mut status = 0;
        // SAFETY: waits for our own child.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        drop(link?);
        told.map_err(failed)?;
        if waited != child {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
    }
}

/// The child: waits for the probe, gives up every system call but read, write and exit, and calls the function.
fn filtered_child(wait: &mut impl Read, stub: &calibrate::Stub) -> ! {
    let ready = wait.read_exact(&mut [0]).is_ok();
    // SAFETY: system calls on our own process; the last one does not return.
    unsafe {
        if !ready || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) != 0 {
            libc::_exit(2);
        }
        stub.call();
        // Not _exit: that is exit_group, which the filter does not allow.
        libc::syscall(libc::SYS_exit, 0);
        libc::abort()
    }
}
