//! Groups by line or function, one row each, in the words and numbers of Python's `tracemalloc`: who knows
//! `print(statistic)` reads them at once, and what reads that output reads these.

use super::group::Group;
use super::human::rate;
use super::wording::kind_of_memory;

/// `#1  log.py:128: size=3947 KiB (+4800 B), count=168388 (+200), average=24 B, growing 1.6 MiB/h`.
pub(super) fn row(rank: usize, name: &str, group: &Group<'_>) -> String {
    let (survivors, change) = (group.survivors, group.survivors_change);
    let mut row = format!(
        "#{rank}  {name}: size={} ({}), count={} ({:+})",
        size(survivors.bytes as f64),
        signed_size(change.bytes as f64),
        survivors.blocks,
        change.blocks
    );
    if survivors.blocks > 0 {
        row.push_str(&format!(", average={}", size(survivors.bytes as f64 / survivors.blocks as f64)));
    }
    // Less than a byte an hour is the noise of a fit through a flat line.
    if let Some(growth) = group.growth.filter(|growth| growth.bytes_per_hour >= 1.0 && growth.steady_s > 0.0)
    {
        row.push_str(&format!(", growing {}", rate(growth.bytes_per_hour)));
    }
    row.push_str(&kind_of_memory(group, false));
    row
}

/// Bytes as `tracemalloc` writes them: one decimal below 100 of a unit, none up to 10,240 of it.
pub(super) fn size(bytes: f64) -> String {
    let (value, decimals, unit) = scaled(bytes);
    format!("{value:.decimals$} {unit}")
}

pub(super) fn signed_size(bytes: f64) -> String {
    let (value, decimals, unit) = scaled(bytes);
    format!("{value:+.decimals$} {unit}")
}

fn scaled(bytes: f64) -> (f64, usize, &'static str) {
    const LARGEST: &str = "TiB";
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if unit != "B" && value.abs() < 100.0 {
            return (value, 1, unit);
        }
        if value.abs() < 10.0 * 1024.0 {
            return (value, 0, unit);
        }
        value /= 1024.0;
    }
    let decimals = if value.abs() < 100.0 { 1 } else { 0 };
    (value, decimals, LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::group::group;
    use crate::report::merge::{Bond, Unit};
    use crate::report::model::{Amount, Change, GroupBy, Growth, ProcessReport, SiteReport, SortKey};

    fn row_of(site: SiteReport) -> String {
        let process = ProcessReport { sites: vec![site], ..ProcessReport::default() };
        let unit = Unit { bond: Bond::Process, processes: vec![&process] };
        row(1, "log.py:128", &group(&unit, GroupBy::Line, SortKey::Bytes)[0])
    }

    #[test]
    fn a_row_reads_as_tracemalloc_prints_it_and_growth_is_added() {
        let mut site = SiteReport {
            domain: "py".into(),
            survivors: Amount { bytes: 4_041_312, blocks: 168_388 },
            survivors_change: Change { bytes: 120_288, blocks: 5_012 },
            growth: Some(Growth { bytes_per_hour: 1_677_721.6, observed_s: 60.0, steady_s: 30.0 }),
            ..SiteReport::default()
        };
        let same = "#1  log.py:128: size=3947 KiB (+117 KiB), count=168388 (+5012), average=24 B";
        assert_eq!(row_of(site.clone()), format!("{same}, growing 1.6 MiB/h"));
        site.growth = Some(Growth { bytes_per_hour: 1e9, observed_s: 60.0, steady_s: 0.0 });
        assert_eq!(row_of(site.clone()), same);
        site.domain = "mmap".into();
        assert_eq!(row_of(site), format!("{same}  [mmap]"));
    }

    #[test]
    fn sizes_have_the_digits_of_tracemalloc() {
        let cases = [
            (0.0, "0 B"),
            (10_239.0, "10239 B"),
            (10_240.0, "10.0 KiB"),
            (102_399.0, "100.0 KiB"),
            (102_400.0, "100 KiB"),
            (10_485_759.0, "10240 KiB"),
            (10_485_760.0, "10.0 MiB"),
            (2.5, "2 B"),
            (1e15, "909 TiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!((signed_size(0.0), signed_size(-204_800.0)), ("+0 B".to_owned(), "-200 KiB".to_owned()));
    }
}
