//! Puts the sites of a process, or of several that are seen as one, together by stack, function or line, and sums them.
//! Pure.

mod ages;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use super::merge::Unit;
use super::model::{
    AgeClass, Amount, Change, Frame, FrameKind, GroupBy, Growth, ProcessReport, SiteReport, SortKey,
};
use super::plumbing;

/// The domain of what is no heap block.
const MAPPINGS: &str = "mmap";

/// Sites that belong together, summed.
#[derive(Clone, Debug, PartialEq)]
pub struct Group<'a> {
    /// The member with the most survivors: its stack stands for the group.
    pub largest: &'a SiteReport,
    /// The frame that gives the group its name, for groups by function or line; `None` without frames.
    pub named_after: Option<&'a Frame>,
    /// What is in the group, at least one.
    pub members: Vec<Member<'a>>,
    /// Live blocks.
    pub live: Amount,
    /// Live blocks older than the minimum age.
    pub survivors: Amount,
    /// Ever allocated.
    pub allocated: Amount,
    /// Change of survivors since the last report.
    pub survivors_change: Change,
    /// Sum of the members' slopes. The times are those of the member that grows fastest.
    pub growth: Option<Growth>,
    /// How many of the live blocks may be another line's ([`SiteReport::recycled`]), estimated.
    pub recycled_blocks: u64,
}

/// A site, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member<'a> {
    /// The process.
    pub process: &'a ProcessReport,
    /// Its site.
    pub site: &'a SiteReport,
}

/// What one process has of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share<'a> {
    /// The process.
    pub process: &'a ProcessReport,
    /// Live blocks.
    pub live: Amount,
    /// Live blocks older than the minimum age.
    pub survivors: Amount,
}

/// What makes a frame the same line of code: not its absolute address, which changes with every `dlopen`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FrameKey<'a> {
    function: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    object: Option<&'a str>,
    offset: Option<u64>,
    address: Option<u64>,
    inlined: bool,
}

/// Which group a site belongs to. Mappings never meet heap blocks, nor mappings of another kind.
#[derive(PartialEq, Eq, Hash)]
struct GroupKey<'a> {
    /// The allocator; for functions and lines every heap is one, as it is for who wrote the line.
    domain: &'a str,
    label: Option<&'a str>,
    code: CodeKey<'a>,
}

#[derive(PartialEq, Eq, Hash)]
enum CodeKey<'a> {
    Stack(StackKey<'a>, Option<&'a str>),
    Frame(Option<FrameKey<'a>>),
}

/// What is compared of a frame.
type Identify = for<'f> fn(&'f Frame) -> FrameKey<'f>;

/// A whole stack, compared frame by frame in place: a report may hold tens of thousands of them.
struct StackKey<'a> {
    frames: &'a [Frame],
    identify: Identify,
}

impl PartialEq for StackKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.frames.iter().map(self.identify).eq(other.frames.iter().map(self.identify))
    }
}

impl Eq for StackKey<'_> {}

impl Hash for StackKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for frame in self.frames {
            let key = (self.identify)(frame);
            (key.offset, key.address, key.line).hash(state);
            // The offset nearly always tells frames apart; names are long to hash, and equality looks at them anyway.
            if key.offset.is_none() {
                key.function.hash(state);
            }
        }
    }
}

/// The groups of a unit, in the order of `sort`. In one process a frame is an instruction; in several it is what it means,
/// since other instructions may stand for the same line there.
pub fn group<'a>(unit: &Unit<'a>, by: GroupBy, sort: SortKey) -> Vec<Group<'a>> {
    let identify: Identify = if unit.processes.len() > 1 { meaning_key } else { exact_key };
    let mut groups: HashMap<GroupKey<'_>, Group<'_>> = HashMap::new();
    let sites = |process: &'a ProcessReport| process.sites.iter().map(move |site| Member { process, site });
    for member in unit.processes.iter().flat_map(|process| sites(process)) {
        let named_after = named_after(member.site, by);
        groups
            .entry(key(member.site, by, named_after, identify))
            .and_modify(|group| group.add(member))
            .or_insert_with(|| Group::new(member, named_after));
    }
    let mut groups: Vec<Group<'_>> = groups.into_values().collect();
    groups.sort_by(|a, b| a.cmp_by(b, sort));
    groups
}

impl<'a> Group<'a> {
    fn new(member: Member<'a>, named_after: Option<&'a Frame>) -> Self {
        let site = member.site;
        Self {
            largest: site,
            named_after,
            members: vec![member],
            live: site.live,
            survivors: site.survivors,
            allocated: site.allocated,
            survivors_change: site.survivors_change,
            growth: site.growth,
            recycled_blocks: recycled_blocks(site),
        }
    }

