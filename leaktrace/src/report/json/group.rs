//! What is seen as one, as `docs/json.md` describes it: the sums, and the share of each process behind every site.

use std::collections::BTreeSet;

use serde::Serialize;

use super::process::{WireAge, WireAmount, WireChange, WireContainer, WireFrame, WireGrowth};
use crate::report::group::{Group, Share, group};
use crate::report::merge::{Bond, Unit};
use crate::report::model::{GroupBy, SortKey};

#[derive(Serialize)]
pub(super) struct WireGroup<'a> {
    name: String,
    container: Option<WireContainer<'a>>,
    serials: Vec<u32>,
    rss_bytes: Option<u64>,
    rss_at_attach_bytes: Option<u64>,
    live: WireAmount,
    survivors: WireAmount,
    allocated: WireAmount,
    survivors_change: WireChange,
    growth: Option<WireGrowth>,
    pythons: BTreeSet<&'a str>,
    sites: Vec<WireGroupSite<'a>>,
}

#[derive(Serialize)]
struct WireGroupSite<'a> {
    domain: &'a str,
    label: Option<&'a str>,
    live: WireAmount,
    survivors: WireAmount,
    allocated: WireAmount,
    survivors_change: WireChange,
    growth: Option<WireGrowth>,
    ages: Vec<WireAge>,
    frames: Vec<WireFrame<'a>>,
    truncated: Option<&'a str>,
    recycled_blocks: u64,
    split: Vec<WireShare>,
}

#[derive(Serialize)]
struct WireShare {
    pid: u32,
    serial: u32,
    live: WireAmount,
    survivors: WireAmount,
}

impl<'a> WireGroup<'a> {
    pub(super) fn new(unit: &Unit<'a>, sort: SortKey) -> Self {
        let pythons = unit.processes.iter().filter_map(|process| process.python.as_ref());
        Self {
            name: unit.name(),
            container: match unit.bond {
                Bond::Container(container) => Some(container.into()),
                Bond::Process | Bond::All => None,
            },
            serials: unit.processes.iter().map(|process| process.serial).collect(),
            rss_bytes: unit.rss_bytes(),
            rss_at_attach_bytes: unit.rss_at_attach_bytes(),
            live: unit.live().into(),
            survivors: unit.survivors().into(),
            allocated: unit.allocated().into(),
            survivors_change: unit.survivors_change().into(),
            growth: unit.growth().map(Into::into),
            pythons: pythons.map(|python| python.version.as_str()).collect(),
            sites: group(unit, GroupBy::Stack, sort).iter().map(WireGroupSite::new).collect(),
        }
    }
}

impl<'a> WireGroupSite<'a> {
    fn new(group: &Group<'a>) -> Self {
        let site = group.largest;
        Self {
            domain: &site.domain,
            label: site.label.as_deref(),
            live: group.live.into(),
            survivors: group.survivors.into(),
            allocated: group.allocated.into(),
            survivors_change: group.survivors_change.into(),
            growth: group.growth.map(Into::into),
            ages: group.ages().iter().map(Into::into).collect(),
            frames: site.frames.iter().map(Into::into).collect(),
            truncated: site.truncated.as_deref(),
            recycled_blocks: group.recycled_blocks,
            split: group.split().iter().map(Into::into).collect(),
        }
    }
}

impl From<&Share<'_>> for WireShare {
    fn from(share: &Share<'_>) -> Self {
        Self {
            pid: share.process.pid,
            serial: share.process.serial,
            live: share.live.into(),
            survivors: share.survivors.into(),
        }
    }
}
