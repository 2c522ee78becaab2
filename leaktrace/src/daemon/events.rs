//! What each event from the kernel side does to the state.

use std::time::{Duration, Instant};

use leaktrace_common::{
    event::{Event, kind},
    record::target_flag,
    unwind::FRAME_EXACT,
};

use super::{
    entering::TABLE_PATIENCE,
    stacks::Stack,
    stopped,
    tracer::{Replaced, Tracer},
};
use crate::{
    cli::Failure,
    kernel::StackRecord,
    ledger::MappingLabel,
    object::address::AbsoluteAddress,
    process::{Identity, RunState, exit},
    report::aside::say,
    target::{discover, image::Image},
};

/// How long after an exec the new image may take until its allocator can be found.
const EXEC_PATIENCE: Duration = Duration::from_secs(10);
/// How long a process that runs on is waited for, so that its new tables are in force at once. Most are made in a millisecond.
const TABLE_PATIENCE_RUNNING: Duration = Duration::from_millis(10);
/// How long mappings are not read again for a stack's sake after that was in vain: it takes up to a millisecond.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long stacks are taken in while other things wait.
const AT_ONE_GO: Duration = Duration::from_millis(50);
/// Stacks taken in before anything else is looked at; some tens of microseconds each.
const STACKS_AT_A_TIME: usize = 16;
/// Stacks kept that came before their process was entered: an interpreter that starts to work makes a thousand.
const MAX_EARLY: usize = 16_384;
/// How long they are kept.
const EARLY_PATIENCE: Duration = Duration::from_secs(10);

impl Tracer {
    /// Takes in what has arrived: every event, and stacks for as long as [`AT_ONE_GO`], since on a busy host they come faster than
    /// they can be taken in, and other things are waiting. Says whether any may be left.
    pub fn drain(&mut self) -> bool {
        self.take_in(Some(Instant::now() + AT_ONE_GO))
    }

    /// Takes in everything, when no more is to come.
    pub(super) fn drain_to_the_end(&mut self) {
        self.take_in(None);
    }

    /// Stacks can come by the thousand, and each that is walked before the daemon knows of a new library ends early: so
    /// events and tables that have been made are looked at between a few stacks.
    fn take_in(&mut self, until: Option<Instant>) -> bool {
        let late = || until.is_some_and(|until| Instant::now() > until);
        let is_left = loop {
            let stacks = self.take_stacks(STACKS_AT_A_TIME);
            let events = self.take_events();
            self.take_early();
            self.tables_made();
            if stacks == 0 && events == 0 {
                break false;
            }
            if late() {
                break true;
            }
        };
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        is_left
    }

    /// Takes in up to `limit` stacks; returns how many.
    fn take_stacks(&mut self, limit: usize) -> usize {
        let mut taken = 0;
        while taken < limit
            && let Some(record) = self.rings.next_stack()
        {
            self.stack_seen(&record);
            taken += 1;
        }
        taken
    }

    /// Takes in every event; returns how many.
    fn take_events(&mut self) -> usize {
        let mut taken = 0;
        while let Some(event) = self.rings.next_event() {
            if matches!(event.kind, kind::EXEC | kind::EXIT) {
                // The last report of an image needs all of its stacks.
                self.take_stacks(usize::MAX);
                self.take_early();
            }
            self.event(&event);
            taken += 1;
        }
        taken
    }

    /// What was forked while the gates were closed: some of it from a process whose interpreter was still changed.
    pub(super) fn take_last_forks(&mut self) {
        while let Some(event) = self.rings.next_event() {
            if event.kind == kind::FORK {
                self.forked(&event);
            }
        }
    }

    pub(super) fn stack_seen(&mut self, record: &StackRecord) {
        if let Some(line) = stopped::line(record) {
            eprintln!("{line}");
            return;
        }
        let header = &record.header;
        if self.may_be_entered(header.serial) && self.early.len() < MAX_EARLY {
            self.early.push_back((Instant::now(), record.clone()));
            return;
        }
        self.known_stack_seen(record);
    }

    /// Takes in the stacks that came before their process was entered: the two ring buffers are read one after the other, and
    /// one whose gate opened at its fork may have to be looked at twice.
    fn take_early(&mut self) {
        for (came, record) in std::mem::take(&mut self.early) {
            if self.may_be_entered(record.header.serial) && came.elapsed() < EARLY_PATIENCE {
                self.early.push_back((came, record));
            } else {
                self.known_stack_seen(&record);
            }
        }
    }

    /// Whether nobody has been told of an image yet, neither of its beginning nor of its end.
    fn may_be_entered(&self, serial: u32) -> bool {
        !self.images.contains_key(&serial) && !self.retired.contains(serial)
    }

