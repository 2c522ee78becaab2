//! What a container, a PID namespace, a cgroup or `--all` means on this host now.

use std::io::{self, Write};

use crate::{
    process::Identity,
    report::human::printable,
    target::{Container, Scope},
};

/// Most processes that are listed.
const MAX_PROCESSES: usize = 20;
/// Letters of a command line that are shown.
const MAX_COMMAND: usize = 60;

/// Prints who is in it and what is known of it.
///
/// # Errors
/// If `out` is closed.
pub(super) fn print(scope: &Scope, out: &mut impl Write) -> io::Result<()> {
    let mut members = scope.members();
    members.sort_unstable();
    writeln!(out, "\n{}", scope.announcement(members.len()))?;
    if let Some(container) = scope.container() {
        print_container(container, out)?;
    }
    if let Some(extent) = scope.extent() {
        writeln!(out, "  its processes  those of {extent}, and below")?;
    }
    writeln!(out, "  {:>8}  {:>8}  {:15}  command", "PID", "inside", "name")?;
    let identities = members.iter().filter_map(|pid| Identity::read(*pid).ok());
    identities.take(MAX_PROCESSES).try_for_each(|identity| print_process(&identity, out))?;
    match members.len().saturating_sub(MAX_PROCESSES) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

fn print_container(container: &Container, out: &mut impl Write) -> io::Result<()> {
    let Container { id, name, runtime, pod } = container;
    writeln!(out, "  ID             {id}")?;
    for (what, value) in [("name", name), ("runtime", runtime), ("pod", pod)] {
        writeln!(out, "  {what:13}  {}", value.as_deref().unwrap_or("not known"))?;
    }
    Ok(())
}

/// A process, by its PID on the host and the one that it has in its own namespace.
fn print_process(identity: &Identity, out: &mut impl Write) -> io::Result<()> {
    let inside = identity.namespace_pids.last().copied().unwrap_or(identity.pid);
    // A process chooses its name and its command line: nothing in them may move the cursor.
    let command: String = printable(&identity.command.join(" ")).chars().take(MAX_COMMAND).collect();
    writeln!(out, "  {:>8}  {inside:>8}  {:15}  {command}", identity.pid, printable(&identity.name))
}
