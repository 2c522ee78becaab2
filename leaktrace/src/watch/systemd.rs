//! What a service manager is told (`sd_notify`). Without one nobody listens, which is no error.

use rustix::time::{ClockId, clock_gettime};
use sd_notify::NotifyState;

/// The daemon watches.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration anew; [`ready`] ends that.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    tell(&[NotifyState::Reloading, NotifyState::MonotonicUsec(microseconds)]);
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Its loop turns: to be told at least twice in `WatchdogSec`.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}
