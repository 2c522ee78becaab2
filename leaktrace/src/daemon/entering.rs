//! Entering process images: probes first, then the gate; commands before they run.

use std::{
    ffi::{OsStr, OsString},
    io,
    process::Stdio,
    time::{Duration, Instant},
};

use leaktrace_common::{
    hook::kind,
    record::{Target, gate, target_flag},
    rule,
};

use super::{
    StdoutFormat,
    tracer::{Replaced, Tracer},
};
use crate::{
    cli::Failure,
    kernel::{AttachScope, Attachment},
    probe::{
        command::Command as CommandPlan,
        plan::{Plan, PlannedProbe},
    },
    process::{Identity, ProcessError, RunState, SeccompMode, status},
    target::{
        command::Held,
        discover::{self, Discovered},
        image::Image,
    },
};

/// How long entering a process waits for its unwind tables.
pub(super) const TABLE_PATIENCE: Duration = Duration::from_millis(1500);
/// Readings of the mappings that are tried while libraries are being exchanged. Each exchange is told of anyway.
const READINGS: usize = 4;

impl Tracer {
    /// Enters a running process: every probe first, then the gate.
    pub(super) fn enter(&mut self, pid: u32) -> Result<(), Failure> {
        let identity = check_target(pid)?;
        self.refuse_deadly_filter(&identity)?;
        let discovered = discover::required(pid, &self.costs)?;
        self.enter_discovered(identity, &discovered, Attachment::default())
    }

    /// A filtered process that this kernel would kill at its first return probe is left alone.
    pub(super) fn refuse_deadly_filter(&mut self, identity: &Identity) -> Result<(), Failure> {
        if identity.seccomp == SeccompMode::Off || self.kernel.return_probes_survive_filters()? {
            return Ok(());
        }
        Err(Failure::Unsupported(format!(
            "process {} ({}) filters its system calls (seccomp), and this kernel would kill it at the first return probe: update the kernel (fixed in 6.12.14, 6.13.3 and 6.14)",
            identity.pid, identity.name
        )))
    }

    pub(super) fn enter_discovered(
        &mut self,
        identity: Identity,
        discovered: &Discovered,
        linker: Attachment,
    ) -> Result<(), Failure> {
        let mut image = Image::new(self.new_serial(), identity);
        image.linker = linker;
        self.enter_image(image, discovered)
    }

    /// Enters an image whose probes are known: every probe first, then the gate.
    pub(super) fn enter_image(&mut self, mut image: Image, discovered: &Discovered) -> Result<(), Failure> {
        let (begun, pid) = (Instant::now(), image.pid);
        // A forked process whose gate is open has its parent's links. It stays open: what it frees meanwhile is not to look leaked.
        self.inherit_links(&mut image);
        let known = self.entry_in_force(pid, image.serial);
        let is_open = known.is_some_and(|entry| entry.gate == gate::OPEN);
        image.r_debug = discovered.r_debug;
        image.layered = discovered.plan.layered;
        self.look_at(&mut image);
        self.find_python(&mut image);
        image.allocator_text = allocator_text(&image, &discovered.plan);
        let early = is_open || self.plan.rules_off & rule::GATE != 0;
        let flags = self.flags(&image);
        let entry = |gate| Target { flags, ..target(&image, gate) };
        self.kernel.set_target(pid, &entry(if early { gate::OPEN } else { gate::CLOSED }))?;
        // Ahead of need: the tables are being made while the probes are placed.
        self.code.publish(&mut self.kernel.code, &mut self.frames, &mut image);
        if let Err(failure) = self.place(&mut image, &discovered.plan) {
            self.kernel.remove_target(pid);
            self.kernel.python.release_slot(image.python_slot);
            self.code.forget(&mut self.kernel.code, image.serial);
            return Err(match check_target(pid) {
                Err(gone) => gone,
                Ok(_) => failure,
            });
        }
        self.await_tables(&mut image, TABLE_PATIENCE);
        self.place_python(&mut image);
        self.await_python(&mut image);
        let mut entry = Target { flags: self.flags(&image), ..target(&image, gate::OPEN) };
        if image.python.not_yet.is_some() && self.own_child == Some(pid) {
            entry.flags |= target_flag::STOP_AT_LINK_MAP;
        }
        self.kernel.set_target(pid, &entry)?;
        self.tell_of(&image, &placed(&discovered.plan, begun.elapsed()));
        self.now_traced(image);
        Ok(())
    }

    /// An image's gate is open.
    pub(super) fn now_traced(&mut self, image: Image) {
        self.traced_pids.insert(image.pid, image.serial);
        self.images.insert(image.serial, image);
    }

