//! What is wrong with a configuration, in one sentence: where, what, and what was probably meant.

/// How alike two names must be for one to be meant by the other, 0 to 1.
const ALIKE: f64 = 0.7;

/// The sentence for what the parser found.
pub(super) fn sentence(text: &str, error: &toml::de::Error) -> String {
    let line =
        error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    let place = line.map_or_else(String::new, |line| format!("line {line}: "));
    let message = error.message().replace('\n', " ");
    match unknown(&message) {
        Some((key, known)) => format!("{place}there is no key \"{key}\"{}", meant(key, &known)),
        None => format!("{place}{message}"),
    }
}

/// The unknown key of such a message, and those that are known.
fn unknown(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

fn meant(key: &str, known: &[&str]) -> String {
    let alike = known.iter().map(|name| (strsim::jaro_winkler(key, name), name));
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0));
    match best.filter(|(alike, _)| *alike >= ALIKE) {
        Some((_, name)) => format!("; \"{name}\" was probably meant"),
        None if known.is_empty() => String::new(),
        None => format!("; there are {}", known.join(", ")),
    }
}
