//! Promise: a container is all that needs to be named. In real containers of several distributions, started by real
//! runtimes as engines start them, the line that leaks is ranked first, and every process is named by both of its PIDs.

mod harness;

use harness::{
    Container, Found, Outcomes,
    container::{Cgroup, Runtime},
    service::Leak,
};

/// Traces, and fails unless the service's leaking line comes first.
fn check(container: &mut Container, target: &[&str]) -> Outcomes<Found> {
    let found = Found::by_one_command(target, "2s", 6, &[])?;
    let leak: Leak = container.service.ask_json("leaked")?;
    found.check_first("worker_pool.py", leak.line("client")?)?;
    Ok(found)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_try_all() -> Outcomes<()> {
    for (suite, runtime, cgroup, options) in [
        ("bookworm", Runtime::Crun, Cgroup::Own, ""),
        ("trixie", Runtime::Runc, Cgroup::Own, "s"),
        ("bookworm", Runtime::Runc, Cgroup::Unified, "r"),
        ("trixie", Runtime::Crun, Cgroup::None, "n"),
    ] {
        let mut builder = Container::on(suite).runtime(runtime).cgroup(cgroup);
        if options.contains('s') {
            builder = builder.seccomp();
        }
        if options.contains('r') {
            builder = builder.read_only();
        }
        if options.contains('n') {
            builder = builder.nested_pid_namespace();
        }
        let mut container = builder.start("worker_pool.py")?;
        println!(
            "{suite} {runtime:?} {cgroup:?} {options} {} {} {:?}",
            container.pid,
            container.service_pid,
            container.processes()
        );
        println!("{}", std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid)).unwrap());
        let pid = container.service_pid.to_string();
        match check(&mut container, &["-p", &pid]) {
            Ok(found) => println!("good {}", found.text.lines().rev().take(3).collect::<Vec<_>>().join("\n")),
            Err(e) => println!("BAD {e}"),
        }
    }
    Ok(())
}