    fn known_stack_seen(&mut self, record: &StackRecord) {
        let header = &record.header;
        if self.stacks.is_full() || !self.images.contains_key(&header.serial) {
            self.stacks_unknown += 1;
            return;
        }
        let python = self.python_frames(record);
        let known =
            |image: &Image| image.code.knows(header.generation, record.frames.iter().copied().map(plain));
        let worth_a_look =
            |image: &Image| !known(image) && image.looked_in_vain.is_none_or(|at| at.elapsed() > LOOK_AGAIN);
        if self.images.get(&header.serial).is_some_and(worth_a_look) && !self.renew_code(header.serial) {
            // An address that is no code: the next stack may well have another such.
            if let Some(image) = self.images.get_mut(&header.serial) {
                image.looked_in_vain = Some(Instant::now());
            }
        }
        let Some(image) = self.images.get(&header.serial) else { return };
        let mappings = image.code.of(header.generation);
        let frames = record.frames.iter().map(|frame| {
            let address = plain(*frame);
            let is_return_address = frame.0 & FRAME_EXACT == 0;
            self.frames.intern(image.pid, image.serial, &mappings, address, is_return_address)
        });
        let native = frames.collect();
        let frames = self.with_python(record, native, &python);
        let walk_end = u8::try_from(header.walk_end).unwrap_or(u8::MAX);
        let python_end = u8::try_from(header.python_end).unwrap_or(u8::MAX);
        self.stacks.insert(header.serial, header.stack_id, Stack { frames, walk_end, python_end });
    }

    pub(super) fn event(&mut self, event: &Event) {
        tracing::trace!("event {event:?}");
        match event.kind {
            kind::FORK => self.forked(event),
            kind::NEWCOMER => self.newcomer(event),
            kind::EXEC | kind::EXIT if self.newcomer_ends(event) => {}
            kind::EXEC => self.replaced_image(event),
            kind::EXIT => {
                let status = i32::try_from(event.extra).unwrap_or(0);
                self.image_ended(event.serial, &exit::describe_wait_status(status));
                // Nobody knew it: more were made at once than could be waited for.
                self.remove_entry(event.tgid, event.serial);
            }
            kind::LINK_MAP => self.link_map_changed(event),
            kind::FREE_LISTS_OPEN => self.close_lists_again(event.serial),
            kind::UNKNOWN_CODE => {
                if !self.renew_code(event.serial) {
                    self.code.asked_in_vain(event.serial);
                }
            }
            _ => self.mapping_event(event),
        }
    }

    /// Reads an image's code again and puts what is new into force. Returns whether anything was.
    pub(super) fn renew_code(&mut self, serial: u32) -> bool {
        let Some(mut image) = self.images.remove(&serial) else { return false };
        let news = image.ended.is_none() && self.read_code(&mut image);
        if news {
            image.has_new_code = true;
            self.code.publish(&mut self.kernel.code, &mut self.frames, &mut image);
        }
        self.images.insert(serial, image);
        news
    }

    /// Unwind tables have been made: the lists that waited for them are made again.
    pub fn tables_made(&mut self) {
        for serial in self.code.take_finished(&mut self.kernel.code) {
            let Some(image) = self.images.get_mut(&serial) else { continue };
            self.code.publish(&mut self.kernel.code, &mut self.frames, image);
        }
    }

    pub(super) fn mapping_event(&mut self, event: &Event) {
        let now = self.now();
        let Some(image) = self.images.get_mut(&event.serial) else { return };
        let intervals = &mut image.intervals;
        match event.kind {
            kind::MAPPED => {
                let label = MappingLabel::of(event.extra >> 32, event.extra & 0xffff_ffff);
                intervals.map(event.address, event.length, event.stack_id, now, label);
            }
            kind::UNMAPPING | kind::REMAPPING => intervals.unmap(event.tid, event.address, event.length),
            kind::UNMAP_FAILED => intervals.unmap_failed(event.tid),
            kind::REMAPPED => intervals.remapped(event.tid, event.address, event.length, event.stack_id, now),
            _ => {}
        }
    }

    /// exec: the old image is reported and dropped, the new one entered as soon as its allocator can be found.
    pub(super) fn replaced_image(&mut self, event: &Event) {
        let executable = std::fs::read_link(format!("/proc/{}/exe", event.tgid));
        let what =
            executable.map_or_else(|_| "another program".to_owned(), |path| path.display().to_string());
        let linker = match self.images.get_mut(&event.serial) {
            Some(image) => std::mem::take(&mut image.linker),
            // A command that has executed its program: nothing was traced before.
            None => return,
        };
        self.image_replaced(event.serial, &what);
        self.replaced.insert(event.tgid, Replaced { since: Instant::now(), linker });
        self.try_new_image(event.tgid);
    }

