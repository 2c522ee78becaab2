//! What reports of many processes look like, each by itself and seen as one, as golden files; and that nothing gets lost
//! or counted twice on the way.

mod sample_report;

use leaktrace::report::group::group;
use leaktrace::report::merge::units;
use leaktrace::report::model::{
    AgeClass, Amount, Change, Frame, GroupBy, MergeBy, ProcessReport, Report, SiteReport, SortKey,
};
use leaktrace::report::text::{TextOptions, render};
use leaktrace::report::{OutputFormat, folded, json, pprof};
use leaktrace::target::Container;
use proptest::prelude::*;
use sample_report::containers::{containers, crowd};

fn text(report: &Report, options: TextOptions) -> String {
    written(|out| render(report, &options, out))
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory can be written to");
    String::from_utf8(out).expect("this format is text")
}

fn verbose() -> TextOptions {
    TextOptions { verbose: true, ..TextOptions::default() }
}

#[test]
fn text_of_each_process() {
    insta::assert_snapshot!(text(&containers(MergeBy::Process), TextOptions::default()));
}

#[test]
fn text_by_container() {
    insta::assert_snapshot!(text(&containers(MergeBy::Container), TextOptions::default()));
}

#[test]
fn text_by_container_verbose() {
    insta::assert_snapshot!(text(&containers(MergeBy::Container), verbose()));
}

#[test]
fn text_of_all_by_line() {
    let report = Report { group_by: GroupBy::Line, ..containers(MergeBy::All) };
    insta::assert_snapshot!(text(&report, TextOptions::default()));
}

#[test]
fn text_of_a_crowd() {
    insta::assert_snapshot!(text(&crowd(500, MergeBy::Process), TextOptions::default()));
}

#[test]
fn text_of_a_crowd_as_one() {
    insta::assert_snapshot!(text(&crowd(500, MergeBy::All), TextOptions::default()));
}

#[test]
fn folded_stacks() {
    let each = written(|out| folded::write(&containers(MergeBy::Process), out));
    let by_container = written(|out| folded::write(&containers(MergeBy::Container), out));
    let all = written(|out| folded::write(&containers(MergeBy::All), out));
    insta::assert_snapshot!([each, by_container, all].join("----\n"));
}

#[test]
fn json_by_container() {
    insta::assert_snapshot!(written(|out| json::write_pretty(&containers(MergeBy::Container), out)));
}

#[test]
fn the_title_of_a_flamegraph_says_who() {
    let title = |report: &Report| {
        let drawn = written(|out| OutputFormat::Svg.write(report, out));
        let title = drawn.split("id=\"title\"").nth(1).and_then(|rest| rest.split(['<', '>']).nth(1));
        title.expect("a title").to_owned()
    };
    let mut report = containers(MergeBy::Container);
    assert!(title(&report).starts_with("5 processes: 1.1 MiB in 2,040 blocks"), "{}", title(&report));
    report.processes.retain(|process| process.name == "gunicorn");
    assert!(title(&report).starts_with("container web: 4 processes: 63.3 KiB"), "{}", title(&report));
    report.merge = MergeBy::All;
    assert!(title(&report).starts_with("gunicorn: 4 processes: 63.3 KiB"), "{}", title(&report));
}

