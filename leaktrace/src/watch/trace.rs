//! The running trace of a subject: a session and the task that listens to it, so that the daemon's loop has one channel to look at
//! however many are traced.

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{
    report::model::Truth,
    session::{Event, Session, SessionError, SessionPlan},
    watched::SessionInfo,
};

/// What a session's task is told.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Report now.
    Ask,
    /// End, with a last report.
    End,
}

/// Something that came from a session: of which, and what.
pub type Heard = (u64, Event);

/// See the module. Dropped, it tells its session to end.
#[derive(Debug)]
pub struct Trace {
    /// What the history knows of it.
    pub info: SessionInfo,
    /// What it has lost so far, and its own costs, as last reported.
    pub truth: Truth,
    orders: UnboundedSender<Order>,
}

impl Trace {
    /// Starts one.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn start(
        info: SessionInfo,
        plan: &SessionPlan,
        heard: tokio::sync::mpsc::Sender<Heard>,
    ) -> Result<Self, SessionError> {
        let mut session = Session::start(plan)?;
        let (orders, mut ordered) = unbounded_channel();
        let id = info.id;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = session.next() => match event {
                        Some(event) => if heard.send((id, event)).await.is_err() { return },
                        None => return,
                    },
                    order = ordered.recv() => match order {
                        Some(Order::Ask) => session.ask(),
                        Some(Order::End) => session.end(),
                        // Dropped: the session goes with this task, and is told to end by that.
                        None => return,
                    },
                }
            }
        });
        Ok(Self { info, truth: Truth::default(), orders })
    }

    /// Asks for a report now.
    pub fn ask(&self) {
        let _ = self.orders.send(Order::Ask);
    }

    /// Tells it to end.
    pub fn end(&self) {
        let _ = self.orders.send(Order::End);
    }
}
