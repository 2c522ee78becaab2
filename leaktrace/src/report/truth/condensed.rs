//! What is to be said of many processes, said once: a sentence that several of them share is counted, and of more than
//! fit into one line the rest is. JSON has them all.

use std::collections::HashMap;

use crate::report::human::{count, plural};

/// These sentences in the order of their first appearance: `process 7: X` and `process 8: X` become `X (2 processes)`.
pub(super) fn condensed(sentences: impl Iterator<Item = String>, most: usize, noun: &str) -> Vec<String> {
    let sentences: Vec<String> = sentences.collect();
    let mut processes: HashMap<&str, u64> = HashMap::new();
    for sentence in sentences.iter().filter_map(|sentence| about_process(sentence)) {
        *processes.entry(sentence).or_default() += 1;
    }
    let mut condensed = Vec::new();
    for sentence in &sentences {
        match about_process(sentence)
            .and_then(|shared| processes.get_mut(shared).map(|number| (shared, number)))
        {
            None | Some((_, 1)) => condensed.push(sentence.clone()),
            // Said where it came first.
            Some((_, 0)) => {}
            Some((shared, number)) => {
                condensed.push(format!("{shared} ({} processes)", count(std::mem::take(number))));
            }
        }
    }
    let more = condensed.len().saturating_sub(most);
    if more > 0 {
        condensed.truncate(most);
        condensed.push(format!("and {}", plural(more as u64, &format!("more {noun}"))));
    }
    condensed
}

/// `X` of `process 4711: X`.
fn about_process(sentence: &str) -> Option<&str> {
    let (pid, rest) = sentence.strip_prefix("process ")?.split_once(": ")?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sentences: &[&str], most: usize) -> Vec<String> {
        condensed(sentences.iter().map(|sentence| (*sentence).to_owned()), most, "note")
    }

    #[test]
    fn what_several_processes_share_is_counted() {
        let sentences = ["process 1: a", "b", "process 2: c", "process 3: a", "process x: a"];
        assert_eq!(said(&sentences, 9), ["a (2 processes)", "b", "process 2: c", "process x: a"]);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(said(&["a", "b", "c"], 3), ["a", "b", "c"]);
        assert_eq!(said(&["a", "b", "c"], 1), ["a", "and 2 more notes"]);
        assert_eq!(said(&[], 1), Vec::<String>::new());
    }
}
