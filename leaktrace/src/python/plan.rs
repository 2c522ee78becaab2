//! The plan for an interpreter: which functions of its allocator tables are probed and where, and which pointers are
//! redirected for that. Pure but for reading the interpreter's file.
//!
//! A domain whose frees cannot all be seen is not hooked at all, for its blocks would look leaked. The raw domain needs no
//! such care: its blocks are the C library's, which are seen there with or without it.

use std::sync::Arc;

use leaktrace_common::hook::{domain, kind};

use super::alias::{self, AliasKind, Change};
use super::allocators::{Domain, Kind, Role, Slot, State, Table, Tables};
use super::redirect::SlotChange;
use super::references::{self, References};
use super::text::Text;
use crate::object::address::AbsoluteAddress;
use crate::probe::cost::CostTable;
use crate::probe::hooks::{self, HookId};
use crate::probe::padding;
use crate::probe::plan::{Plan, PlannedObject, PlannedProbe, requirements};
use crate::probe::site::{Architecture, Function, MAX_FUNCTION_BYTES, Site, SiteError, WINDOW_BYTES, choose};

/// What is to be placed in and written to one interpreter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PythonPlan {
    /// Probes, and what will not be seen.
    pub plan: Plan,
    /// Pointers to be redirected.
    pub redirect: Vec<SlotChange>,
}

/// Plans the probes on an interpreter's allocators. Without `writes` nothing is redirected: what the compiler has inlined is
/// not seen then.
pub fn plan(tables: &Tables, costs: &CostTable, writes: bool) -> PythonPlan {
    let mut planner = Planner::new(tables, costs, writes);
    planner.domain(domain::PY, &[Domain::Mem, Domain::Object]);
    planner.domain(domain::PY_RAW, &[Domain::Raw]);
    planner.finish()
}

/// A function to be seen, and the pointers that lead to it.
#[derive(Clone, Debug)]
struct Wanted<'a> {
    hook: HookId,
    state: &'a State,
    slots: Vec<(Domain, &'a Slot)>,
}

impl Wanted<'_> {
    fn function(&self) -> Option<(AbsoluteAddress, Option<usize>)> {
        self.slots.first().map(|(_, slot)| (slot.function, slot.object))
    }

    fn role(&self) -> Option<Role> {
        self.slots.first().map(|(_, slot)| slot.role)
    }

    /// Blocks of this function are the C library's own: what is not seen here is seen there.
    fn is_libc(&self) -> bool {
        *self.state == State::Default(Kind::Malloc)
    }
}

/// How one function will be seen.
struct Placed<'a> {
    text: &'a Text,
    function: AbsoluteAddress,
    site: Site,
    hook: HookId,
    redirect: Vec<SlotChange>,
}

struct Planner<'a> {
    tables: &'a Tables,
    costs: &'a CostTable,
    writes: bool,
    references: Vec<(AbsoluteAddress, References)>,
    seen: Vec<AbsoluteAddress>,
    done: PythonPlan,
}

/// Adds a probe on a function to a plan.
pub(super) fn add_probe(
    plan: &mut Plan,
    text: &Text,
    function: AbsoluteAddress,
    site: Site,
    hook: HookId,
) -> Result<(), String> {
    let own = text.own(function);
    let offset = text.file_offset(site.address(own)).ok_or("its code is not in the file")?;
    let object = plan.place_of(PlannedObject {
        path: text.path.clone(),
        attach_path: text.openable.clone(),
        device: text.device,
        inode: text.inode,
    });
    plan.probes.push(PlannedProbe {
        hook,
        aliases: Vec::new(),
        object,
        function: own,
        offset,
        cookie: hooks::cookie(hook, site.pushed_words),
        needs_return: hook.hook().needs_return(),
        site,
        alternatives: Vec::new(),
    });
    Ok(())
}

/// Legal sites in a function itself.
pub(super) fn sites_in_body(
    text: &Text,
    function: AbsoluteAddress,
    hook: HookId,
    costs: &CostTable,
) -> Result<Vec<Site>, SiteError> {
    let (bytes, complete) = text.body(function, MAX_FUNCTION_BYTES, WINDOW_BYTES);
    let code = Function { address: text.own(function), bytes: &bytes, complete };
    let choice = choose(Architecture::X86_64, code, requirements(hook), costs)?;
    Ok(std::iter::once(choice.site).chain(choice.alternatives).collect())
}

impl<'a> Planner<'a> {
    fn new(tables: &'a Tables, costs: &'a CostTable, writes: bool) -> Self {
        let mut done = PythonPlan::default();
        // A block above 512 bytes is the C library's as well, and is freed in both layers.
        done.plan.layered = true;
        let references = references_of(tables).unwrap_or_else(|reason| {
            done.plan
                .notes
                .push(format!("Python's code cannot be searched for inlined allocations: {reason}"));
            Vec::new()
        });
        Self { tables, costs, writes, references, seen: Vec::new(), done }
    }