    fn add(&mut self, member: Member<'a>) {
        let site = member.site;
        let outranks = |a: &SiteReport, b: &SiteReport| {
            (a.survivors.bytes, a.live.bytes, b.stack_id) > (b.survivors.bytes, b.live.bytes, a.stack_id)
        };
        if outranks(site, self.largest) {
            self.largest = site;
        }
        self.members.push(member);
        self.live = self.live.plus(site.live);
        self.survivors = self.survivors.plus(site.survivors);
        self.allocated = self.allocated.plus(site.allocated);
        self.survivors_change = self.survivors_change.plus(site.survivors_change);
        self.growth = sum_growth(self.growth, site.growth);
        self.recycled_blocks = self.recycled_blocks.saturating_add(recycled_blocks(site));
    }

    /// What each process has of it, the largest survivors first.
    pub fn split(&self) -> Vec<Share<'a>> {
        let mut shares: HashMap<(u32, u32), Share<'a>> = HashMap::new();
        for Member { process, site } in &self.members {
            let nothing = Share { process, live: Amount::default(), survivors: Amount::default() };
            let share = shares.entry((process.pid, process.serial)).or_insert(nothing);
            share.live = share.live.plus(site.live);
            share.survivors = share.survivors.plus(site.survivors);
        }
        let mut shares: Vec<Share<'a>> = shares.into_values().collect();
        let rank = |share: &Share<'_>| (share.survivors.bytes, share.live.bytes);
        shares.sort_by(|a, b| {
            let identity = |share: &Share<'_>| (share.process.pid, share.process.serial);
            rank(b).cmp(&rank(a)).then_with(|| identity(a).cmp(&identity(b)))
        });
        shares
    }

    /// Live blocks by age, youngest first.
    pub fn ages(&self) -> Vec<AgeClass> {
        ages::sum(self.members.iter().flat_map(|member| &member.site.ages))
    }

    /// Frames to show of the largest member, innermost first; all of them if plumbing is wanted.
    pub fn frames(&self, plumbing: bool) -> Vec<&'a Frame> {
        let frames = &self.largest.frames;
        if plumbing { frames.iter().collect() } else { plumbing::telling(frames).collect() }
    }

    /// The order of a report: what `sort` asks for, descending, then survivors, then identity, so that the order
    /// is always the same.
    pub fn cmp_by(&self, other: &Self, sort: SortKey) -> std::cmp::Ordering {
        let by_bytes = other.survivors.bytes.cmp(&self.survivors.bytes);
        let by_count = other.survivors.blocks.cmp(&self.survivors.blocks);
        let by_live = other.live.bytes.cmp(&self.live.bytes);
        match sort {
            SortKey::Bytes => by_bytes.then(by_count),
            SortKey::Count => by_count.then(by_bytes),
            SortKey::Growth => slope(other).total_cmp(&slope(self)).then(by_bytes),
        }
        .then(by_live)
        .then_with(|| self.largest.stack_id.cmp(&other.largest.stack_id))
        .then_with(|| self.largest.domain.cmp(&other.largest.domain))
        .then_with(|| self.largest.label.cmp(&other.largest.label))
    }
}

fn slope(group: &Group<'_>) -> f64 {
    group.growth.map_or(0.0, |growth| growth.bytes_per_hour)
}

fn sum_growth(a: Option<Growth>, b: Option<Growth>) -> Option<Growth> {
    a.into_iter().chain(b).reduce(Growth::plus)
}

/// The share of a site's live blocks that was found to be of a kind that is handed on unseen.
fn recycled_blocks(site: &SiteReport) -> u64 {
    let Some(recycled) = site.recycled.filter(|recycled| recycled.examined > 0) else { return 0 };
    let holding = u128::from(recycled.holding.min(recycled.examined));
    let blocks = u128::from(site.live.blocks) * holding;
    u64::try_from(blocks.div_ceil(u128::from(recycled.examined))).unwrap_or(u64::MAX)
}

/// What a site is known by to who wrote the program: the innermost Python frame, since what a C extension allocates is
/// the doing of the line that called it; without Python the innermost function outside the allocator, for lines the
/// innermost that has one.
pub(crate) fn named_after(site: &SiteReport, by: GroupBy) -> Option<&Frame> {
    if by == GroupBy::Stack {
        return None;
    }
    if let Some(python) = site.frames.iter().find(|frame| frame.kind == FrameKind::Python) {
        return Some(python);
    }
    let mut telling = plumbing::telling(&site.frames);
    let with_line = telling.clone().find(|frame| frame.file.is_some() && frame.line.is_some());
    with_line.filter(|_| by == GroupBy::Line).or_else(|| telling.next())
}

