//! Kernel-side diagnostics: off unless asked for, then within a budget that the daemon refills every second.

use crate::{config, maps::CONTROL, sync};

/// Whether one more line may be written now.
#[inline(always)]
pub fn may_log() -> bool {
    if config::log_enabled() == 0 {
        return false;
    }
    let Some(control) = CONTROL.get_ptr_mut(0) else { return false };
    // SAFETY: a map value. The budget may fall a little below zero when several CPUs ask at once.
    unsafe {
        let budget = &raw mut (*control).log_budget;
        if budget.read_volatile() <= 0 {
            return false;
        }
        sync::add_i64(budget, -1);
    }
    true
}
