//! Promise: the history keeps what the daemon saw, gives it back as reports of every format, and outlives what hosts do to files:
//! kills, full disks, damage, later versions, clocks that jump.

mod harness;
mod sample_report;
mod stored;

use std::{path::Path, sync::Arc};

use harness::{Outcomes, longest_wait};
use leaktrace::{
    report::{
        OutputFormat,
        fingerprint::SiteKey,
        model::{Amount, Change, Detail},
    },
    store::{Entry, History, history::Span},
    verdict::{Shape, Unexplained, Verdict},
    watched::{Decision, MemoryReading, SessionInfo},
};
use stored::{NOW, Scratch, leak, memory, subject, today, traced};

#[test]
fn a_report_comes_back_as_it_went_in() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let report = sample_report::several();
    scratch.store()?.write(&traced("a", 1, &report)).map_err(|e| e.to_string())?;
    let back = scratch.history()?.report_between(Some("a"), Span::ALL).map_err(|e| e.to_string())?;
    let back = back.ok_or("no report")?;
    assert_eq!(back.truth.lost, report.truth.lost);
    assert_eq!((back.sequence, &back.reason, back.detail), (report.sequence, &report.reason, report.detail));
    let mut expected: Vec<_> = report.processes.iter().map(stored::essence).collect();
    let mut found: Vec<_> = back.processes.iter().map(stored::essence).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    for name in ["x.folded", "x.svg", "x.pb.gz", "x.json", "x.txt"] {
        let mut out = Vec::new();
        let format = OutputFormat::from_path(Path::new(name)).map_err(|e| e.to_string())?;
        format.write(&back, &mut out).map_err(|e| e.to_string())?;
        assert!(out.len() > 100, "{name}");
    }
    Ok(())
}

#[test]
fn stacks_and_frames_are_stored_once() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    for session in 1..=5 {
        let mut report = sample_report::several();
        // Another run: everything lies elsewhere.
        for site in report.processes.iter_mut().flat_map(|process| &mut process.sites) {
            site.frames.iter_mut().for_each(|frame| frame.address += session << 20);
        }
        store.write(&traced("a", session, &report)).map_err(|e| e.to_string())?;
    }
    let sites: usize = sample_report::several().processes.iter().map(|process| process.sites.len()).sum();
    assert!(scratch.count("SELECT count(*) FROM stacks")? <= sites.cast_signed() as i64);
    assert_eq!(scratch.count("SELECT count(*) FROM reports")?, 5);
    assert_eq!(scratch.count("SELECT count(*) - count(DISTINCT hash) FROM frames")?, 0);
    Ok(())
}

#[test]
fn what_was_seen_is_read_while_it_is_written() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let (writer, now) = (scratch.writer()?, today());
    writer.send(Entry::Subject(subject("a")));
    writer.send(memory("a", now, 100));
    assert!(writer.flush(longest_wait()));
    let history = scratch.history()?;
    let known = |history: &History| history.memory("a", Span::ALL).map(|readings| readings.len());
    assert_eq!(known(&history).map_err(|e| e.to_string())?, 1);
    writer.send(memory("a", now + 1.0, 200));
    assert!(writer.flush(longest_wait()));
    assert_eq!(known(&history).map_err(|e| e.to_string())?, 2);
    history.freeze().map_err(|e| e.to_string())?;
    assert_eq!(known(&history).map_err(|e| e.to_string())?, 2);
    writer.send(memory("a", now + 2.0, 300));
    assert!(writer.flush(longest_wait()));
    assert_eq!(known(&history).map_err(|e| e.to_string())?, 2, "a frozen history does not change");
    assert_eq!(writer.health().lost, 0);
    Ok(())
}

#[test]
fn site_readings_are_summed_over_processes_and_in_order_whatever_the_clock_did() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    let site = SiteKey::of(&leak(1, 1, 0.0).processes[0].sites[0]);
    for (step, clock) in [(1, NOW + 10.0), (2, NOW - 86_400.0), (3, NOW + 30.0), (4, NOW + 9e8)] {
        let mut report = leak(step, step * 1000, NOW);
        let twin = report.processes[0].clone();
        report.processes.push(leaktrace::report::model::ProcessReport { pid: 8, ..twin });
        report.at_unix_s = clock;
        store.write(&traced("a", 1, &report)).map_err(|e| e.to_string())?;
    }
    let readings = scratch.history()?.site_readings("a", 0.0).map_err(|e| e.to_string())?;
    let readings = readings.get(&site).ok_or("the site is missing")?;
    let bytes: Vec<u64> = readings.iter().map(|reading| reading.bytes).collect();
    assert_eq!(bytes, [2000, 4000, 6000, 8000]);
    assert!(readings.windows(2).all(|pair| pair[0].at_unix_s < pair[1].at_unix_s), "{readings:?}");
    Ok(())
}

