//! What `doctor` says of where probes would be placed and who pays for them: for each file how many processes map it, in scope and
//! out of it, and what a call costs each.

use std::{
    collections::HashSet,
    io::{self, Write},
};

use leaktrace_common::hook::kind;

use crate::{
    daemon::{Circumstances, FEW, Placement},
    probe::{
        cost::{CostTable, InstructionClass},
        plan::{Plan, PlannedObject},
    },
    process::maps,
    python::arrays,
    target::{
        discover,
        neighbours::{MappedFile, Users, users},
        python::examine,
    },
};

/// Processes in scope whose files are looked at; the others mostly have the same.
const LOOKED_AT: usize = 64;

/// A file that would be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProbedFile {
    file: MappedFile,
    /// A process that maps it, by whose path it is called.
    pid: u32,
    /// Nanoseconds of the cheapest and the dearest call in it that processes pass which are not traced. `None`: they pass none of
    /// its probes, or only when libraries are loaded.
    passed_ns: Option<(u32, u32)>,
}

impl ProbedFile {
    /// Its path; with a process, where several files go by that path.
    fn title(&self, all: &[Self]) -> String {
        let path = self.file.path.display();
        match all.iter().filter(|other| other.file.path == self.file.path).count() {
            0 | 1 => path.to_string(),
            _ => format!("{path} (that of process {})", self.pid),
        }
    }
}

/// Prints the decision for these processes, and the cost of both ways.
///
/// # Errors
/// If nothing can be written.
pub fn print(
    pids: &[u32],
    circumstances: &Circumstances,
    costs: &CostTable,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut files = Vec::new();
    pids.iter().take(LOOKED_AT).for_each(|pid| add_files(*pid, costs, &mut files));
    let mapped: Vec<MappedFile> = files.iter().map(|probed| probed.file.clone()).collect();
    let users = users(&mapped, &pids.iter().copied().collect::<HashSet<u32>>());
    writeln!(out, "\nplacement: {}", circumstances.sentence(costs))?;
    writeln!(
        out,
        "  {:>8}  {:>6}  {:>22}  {:>26}  file",
        "in scope", "others", "they pay for a call", "own probes add to a call"
    )?;
    for (probed, users) in files.iter().zip(&users) {
        writeln!(
            out,
            "  {:>8}  {:>6}  {:>22}  {:>26}  {}",
            users.in_scope,
            users.others,
            paid(circumstances, probed, *users),
            format!("{} ns", costs.visits_ns(users.in_scope)),
            probed.title(&files)
        )?;
    }
    if !circumstances.strict && circumstances.forced.is_none() {
        writeln!(
            out,
            "  up to {FEW} processes of a file have probes of their own; from {} on, and for the whole host, probes are shared; --strict-scope forbids that",
            FEW + 1
        )?;
    }
    Ok(())
}

/// What a call costs processes that are not in scope.
fn paid(circumstances: &Circumstances, probed: &ProbedFile, users: Users) -> String {
    match circumstances.decide() {
        Placement::Shared if users.others > 0 => match probed.passed_ns {
            Some((least, most)) if least == most => format!("{most} ns"),
            Some((least, most)) => format!("{least} to {most} ns"),
            None => "nothing".to_owned(),
        },
        Placement::Shared | Placement::PerProcess => "nothing".to_owned(),
    }
}

/// The files that would be probed for one process. One that cannot be looked at has none.
fn add_files(pid: u32, costs: &CostTable, files: &mut Vec<ProbedFile>) {
    let Ok(found) = discover::discover(pid, costs) else { return };
    add_plan(pid, &found.plan, files);
    let Ok(mappings) = maps::read(pid) else { return };
    let Ok(Some(examined)) = examine(pid, &mappings, costs) else { return };
    let Ok(planned) = examined.allocators else { return };
    add_plan(pid, &planned.exact.plan, files);
    let watched = planned.tables.text().map(|text| arrays::watch(&examined.interpreter, text).points.len());
    if watched.is_some_and(|points| points > 0)
        && let Some(object) = planned.exact.plan.objects.first()
    {
        // Whoever takes an object from a free list passes these.
        let cost = costs.cost(InstructionClass::Jcc).entry_ns;
        add(pid, object, Some((cost, cost)), files);
    }
}

fn add_plan(pid: u32, plan: &Plan, files: &mut Vec<ProbedFile>) {
    for (object, probes) in plan.by_object() {
        // What lies in front of a function is passed only by calls that were redirected there, the linker's only by its own.
        let passed = probes
            .iter()
            .filter(|probe| probe.site.distance() >= 0 && probe.cookie.kind != kind::LINK_MAP)
            .map(|probe| probe.site.cost.per_hit_ns(probe.needs_return));
        let range = |range: Option<(u32, u32)>, ns| Some(wider(range, (ns, ns)));
        add(pid, object, passed.fold(None, range), files);
    }
}

/// The range that holds both.
fn wider(range: Option<(u32, u32)>, other: (u32, u32)) -> (u32, u32) {
    range.map_or(other, |(least, most)| (least.min(other.0), most.max(other.1)))
}

fn add(pid: u32, object: &PlannedObject, passed_ns: Option<(u32, u32)>, files: &mut Vec<ProbedFile>) {
    let file = MappedFile { device: object.device, inode: object.inode, path: object.path.clone() };
    match files.iter_mut().find(|probed| (probed.file.device, probed.file.inode) == (file.device, file.inode))
    {
        Some(probed) => {
            probed.passed_ns = passed_ns.map(|range| wider(probed.passed_ns, range)).or(probed.passed_ns);
        }
        None => files.push(ProbedFile { file, pid, passed_ns }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances(processes: usize) -> Circumstances {
        Circumstances { processes, whole_host: false, strict: false, forced: None, returns_are_safe: true }
    }

    fn probed(passed_ns: Option<(u32, u32)>) -> ProbedFile {
        let file = MappedFile { device: (8, 1), inode: 7, path: "/lib/libc.so.6".into() };
        ProbedFile { file, pid: 4711, passed_ns }
    }

    #[test]
    fn others_pay_only_where_probes_are_shared_and_they_pass_them() {
        let users = Users { in_scope: 17, others: 3 };
        let calls = probed(Some((500, 800)));
        assert_eq!(paid(&circumstances(16), &calls, users), "nothing");
        assert_eq!(paid(&circumstances(17), &calls, users), "500 to 800 ns");
        assert_eq!(paid(&circumstances(17), &probed(Some((800, 800))), users), "800 ns");
        assert_eq!(paid(&circumstances(17), &probed(None), users), "nothing");
        assert_eq!(paid(&circumstances(17), &calls, Users { others: 0, ..users }), "nothing");
    }

    #[test]
    fn files_of_the_same_name_are_told_apart_by_a_process() {
        let one = probed(None);
        assert_eq!(one.title(std::slice::from_ref(&one)), "/lib/libc.so.6");
        let both = [one.clone(), ProbedFile { pid: 12, ..one }];
        assert_eq!(both[1].title(&both), "/lib/libc.so.6 (that of process 12)");
    }

    #[test]
    fn the_table_has_a_line_for_each_file_of_a_living_process() {
        let mut text = Vec::new();
        print(&[std::process::id()], &circumstances(1), &CostTable::default(), &mut text).expect("written");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("placement: 1 process in scope: no other process is touched"), "{text}");
        assert!(text.contains("libc"), "{text}");
    }
}
