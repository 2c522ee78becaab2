//! Promise: a process that is killed for want of memory is named while it dies, and what was known of it is on disk soon after.

mod harness;

use harness::{Container, Outcomes, Target, cgroup::TestCgroup, longest_wait, mounts};
use leaktrace::{
    report::model::{ProcessReport, Report},
    watch::{
        ScopeConfig, Survey,
        evidence::{EvidenceConfig, Facts, Keeper},
        oom::{OomCounts, OomKill, OomWatch},
    },
    watched::{MemoryReading, Subject, SubjectState},
};
use std::{
    ffi::CString,
    fs,
    path::Path,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

const MIB: u64 = 1 << 20;
const REPORTS: [&str; 5] = ["report.txt", "stacks.folded", "profile.pb.gz", "report.json", "flamegraph.svg"];

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn runtime() -> Outcomes<Runtime> {
    Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())
}

/// The kill of that process; others on this machine are none of this test's business.
async fn kill_of(watch: &mut OomWatch, pid: u32) -> Outcomes<OomKill> {
    let killed = async {
        loop {
            let kill = watch.next().await;
            if kill.pid == pid {
                return kill;
            }
        }
    };
    timeout(longest_wait(), killed).await.map_err(|_| format!("nobody told of the end of {pid}"))
}

fn limited(name: &str) -> Outcomes<(TestCgroup, String)> {
    let path = format!("leaktrace-oom-{}/{name}", std::process::id());
    Ok((TestCgroup::limited(&path, 40 * MIB)?, format!("/{path}")))
}

fn survey(scope: &str) -> Outcomes<Survey> {
    let scope: ScopeConfig =
        toml::from_str(&format!("name = \"test\"\n{scope}")).map_err(|e| e.to_string())?;
    Survey::new(&[scope]).map(|survey| survey.except(u32::MAX)).map_err(|e| e.to_string())
}

fn only(survey: &mut Survey) -> Outcomes<(Subject, MemoryReading)> {
    survey.look(now()).pop().ok_or_else(|| "nobody is in scope".to_owned())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_two_victims_in_a_row_are_named_with_what_they_had() -> Outcomes<()> {
    let (cgroup, path) = limited("two")?;
    runtime()?.block_on(async {
        let mut watch = OomWatch::start().map_err(|e| e.to_string())?;
        for _ in 0..2 {
            let mut target = Target::start("hungry")?;
            cgroup.take(target.pid())?;
            let before = now();
            target.say("devour")?;
            let kill = kill_of(&mut watch, target.pid()).await?;
            assert!(kill.at_unix_s >= before - 1.0 && kill.at_unix_s <= now() + 1.0, "{kill:?}");
            assert_eq!(kill.name, "hungry");
            // It may have left its cgroup before it was asked.
            assert!(kill.cgroup.as_ref().is_none_or(|cgroup| *cgroup == path), "{kill:?}");
            // Kernels before 6.9 do not say.
            if let Some(memory) = kill.memory {
                assert!(memory.anonymous_bytes > 20 * MIB && memory.anonymous_bytes < 44 * MIB, "{memory:?}");
                assert!(memory.total_bytes >= memory.anonymous_bytes, "{memory:?}");
            }
        }
        Ok(())
    })
}

/// The way that is left where BPF is not permitted.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_kill_is_counted_by_the_cgroup_it_happened_in() -> Outcomes<()> {
    let (cgroup, path) = limited("counted")?;
    let mut survivor = Target::start("hungry")?;
    cgroup.take(survivor.pid())?;
    let mut survey = survey(&format!("cgroup = [\"{path}\"]"))?;
    let mut counts = OomCounts::default();
    assert_eq!(counts.look(&survey.look(now())), []);
    let mut victim = Target::start("hungry")?;
    cgroup.take(victim.pid())?;
    victim.say("devour")?;
    victim.finish()?;
    let risen = counts.look(&survey.look(now()));
    assert_eq!(risen.len(), 1, "{risen:?}");
    assert_eq!((risen[0].subject.as_str(), risen[0].kills), (format!("cgroup:{path}").as_str(), 1));
    assert_eq!(counts.look(&survey.look(now())), []);
    let _: u32 = survivor.ask_json("touch 1")?;
    Ok(())
}

