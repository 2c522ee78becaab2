//! Everything that talks to the kernel through BPF: loading, attaching, and reading what the kernel side counted.
//! No other module imports aya.

mod attach;
mod btf;
mod calibrate;
mod code;
mod error;
mod grace;
mod live;
mod load;
mod log;
mod oom;
mod python;
mod rings;
mod seccomp;
mod shared;
mod times;

pub use attach::{AttachPoint, AttachScope, Attachment, close_together, programs};
pub use calibrate::{Measurement, Stub, stubs};
pub use code::{CODE_SLOTS, CodeCapacity, CodeMemory};
pub use error::KernelError;
pub use grace::wait_for_running_programs;
pub use live::Sweeper;
pub use load::{Kernel, LinkMode, LoadOptions};
pub use log::Logger;
pub use oom::OomVictims;
pub use python::PythonMemory;
pub use rings::{Rings, StackRecord};
pub use shared::{ControlPage, RowTable};
pub use times::{ProgramTime, Stopwatch};