    /// One of the domains that reports know.
    fn domain(&mut self, number: u8, domains: &[Domain]) {
        let wanted = self.wanted(number, domains);
        let mut placed = Vec::new();
        for wanted in &wanted {
            match self.place(wanted) {
                Ok(done) => placed.push(done),
                Err(reason) if self.may_be_missed(wanted) => self.note_missed(wanted, &reason),
                Err(reason) => {
                    self.done.plan.notes.push(self.refusal(wanted, &reason));
                    return;
                }
            }
        }
        self.seen.extend(wanted.iter().filter_map(Wanted::function).map(|(function, _)| function));
        for Placed { text, function, site, hook, redirect } in placed {
            match add_probe(&mut self.done.plan, text, function, site, hook) {
                Ok(()) => self.done.redirect.extend(redirect),
                Err(reason) => self.done.plan.notes.push(reason),
            }
        }
    }

    /// Distinct functions of some tables. Blocks that the C library frees are seen there, which spares a probe.
    fn wanted(&self, number: u8, domains: &[Domain]) -> Vec<Wanted<'a>> {
        let mut wanted: Vec<Wanted<'a>> = Vec::new();
        for table in domains.iter().map(|domain| self.tables.table(*domain)) {
            for slot in &table.slots {
                let libc_sees = table.state == State::Default(Kind::Malloc) && slot.role == Role::Free;
                if libc_sees || self.seen.contains(&slot.function) {
                    continue;
                }
                match wanted.iter_mut().find(|known| known.function().map(|f| f.0) == Some(slot.function)) {
                    Some(known) => known.slots.push((table.domain, slot)),
                    None => wanted.extend(hook(number, slot.role).map(|hook| Wanted {
                        hook,
                        state: &table.state,
                        slots: vec![(table.domain, slot)],
                    })),
                }
            }
        }
        for known in &mut wanted {
            known.slots.extend(self.also(known, domains));
        }
        wanted
    }

    /// Pointers of other tables to the same function (`PYTHONMALLOC=malloc`).
    fn also(&self, wanted: &Wanted<'a>, domains: &[Domain]) -> Vec<(Domain, &'a Slot)> {
        let function = wanted.function().map(|(function, _)| function);
        let others = self.tables.tables.iter().filter(|table| !domains.contains(&table.domain));
        let slots = others.flat_map(|table: &Table| table.slots.iter().map(|slot| (table.domain, slot)));
        slots.filter(|(_, slot)| Some(slot.function) == function).collect()
    }

    /// What is not seen of this function makes no block look leaked.
    fn may_be_missed(&self, wanted: &Wanted<'_>) -> bool {
        let gives = matches!(wanted.hook.hook().kind, kind::ALLOC);
        wanted.is_libc() || gives && self.writes
    }

    fn note_missed(&mut self, wanted: &Wanted<'_>, reason: &str) {
        let name = describe(wanted);
        self.done.plan.notes.push(if wanted.is_libc() {
            format!("{name} is not probed ({reason}): its blocks are counted as the C library's")
        } else {
            format!("allocations by {name} are not seen: {reason}")
        });
    }

    fn refusal(&self, wanted: &Wanted<'_>, reason: &str) -> String {
        let name = describe(wanted);
        format!(
            "{name} cannot be seen ({reason}), so Python's small blocks are not traced at all: only those above 512 bytes, which the C library serves, and the arenas"
        )
    }

    fn place(&self, wanted: &Wanted<'a>) -> Result<Placed<'a>, String> {
        let (function, object) = wanted.function().ok_or("it has no pointer")?;
        let text = object.and_then(|object| self.tables.texts.get(object)).map(Arc::as_ref);
        let text = text.ok_or("its code lies in no file that can be opened")?;
        let found = if self.needs_redirection(wanted, function) {
            if !self.writes {
                return Err(
                    "the compiler has inlined it, and nothing may be written to the process".to_owned()
                );
            }
            self.redirected(text, function, wanted)
        } else {
            self.in_body(text, function, wanted, 0).map(|sites| (cheapest(sites, wanted.hook), None))
        }?;
        let (site, alias) = found;
        let site = site.ok_or("the kernel accepts no probe there")?;
        if wanted.is_libc() && !site.cost.emulated {
            return Err("a probe there would be single-stepped".to_owned());
        }
        text.file_offset(site.address(text.own(function))).ok_or("its code is not in the file")?;
        let redirect = alias.map(|alias| changes(wanted, alias)).unwrap_or_default();
        Ok(Placed { text, function, site, hook: wanted.hook, redirect })
    }

    /// Whether calls may have been inlined. An unknown function of the interpreter's own may always have been.
    fn needs_redirection(&self, wanted: &Wanted<'_>, function: AbsoluteAddress) -> bool {
        let own = matches!(wanted.state, State::Default(_));
        let known = self.references.iter().find(|(known, _)| *known == function);
        own && known.is_none_or(|(_, references)| references.inlined > 0)
    }

    /// The cheapest site that every call through another entry passes, and that entry.
    fn redirected(
        &self,
        text: &Text,
        function: AbsoluteAddress,
        wanted: &Wanted<'_>,
    ) -> Result<(Option<Site>, Option<AbsoluteAddress>), String> {
        let mut aliases = alias::of(text, function);
        let least = aliases.iter().map(|alias| alias.change).min();
        // Nothing is stopped for blocks that are seen anyway.
        let may_stop = !wanted.is_libc();
        aliases
            .retain(|alias| Some(alias.change) == least && (may_stop || alias.change == Change::LowestByte));
        let nops = text.padding(function);
        let mut choices = Vec::new();
        for alias in &aliases {
            let (in_front, skipped) = match alias.kind {
                AliasKind::Padding => (function.0.saturating_sub(alias.address.0), 0),
                AliasKind::BehindEndbr => (0, alias.address.0.saturating_sub(function.0)),
            };
            let mut sites = padding::sites(&nops, in_front, self.costs);
            sites.extend(self.in_body(text, function, wanted, skipped).unwrap_or_default());
            choices.extend(cheapest(sites, wanted.hook).map(|site| (site, alias.address)));
        }
        let needs_return = wanted.hook.hook().needs_return();
        // Of equally cheap ones the entry that runs the fewest nops.
        let best = choices.into_iter().min_by_key(|(site, alias)| {
            (site.cost.per_hit_ns(needs_return), site.in_front == 0, alias.0.abs_diff(function.0))
        });
        match best {
            Some((site, alias)) => Ok((Some(site), Some(alias))),
            None => Err("it has no second entry: no padding in front of it, no endbr64".to_owned()),
        }
    }

    /// Legal sites in the function itself, from `skipped` bytes on.
    fn in_body(
        &self,
        text: &Text,
        function: AbsoluteAddress,
        wanted: &Wanted<'_>,
        skipped: u64,
    ) -> Result<Vec<Site>, String> {
        let sites =
            sites_in_body(text, function, wanted.hook, self.costs).map_err(|error| error.to_string())?;
        Ok(sites.into_iter().filter(|site| site.offset >= skipped).collect())
    }

    fn finish(mut self) -> PythonPlan {
        self.done.plan.probes.sort_by_key(|probe| (probe.hook.hook().priority(), probe.hook));
        self.done.redirect.sort_by_key(|change| change.role != Role::Free);
        for table in &self.tables.tables {
            if let State::Hooked(by) = &table.state {
                let note = format!(
                    "the {} allocator is hooked by {by}: its functions are probed where the table points, nothing of it is written",
                    table.domain
                );
                self.done.plan.notes.push(note);
            }
        }
        self.done
    }
}

