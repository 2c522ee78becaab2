//! What is written to the history.

use crate::{
    alert::Alert,
    report::{fingerprint::SiteKey, model::Report},
    verdict::{Unexplained, Verdict},
    watched::{Decision, MemoryReading, SessionInfo, Subject},
};

/// One thing to be remembered.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "few wait at a time, and those that come often are small")]
pub enum Entry {
    /// Somebody is watched from now on, or is known better than before.
    Subject(Subject),
    /// Memory of subjects at one moment, by [`Subject::key`].
    Memory(Vec<(String, MemoryReading)>),
    /// Tracing began, or ended (`ended_unix_s`).
    Session(SessionInfo),
    /// A session's report: its processes, sites, survivors by age, stacks and frames.
    Report {
        /// [`SessionInfo::id`].
        session: u64,
        /// The report.
        report: std::sync::Arc<Report>,
    },
    /// What is thought of sites now.
    Verdicts {
        /// [`Subject::key`].
        subject: String,
        /// Seconds since the Unix epoch.
        at_unix_s: f64,
        /// By site; those that are not named here were not judged anew.
        verdicts: Vec<(SiteKey, Verdict)>,
    },
    /// What tracked memory does not explain now.
    Unexplained {
        /// [`Subject::key`].
        subject: String,
        /// Seconds since the Unix epoch.
        at_unix_s: f64,
        /// `None`: nothing any more.
        unexplained: Option<Unexplained>,
    },
    /// Why something was done or not done.
    Decision(Decision),
    /// Somebody was told.
    Alert(Alert),
    /// Evidence was written.
    Evidence {
        /// [`Subject::key`].
        subject: String,
        /// Seconds since the Unix epoch.
        at_unix_s: f64,
        /// Why, in words.
        reason: String,
        /// Where it lies.
        directory: String,
    },
}
