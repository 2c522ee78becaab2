//! Entering forked processes. One that has executed nothing since has its parent's memory, so what was found in its parent holds for
//! it: probes, interpreter, code. It is compared where it could differ, and entered in a millisecond instead of twenty.

use std::{sync::Arc, time::Instant};

use leaktrace_common::record::{MAX_SHARED_LINKS, Target, gate};

use super::{
    entering::{TABLE_PATIENCE, target},
    newcomers::Newcomer,
    placement::Placed,
    python::Legacy,
    tracer::Tracer,
};
use crate::{
    cli::Failure,
    kernel::KernelError,
    process::{Identity, Mapping},
    python::Inherited,
    target::image::Image,
};

/// What a forked process has of its parent's image.
pub(super) struct Parentage {
    /// The parent.
    pub(super) pid: u32,
    /// Its probes.
    pub(super) points: Vec<Placed>,
    /// Those that it shares.
    pub(super) links: [u16; MAX_SHARED_LINKS],
    code: Vec<Mapping>,
    r_debug: u64,
    layered: bool,
    allocator_text: (u64, u64),
    python: Legacy,
}

impl Parentage {
    /// `None`: the parent has ended, or is not known well enough yet.
    fn of(parent: &Image, child: u32) -> Option<Self> {
        let python = parent.python.legacy(parent.pid, child)?;
        parent.ended.is_none().then(|| Self {
            pid: parent.pid,
            points: parent.points.clone(),
            links: parent.links,
            code: parent.code_files().cloned().collect(),
            r_debug: parent.r_debug,
            layered: parent.layered,
            allocator_text: parent.allocator_text,
            python,
        })
    }

    /// Neither has loaded a library since they parted.
    fn has_code_of(&self, child: &Image) -> bool {
        let place = |mapping: &Mapping| (mapping.start, mapping.end, mapping.offset, mapping.inode);
        self.code.iter().map(place).eq(child.code_files().map(place))
    }
}

impl Tracer {
    /// Enters a forked process as the copy of its parent that it is. `false`: it has to be looked at for itself.
    pub(super) fn enter_copy(&mut self, identity: &Identity, newcomer: &Newcomer) -> Result<bool, Failure> {
        let begun = Instant::now();
        let parent = self.images.get(&newcomer.image);
        let Some(parent) = parent.and_then(|parent| Parentage::of(parent, identity.pid)) else {
            return Ok(false);
        };
        let mut image = Image::new(newcomer.serial, identity.clone());
        image.forked = true;
        image.r_debug = parent.r_debug;
        image.layered = parent.layered;
        image.allocator_text = parent.allocator_text;
        self.look_at(&mut image);
        if !parent.has_code_of(&image) {
            return Ok(false);
        }
        let from = parent.pid;
        match self.place_copy(&mut image, parent) {
            Ok(true) => {}
            failed => {
                tracing::debug!("process {} is not entered as a copy: {failed:?}", image.pid);
                self.kernel.python.release_slot(image.python_slot);
                self.code.forget(&mut self.kernel.code, image.serial);
                return Ok(false);
            }
        }
        if !self.open_gate(&image)? {
            // It has executed something or ended just now, which an event is about to tell.
            self.kernel.python.release_slot(image.python_slot);
            self.code.forget(&mut self.kernel.code, image.serial);
            return Err(Failure::NoTarget(format!("process {} has changed", image.pid)));
        }
        let took = begun.elapsed().as_secs_f64() * 1e3;
        let probes = image.points.len();
        self.tell_of(
            &image,
            &format!("forked from {from}, {probes} probes as there, placed in {took:.1} ms"),
        );
        self.now_traced(image);
        Ok(true)
    }

    /// Everything but the gate. `false`: its interpreter is not as its parent's was.
    fn place_copy(&mut self, image: &mut Image, parent: Parentage) -> Result<bool, KernelError> {
        self.code.publish(&mut self.kernel.code, &mut self.frames, image);
        self.attach_as_in(image, &parent)?;
        let taken = self.inherit_python(image, parent.python).is_some();
        if taken {
            self.await_tables(image, TABLE_PATIENCE);
        }
        Ok(taken)
    }

    /// Opens the gate of an image whose entry the kernel side has made. `false`: it is not in force any more.
    fn open_gate(&mut self, image: &Image) -> Result<bool, Failure> {
        let Some(entry) = self.entry_in_force(image.pid, image.serial) else { return Ok(false) };
        let new = target(image, gate::OPEN);
        let entry = Target { flags: entry.flags | new.flags, generation: entry.generation, ..new };
        self.kernel.set_target(image.pid, &entry)?;
        Ok(true)
    }

    /// What the kernel side holds of a process, if its serial is that one and it has not executed anything or ended.
    pub(super) fn entry_in_force(&self, pid: u32, serial: u32) -> Option<Target> {
        self.kernel.target(pid).filter(|entry| entry.serial == serial && entry.gate != gate::RETIRED)
    }

    /// The image that a forked process will be compared with: its parent, or the next one above that is traced. And what it has
    /// inherited of what was written there.
    pub(super) fn ancestry(&self, parent: u32) -> (u32, Option<Arc<Inherited>>) {
        if let Some(image) = self.images.get(&parent) {
            return (parent, image.python.inherited.clone());
        }
        let above = self.newcomers.by_serial(parent).filter(|above| above.executed.is_none());
        above.map_or((0, None), |above| (above.image, above.inherited.clone()))
    }
}
