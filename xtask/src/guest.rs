//! A kernel booted in qemu, with everything it prints on its serial console kept.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;

/// Boots a kernel with a file system and returns what it printed until it switched itself off.
pub fn boot(kernel: &Path, initramfs: &Path, console: &Path, limit: Duration) -> Result<String> {
    let output = File::create(console).with_context(|| format!("cannot create {}", console.display()))?;
    let mut machine = Command::new("qemu-system-x86_64");
    // Software emulation on purpose: it works inside virtual machines and containers alike.
    machine.args(["-accel", "tcg", "-cpu", "max", "-m", "2G", "-smp", "2", "-nographic", "-no-reboot"]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    machine.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
    machine.stdin(Stdio::null()).stdout(output).stderr(Stdio::inherit());
    let ended = command::run_for(&mut machine, limit)?;
    let bytes = fs::read(console).with_context(|| format!("cannot read {}", console.display()))?;
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    match ended {
        Some(status) if status.success() => Ok(text),
        Some(status) => bail!("qemu failed ({status}); its console is in {}", console.display()),
        None => bail!(
            "the kernel did not finish within {} s; its console is in {}",
            limit.as_secs(),
            console.display()
        ),
    }
}
