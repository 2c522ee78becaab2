//! Tests of the kernel side's rules come in pairs: a scenario holds, and it does not hold once its rule is switched off. Where a
//! race has to be hit, a busy machine may take several runs for that; most scenarios break in the first.

use super::Outcomes;

/// Runs after which a scenario is taken to hold.
const ATTEMPTS: usize = 20;

/// Runs a scenario without its rule until it breaks.
///
/// # Panics
/// If it never does, or fails for another reason than a wrong number: then it proves nothing.
pub fn assert_breaks(rule: &str, scenario: impl Fn(&[&str]) -> Outcomes<()>) {
    let run = |attempt| scenario(&["--switch-off", rule]).err().map(|difference| (attempt, difference));
    let broken = (1..=ATTEMPTS).find_map(run);
    let (attempt, difference) = broken.unwrap_or_else(|| panic!("{rule}: holds although it is switched off"));
    println!("{rule}: broke in run {attempt}");
    let is_difference = ["expected", "lost:", "wrong:"].iter().any(|word| difference.contains(word));
    assert!(is_difference, "{rule}: failed for another reason: {difference}");
}

/// Makes two tests of a scenario: it holds, and it does not hold without the rule.
macro_rules! rule {
    ($holds:ident, $fails:ident, $rule:literal, $scenario:expr) => {
        #[test]
        #[ignore = "needs root and BPF: cargo xtask test"]
        fn $holds() -> Outcomes<()> {
            $scenario(&[])
        }

        #[test]
        #[ignore = "needs root and BPF: cargo xtask test"]
        fn $fails() {
            harness::rules::assert_breaks($rule, $scenario);
        }
    };
}
pub(crate) use rule;