    /// Takes first readings, and opens the objects that stacks will lead to.
    pub(super) fn look_at(&mut self, image: &mut Image) {
        image.read_memory();
        self.read_code(image);
        image.rss_at_attach = image.rss;
    }

    /// Reads an image's mappings; says whether that brought code that was not known. The reading must fall into one
    /// mapping generation: an address may mean something else in the next.
    pub(super) fn read_code(&mut self, image: &mut Image) -> bool {
        for _ in 0..READINGS {
            let before = self.generation_of(image);
            image.read_mappings();
            if self.generation_of(image) == before {
                self.frames.learn(image.pid, image.serial, &image.mappings);
                return image.code.observe(before, &image.mappings);
            }
        }
        false
    }

    /// The mapping generation of an image now; 0 before the kernel side knows it.
    fn generation_of(&self, image: &Image) -> u32 {
        let entry = self.kernel.target(image.pid).filter(|entry| entry.serial == image.serial);
        entry.map_or(0, |entry| entry.generation)
    }

    /// Waits for an image's unwind tables, so that its next stacks are whole. What takes longer follows later.
    pub(super) fn await_tables(&mut self, image: &mut Image, patience: Duration) {
        if !self.code.settle(&mut self.kernel.code, &mut self.frames, image, patience) {
            tracing::debug!(
                "process {}: some unwind tables are still being made; stacks end at code without one until then",
                image.pid
            );
        }
    }

    /// Places the probes of a plan that are not in place yet.
    pub(super) fn place(&mut self, image: &mut Image, plan: &Plan) -> Result<(), Failure> {
        let (linker, mut hooks) = discover::attach_points(plan);
        self.attach_linker(image, linker)?;
        if self.plan.rules_off & rule::GATE != 0 {
            // The gate is open already: until the probes of `free` follow, every block looks like a leak.
            let is_free = |point: &crate::kernel::AttachPoint| point.cookie.kind == kind::FREE;
            let (frees, others) = hooks.into_iter().partition::<Vec<_>, _>(is_free);
            self.attach_new(image, others)?;
            std::thread::sleep(Duration::from_millis(20));
            hooks = frees;
        }
        self.attach_new(image, hooks)?;
        plan.notes.iter().cloned().for_each(|sentence| image.note(sentence));
        Ok(())
    }

    /// Flags of an image on the kernel side.
    pub(super) fn flags(&self, image: &Image) -> u32 {
        let stop = if self.own_child == Some(image.pid) { target_flag::STOP_AFTER_EXEC } else { 0 };
        target(image, gate::CLOSED).flags | stop
    }

    pub(super) fn new_serial(&self) -> u32 {
        if self.plan.rules_off & rule::SERIAL != 0 {
            return 1;
        }
        self.kernel.control.next_serial()
    }

    /// The command's output comes with the reports, unless those are for a program: then it comes with what is said to people.
    fn stdout_of_command(&self) -> Stdio {
        match self.plan.format {
            StdoutFormat::Wire => io::stderr().into(),
            StdoutFormat::Text | StdoutFormat::Json => Stdio::inherit(),
        }
    }

    /// Starts the command: its dynamic linker is probed before it executes anything.
    pub(super) async fn start_command(&mut self, words: &[OsString]) -> Result<(), Failure> {
        let name = words.first().map_or(OsStr::new(""), OsString::as_os_str);
        let path = std::env::var_os("PATH");
        let command = CommandPlan::resolve(name, path.as_deref())
            .map_err(|error| Failure::NoTarget(error.to_string()))?;
        let plan = Plan::new(&command.before_start, &self.costs)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let held = Held::start(words, self.stdout_of_command())?;
        let pid = held.pid;
        self.own_child = Some(pid);
        let (linker_points, own_points) = discover::attach_points(&plan);
        let identity = Identity::read(pid).map_err(|error| process_failure(&error))?;
        let mut image = Image::new(self.new_serial(), identity);
        // The image that is held now is our own copy: nothing of it counts.
        let mut entry = target(&image, gate::CLOSED);
        entry.flags |= target_flag::STOP_AFTER_EXEC;
        self.kernel.set_target(pid, &entry)?;
        let linker = self.kernel.attach(AttachScope::Process(pid), &linker_points)?;
        self.attach_new(&mut image, own_points)?;
        let is_static = command.linker.is_none();
        if is_static {
            return self.release_static(held, image, name, &plan).await;
        }
        self.replaced.insert(pid, Replaced { since: Instant::now(), linker });
        let ended = held.release(name).await?;
        self.command = Some((pid, ended));
        Ok(())
    }

