//! Processes that run in the memory of a traced one and live on (vfork that takes its time, `CLONE_VM`): whatever they allocate is
//! that one's. Probes of one process do not fire in another, so they get their own.

use std::collections::HashMap;

use leaktrace_common::record::{Target, gate};

use super::{newcomers::Newcomer, tracer::Tracer};
use crate::kernel::Attachment;

/// Most of them that have probes at once.
const MAX_SHARERS: usize = 1024;

struct Sharer {
    image: u32,
    links: Attachment,
}

/// See the module.
#[derive(Default)]
pub(super) struct Sharers {
    by_pid: HashMap<u32, Sharer>,
}

impl Sharers {
    /// One has ended, or executed something; its links are to be closed.
    pub(super) fn remove(&mut self, pid: u32) -> Option<Attachment> {
        self.by_pid.remove(&pid).map(|sharer| sharer.links)
    }

    /// Those of an image.
    fn of(&self, serial: u32) -> Vec<u32> {
        self.by_pid.iter().filter(|(_, sharer)| sharer.image == serial).map(|(pid, _)| *pid).collect()
    }

    /// Gives up all their links.
    pub(super) fn take_all(&mut self) -> Vec<Attachment> {
        self.by_pid.drain().map(|(_, sharer)| sharer.links).collect()
    }
}

impl Tracer {
    /// A process that runs in the memory of an image has lived long enough to be worth its probes.
    pub(super) fn join_memory(&mut self, pid: u32, newcomer: Newcomer) {
        // Whose serial it has, in whose memory it runs.
        let image = self.images.get(&newcomer.serial).filter(|image| image.ended.is_none());
        if image.is_none() && self.newcomers.by_serial(newcomer.serial).is_some() {
            self.look_again(pid, newcomer);
            return;
        }
        let (Some(image), Some(entry)) = (image, self.kernel.target(pid)) else {
            self.left_alone(pid);
            return;
        };
        if entry.gate == gate::RETIRED || self.newcomers.sharers.by_pid.len() >= MAX_SHARERS {
            // An event tells what became of it.
            self.look_again(pid, newcomer);
            return;
        }
        let serial = image.serial;
        match self.attach_to_sharer(pid, serial) {
            Ok(links) => {
                let entry = Target { serial, gate: gate::OPEN, ..entry };
                if let Err(error) = self.kernel.set_target(pid, &entry) {
                    tracing::warn!("{error}");
                }
                self.newcomers.sharers.by_pid.insert(pid, Sharer { image: serial, links });
                self.newcomers.count_sharer();
            }
            Err(reason) => {
                if let Some(image) = self.images.get_mut(&serial) {
                    image.note(format!(
                        "process {pid} runs in its memory, and what it allocates there is not seen: {reason}"
                    ));
                }
            }
        }
    }

    /// An image has ended: those that run in its memory go on alone.
    pub(super) fn release_sharers(&mut self, serial: u32) {
        let mut pids = self.newcomers.sharers.of(serial);
        pids.extend(self.newcomers.waiting_in_memory_of(serial));
        for pid in pids {
            let links = self.newcomers.sharers.remove(pid);
            self.placements.closer.close(links.into_iter().collect());
            self.left_alone(pid);
        }
    }
}
