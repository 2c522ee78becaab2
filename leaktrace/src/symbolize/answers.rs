//! Names of addresses within one object, from every source that may have them, the richest first: a separate debug
//! file, the object itself, and the symbol table packed into it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use super::debug_file::{Found, Refused};
use super::lookup::{self, Call};
use super::mini::{self, Unpacked};
use super::objects::{ObjectId, Objects};
use super::outline::Outline;
use super::snapshot::{Snapshot, SnapshotError};
use super::statistics::{Unresolved, accepted};
use crate::object::address::VirtualOffset;

/// The calls at an address, innermost first, or why there are none.
pub type Answer = Result<Vec<Call>, Unresolved>;

/// What was passed over in all searches so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Objects whose debug information was left out.
    pub debug_left_out: u64,
    /// Debug files that were not believed.
    pub refused: BTreeMap<Refused, u64>,
}

/// One object whose names are asked for.
pub struct Question<'a> {
    pub objects: &'a mut Objects,
    pub directories: &'a [PathBuf],
    pub tally: &'a mut Tally,
    pub object: ObjectId,
    pub addresses: &'a [VirtualOffset],
}

impl Question<'_> {
    /// An answer for each address.
    pub fn answers(mut self) -> Vec<Answer> {
        let mut answers = vec![Err(Unresolved::NoSymbol); self.addresses.len()];
        let file = match self.objects.file(self.object) {
            Ok(file) => file,
            Err(reason) => return vec![Err(Unresolved::Object(reason)); self.addresses.len()],
        };
        let outline = self.objects.get(self.object).map(|object| object.outline.clone());
        let Some(Ok(outline)) = outline else { return answers };
        if !outline.has_debug_information() {
            self.ask_debug_file(&mut answers);
        }
        self.ask(&file, &outline, None, &mut answers);
        if answers.iter().any(Result::is_err) {
            self.ask_packed_symbols(&file, &outline, &mut answers);
        }
        answers
    }

    fn ask_debug_file(&mut self, answers: &mut [Answer]) {
        let refused = &mut self.tally.refused;
        let Some(found) = self.objects.debug_file(self.object, self.directories, refused) else { return };
        let shared = self.objects.shared_debug_file(self.object, &found, self.directories, refused);
        // Names of functions that stand in the shared file are missing without it.
        let shared = shared.and_then(|Found { file, outline, .. }| {
            Snapshot::take(&file, &outline, true, None).ok().filter(|copy| copy.has_debug_information)
        });
        self.ask(&found.file, &found.outline, shared.as_ref(), answers);
    }

    fn ask_packed_symbols(&mut self, file: &File, outline: &Outline, answers: &mut [Answer]) {
        match mini::unpack(file, outline) {
            Unpacked::Symbols(file, outline) => self.ask(&file, &outline, None, answers),
            Unpacked::Absent => {}
            Unpacked::Unusable => self.tally.debug_left_out += 1,
        }
    }

    /// Asks one file for the addresses that have no name yet: with lines, and where that brings nothing, without.
    fn ask(&mut self, file: &File, outline: &Outline, shared: Option<&Snapshot>, answers: &mut [Answer]) {
        if answers.iter().all(Result::is_ok) {
            return;
        }
        let snapshot = match Snapshot::take(file, outline, true, shared) {
            Ok(snapshot) => snapshot,
            Err(error) => return refuse_all(answers, error),
        };
        self.tally.debug_left_out += u64::from(snapshot.debug_left_out);
        if snapshot.has_debug_information {
            self.fill(&snapshot, true, answers);
        }
        self.fill(&snapshot, false, answers);
    }

    fn fill(&self, snapshot: &Snapshot, lines: bool, answers: &mut [Answer]) {
        let open: Vec<(&mut Answer, VirtualOffset)> = answers
            .iter_mut()
            .zip(self.addresses.iter().copied())
            .filter(|(answer, _)| answer.is_err())
            .collect();
        let asked: Vec<VirtualOffset> = open.iter().map(|(_, address)| *address).collect();
        for ((answer, _), found) in open.into_iter().zip(lookup::calls(snapshot, &asked, lines)) {
            *answer = accepted(found);
        }
    }
}

fn refuse_all(answers: &mut [Answer], error: SnapshotError) {
    let reason = Unresolved::from(error);
    answers.iter_mut().filter(|answer| answer.is_err()).for_each(|answer| *answer = Err(reason));
}