fn key<'a>(
    site: &'a SiteReport,
    by: GroupBy,
    named_after: Option<&'a Frame>,
    identify: Identify,
) -> GroupKey<'a> {
    let code = match by {
        GroupBy::Stack => {
            CodeKey::Stack(StackKey { frames: &site.frames, identify }, site.truncated.as_deref())
        }
        GroupBy::Function => CodeKey::Frame(named_after.map(|frame| function_key(identify(frame)))),
        GroupBy::Line => CodeKey::Frame(named_after.map(|frame| line_key(identify(frame)))),
    };
    let together = by != GroupBy::Stack && site.domain != MAPPINGS;
    let domain = if together { "heap" } else { &site.domain };
    GroupKey { domain, label: site.label.as_deref(), code }
}

/// The very instruction.
fn exact_key(frame: &Frame) -> FrameKey<'_> {
    let offset = frame.file_offset.or(frame.virtual_offset);
    FrameKey {
        function: frame.function.as_deref(),
        file: frame.file.as_deref(),
        line: frame.line,
        object: frame.object.as_deref(),
        offset,
        // A Python frame has no offset, and its address is that of a code object: the line says it all.
        address: (offset.is_none() && frame.kind != FrameKind::Python).then_some(frame.address),
        inlined: frame.inlined,
    }
}

/// What people read: the line of a function; without a line the function of an object; without a name the place in the
/// very object, whatever path it has in each container.
fn meaning_key(frame: &Frame) -> FrameKey<'_> {
    let exact = exact_key(frame);
    match (exact.function, exact.file.and(exact.line)) {
        (Some(_), Some(_)) => FrameKey { object: None, offset: None, address: None, ..exact },
        (Some(_), None) => FrameKey { offset: None, address: None, ..exact },
        (None, _) => FrameKey { object: frame.build_id.as_deref().or(exact.object), ..exact },
    }
}

