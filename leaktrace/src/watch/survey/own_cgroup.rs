//! Which memory cgroup is a subject's own: what that says is said of the subject only if nobody else's memory is charged to it. Pure.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::process::cgroup::Place;

/// A process and its subject.
#[derive(Clone, Copy, Debug)]
pub struct Charged<'a> {
    /// Where its memory is charged to.
    pub place: &'a Arc<Place>,
    /// The subject that it is part of.
    pub key: Option<&'a Arc<str>>,
    /// The cgroup that the subject is, or that its runtime has made for it.
    pub subject_place: Option<&'a Place>,
}

/// Where the memory of one subject may be charged.
#[derive(Clone, Debug)]
struct Offer {
    place: Place,
    /// It is the subject's by definition, whoever else is in it.
    certain: bool,
}

/// The memory cgroup of each subject that has one of its own.
pub fn own_cgroups<'a>(
    processes: impl Iterator<Item = Charged<'a>> + Clone,
) -> HashMap<Arc<str>, Arc<Place>> {
    let mut offers: HashMap<Arc<str>, Offer> = HashMap::new();
    for process in processes.clone() {
        let Some(key) = process.key else { continue };
        match offers.get_mut(key) {
            Some(offer) => offer.meet(process.place),
            None => {
                offers.insert(key.clone(), Offer::first(&process));
            }
        }
    }
    // The root is nobody's own.
    offers.retain(|_, offer| !offer.place.is_root());
    leave_out_shared(&mut offers, processes);
    offers.into_iter().map(|(key, offer)| (key, Arc::new(offer.place))).collect()
}

impl Offer {
    fn first(process: &Charged<'_>) -> Self {
        // Runtimes make a container's cgroup under one path in every hierarchy.
        let around = process.subject_place.filter(|own| process.place.path.starts_with(&own.path));
        match around.filter(|own| !own.is_root()) {
            Some(own) => {
                let place = Place { hierarchy: process.place.hierarchy.clone(), path: own.path.clone() };
                Self { place, certain: true }
            }
            None => Self { place: process.place.as_ref().clone(), certain: false },
        }
    }

    /// What is around both.
    fn meet(&mut self, place: &Place) {
        if !place.path.starts_with(&self.place.path) {
            self.place.path = common(&self.place.path, &place.path);
            self.certain = false;
        }
    }
}

/// Takes away what other processes' memory is charged to as well.
fn leave_out_shared<'a>(offers: &mut HashMap<Arc<str>, Offer>, processes: impl Iterator<Item = Charged<'a>>) {
    let mut by_path: HashMap<PathBuf, Vec<Arc<str>>> = HashMap::new();
    for (key, offer) in offers.iter().filter(|(_, offer)| !offer.certain) {
        by_path.entry(offer.place.path.clone()).or_default().push(key.clone());
    }
    if by_path.is_empty() {
        return;
    }
    for process in processes {
        for path in process.place.path.ancestors() {
            let Some(keys) = by_path.get(path) else { continue };
            keys.iter().filter(|key| process.key != Some(*key)).for_each(|key| drop(offers.remove(key)));
        }
    }
}

fn common(one: &Path, other: &Path) -> PathBuf {
    one.components()
        .zip(other.components())
        .take_while(|(one, other)| one == other)
        .map(|(one, _)| one)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::cgroup::Hierarchy;

    /// Subject (empty: none), where its memory is charged, the subject's own cgroup (empty: none).
    type Row = (&'static str, &'static str, &'static str);

    fn place(path: &str) -> Place {
        Place { hierarchy: Hierarchy::Legacy("memory".into()), path: path.into() }
    }

    fn found(rows: &[Row]) -> Vec<(String, String)> {
        let rows: Vec<_> = rows
            .iter()
            .map(|(key, charged, own)| {
                let key = Some(*key).filter(|key| !key.is_empty()).map(Arc::from);
                let own = Some(*own).filter(|own| !own.is_empty()).map(place);
                (key, Arc::new(place(charged)), own)
            })
            .collect();
        let charged = rows.iter().map(|(key, place, own)| Charged {
            place,
            key: key.as_ref(),
            subject_place: own.as_ref(),
        });
        let mut found: Vec<(String, String)> = own_cgroups(charged)
            .into_iter()
            .map(|(key, place)| (key.to_string(), place.path.display().to_string()))
            .collect();
        found.sort();
        found
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, path)| ((*key).to_owned(), (*path).to_owned())).collect()
    }

    #[test]
    fn a_container_has_the_cgroup_that_its_runtime_has_made() {
        let rows = [("web", "/docker/web/init", "/docker/web"), ("web", "/docker/web/app", "/docker/web")];
        assert_eq!(found(&rows), pairs(&[("web", "/docker/web")]));
    }

    #[test]
    fn without_one_it_has_what_is_around_all_of_it_and_nobody_else() {
        let rows = [("web", "/a/b/one", ""), ("web", "/a/b/two", ""), ("", "/a/c", "")];
        assert_eq!(found(&rows), pairs(&[("web", "/a/b")]));
        let shared = [("web", "/a/b/one", ""), ("web", "/a/b/two", ""), ("", "/a/b/two", "")];
        assert_eq!(found(&shared), []);
    }

    #[test]
    fn a_process_has_a_cgroup_of_its_own_only_if_it_is_alone_in_it() {
        let alone = [("one", "/a/one", ""), ("two", "/b", ""), ("three", "/b", ""), ("root", "/", "")];
        assert_eq!(found(&alone), pairs(&[("one", "/a/one")]));
    }

    #[test]
    fn a_subject_that_has_spread_beyond_its_cgroup_does_not_own_what_is_around() {
        let rows = [("web", "/docker/web", "/docker/web"), ("web", "/other", "/docker/web")];
        assert_eq!(found(&rows), []);
    }
}