    pub(super) fn link_map_changed(&mut self, event: &Event) {
        self.renew_code(event.serial);
        // One that we stopped waits for us. Another runs on, and its stacks end early in a library without a table: to look for
        // allocators takes longer than to make most tables.
        let patience = if event.extra != 0 { TABLE_PATIENCE } else { TABLE_PATIENCE_RUNNING };
        if let Some(mut image) = self.images.remove(&event.serial) {
            self.await_tables(&mut image, patience);
            self.images.insert(event.serial, image);
        }
        if self.replaced.contains_key(&event.tgid) {
            self.try_new_image(event.tgid);
        } else if let Err(failure) = self.look_for_new_allocators(event.serial)
            && let Some(image) = self.images.get_mut(&event.serial)
        {
            let note = format!("a library was loaded and its allocator could not be probed: {failure}");
            tracing::warn!("{note}");
            image.notes.push(note);
        }
        self.look_for_python(event.serial, true);
        self.stop_no_more(event.tgid);
        // Whatever came of it: who was stopped goes on. Somebody else may have entered the image meanwhile.
        if event.extra != 0 {
            // SAFETY: a signal to the command that we started and stopped.
            unsafe { libc::kill(i32::try_from(event.tgid).unwrap_or(0), libc::SIGCONT) };
        }
    }

    /// A library that was loaded later may bring its own allocator.
    pub(super) fn look_for_new_allocators(&mut self, serial: u32) -> Result<(), Failure> {
        let Some(mut image) = self.images.remove(&serial) else { return Ok(()) };
        let outcome = if image.has_new_code { self.place_new_allocators(&mut image) } else { Ok(()) };
        self.images.insert(serial, image);
        outcome
    }

    pub(super) fn place_new_allocators(&mut self, image: &mut Image) -> Result<(), Failure> {
        let discovered = match discover::discover(image.pid, &self.costs) {
            Ok(discovered) if discovered.consistent => {
                image.has_new_code = false;
                discovered
            }
            // In the middle of a change: another notification follows.
            Ok(_) => return Ok(()),
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(discover::failure(image.pid, &error)),
        };
        let before = image.probed.len();
        if discovered.plan.layered && !image.layered {
            // Said to the kernel side before the second layer's probes are there.
            image.layered = true;
            if let Some(mut entry) = self.kernel.target(image.pid) {
                entry.flags |= target_flag::LAYERED;
                self.kernel.set_target(image.pid, &entry)?;
            }
        }
        self.place(image, &discovered.plan)?;
        if image.probed.len() > before {
            let note = format!(
                "a library loaded after {:.0} s brought its own allocator; what it allocated before {} probes were placed is not known",
                self.now().as_secs_f64(),
                image.probed.len() - before
            );
            say(format_args!("process {}: {note}", image.pid));
            image.notes.push(note);
        }
        Ok(())
    }

    /// Tries to enter the new image of a process.
    pub(super) fn try_new_image(&mut self, pid: u32) {
        let Some(replaced) = self.replaced.get(&pid) else { return };
        let patience_over = replaced.since.elapsed() > EXEC_PATIENCE;
        let outcome = match (Identity::read(pid), discover::discover(pid, &self.costs)) {
            (Ok(identity), Ok(discovered)) if discovered.consistent && identity.state != RunState::Zombie => {
                let gap = replaced.since.elapsed();
                let linker = self.replaced.remove(&pid).map(|replaced| replaced.linker).unwrap_or_default();
                let entered = self.enter_discovered(identity, &discovered, linker);
                self.note_gap(pid, gap);
                entered
            }
            (Err(error), _) if error.is_gone() => Err(Failure::NoTarget(error.to_string())),
            (_, Err(error)) if patience_over || error.is_gone() => Err(discover::failure(pid, &error)),
            _ => return,
        };
        if let Err(failure) = outcome {
            self.replaced.remove(&pid);
            self.kernel.remove_target(pid);
            self.last_end.get_or_insert_with(|| failure.to_string());
            say(format_args!("process {pid} is not traced any more: {failure}"));
        }
    }

    /// Between exec and the new image's probes nothing was seen, unless the program was stopped for them.
    pub(super) fn note_gap(&mut self, pid: u32, gap: Duration) {
        if self.own_child == Some(pid) {
            return;
        }
        if let Some(image) = self.images.values_mut().find(|image| image.pid == pid && image.ended.is_none())
        {
            image
                .blind
                .push(format!("{:.0} ms after exec, until the probes were placed", gap.as_secs_f64() * 1e3));
        }
    }
}

/// A frame's address, without its mark.
fn plain(frame: AbsoluteAddress) -> AbsoluteAddress {
    AbsoluteAddress(frame.0 & !FRAME_EXACT)
}
