//! Promise: the daemon notices who grows, traces them, judges what it sees and tells people, all without a hand on the keyboard; what it
//! knows outlives it; and nobody is harmed by it.

mod harness;

use harness::{
    Container, Daemon, Outcomes, Target, Tracer,
    daemon::{self, ACCELERATED, alerts, bounded_to, capabilities_of_the_unit, config, scope, sink},
    interpreters::State,
    listener::{Listener, Reply},
    prometheus::Prometheus,
    service::{self, Leak, Load},
    until,
};
use leaktrace::process::capability::Capability;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// Whether a subject was told of as leaking in that line first of all.
fn tells_of(alert: &Value, subject: &str, line: &str) -> bool {
    let is_subject = alert["subject"]["container"]["id"] == subject;
    let first = alert["suspects"][0]["line"].as_str().unwrap_or_default();
    alert["kind"] == "suspect" && is_subject && (first.starts_with(&format!("{line} ")) || first == line)
}

/// Waits until each of these subjects was told of with its line.
fn await_told(listener: &Listener, wanted: &[(String, Vec<String>)]) -> Outcomes<()> {
    until(|| {
        let alerts = alerts(&listener.requests());
        let told = |(subject, lines): &(String, Vec<String>)| {
            alerts.iter().any(|alert| lines.iter().any(|line| tells_of(alert, subject, line)))
        };
        let missing: Vec<_> = wanted.iter().filter(|wanted| !told(wanted)).collect();
        let sentences: Vec<&Value> = alerts.iter().map(|alert| &alert["sentence"]).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("nobody was told of {missing:?}: {sentences:#?}")),
        }
    })
}

/// Requests a second, over some seconds.
fn pace(load: &mut Target) -> Outcomes<f64> {
    let (begun, before) = (Instant::now(), load.ask_json::<service::Count>("count")?.done);
    sleep(Duration::from_secs(3));
    let done = load.ask_json::<service::Count>("count")?.done - before;
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

fn leak(service: &mut Target) -> Outcomes<Leak> {
    service.ask_json("leaked")
}

/// Three services as they run in production, each in a container; only a pattern of the containers' names is configured.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_services_that_leak_are_noticed_traced_judged_and_told_of() -> Outcomes<()> {
    let mut pool = Container::on("bookworm").named("shop-pool").start("worker_pool.py")?;
    let mut flask = Container::on("bookworm")
        .named("shop-web")
        .packages()
        .start_with("flask_service.py", &["0", "100"])?;
    let port: u16 = flask.service.ask_json("port")?;
    let mut load = flask.execute("load.py", &[&port.to_string(), "1", "0.02"])?;
    let mut django = Container::on("bookworm")
        .named("shop-export")
        .packages()
        .start_with("django_command.py", &["12000", "0.01"])?;
    assert!(django.service.ask_json::<bool>("go")?);

    let listener = Listener::start(&[Reply::status(200)])?;
    let directory = daemon::directory()?;
    let text = config(&scope("shop", "container = [\"shop-*\"]"), &sink(&listener));
    let plain = pace(&mut load)?;
    let mut daemon = Daemon::start(directory.path(), &text)?;
    let watched = pace(&mut load)?;
    daemon.process.await_said(&["shop-web", "traced lightly"])?;
    let lightly = pace(&mut load)?;
    daemon.process.await_said(&["shop-web", "traced exactly"])?;
    let exactly = pace(&mut load)?;
    println!(
        "requests a second: {plain:.0}, watched {watched:.0}, traced lightly {lightly:.0}, exactly {exactly:.0}"
    );

    let line = |service: &mut Target, file: &str, name: &str| -> Outcomes<String> {
        Ok(format!("{file}:{}", leak(service)?.line(name)?))
    };
    let pool_line = line(&mut pool.service, "worker_pool.py", "client")?;
    let floats = line(&mut flask.service, "metrics.py", "floats")?;
    let storage = line(&mut flask.service, "metrics.py", "storage")?;
    let filled = line(&mut django.service, "storage.py", "filled")?;
    let short = |line: &String| vec![line.clone(), format!("archive/{line}")];
    await_told(
        &listener,
        &[
            (pool.id.clone(), vec![pool_line.clone()]),
            (flask.id.clone(), vec![floats.clone(), storage]),
            (django.id.clone(), short(&filled)),
        ],
    )?;
    alerts(&listener.requests()).iter().for_each(|alert| println!("{}", alert["sentence"]));

    // Whoever looks at a dashboard sees it too.
    let prometheus = Prometheus::scraping(daemon.served_at()?)?;
    let grows =
        |series: &Value| series["metric"]["line"].as_str().is_some_and(|line| line.starts_with(&pool_line));
    let series =
        prometheus.await_query("topk(5, deriv(leaktrace_suspect_survivors_bytes[30s])) > 0", grows)?;
    println!("{}", series.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));

    // The history can be read while the daemon runs.
    let report = daemon.report(&["--subject", &pool.id, "--since", "1h"])?;
    println!("{}", report.stdout);
    assert!(report.stdout.contains(&pool_line), "{}{}", report.stdout, report.stderr);
    let outcome = daemon.end()?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    println!("{}", outcome.stderr);
    // Nobody was harmed.
    let count: service::Count = load.ask_json("count")?;
    assert_eq!(count.failed, 0, "{:?}", count.failure);
    assert!(leak(&mut pool.service)?.leaked > 0 && leak(&mut django.service)?.leaked > 0);
    Ok(())
}

