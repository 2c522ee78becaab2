//! Reports on their way through a pipe: a length of four bytes, then the model as MessagePack with names. Both ends are the same
//! program, so nothing of this is a contract.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    io::{self, Write},
};

use crate::report::model::{ProcessReport, Report, SiteReport};

/// Longest report that is believed, bytes.
pub const MAX_REPORT: u32 = 256 << 20;
/// Sites of a process that are sent: so many with most survivors, and so many that grow fastest. All others are in its sums.
pub const MAX_SITES: usize = 500;

/// Sends a report.
///
/// # Errors
/// If the pipe is closed, or the report longer than [`MAX_REPORT`].
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let report = Report {
        processes: report.processes.iter().map(with_the_telling).collect(),
        ..without_processes(report)
    };
    let bytes = rmp_serde::to_vec_named(&report).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_REPORT);
    let length = length.ok_or_else(|| io::Error::other("a report is too long to be sent"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&bytes)
}

/// Reads what [`write`] has sent, without its length.
///
/// # Errors
/// If it is no report.
pub fn read(bytes: &[u8]) -> io::Result<Report> {
    rmp_serde::from_slice(bytes).map_err(io::Error::other)
}

/// A copy without what may be a hundred megabytes of frames.
fn without_processes(report: &Report) -> Report {
    Report {
        leaktrace_version: report.leaktrace_version.clone(),
        kernel: report.kernel.clone(),
        reason: report.reason.clone(),
        processes: Vec::new(),
        truth: report.truth.clone(),
        ..*report
    }
}

/// A copy with the sites that tell most.
fn with_the_telling(process: &ProcessReport) -> ProcessReport {
    let mut kept = most(&process.sites, |site| site.survivors.bytes);
    kept.append(&mut most(&process.sites, growth));
    ProcessReport {
        sites: kept.iter().filter_map(|at| process.sites.get(*at)).cloned().collect(),
        namespace_pids: process.namespace_pids.clone(),
        container: process.container.clone(),
        name: process.name.clone(),
        command: process.command.clone(),
        ended: process.ended.clone(),
        application_root: process.application_root.clone(),
        python: process.python.clone(),
        ..*process
    }
}

/// Growth in whole bytes per hour; what falls does not count.
fn growth(site: &SiteReport) -> u64 {
    site.growth.map_or(0, |growth| growth.bytes_per_hour as u64)
}

/// Places of the sites with most of something.
fn most(sites: &[SiteReport], of: impl Fn(&SiteReport) -> u64) -> BTreeSet<usize> {
    let mut places: Vec<(u64, usize)> = sites.iter().enumerate().map(|(at, site)| (of(site), at)).collect();
    places.sort_unstable_by_key(|(amount, at)| (Reverse(*amount), *at));
    places.into_iter().take(MAX_SITES).map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Amount, Growth, Reason};

    #[test]
    fn a_report_arrives_as_it_was_sent() {
        let process =
            ProcessReport { pid: 7, sites: vec![SiteReport::default()], ..ProcessReport::default() };
        let reason = Reason::Final("interrupted".into());
        let report = Report { reason, processes: vec![process], ..Report::default() };
        let mut sent = Vec::new();
        write(&report, &mut sent).unwrap();
        assert_eq!(read(&sent[4..]).unwrap(), report);
        assert!(read(&sent[5..]).is_err());
    }

    #[test]
    fn of_many_sites_the_largest_and_the_fastest_are_sent() {
        let site = |id: u64| SiteReport {
            stack_id: id,
            survivors: Amount { bytes: id, blocks: 1 },
            growth: (id == 0).then(|| Growth { bytes_per_hour: 9.0, ..Growth::default() }),
            ..SiteReport::default()
        };
        let process = ProcessReport { sites: (0..5000).map(site).collect(), ..ProcessReport::default() };
        let process = with_the_telling(&process);
        let ids: Vec<u64> = process.sites.iter().map(|site| site.stack_id).collect();
        assert!(
            ids.len() <= 2 * MAX_SITES && ids.contains(&0) && ids.contains(&4999) && !ids.contains(&4000)
        );
    }
}
