//! Sums of age classes. Those of blocks have the same bounds everywhere in a report; those of mappings have their own, and
//! come together where they overlap, so that every block is in one class.

use crate::report::model::AgeClass;

/// Classes of one sum: more are put together with their neighbours.
const MAX_CLASSES: usize = 32;

/// The sum of all these classes, youngest first, no two of which overlap.
pub(super) fn sum<'a>(classes: impl Iterator<Item = &'a AgeClass>) -> Vec<AgeClass> {
    let mut classes: Vec<AgeClass> = classes.copied().collect();
    classes.sort_by(|a, b| {
        a.youngest_s.total_cmp(&b.youngest_s).then_with(|| a.oldest_s.total_cmp(&b.oldest_s))
    });
    let apart = joined(classes, overlap);
    let per_class = apart.len().div_ceil(MAX_CLASSES).max(1);
    let mut taken = 0;
    joined(apart, |_, _| {
        taken += 1;
        taken % per_class != 0
    })
}

fn overlap(last: &AgeClass, next: &AgeClass) -> bool {
    next.youngest_s < last.oldest_s || next.youngest_s == last.youngest_s
}

/// Puts each class to the one before it where they belong together.
fn joined(classes: Vec<AgeClass>, mut together: impl FnMut(&AgeClass, &AgeClass) -> bool) -> Vec<AgeClass> {
    let mut sums: Vec<AgeClass> = Vec::with_capacity(classes.len());
    for class in classes {
        match sums.last_mut() {
            Some(last) if together(last, &class) => {
                last.oldest_s = last.oldest_s.max(class.oldest_s);
                last.live = last.live.plus(class.live);
            }
            _ => sums.push(class),
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Amount;

    fn class(youngest_s: f64, oldest_s: f64, bytes: u64) -> AgeClass {
        AgeClass { youngest_s, oldest_s, live: Amount { bytes, blocks: 1 } }
    }

    fn sums(classes: &[AgeClass]) -> Vec<(f64, f64, u64)> {
        let sums = sum(classes.iter());
        sums.iter().map(|class| (class.youngest_s, class.oldest_s, class.live.bytes)).collect()
    }

    #[test]
    fn equal_classes_add_up_and_neighbours_stay_apart() {
        let classes = [class(10.0, 30.0, 1), class(0.0, 10.0, 2), class(10.0, 30.0, 4), class(0.0, 10.0, 8)];
        assert_eq!(sums(&classes), [(0.0, 10.0, 10), (10.0, 30.0, 5)]);
    }

    #[test]
    fn classes_that_overlap_become_one() {
        let classes = [class(5.0, 5.0, 1), class(3.0, 6.0, 2), class(6.0, 6.0, 4), class(6.0, 6.0, 8)];
        assert_eq!(sums(&classes), [(3.0, 6.0, 3), (6.0, 6.0, 12)]);
    }

    #[test]
    fn there_are_never_more_than_the_cap_and_nothing_gets_lost() {
        for count in [1u32, 31, 32, 33, 63, 64, 65, 1000] {
            let classes: Vec<AgeClass> = (0..count).map(|age| class(age.into(), age.into(), 1)).collect();
            let sums = sums(&classes);
            assert!(sums.len() <= MAX_CLASSES, "{count}: {}", sums.len());
            assert_eq!(sums.iter().map(|(.., bytes)| bytes).sum::<u64>(), u64::from(count));
            assert!(sums.is_sorted_by(|a, b| a.1 <= b.0));
        }
    }
}