/// What a killed daemon had seen is known by the next, its trace ends in an orderly way, and the target does not notice.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_killed_daemon_harms_nobody_and_the_next_goes_on() -> Outcomes<()> {
    let mut target = service::start("flask_service.py", &["0", "200"])?;
    let before: State = target.ask_json("state")?;
    let mut load = Load::start(&mut target, Duration::from_millis(10))?;
    let directory = daemon::directory()?;
    let text = config(&scope("web", &format!("pid = [{}]", target.pid())), "[serve]\nlisten = []\n");
    let mut daemon = Daemon::start(directory.path(), &text)?;
    daemon.process.await_said(&["traced exactly"])?;
    // All but the last interval is safe.
    until(|| match decisions(&daemon)? {
        decisions if decisions.contains("traced exactly") => Ok(()),
        decisions => Err(format!("the decision does not come to the history: {decisions}")),
    })?;
    load.await_more(50)?;
    daemon.process.signal(libc::SIGKILL);
    drop(daemon);
    // The processes that traced for it end by themselves, and put everything back.
    until(|| before.check_unchanged(&target.ask_json("state")?))?;
    // It need not trace anybody to know again who was suspected.
    let untraced = text.replace("[tracing]", "[tracing]\nenabled = false");
    let daemon =
        Daemon::start(directory.path(), &untraced.replace("listen = []", "listen = \"127.0.0.1:0\""))?;
    assert!(decisions(&daemon)?.contains("traced exactly"), "what was decided before the kill is gone");
    daemon.await_answer("/api/v1/subjects/flask_service.py", |_, subject| {
        let subject: Value = serde_json::from_str(subject).unwrap_or_default();
        let is_named = |suspect: &Value| suspect["stack"].as_array().is_some_and(|stack| !stack.is_empty());
        subject["suspects"].as_array().is_some_and(|suspects| suspects.iter().any(is_named))
    })?;
    assert_eq!(daemon.end()?.code(), 0);
    load.check().map(drop)
}

/// What the history says was decided.
fn decisions(daemon: &Daemon) -> Outcomes<String> {
    let history = leaktrace::store::History::open(&daemon.history()).map_err(|e| e.to_string())?;
    let decisions =
        history.decisions(None, leaktrace::store::history::Span::ALL).map_err(|e| e.to_string())?;
    Ok(format!("{decisions:?}"))
}