    /// A static executable has no dynamic linker to stop at. Its probes are in place before it runs, and exec is
    /// noticed before its first instruction: the entry is renewed by then or the gap is said.
    pub(super) async fn release_static(
        &mut self,
        held: Held,
        mut image: Image,
        name: &OsStr,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let pid = held.pid;
        let mut entry = target(&image, gate::OPEN_AFTER_EXEC);
        entry.flags = self.flags(&image);
        self.kernel.set_target(pid, &entry)?;
        let ended = held.release(name).await?;
        self.command = Some((pid, ended));
        image.identity = Identity::read(pid).unwrap_or(image.identity);
        // It stops itself at exec, before its first instruction.
        await_stop(pid).await;
        self.look_at(&mut image);
        self.code.publish(&mut self.kernel.code, &mut self.frames, &mut image);
        self.await_tables(&mut image, TABLE_PATIENCE);
        let entry = Target { flags: self.flags(&image), ..target(&image, gate::OPEN) };
        self.kernel.set_target(pid, &entry)?;
        // SAFETY: a signal to the command that we started and stopped.
        unsafe { libc::kill(i32::try_from(pid).unwrap_or(0), libc::SIGCONT) };
        self.tell_of(&image, &placed(plan, Duration::ZERO));
        self.now_traced(image);
        Ok(())
    }
}

/// Waits until our own command has stopped, for as long as anything at all may take.
async fn await_stop(pid: u32) {
    for _ in 0..200 {
        match status::read(pid) {
            Ok(status) if status.state == RunState::Stopped => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(_) => return,
        }
    }
}

/// What the kernel side is to know of an image.
pub(super) fn target(image: &Image, gate: u32) -> Target {
    let (interpreter_start, interpreter_end) = image.interpreter_text();
    let layered = if image.layered { target_flag::LAYERED } else { 0 };
    let shared = if image.shares_probes() { target_flag::SHARED_LINKS } else { 0 };
    Target {
        serial: image.serial,
        gate,
        flags: layered | shared | if image.forked { target_flag::FORKED } else { 0 },
        generation: image.code.latest().map_or(0, |(generation, _)| generation),
        r_debug: image.r_debug,
        allocator_start: image.allocator_text.0,
        allocator_end: image.allocator_text.1,
        code_slot: image.code_slot,
        python_slot: image.python_slot,
        interpreter_start,
        interpreter_end,
        links: image.links,
    }
}

/// Where the code of the allocator that frees lies in the process: mappings that it makes inside `free` are its own.
fn allocator_text(image: &Image, plan: &Plan) -> (u64, u64) {
    let frees = |probe: &&PlannedProbe| probe.cookie.kind == kind::FREE;
    let Some(object) = plan.probes.iter().find(frees).and_then(|probe| plan.objects.get(probe.object)) else {
        return (0, 0);
    };
    let text = image.mappings.iter().filter(|mapping| {
        mapping.executable && mapping.inode == object.inode && mapping.device == object.device
    });
    text.fold((0, 0), |(start, end), mapping| {
        if end == 0 {
            (mapping.start.0, mapping.end.0)
        } else {
            (start.min(mapping.start.0), end.max(mapping.end.0))
        }
    })
}

/// Whether a PID names something that can be traced.
pub fn check_target(pid: u32) -> Result<Identity, Failure> {
    let identity = Identity::read(pid).map_err(|error| process_failure(&error))?;
    if identity.kernel_thread {
        return Err(Failure::NoTarget(format!(
            "process {pid} ({}) is a thread of the kernel: it has no memory of its own to trace",
            identity.name
        )));
    }
    if identity.state == RunState::Zombie {
        return Err(Failure::NoTarget(format!(
            "process {pid} ({}) has already ended (it is a zombie)",
            identity.name
        )));
    }
    if !identity.thread_group_leader {
        return Err(Failure::NoTarget(format!(
            "{pid} is one thread of a process: name the process (the first column of ps, not a thread ID)"
        )));
    }
    Ok(identity)
}

fn process_failure(error: &ProcessError) -> Failure {
    match error {
        ProcessError::Gone { pid } => Failure::NoTarget(format!("there is no process {pid}")),
        ProcessError::Denied { .. } => Failure::Unsupported(error.to_string()),
        _ => Failure::Failed(error.to_string()),
    }
}

/// What is said of the probes of an image.
fn placed(plan: &Plan, took: Duration) -> String {
    format!(
        "{} probes in {} objects, placed in {:.1} ms",
        plan.probes.len(),
        plan.objects.len(),
        took.as_secs_f64() * 1e3
    )
}
