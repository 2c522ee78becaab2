//! Who is meant by a name.

use crate::{cli::Failure, store::History, watched::Subject};

/// Others that are named when nobody is meant.
const CANDIDATES: usize = 10;
/// Least digits of a container's ID that may stand for it.
const LEAST_DIGITS: usize = 4;

/// The subjects that the names mean; all without names.
pub(super) fn chosen(history: &History, names: &[String]) -> Result<Vec<Subject>, Failure> {
    let all = history.subjects()?;
    if names.is_empty() {
        return Ok(all);
    }
    for name in names {
        if !all.iter().any(|subject| is_meant(subject, name)) {
            return Err(Failure::NoTarget(format!(
                "nobody in the history {} is called {name}: {}",
                history.path().display(),
                candidates(&all, name)
            )));
        }
    }
    Ok(all.into_iter().filter(|subject| names.iter().any(|name| is_meant(subject, name))).collect())
}

fn is_meant(subject: &Subject, name: &str) -> bool {
    let by_id = |container: &crate::target::Container| {
        container.name.as_deref() == Some(name)
            || container.id == name
            || (name.len() >= LEAST_DIGITS && container.id.starts_with(name))
    };
    subject.key == name
        || subject.name == name
        || name.parse() == Ok(subject.pid)
        || subject.cgroup.as_deref() == Some(name)
        || subject.container.as_ref().is_some_and(by_id)
}

/// Those whose names resemble it most.
fn candidates(all: &[Subject], name: &str) -> String {
    let mut names: Vec<&str> = all.iter().map(|subject| subject.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    match names.as_slice() {
        [] => "it knows nobody yet".to_owned(),
        names => {
            let more = if names.len() > CANDIDATES { ", ..." } else { "" };
            let shown: Vec<&str> = names.iter().copied().take(CANDIDATES).collect();
            format!("it knows {}{more}", shown.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Container;

    #[test]
    fn a_subject_is_meant_by_each_of_its_names() {
        let container = Container { id: "3f2a77".into(), name: Some("web-1".into()), ..Container::default() };
        let subject = Subject {
            key: "container:3f2a77".into(),
            name: "web".into(),
            pid: 4711,
            cgroup: Some("/web".into()),
            container: Some(container),
            ..Subject::default()
        };
        for name in ["container:3f2a77", "web", "web-1", "4711", "/web", "3f2a77", "3f2a"] {
            assert!(is_meant(&subject, name), "{name}");
        }
        for name in ["", "we", "3f", "471", "container:"] {
            assert!(!is_meant(&subject, name), "{name}");
        }
    }

    #[test]
    fn who_is_not_known_is_answered_with_who_resembles_it() {
        let known = ["api", "web", "worker"].map(|name| Subject { name: name.into(), ..Subject::default() });
        assert_eq!(candidates(&known, "wrker"), "it knows worker, web, api");
        assert_eq!(candidates(&[], "x"), "it knows nobody yet");
    }
}