/// The evidence of a container that is killed for want of memory names the line, although everybody in it is dead.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_container_that_leaks_until_it_is_killed_leaves_evidence() -> Outcomes<()> {
    let doomed = Container::on("bookworm").named("doomed").memory_limit(48 << 20);
    let mut container = doomed.start("worker_pool.py")?;
    let line = format!("worker_pool.py:{}", leak(&mut container.service)?.line("client")?);
    let listener = Listener::start(&[Reply::status(200)])?;
    let directory = daemon::directory()?;
    let text = config(&scope("doomed", "container = [\"doomed-*\"]"), &sink(&listener));
    let daemon = Daemon::start(directory.path(), &text)?;
    let killed = await_alert(&listener, "oom_kill")?;
    let case = std::path::PathBuf::from(killed["evidence"].as_str().ok_or("an alert without evidence")?);
    for file in [
        "report.txt",
        "report.json",
        "stacks.folded",
        "flamegraph.svg",
        "profile.pb.gz",
        "memory.json",
        "README",
    ] {
        assert!(case.join(file).exists(), "{file} is missing in {}", case.display());
    }
    let read = |file: &str| fs::read_to_string(case.join(file)).map_err(|e| format!("{file}: {e}"));
    let suspects: Value = serde_json::from_str(&read("suspects.json")?).map_err(|e| e.to_string())?;
    assert!(read("report.txt")?.contains(&line), "{}", read("report.txt")?);
    assert!(suspects.to_string().contains(&line), "{suspects}");
    let memory: Value = serde_json::from_str(&read("memory.json")?).map_err(|e| e.to_string())?;
    let written = fs::metadata(&case).and_then(|case| case.modified()).map_err(|e| e.to_string())?;
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    println!(
        "evidence lay there {:.2} s after the kill",
        written - memory["kill"]["at_unix_s"].as_f64().unwrap_or(0.0)
    );
    println!("{}", read("README")?);
    assert_eq!(daemon.end()?.code(), 0);
    Ok(())
}

/// Waits for an alert of that kind.
fn await_alert(listener: &Listener, kind: &str) -> Outcomes<Value> {
    until(|| {
        let alerts = alerts(&listener.requests());
        let found = alerts.iter().find(|alert| alert["kind"] == kind).cloned();
        found.ok_or_else(|| format!("no {kind} among {alerts:#?}"))
    })
}

/// Traces a process with no more than these capabilities: whether it ends well with Python's blocks seen, or what was said.
fn traced_with(capabilities: &[Capability], pid: u32) -> Outcomes<()> {
    let outcome = Tracer::of(pid)
        .args(&["--duration", "2s", "--min-age", "0s"])
        .before(bounded_to(capabilities))
        .start()?
        .await_end()?;
    let report = outcome.final_report()?;
    let python = report.only_process()?.python.as_ref().ok_or("no Python was seen")?;
    match python.redirected && python.tracked_blocks > 0 {
        true => Ok(()),
        false => Err(format!("{:?}", report.truth)),
    }
}

