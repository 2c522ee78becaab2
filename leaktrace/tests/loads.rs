//! Promise: every program of the kernel side passes the verifier, whatever is chosen when it is loaded.

use leaktrace::kernel::{Kernel, LoadOptions};
use leaktrace_common::python::closer;
use leaktrace_common::rule;

fn load(options: &LoadOptions) -> Kernel {
    Kernel::load(options).unwrap_or_else(|error| panic!("{options:?}: {error}")).0
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_loads_as_always_and_with_everything_that_can_be_chosen() {
    let usual = LoadOptions { max_live_blocks: 1000, ..LoadOptions::default() };
    assert_eq!(load(&usual).free_list_closer(), closer::NOBODY);
    load(&LoadOptions { log: true, count_hits: true, ..usual.clone() });
    load(&LoadOptions { count_only: true, ..usual.clone() });
    load(&LoadOptions { follow_forks: true, ..usual.clone() });
    load(&LoadOptions { follow_forks: true, watch_host: true, ..usual.clone() });
    load(&LoadOptions { stop_one_in: 3, ..usual });
}

/// Where the kernel permits programs to write to a process, one that does is loaded; elsewhere the daemon writes.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_loads_with_whoever_may_close_free_lists() {
    let options = LoadOptions { close_free_lists: true, ..LoadOptions::default() };
    let closer = load(&options).free_list_closer();
    println!(
        "free lists are closed by {}",
        if closer == closer::KERNEL { "the kernel side" } else { "the daemon" }
    );
    assert_ne!(closer, closer::NOBODY);
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_loads_with_each_rule_switched_off() {
    for (_, rules_off) in rule::ALL {
        load(&LoadOptions {
            rules_off: *rules_off,
            close_free_lists: true,
            follow_forks: true,
            watch_host: true,
            ..LoadOptions::default()
        });
    }
}
