//! Which subjects and suspects are shown where not all can be. Pure.

use std::collections::HashSet;

use super::Limits;
use crate::{
    report::fingerprint::SiteKey,
    watched::{State, SubjectState, Suspect},
};

/// A subject that is shown.
pub(super) struct Chosen<'a> {
    /// It.
    pub state: &'a SubjectState,
    /// Its suspects that are shown, each site once.
    pub suspects: Vec<&'a Suspect>,
}

/// What is shown and what is not.
pub(super) struct Choice<'a> {
    /// Those that are shown, by their keys.
    pub subjects: Vec<Chosen<'a>>,
    /// How many subjects are not.
    pub subjects_omitted: usize,
    /// How many suspects are not, of those subjects that are.
    pub suspects_omitted: usize,
}

impl<'a> Choice<'a> {
    /// Those who are traced or grow come first, then those that have suspects, then those with most memory.
    pub(super) fn of(state: &'a State, limits: Limits) -> Self {
        let mut keys = HashSet::new();
        let mut subjects: Vec<&SubjectState> =
            state.subjects.iter().filter(|subject| keys.insert(subject.subject.key.as_str())).collect();
        subjects.sort_by(|one, other| rank(other).cmp(&rank(one)));
        subjects.truncate(limits.subjects);
        subjects.sort_by(|one, other| one.subject.key.cmp(&other.subject.key));
        let subjects_omitted = state.subjects.len() - subjects.len();
        let subjects: Vec<Chosen<'a>> = subjects.into_iter().map(|state| chosen(state, limits)).collect();
        let omitted = subjects.iter().map(|chosen| chosen.state.suspects.len() - chosen.suspects.len());
        let suspects_omitted = omitted.sum();
        Self { subjects, subjects_omitted, suspects_omitted }
    }
}

fn rank(subject: &SubjectState) -> (bool, bool, bool, u64) {
    let known = !subject.suspects.is_empty();
    (subject.session.is_some(), subject.trend.grows, known, subject.memory.private_bytes())
}

fn chosen(state: &SubjectState, limits: Limits) -> Chosen<'_> {
    let mut sites: HashSet<SiteKey> = HashSet::new();
    let suspects = state.suspects.iter().filter(|suspect| sites.insert(suspect.site));
    Chosen { state, suspects: suspects.take(limits.suspects).collect() }
}
