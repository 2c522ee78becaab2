//! A directory for a history, and things to write into it.

mod ageing;
mod command;
mod damage;
mod manual;

use std::{path::PathBuf, sync::Arc};

use leaktrace::{
    report::model::{Amount, Frame, FrameKind, ProcessReport, Report, SiteReport},
    store::{Entry, History, Store, StoreConfig, Writer},
    watched::{MemoryReading, SessionInfo, Subject},
};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::harness::Outcomes;

/// A moment in 2026.
pub const NOW: f64 = 1_780_000_000.0;

/// Gone at the end of the test.
pub struct Scratch {
    pub directory: TempDir,
    pub config: StoreConfig,
}

impl Scratch {
    pub fn new() -> Outcomes<Self> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Self { directory, config: StoreConfig::default() })
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("history.db")
    }

    pub fn store(&self) -> Outcomes<Store> {
        Store::open(&self.path(), &self.config).map_err(|error| error.to_string())
    }

    pub fn writer(&self) -> Outcomes<Writer> {
        Writer::start(&self.path(), &self.config).map_err(|error| error.to_string())
    }

    pub fn history(&self) -> Outcomes<History> {
        History::open(&self.path()).map_err(|error| error.to_string())
    }

    /// What a query for one number answers.
    pub fn count(&self, sql: &str) -> Outcomes<i64> {
        let connection = Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY);
        let connection = connection.map_err(|error| error.to_string())?;
        connection.query_row(sql, [], |row| row.get(0)).map_err(|error| error.to_string())
    }

    /// Names of the files that lie there.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("a readable directory");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

pub fn subject(key: &str) -> Subject {
    Subject { key: key.into(), name: format!("name of {key}"), pid: 7, ..Subject::default() }
}

pub fn memory(key: &str, at_unix_s: f64, anonymous_bytes: u64) -> Entry {
    Entry::Memory(vec![(
        key.into(),
        MemoryReading { at_unix_s, anonymous_bytes, ..MemoryReading::default() },
    )])
}

/// A subject, a session of it and a report of that.
pub fn traced(key: &str, session: u64, report: &Report) -> Vec<Entry> {
    let info = SessionInfo {
        id: session,
        subject: key.into(),
        detail: report.detail,
        began_unix_s: report.started_unix_s,
        ..SessionInfo::default()
    };
    vec![
        Entry::Subject(subject(key)),
        Entry::Session(info),
        Entry::Report { session, report: Arc::new(report.clone()) },
    ]
}

/// The report after so many intervals of 10 s, of a process with one Python line that holds so many bytes.
pub fn leak(step: u64, bytes: u64, started_unix_s: f64) -> Report {
    let amount = Amount { bytes, blocks: bytes / 1000 };
    let frame = |function: &str, line| Frame {
        kind: FrameKind::Python,
        function: Some(function.into()),
        file: Some("/srv/app/log.py".into()),
        line: Some(line),
        ..Frame::default()
    };
    let site = SiteReport {
        stack_id: 1,
        domain: "py".into(),
        live: amount,
        survivors: amount,
        allocated: amount,
        frames: vec![frame("record", 7), frame("get", 9)],
        ..SiteReport::default()
    };
    let process = ProcessReport {
        pid: 7,
        serial: 1,
        name: "app".into(),
        live: amount,
        survivors: amount,
        allocated: amount,
        sites: vec![site],
        application_root: Some("/srv/app".into()),
        ..ProcessReport::default()
    };
    let elapsed_s = step as f64 * 10.0;
    Report {
        sequence: step + 1,
        started_unix_s,
        at_unix_s: started_unix_s + elapsed_s,
        elapsed_s,
        interval_s: 10.0,
        min_age_s: 10.0,
        processes: vec![process],
        ..Report::default()
    }
}

/// What has to come back of a process, in an order that can be compared.
pub fn essence(process: &ProcessReport) -> String {
    let site = |site: &SiteReport| {
        let mut site = site.clone();
        (site.stack_id, site.survivors_change) = Default::default();
        site.frames.iter_mut().for_each(|frame| frame.address = 0);
        site.ages.retain(|age| !age.live.is_zero());
        format!("{site:?}")
    };
    let mut sites: Vec<String> = process.sites.iter().map(site).collect();
    sites.sort();
    let bare = ProcessReport { sites: Vec::new(), survivors_change: Default::default(), ..process.clone() };
    format!("{bare:?} {sites:#?}")
}