/// pprof merges and filters by itself: whatever is asked to be merged, its samples are those of single processes.
#[test]
fn a_profile_keeps_processes_apart_by_labels() {
    let each = pprof::profile(&containers(MergeBy::Process));
    assert_eq!(pprof::profile(&containers(MergeBy::All)), each);
    let text = |index: i64| each.string_table[usize::try_from(index).expect("an index")].as_str();
    let labels = |pid: i64| -> Vec<(&str, String)> {
        let labels = each.sample.iter().map(|sample| &sample.label);
        let of_process = labels
            .into_iter()
            .find(|labels| labels.iter().any(|label| label.num == pid && text(label.key) == "pid"));
        let of_process = of_process.expect("a sample of the process");
        of_process
            .iter()
            .map(|label| {
                (text(label.key), if label.str == 0 { label.num.to_string() } else { text(label.str).into() })
            })
            .collect()
    };
    let worker = labels(4711);
    for expected in [
        ("pid", "4711"),
        ("container_pid", "7"),
        ("container", "web"),
        ("container_id", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        ("pod", "3f1c2a90-8a41-4f0e-9d7e-0c6d3b5a7e11"),
    ] {
        assert!(worker.contains(&(expected.0, expected.1.to_owned())), "{expected:?} not in {worker:?}");
    }
    assert!(labels(5001).contains(&("container", "fedcba987654".to_owned())));
}

fn any_amount() -> impl Strategy<Value = Amount> {
    (0..1_000_000u64, 0..1_000u64).prop_map(|(bytes, blocks)| Amount { bytes, blocks })
}

/// One of few frames, so that stacks meet: named and unnamed ones, at any address.
fn any_frame() -> impl Strategy<Value = Frame> {
    (0..3u32, any::<bool>(), any::<bool>(), 0..9u64).prop_map(|(which, named, lines, address)| Frame {
        function: named.then(|| format!("f{which}")),
        file: lines.then(|| format!("{which}.c")),
        line: lines.then_some(which),
        object: Some("/lib/a.so".into()),
        file_offset: Some(u64::from(which)),
        address,
        ..Frame::default()
    })
}

fn any_site() -> impl Strategy<Value = SiteReport> {
    let amounts = (any_amount(), any_amount(), any_amount(), -1_000..1_000i64);
    let ages = prop::collection::vec((0..50u32, 0..20u32, any_amount()), 0..5);
    (amounts, ages, prop::collection::vec(any_frame(), 0..4), 0..2usize).prop_map(
        |((live, survivors, allocated, change), ages, frames, domain)| SiteReport {
            domain: ["malloc", "mmap"][domain].into(),
            live,
            survivors,
            allocated,
            survivors_change: Change { bytes: change, blocks: -change },
            ages: ages
                .into_iter()
                .map(|(from, width, live)| AgeClass {
                    youngest_s: from.into(),
                    oldest_s: (from + width).into(),
                    live,
                })
                .collect(),
            frames,
            ..SiteReport::default()
        },
    )
}

fn any_process() -> impl Strategy<Value = ProcessReport> {
    (1..40u32, prop::option::of(0..3u8), prop::collection::vec(any_site(), 0..6)).prop_map(
        |(pid, container, sites)| {
            let sum = |pick: fn(&SiteReport) -> Amount| {
                sites.iter().map(pick).fold(Amount::default(), Amount::plus)
            };
            ProcessReport {
                pid,
                serial: pid,
                container: container.map(|id| Container { id: id.to_string(), ..Container::default() }),
                live: sum(|site| site.live),
                survivors: sum(|site| site.survivors),
                allocated: sum(|site| site.allocated),
                survivors_change: sites
                    .iter()
                    .map(|site| site.survivors_change)
                    .fold(Change::default(), Change::plus),
                sites,
                ..ProcessReport::default()
            }
        },
    )
}

fn any_report() -> impl Strategy<Value = Report> {
    let merge = prop_oneof![Just(MergeBy::Process), Just(MergeBy::Container), Just(MergeBy::All)];
    let by = prop_oneof![Just(GroupBy::Stack), Just(GroupBy::Function), Just(GroupBy::Line)];
    (prop::collection::vec(any_process(), 0..12), merge, by, 0..12usize).prop_map(
        |(processes, merge, group_by, top)| Report { processes, merge, group_by, top, ..Report::default() },
    )
}

/// Survivors, live, allocated and change in one, to be compared at once.
type Sums = (Amount, Amount, Amount, Change);

fn add(a: Sums, b: Sums) -> Sums {
    (a.0.plus(b.0), a.1.plus(b.1), a.2.plus(b.2), a.3.plus(b.3))
}

proptest! {
    /// Whatever is merged: the sums of the whole are those of the processes, by units, by groups and by shares.
    #[test]
    fn merged_sums_are_the_sums_over_the_processes(report in any_report()) {
        let processes = report.processes.iter().map(|p| (p.survivors, p.live, p.allocated, p.survivors_change));
        let expected = processes.fold(Sums::default(), add);
        let units = units(&report);
        let by_unit = units.iter().map(|u| (u.survivors(), u.live(), u.allocated(), u.survivors_change()));
        prop_assert_eq!(by_unit.fold(Sums::default(), add), expected);
        let groups = || units.iter().flat_map(|unit| group(unit, report.group_by, SortKey::Bytes));
        let by_group = groups().map(|g| (g.survivors, g.live, g.allocated, g.survivors_change));
        prop_assert_eq!(by_group.fold(Sums::default(), add), expected);
        for group in groups() {
            let split = group.split();
            let total = |pick: fn(&leaktrace::report::group::Share<'_>) -> Amount| {
                split.iter().map(pick).fold(Amount::default(), Amount::plus)
            };
            prop_assert_eq!((total(|s| s.survivors), total(|s| s.live)), (group.survivors, group.live));
            prop_assert!(split.is_sorted_by(|a, b| a.survivors.bytes >= b.survivors.bytes));
            let by_age = group.ages().iter().map(|age| age.live).fold(Amount::default(), Amount::plus);
            let of_members = group.members.iter().flat_map(|member| &member.site.ages);
            prop_assert_eq!(by_age, of_members.map(|age| age.live).fold(Amount::default(), Amount::plus));
            prop_assert!(group.ages().is_sorted_by(|a, b| a.oldest_s <= b.youngest_s));
        }
        let drawn = folded::stacks(&report).values().sum::<u64>();
        prop_assert_eq!(drawn, expected.0.bytes, "folded stacks");
    }

    /// Every process is in exactly one unit, and the text of any report can be written.
    #[test]
    fn every_process_is_in_one_unit(report in any_report()) {
        let units = units(&report);
        let mut seen: Vec<*const ProcessReport> =
            units.iter().flat_map(|unit| unit.processes.iter().map(|process| std::ptr::from_ref(*process))).collect();
        prop_assert_eq!(seen.len(), report.processes.len());
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), report.processes.len());
        prop_assert!(!text(&report, TextOptions::default()).is_empty());
    }
}
