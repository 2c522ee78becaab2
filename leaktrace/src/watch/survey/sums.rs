//! What the processes of each subject use together. Pure.

use std::{collections::HashMap, sync::Arc};

use super::known::Part;
use crate::{process::status::Memory, watched::MemoryReading};

/// A process leads its subject until another one uses so much more: what a subject is shown by should not change at each look.
const LEAD: f64 = 1.25;

/// A process at one look.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// As the host sees it.
    pub pid: u32,
    /// When it started, clock ticks since boot.
    pub start_ticks: u64,
    /// What it is part of.
    pub part: &'a Part,
    /// Its memory.
    pub memory: Memory,
    /// CPU time, clock ticks.
    pub cpu_ticks: u64,
}

/// A subject at one look.
#[derive(Clone, Debug)]
pub struct Sum<'a> {
    /// Memory of all its processes.
    pub memory: Memory,
    /// CPU time of those that live, clock ticks.
    pub cpu_ticks: u64,
    /// How many.
    pub processes: u32,
    /// When the oldest started, clock ticks since boot.
    pub oldest_ticks: u64,
    /// Who stands for it.
    pub leader: Member<'a>,
}

impl Member<'_> {
    fn private_bytes(&self) -> u64 {
        private(&self.memory)
    }
}

impl Sum<'_> {
    /// What subjects are compared by.
    pub fn private_bytes(&self) -> u64 {
        private(&self.memory)
    }

    /// The reading, without CPU time of ended processes and without what its cgroup says.
    pub fn reading(&self, at_unix_s: f64) -> MemoryReading {
        MemoryReading {
            at_unix_s,
            anonymous_bytes: self.memory.anonymous_bytes,
            swap_bytes: self.memory.swap_bytes,
            rss_bytes: self.memory.rss_bytes,
            cpu_s: 0.0,
            processes: self.processes,
            cgroup: None,
        }
    }
}

/// Adds processes up. `leaders` are those of the last look.
pub fn sums<'a>(
    members: impl Iterator<Item = Member<'a>>,
    leaders: &HashMap<Arc<str>, (u32, u64)>,
) -> HashMap<Arc<str>, Sum<'a>> {
    let mut sums: HashMap<Arc<str>, Sum<'a>> = HashMap::new();
    for member in members {
        match sums.get_mut(&member.part.key) {
            Some(sum) => add(sum, member, leaders.get(&member.part.key)),
            None => {
                sums.insert(member.part.key.clone(), first(member));
            }
        }
    }
    sums
}

fn first(member: Member<'_>) -> Sum<'_> {
    Sum {
        memory: member.memory,
        cpu_ticks: member.cpu_ticks,
        processes: 1,
        oldest_ticks: member.start_ticks,
        leader: member,
    }
}

fn add<'a>(sum: &mut Sum<'a>, member: Member<'a>, led: Option<&(u32, u64)>) {
    let memory = &mut sum.memory;
    memory.rss_bytes = memory.rss_bytes.saturating_add(member.memory.rss_bytes);
    memory.anonymous_bytes = memory.anonymous_bytes.saturating_add(member.memory.anonymous_bytes);
    memory.swap_bytes = memory.swap_bytes.saturating_add(member.memory.swap_bytes);
    sum.cpu_ticks = sum.cpu_ticks.saturating_add(member.cpu_ticks);
    sum.processes += 1;
    sum.oldest_ticks = sum.oldest_ticks.min(member.start_ticks);
    if weight(&member, led) > weight(&sum.leader, led) {
        sum.leader = member;
    }
}

/// By what processes are compared for standing for their subject.
fn weight(member: &Member<'_>, led: Option<&(u32, u64)>) -> f64 {
    let has_led = led == Some(&(member.pid, member.start_ticks));
    member.private_bytes() as f64 * if has_led { LEAD } else { 1.0 }
}

fn private(memory: &Memory) -> u64 {
    memory.anonymous_bytes.saturating_add(memory.swap_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::SubjectKind;

    fn part(key: &str) -> Part {
        Part {
            key: key.into(),
            kind: SubjectKind::Container,
            title: key.to_owned(),
            scope: 0,
            container: None,
            place: None,
            command: Vec::new(),
        }
    }

    fn member(part: &Part, pid: u32, bytes: u64) -> Member<'_> {
        let memory = Memory { rss_bytes: bytes * 2, anonymous_bytes: bytes, swap_bytes: 1 };
        Member { pid, start_ticks: 100 + u64::from(pid), part, memory, cpu_ticks: 10 }
    }

    #[test]
    fn processes_of_one_subject_add_up() {
        let (web, db) = (part("web"), part("db"));
        let members = [member(&web, 1, 100), member(&db, 2, 50), member(&web, 3, 300)];
        let sums = sums(members.into_iter(), &HashMap::new());
        let web = &sums["web"];
        assert_eq!(web.memory, Memory { rss_bytes: 800, anonymous_bytes: 400, swap_bytes: 2 });
        assert_eq!((web.processes, web.cpu_ticks, web.oldest_ticks, web.leader.pid), (2, 20, 101, 3));
        assert_eq!((sums["db"].processes, sums["db"].reading(7.0).private_bytes()), (1, 51));
    }

    #[test]
    fn who_stands_for_a_subject_changes_only_when_another_is_clearly_larger() {
        let web = part("web");
        let leaders = HashMap::from([(Arc::from("web"), (1, 101))]);
        let leader = |bytes| {
            let members = [member(&web, 1, 100), member(&web, 2, bytes)];
            sums(members.into_iter(), &leaders)["web"].leader.pid
        };
        assert_eq!((leader(110), leader(200)), (1, 2));
    }
}