/// All that the victim could be asked for was asked near its limit.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_container_that_is_killed_leaves_evidence() -> Outcomes<()> {
    let container = Container::on("bookworm").memory_limit(96 * MIB);
    let mut container = container.start("hungry.py")?;
    let mut survey = survey(&format!("container = [\"{}\"]", container.id))?;
    let directory = TempDir::new().map_err(|e| e.to_string())?;
    let keeper = Keeper::new(directory.path(), &EvidenceConfig::default());
    runtime()?.block_on(async {
        let mut watch = OomWatch::start().map_err(|e| e.to_string())?;
        let _: Option<u32> = container.service.ask_json("touch 64")?;
        let (subject, memory) = only(&mut survey)?;
        assert!(
            memory.cgroup.and_then(|own| own.share_of_limit()).is_some_and(|share| share > 0.6),
            "{memory:?}"
        );
        let report = Some(Arc::new(Report::default()));
        let state = SubjectState { subject, memory, report, ..SubjectState::default() };
        let facts = Facts { at_unix_s: now(), memory: vec![memory], ..Facts::default() };
        keeper.write("near-limit", &state, &facts).map_err(|e| e.to_string())?;

        container.service.say("devour")?;
        let kill = kill_of(&mut watch, container.service_pid).await?;
        assert!(kill.name.starts_with("python3"), "{kill:?}");
        survey.look(now());
        assert_eq!(
            survey.subject_of(kill.pid),
            Some(state.subject.key.as_str()),
            "whether or not it is gone"
        );
        let began = Instant::now();
        let facts = Facts { at_unix_s: now(), kill: Some(kill), memory: vec![memory], ..Facts::default() };
        let case = keeper.write("oom-kill", &state, &facts).map_err(|e| e.to_string())?;
        println!("evidence was written within {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
        complete(&case)
    })
}

fn complete(case: &Path) -> Outcomes<()> {
    for file in REPORTS.into_iter().chain(["README"]) {
        assert!(case.join(file).exists(), "{file}");
    }
    let text = fs::read_to_string(case.join("memory.json")).map_err(|e| e.to_string())?;
    let known: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let bytes = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    assert!(bytes(&known["process"]["sums"]["Anonymous"]) >= 64 * MIB, "{text}");
    assert!(bytes(&known["process"]["largest"][0]["amounts"]["anonymous"]) >= 60 * MIB, "{text}");
    assert!(known["cgroup_statistics"].as_object().is_some_and(|pairs| pairs.len() > 5), "{text}");
    assert!(known["kill"]["pid"].as_u64().is_some(), "{text}");
    Ok(())
}

/// On a file system of its own, that only this test's thread sees.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_full_disk_gets_what_fits_and_says_what_did_not() -> Outcomes<()> {
    let directory = TempDir::new().map_err(|e| e.to_string())?;
    let place = directory.path().to_owned();
    let outcome = std::thread::spawn(move || on_a_small_disk(&place)).join();
    outcome.map_err(|_| "the test's own thread failed")?
}

fn on_a_small_disk(place: &Path) -> Outcomes<()> {
    mounts::own().map_err(|e| e.to_string())?;
    let path = CString::new(place.to_string_lossy().as_bytes()).map_err(|e| e.to_string())?;
    mounts::mount(c"tmpfs", &path, c"tmpfs", c"size=256k").map_err(|e| e.to_string())?;
    let keeper = Keeper::new(place, &EvidenceConfig::default());
    // As JSON, that alone takes more than there is.
    let report = Report { processes: vec![ProcessReport::default(); 1000], ..Report::default() };
    let state = SubjectState { report: Some(Arc::new(report)), ..SubjectState::default() };
    let facts = Facts { at_unix_s: now(), ..Facts::default() };
    let case = keeper.write("near-limit", &state, &facts).map_err(|e| e.to_string())?;
    let readme = fs::read_to_string(case.join("README")).map_err(|e| e.to_string())?;
    assert!(case.join("suspects.json").exists() && case.join("memory.json").exists());
    let (_, missing) = readme.split_once("Not written: ").ok_or("nothing is missing")?;
    for file in REPORTS {
        assert_ne!(case.join(file).exists(), missing.contains(file), "{file}: {missing}");
    }
    assert!(missing.contains("report.json"), "{missing}");

    assert!(fs::write(place.join("ballast"), vec![1; 256 << 10]).is_err(), "the disk is full");
    let refused = keeper.write("near-limit", &state, &facts).map_err(|error| error.to_string());
    assert!(refused.as_ref().is_err_and(|text| text.contains("free space there")), "{refused:?}");
    let left = fs::read_dir(place).map_err(|e| e.to_string())?.flatten();
    assert_eq!(left.count(), 2, "the ballast and the first case: nothing half-written");
    Ok(())
}