fn describe(wanted: &Wanted<'_>) -> String {
    let domains: Vec<String> = wanted.slots.iter().map(|(domain, _)| domain.to_string()).collect();
    let role = wanted.role().map(|role| role.to_string()).unwrap_or_default();
    format!("Python's {role} ({})", domains.join(", "))
}

fn changes(wanted: &Wanted<'_>, alias: AbsoluteAddress) -> Vec<SlotChange> {
    let change = |(domain, slot): &(Domain, &Slot)| SlotChange {
        domain: *domain,
        role: slot.role,
        address: slot.address,
        original: slot.function,
        alias,
    };
    wanted.slots.iter().map(change).collect()
}

pub(super) fn cheapest(sites: Vec<Site>, hook: HookId) -> Option<Site> {
    let needs_return = hook.hook().needs_return();
    sites.into_iter().min_by_key(|site| (site.cost.per_hit_ns(needs_return), site.in_front == 0))
}

/// The row for a role in a domain.
fn hook(number: u8, role: Role) -> Option<HookId> {
    let (call, factor) = match role {
        Role::Malloc => (kind::ALLOC, false),
        Role::Calloc => (kind::ALLOC, true),
        Role::Realloc => (kind::REALLOC, false),
        Role::Free => (kind::FREE, false),
    };
    hooks::all().find(|id| {
        let hook = id.hook();
        let same = hook.provider == hooks::Provider::Python && hook.domain == number && hook.kind == call;
        same && (hook.factor_arg != 0) == factor
    })
}

/// How often the interpreter's code names each of its own allocator's functions.
fn references_of(
    tables: &Tables,
) -> Result<Vec<(AbsoluteAddress, References)>, crate::object::elf::ElfError> {
    let own = tables.tables.iter().filter(|table| matches!(table.state, State::Default(_)));
    let mut functions: Vec<_> = own.flat_map(|table| table.slots.map(|slot| slot.function)).collect();
    functions.sort_unstable();
    functions.dedup();
    let Some(text) = tables.text() else { return Ok(Vec::new()) };
    let found = references::remembered(text, &functions)?;
    Ok(functions.into_iter().zip(found).collect())
}

/// Whether any pointer of a plan changes in more than its lowest byte.
pub fn needs_stop(redirect: &[SlotChange]) -> bool {
    redirect.iter().any(|change| change.change() == Change::Several)
}