/// The function; without a name, the instruction.
fn function_key(key: FrameKey<'_>) -> FrameKey<'_> {
    if key.function.is_none() {
        return key;
    }
    FrameKey { line: None, offset: None, address: None, inlined: false, ..key }
}

/// The source line; without one, the instruction.
fn line_key(key: FrameKey<'_>) -> FrameKey<'_> {
    if key.file.is_none() || key.line.is_none() {
        return key;
    }
    FrameKey { function: None, object: None, offset: None, address: None, inlined: false, ..key }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::merge::Bond;

    fn frame(function: &str, line: u32) -> Frame {
        Frame {
            function: Some(function.into()),
            file: Some("a.c".into()),
            line: Some(line),
            ..Frame::default()
        }
    }

    fn site(stack_id: u64, bytes: u64, frames: Vec<Frame>) -> SiteReport {
        let amount = Amount { bytes, blocks: 1 };
        let growth = Growth { bytes_per_hour: bytes as f64, observed_s: 60.0, steady_s: stack_id as f64 };
        SiteReport {
            stack_id,
            domain: "malloc".into(),
            live: amount,
            survivors: amount,
            allocated: amount,
            survivors_change: Change { bytes: 1, blocks: -1 },
            growth: Some(growth),
            frames,
            ..SiteReport::default()
        }
    }

    fn process() -> ProcessReport {
        let sites = vec![
            site(1, 10, vec![frame("malloc", 1), frame("grow", 3), frame("main", 9)]),
            site(2, 30, vec![frame("grow", 3), frame("other", 5)]),
            site(3, 20, vec![frame("grow", 4), frame("main", 9)]),
            site(4, 5, vec![frame("last", 3)]),
        ];
        ProcessReport { sites, ..ProcessReport::default() }
    }

    fn alone(process: &ProcessReport) -> Unit<'_> {
        Unit { bond: Bond::Process, processes: vec![process] }
    }

    fn sums(by: GroupBy) -> Vec<(u64, usize)> {
        let process = process();
        let groups = group(&alone(&process), by, SortKey::Bytes);
        groups.iter().map(|g| (g.survivors.bytes, g.members.len())).collect()
    }

    #[test]
    fn stacks_stay_apart_functions_and_lines_come_together() {
        assert_eq!(sums(GroupBy::Stack), [(30, 1), (20, 1), (10, 1), (5, 1)]);
        assert_eq!(sums(GroupBy::Line), [(45, 3), (20, 1)]);
        assert_eq!(sums(GroupBy::Function), [(60, 3), (5, 1)]);
    }

    #[test]
    fn a_group_is_represented_by_its_largest_member_and_sums_the_rest() {
        let process = process();
        let groups = group(&alone(&process), GroupBy::Function, SortKey::Bytes);
        assert_eq!(groups[0].largest.stack_id, 2);
        assert_eq!(groups[0].survivors_change, Change { bytes: 3, blocks: -3 });
        assert_eq!(groups[0].growth, Some(Growth { bytes_per_hour: 60.0, observed_s: 60.0, steady_s: 2.0 }));
    }

    #[test]
    fn the_same_stack_under_two_ids_is_one_group() {
        // A dlopen elsewhere changes the mapping generation and with it the stack's identity.
        let mut process = process();
        process.sites.push(site(9, 7, vec![frame("last", 3)]));
        let groups = group(&alone(&process), GroupBy::Stack, SortKey::Bytes);
        assert!(groups.iter().any(|group| group.members.len() == 2 && group.survivors.bytes == 12));
    }

    #[test]
    fn allocators_and_labels_are_never_mixed() {
        let mut process = process();
        process.sites[3].label = Some("reserved, no access".into());
        process.sites.push(site(9, 7, vec![frame("last", 3)]));
        assert_eq!(group(&alone(&process), GroupBy::Function, SortKey::Bytes).len(), 3);
    }

    #[test]
    fn growth_and_count_decide_the_order_when_asked() {
        let mut process = process();
        process.sites[3].growth = Some(Growth { bytes_per_hour: 1e9, ..Growth::default() });
        process.sites[0].survivors.blocks = 99;
        let first = |sort| group(&alone(&process), GroupBy::Stack, sort)[0].largest.stack_id;
        assert_eq!(first(SortKey::Growth), 4);
        assert_eq!(first(SortKey::Count), 1);
    }

    #[test]
    fn unnamed_frames_are_told_apart_by_their_place() {
        let nameless =
            |offset| Frame { object: Some("a.so".into()), file_offset: Some(offset), ..Frame::default() };
        let sites = vec![site(1, 1, vec![nameless(16)]), site(2, 1, vec![nameless(32)])];
        let process = ProcessReport { sites, ..ProcessReport::default() };
        assert_eq!(group(&alone(&process), GroupBy::Function, SortKey::Bytes).len(), 2);
    }

    /// The same program in two processes: other addresses, and in another build other offsets.
    #[test]
    fn in_several_processes_a_frame_is_what_it_means() {
        let at = |address, file_offset, function: Option<&str>| Frame {
            object: Some(format!("/{address}/a.so")),
            build_id: Some("b1".into()),
            file_offset: Some(file_offset),
            address,
            function: function.map(str::to_owned),
            ..Frame::default()
        };
        let line = |address, offset| Frame {
            line: Some(7),
            file: Some("a.c".into()),
            ..at(address, offset, Some("f"))
        };
        let leak = |pid, bytes, frames| ProcessReport {
            pid,
            sites: vec![site(1, bytes, frames)],
            ..ProcessReport::default()
        };
        let groups = |a: Vec<Frame>, b: Vec<Frame>| {
            let processes = [leak(1, 10, a), leak(2, 20, b)];
            let unit = Unit { bond: Bond::All, processes: processes.iter().collect() };
            let groups = group(&unit, GroupBy::Stack, SortKey::Bytes);
            let split = groups[0].split();
            (
                groups.len(),
                split.iter().map(|share| (share.process.pid, share.survivors.bytes)).collect::<Vec<_>>(),
            )
        };
        let together = (1, vec![(2, 20), (1, 10)]);
        assert_eq!(groups(vec![line(1, 8)], vec![line(2, 9)]), together, "the same line");
        assert_eq!(
            groups(vec![at(1, 8, None)], vec![at(2, 8, None)]),
            together,
            "the same place in one file"
        );
        assert_eq!(groups(vec![at(1, 8, None)], vec![at(2, 9, None)]).0, 2, "another place");
        assert_eq!(groups(vec![at(1, 8, Some("f"))], vec![at(2, 8, Some("f"))]).0, 2, "another object");
        assert_eq!(
            groups(vec![at(1, 8, Some("f"))], vec![at(1, 9, Some("f"))]),
            together,
            "the same function"
        );
    }
}
