//! The kernel side's own log lines, passed on to ours.

use aya::Ebpf;
use aya_log::EbpfLogger;

/// Reads log lines and passes them on.
pub struct Logger(EbpfLogger<&'static dyn log::Log>);

impl Logger {
    pub(super) fn new(ebpf: &mut Ebpf) -> Option<Self> {
        match EbpfLogger::init(ebpf) {
            Ok(logger) => Some(Self(logger)),
            Err(error) => {
                tracing::debug!("the kernel side's log cannot be read: {error}");
                None
            }
        }
    }

    /// Passes on what has arrived.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
