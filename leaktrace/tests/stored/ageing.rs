//! What is kept of the past.

use std::fs;

use leaktrace::{
    report::model::{Frame, Report},
    setting::{Size, Time},
    store::{Entry, Store, StoreConfig, history::Span},
    watched::MemoryReading,
};

use super::{NOW, Scratch, leak, subject, traced};
use crate::harness::Outcomes;

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
/// The end of a day, so that stretches end where days do.
const MIDNIGHT: f64 = 1_780_012_800.0;

fn tidy(store: &mut Store, now: f64) -> Outcomes<()> {
    store.tidy(now).map_err(|e| e.to_string())
}

/// Three days of a reading every 30 s.
fn three_days(store: &mut Store) -> Outcomes<()> {
    for hour in 0..72 {
        let reading = |step: u32| MemoryReading {
            at_unix_s: MIDNIGHT - 3.0 * DAY + f64::from(hour) * HOUR + f64::from(step) * 30.0,
            ..MemoryReading::default()
        };
        let entries: Vec<Entry> = (0..120)
            .map(|step| Entry::Memory(vec![("a".into(), reading(step)), ("b".into(), reading(step))]))
            .collect();
        store.write(&entries).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn left(scratch: &Scratch, span: Span) -> Outcomes<usize> {
    Ok(scratch.history()?.memory("a", span).map_err(|e| e.to_string())?.len())
}

#[test]
fn older_readings_are_one_a_minute_then_one_in_ten() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    three_days(&mut store)?;
    assert_eq!(left(&scratch, Span::ALL)?, 72 * 120);
    tidy(&mut store, MIDNIGHT)?;
    let of = |from: f64, to: f64| {
        left(&scratch, Span { since_unix_s: MIDNIGHT - from, until_unix_s: MIDNIGHT - to - 0.001 })
    };
    assert_eq!(of(HOUR, 0.0)?, 120);
    assert_eq!(of(DAY, HOUR)?, 23 * 60);
    assert_eq!(of(3.0 * DAY, DAY)?, 48 * 6);
    Ok(())
}

#[test]
fn of_reports_the_first_and_the_last_of_a_session_stay() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    for session in 1..=3 {
        let began = MIDNIGHT - 2.0 * DAY + session as f64 * HOUR + 7.0;
        for step in 0..7 {
            store.write(&traced("a", session, &leak(step, step * 10, began))).map_err(|e| e.to_string())?;
        }
    }
    tidy(&mut store, MIDNIGHT)?;
    assert_eq!(scratch.count("SELECT count(*) FROM reports")?, 6);
    assert_eq!(scratch.count("SELECT count(*) FROM reports WHERE sequence IN (1, 7)")?, 6);
    assert_eq!(scratch.count("SELECT count(DISTINCT report) FROM site_readings")?, 6);
    Ok(())
}

#[test]
fn what_is_too_old_goes_and_so_does_what_only_it_pointed_to() -> Outcomes<()> {
    let config = StoreConfig { keep: Time::seconds(2 * 24 * 3600), ..StoreConfig::default() };
    let scratch = Scratch { config, ..Scratch::new()? };
    let mut store = scratch.store()?;
    three_days(&mut store)?;
    store.write(&traced("a", 1, &leak(1, 10, MIDNIGHT - 2.5 * DAY))).map_err(|e| e.to_string())?;
    // What points to nothing is looked for now and then only.
    for _ in 0..30 {
        tidy(&mut store, MIDNIGHT)?;
    }
    assert_eq!(left(&scratch, Span { since_unix_s: 0.0, until_unix_s: MIDNIGHT - 2.0 * DAY - 0.001 })?, 0);
    assert_eq!(left(&scratch, Span::ALL)?, 24 * 6 + 23 * 60 + 120);
    for table in ["reports", "sessions", "images", "sites", "site_readings", "stacks", "frames", "strings"] {
        assert_eq!(scratch.count(&format!("SELECT count(*) FROM {table}"))?, 0, "{table}");
    }
    Ok(())
}

#[test]
fn a_clock_that_jumps_years_ahead_and_back_costs_nothing() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    three_days(&mut store)?;
    tidy(&mut store, MIDNIGHT)?;
    let before = left(&scratch, Span::ALL)?;
    tidy(&mut store, MIDNIGHT + 10.0 * 365.0 * DAY)?;
    let far = MemoryReading { at_unix_s: MIDNIGHT + 10.0 * 365.0 * DAY, ..MemoryReading::default() };
    store.write(&[Entry::Memory(vec![("a".into(), far)])]).map_err(|e| e.to_string())?;
    tidy(&mut store, MIDNIGHT - 365.0 * DAY)?;
    tidy(&mut store, MIDNIGHT)?;
    // The hour that was next is coarse earlier than it should be: 60 of 120, and 6 of 60 a day before.
    assert_eq!(left(&scratch, Span::ALL)?, before + 1 - 60 - 54);
    Ok(())
}

/// Without its rule the same jump would cost nearly everything: what a thinning would leave that believes every clock.
#[test]
fn a_day_of_that_clock_costs_a_day() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    three_days(&mut store)?;
    for _ in 0..40 {
        tidy(&mut store, MIDNIGHT + 10.0 * 365.0 * DAY)?;
    }
    assert!(left(&scratch, Span::ALL)? < 72 * 120);
    Ok(())
}

/// A report of many sites that no other report has.
fn crowded(step: u64) -> Report {
    let mut report = leak(step, 1000, NOW);
    let process = &mut report.processes[0];
    let site = process.sites[0].clone();
    process.sites = (0..100)
        .map(|number| {
            let mut site = site.clone();
            let name = format!("function_{step}_{number}_{}", "x".repeat(200));
            site.frames.push(Frame { function: Some(name), ..Frame::default() });
            site
        })
        .collect();
    report
}

#[test]
fn the_file_stays_within_its_cap_and_the_latest_stays_in_it() -> Outcomes<()> {
    let config = StoreConfig { max_size: Size(4 << 20), ..StoreConfig::default() };
    let scratch = Scratch { config, ..Scratch::new()? };
    let mut store = scratch.store()?;
    store.write(&[Entry::Subject(subject("a"))]).map_err(|e| e.to_string())?;
    let mut largest = 0;
    for step in 0..300 {
        store.write(&traced("a", 1 + step / 10, &crowded(step))).map_err(|e| e.to_string())?;
        if step % 10 == 9 {
            tidy(&mut store, NOW + step as f64 * 10.0)?;
        }
        let size =
            |name: &str| fs::metadata(scratch.directory.path().join(name)).map_or(0, |file| file.len());
        largest = largest.max(size("history.db") + size("history.db-wal"));
    }
    assert!(largest <= 4 << 20, "{largest} bytes");
    let report = scratch.history()?.report_between(Some("a"), Span::ALL).map_err(|e| e.to_string())?;
    assert_eq!(report.map(|report| (report.sequence, report.processes[0].sites.len())), Some((300, 100)));
    store.check().map_err(|e| e.to_string())
}