#[test]
fn verdicts_decisions_and_growth_that_nothing_explains_are_one_row_while_they_stay_the_same() -> Outcomes<()>
{
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    let report = leak(1, 5000, NOW);
    let site = SiteKey::of(&report.processes[0].sites[0]);
    store.write(&traced("a", 1, &report)).map_err(|e| e.to_string())?;
    let judged = |shape, confidence| Verdict { shape, confidence, ..Verdict::default() };
    for tick in 0..100 {
        let at_unix_s = NOW + f64::from(tick);
        let shape = if tick < 50 { Shape::TooEarly } else { Shape::GrowsSteadily };
        let verdicts = vec![(site, judged(shape, f64::from(tick) / 100.0))];
        let growth = Unexplained { grown_bytes: i64::from(tick), ..Unexplained::default() };
        let decision = Decision { at_unix_s, subject: Some("a".into()), sentence: "too busy".into() };
        store
            .write(&[
                Entry::Verdicts { subject: "a".into(), at_unix_s, verdicts },
                Entry::Unexplained { subject: "a".into(), at_unix_s, unexplained: Some(growth) },
                Entry::Decision(decision),
            ])
            .map_err(|e| e.to_string())?;
    }
    let history = scratch.history()?;
    let decisions = history.decisions(Some("a"), Span::ALL).map_err(|e| e.to_string())?;
    assert_eq!(decisions.iter().map(|told| told.times).collect::<Vec<_>>(), [100]);
    let suspects = history.suspects("a", Span::ALL).map_err(|e| e.to_string())?;
    assert_eq!(suspects[0].verdict, judged(Shape::GrowsSteadily, 0.99));
    assert_eq!((suspects[0].site, suspects[0].survivors.bytes), (site, 5000));
    assert!(suspects[0].line.contains("log.py:7"), "{}", suspects[0].line);
    let unexplained = history.unexplained("a", Span::ALL).map_err(|e| e.to_string())?;
    assert_eq!(unexplained.map(|growth| growth.grown_bytes), Some(99));
    assert_eq!(scratch.count("SELECT count(*) FROM verdicts")?, 1);
    store
        .write(&[Entry::Unexplained { subject: "a".into(), at_unix_s: NOW + 200.0, unexplained: None }])
        .map_err(|e| e.to_string())?;
    assert_eq!(scratch.history()?.unexplained("a", Span::ALL).map_err(|e| e.to_string())?, None);
    Ok(())
}

#[test]
fn the_difference_of_two_moments_is_exact() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    for step in 0..20 {
        store.write(&traced("a", 1, &leak(step, step * 1000, NOW))).map_err(|e| e.to_string())?;
    }
    let history = scratch.history()?;
    let at = |time: f64| history.moment("a", time).map_err(|e| e.to_string());
    let earlier = at(NOW + 52.0)?.map_err(|nearest| format!("{nearest:?}"))?;
    let later = at(NOW + 150.0)?.map_err(|nearest| format!("{nearest:?}"))?;
    assert_eq!((earlier.at_unix_s, later.at_unix_s), (NOW + 50.0, NOW + 150.0));
    let difference = history.difference(&earlier, &later).map_err(|e| e.to_string())?;
    let site = &difference.processes[0].sites[0];
    assert_eq!(site.survivors, Amount { bytes: 15_000, blocks: 15 });
    assert_eq!(site.survivors_change, Change { bytes: 10_000, blocks: 10 });
    let back = history.difference(&later, &earlier).map_err(|e| e.to_string())?;
    assert_eq!(back.processes[0].survivors_change, Change { bytes: -10_000, blocks: -10 });
    let nearest = at(NOW - 100.0)?.expect_err("nothing was traced then");
    assert_eq!((nearest.before_unix_s, nearest.after_unix_s), (None, Some(NOW)));
    let nearest = at(NOW + 5000.0)?.expect_err("nothing was traced then");
    assert_eq!((nearest.before_unix_s, nearest.after_unix_s), (Some(NOW + 190.0), None));
    Ok(())
}

#[test]
fn numbers_of_sessions_are_never_given_twice() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut last = 0;
    for _ in 0..5 {
        let writer = scratch.writer()?;
        for _ in 0..3 {
            let id = writer.next_session_id();
            assert!(id > last, "{id} after {last}");
            last = id;
        }
    }
    Ok(())
}

#[test]
fn what_makes_no_sense_is_counted_and_the_rest_is_written() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let writer = scratch.writer()?;
    writer.send(memory("a", today(), 1));
    writer.send(Entry::Report { session: 99, report: Arc::new(leak(1, 1, NOW)) });
    let odd = MemoryReading { at_unix_s: today(), cpu_s: f64::NAN, ..MemoryReading::default() };
    writer.send(Entry::Memory(vec![("a".into(), odd)]));
    assert!(writer.flush(longest_wait()));
    assert_eq!(writer.health().lost, 1);
    assert_eq!(scratch.history()?.memory("a", Span::ALL).map_err(|e| e.to_string())?.len(), 2);
    Ok(())
}

#[test]
fn a_session_is_found_by_when_it_ran() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let session = |id, began, ended| {
        Entry::Session(SessionInfo {
            id,
            subject: "a".into(),
            began_unix_s: began,
            ended_unix_s: ended,
            detail: Detail::Light,
            ..SessionInfo::default()
        })
    };
    let entries =
        [session(1, NOW, Some(NOW + 10.0)), session(2, NOW + 20.0, None), session(1, NOW, Some(NOW + 11.0))];
    scratch.store()?.write(&entries).map_err(|e| e.to_string())?;
    let ran = |since: f64, until: f64| -> Outcomes<Vec<u64>> {
        let span = Span { since_unix_s: since, until_unix_s: until };
        let sessions = scratch.history()?.sessions(Some("a"), span).map_err(|e| e.to_string())?;
        assert!(sessions.iter().all(|session| session.detail == Detail::Light));
        Ok(sessions.iter().map(|session| session.id).collect())
    };
    assert_eq!(ran(NOW + 5.0, NOW + 6.0)?, [1]);
    assert_eq!(ran(NOW + 11.0, NOW + 12.0)?, [1]);
    assert_eq!(ran(NOW + 12.0, NOW + 30.0)?, [2]);
    assert_eq!(ran(0.0, f64::MAX)?, [1, 2]);
    Ok(())
}
