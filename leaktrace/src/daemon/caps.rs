//! Caps that were hit, for the report: from then on it is less complete than it says otherwise. The live map and the site
//! table have fields of their own there.

use leaktrace_common::counter;

use super::tracer::Tracer;
use crate::report::model::CapHit;

impl Tracer {
    /// Every other cap that has refused anything.
    pub(super) fn caps(&self, counters: &[u64; counter::COUNT]) -> Vec<CapHit> {
        let pieces = self.images.values().map(|image| image.intervals.refused).sum();
        let hits = [
            (
                "table of processes",
                counters[counter::TARGETS_FULL],
                "processes made by traced ones found no room and are not traced",
            ),
            (
                "forked processes traced from birth",
                counters[counter::NEWBORNS_HELD],
                "were made too fast for that and are traced some time after",
            ),
            ("mappings of a process", pieces, "mappings were not recorded: too many pieces"),
            (
                "lists of code mappings",
                self.code.statistics().lists_refused,
                "lists found no room: stacks of those processes end at their caller",
            ),
            (
                "table of stacks",
                if self.stacks.is_full() { self.stacks_unknown } else { 0 },
                "stacks found no room: their blocks are shown without frames",
            ),
        ];
        hits.into_iter()
            .filter(|(_, refused, _)| *refused > 0)
            .map(|(cap, refused, consequence)| CapHit {
                cap: cap.to_owned(),
                refused,
                consequence: consequence.to_owned(),
            })
            .collect()
    }
}