/// Of a service that runs as another user, everything is seen with the unit's capabilities, and with none less.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_units_capabilities_are_enough_and_each_is_needed() -> Outcomes<()> {
    const LEAK: &str = "import time\nprint('ready', flush=True)\nkept = []\nwhile True:\n    kept.append([bytes(100) for _ in range(20)])\n    time.sleep(0.01)";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", LEAK]).uid(65_534).gid(65_534).current_dir("/");
    let target = Target::command(command).start()?;
    let granted = capabilities_of_the_unit()?;
    traced_with(&granted, target.pid())?;
    for left_out in &granted {
        let others: Vec<Capability> = granted.iter().filter(|other| *other != left_out).copied().collect();
        let without = traced_with(&others, target.pid());
        let why = without.err().ok_or_else(|| format!("{left_out} is not needed"))?;
        println!("without {left_out}: {why:.300}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_two_daemons_do_not_share_a_history() -> Outcomes<()> {
    let directory = daemon::directory()?;
    let text = config(&scope("me", "pid = [1]"), "[serve]\nlisten = []\n");
    let daemon = Daemon::start(directory.path(), &text)?;
    let second = Tracer::bare().args(&["daemon", "--config"]).arg(daemon.config()).run()?;
    assert_eq!(second.code(), 1, "{}", second.stderr);
    let pid = daemon.process.pid().to_string();
    assert!(second.stderr.contains(&pid), "it names the other: {}", second.stderr);
    assert_eq!(daemon.end()?.code(), 0);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_configuration_is_read_anew_whole_or_not_at_all() -> Outcomes<()> {
    let (first, second) = (Target::start("exact")?, Target::start("exact")?);
    let directory = daemon::directory()?;
    let text = |pid: u32| config(&scope("one", &format!("pid = [{pid}]")), "[serve]\nlisten = []\n");
    let mut daemon = Daemon::start(directory.path(), &text(first.pid()))?;
    await_known(&daemon, first.pid())?;
    daemon.configure("intervall = \"10s\"\n")?;
    daemon.process.signal(libc::SIGHUP);
    let said = daemon.process.await_said(&["stays as it was"])?;
    assert!(said.contains("\"interval\""), "{said}");
    daemon.configure(&text(second.pid()))?;
    daemon.process.signal(libc::SIGHUP);
    daemon.process.await_said(&["was read anew"])?;
    let known = await_known(&daemon, second.pid())?;
    assert!(known.contains(&first.pid()), "what was seen before is not forgotten");
    assert_eq!(daemon.end()?.code(), 0);
    Ok(())
}

/// Waits until the history knows a process; returns everybody that it knows.
fn await_known(daemon: &Daemon, pid: u32) -> Outcomes<BTreeSet<u32>> {
    until(|| {
        let known = subjects(daemon)?;
        if known.contains(&pid) { Ok(known) } else { Err(format!("{pid} is not among {known:?}")) }
    })
}

/// PIDs of everybody that the history knows.
fn subjects(daemon: &Daemon) -> Outcomes<BTreeSet<u32>> {
    let history = leaktrace::store::History::open(&daemon.history()).map_err(|e| e.to_string())?;
    let subjects = history.subjects().map_err(|e| e.to_string())?;
    Ok(subjects.into_iter().map(|subject| subject.pid).collect())
}

#[test]
fn the_example_configuration_is_right_and_shows_every_default() {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/leaktrace.toml")).expect("there");
    let shown = leaktrace::watch::Config::parse(&text).expect("right as it is");
    // What is commented out is the default: read without the comment signs, it must say the same.
    let is_key = |line: &str| {
        line.trim_start_matches('#').split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        })
    };
    let mut tables = String::new();
    let mut skipped = false;
    for line in text.lines() {
        let bare = line.trim_start_matches('#').trim_start();
        if bare.starts_with('[') {
            // Examples of lists are no defaults.
            skipped = bare.starts_with("[[") && line.starts_with('#');
        }
        if !skipped
            && (is_key(line) || line.starts_with('['))
            && !bare.starts_with("host =")
            && !bare.starts_with("label =")
            && !bare.starts_with("exclude =")
            && !bare.starts_with("min_age =")
        {
            tables.push_str(line.trim_start_matches('#'));
            tables.push('\n');
        }
    }
    assert_eq!(leaktrace::watch::Config::parse(&tables).expect("right without comments"), shown, "{tables}");
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_done() -> Outcomes<()> {
    let directory = daemon::directory()?;
    let file = directory.path().join("leaktrace.toml");
    for (text, told) in [
        ("", "[[scope]]"),
        ("interval = 10\n", "10s"),
        ("[tracing]\nmax_slowdwn = 2\n", "max_slowdown"),
        ("[[scope]]\nname = \"x\"\nall = \"yes\"\n", "line 3"),
        ("[[alerts.sink]]\nname = \"x\"\n", "goes nowhere"),
        ("[serve]\nlisten = \"0.0.0.0:80\"\n[[scope]]\nname = \"x\"\nall = true\n", "0.0.0.0"),
        ("not toml", "line 1"),
    ] {
        fs::write(&file, text).map_err(|e| e.to_string())?;
        let outcome = Tracer::bare().args(&["daemon", "--check", "--config"]).arg(&file).run()?;
        assert_eq!(outcome.code(), 2, "{text}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{text}: {}", outcome.stderr);
    }
    let good = format!("{ACCELERATED}{}", scope("all", "all = true"));
    fs::write(&file, good).map_err(|e| e.to_string())?;
    let outcome = Tracer::bare().args(&["daemon", "--check", "--config"]).arg(&file).run()?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    Ok(())
}
