//! Closes links without holding up the event loop: each waits some 40 ms for programs that may still run.

use std::{
    collections::HashSet,
    sync::mpsc::{self, Receiver, Sender},
    thread::JoinHandle,
};

use crate::kernel::{Attachment, close_together};

/// What is to be closed.
struct Parcel {
    /// Closed before the rest: see [`crate::kernel::Kernel::fence`].
    fence: Attachment,
    links: Vec<Attachment>,
    /// Serials of the images that are told when it is done.
    serials: HashSet<u32>,
}

/// See the module. Dropping it waits until everything is closed.
pub struct LinkCloser {
    parcels: Option<Sender<Parcel>>,
    finished: Receiver<HashSet<u32>>,
    thread: Option<JoinHandle<()>>,
}

impl Default for LinkCloser {
    fn default() -> Self {
        let (parcels, incoming) = mpsc::channel::<Parcel>();
        let (done, finished) = mpsc::channel();
        let work = move || {
            for parcel in incoming {
                drop(parcel.fence);
                close_together(parcel.links);
                if !parcel.serials.is_empty() {
                    // Nobody listens any more at the end.
                    let _ = done.send(parcel.serials);
                }
            }
        };
        let thread = std::thread::Builder::new().name("link closer".to_owned()).spawn(work);
        Self { parcels: Some(parcels), finished, thread: thread.ok() }
    }
}

impl LinkCloser {
    /// Closes links soon.
    pub fn close(&self, links: Vec<Attachment>) {
        if links.iter().any(|attachment| !attachment.is_empty()) {
            self.send(Parcel { fence: Attachment::default(), links, serials: HashSet::new() });
        }
    }

    /// Closes links once every hit under way is done with; [`Self::take_finished`] tells afterwards.
    pub fn close_behind(&self, fence: Attachment, links: Vec<Attachment>, serials: HashSet<u32>) {
        self.send(Parcel { fence, links, serials });
    }

    fn send(&self, parcel: Parcel) {
        // Where there is no thread they are closed here and now, with the parcel that comes back.
        if let Some(parcels) = &self.parcels
            && let Err(mpsc::SendError(parcel)) = parcels.send(parcel)
        {
            drop(parcel);
        }
    }

    /// The images whose links have been closed since the last call.
    pub fn take_finished(&self) -> HashSet<u32> {
        self.finished.try_iter().flatten().collect()
    }

    /// Waits until everything has been closed. Nothing can be closed by it afterwards.
    pub fn finish(&mut self) {
        self.parcels = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for LinkCloser {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_reported_once_and_the_end_waits_for_it() {
        let mut closer = LinkCloser::default();
        closer.close(vec![Attachment::default()]);
        closer.close_behind(Attachment::default(), Vec::new(), HashSet::from([3, 4]));
        closer.finish();
        assert_eq!(closer.take_finished(), HashSet::from([3, 4]));
        assert!(closer.take_finished().is_empty());
    }
}
