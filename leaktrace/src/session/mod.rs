//! A trace in a process of its own: `leaktrace trace`, started by the daemon or the live view, which reads its reports from a pipe.
//! What tracing may do to a program (wait, take memory, be killed) it then does not do to whoever watches; kernel maps and
//! tables go with it; and a starter that dies takes the trace down in an orderly way.

mod child;
mod plan;
pub mod prediction;
pub mod wire;

pub use child::{Event, Session, SessionError};
pub use plan::SessionPlan;
