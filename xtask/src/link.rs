//! Links in the documentation: each must lead to a file and, where it names one, a heading.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Checks every Markdown file in the root and below `docs/`.
pub fn check() -> Result<()> {
    let mut dead = Vec::new();
    for file in documents()? {
        let text = read(&file)?;
        for target in targets(&text) {
            if let Some(reason) = why_dead(&file, &text, &target)? {
                dead.push(format!("{}: ({target}) {reason}", workspace::shown(&file)));
            }
        }
    }
    if !dead.is_empty() {
        bail!("dead links in the documentation:\n  {}", dead.join("\n  "));
    }
    Ok(())
}

fn documents() -> Result<Vec<PathBuf>> {
    let root = workspace::root();
    let mut found = markdown_in(&root)?;
    if root.join("docs").is_dir() {
        found.extend(markdown_in(&root.join("docs"))?);
    }
    Ok(found)
}

fn markdown_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(files.filter(|file| file.extension().is_some_and(|extension| extension == "md")).collect())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Why a link leads nowhere; `None` when it is good, or leads out of the repository.
fn why_dead(file: &Path, text: &str, target: &str) -> Result<Option<&'static str>> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(None);
    }
    let (path, heading) =
        target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let linked = file.with_file_name(path);
    if !path.is_empty() && !linked.exists() {
        return Ok(Some("no such file"));
    }
    let Some(heading) = heading else { return Ok(None) };
    let known = if path.is_empty() { headings(text) } else { headings(&read(&linked)?) };
    Ok((!known.iter().any(|anchor| anchor == heading)).then_some("no such heading"))
}

/// What the inline links of a Markdown text lead to, code blocks and code spans left out.
fn targets(text: &str) -> Vec<String> {
    prose(text).flat_map(|line| targets_in(&without_code(line))).collect()
}

fn targets_in(line: &str) -> Vec<String> {
    let ends = line.split("](").skip(1);
    ends.filter_map(|rest| Some(rest.split_once(')')?.0.split(' ').next()?.to_owned())).collect()
}

/// The lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The anchors of a text's headings, spelled as Markdown viewers do.
fn headings(text: &str) -> Vec<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code_only() {
        let text = "see [a](x.md) and ![b](y.svg \"t\")\n```\n[c](no)\n```\n`[d](no)` [e](#f)";
        assert_eq!(targets(text), ["x.md", "y.svg", "#f"]);
    }

    #[test]
    fn anchors_are_spelled_as_viewers_do() {
        assert_eq!(headings("# What it costs: `bench`\ntext\n## A-b"), ["what-it-costs-bench", "a-b"]);
    }

    #[test]
    fn missing_file_and_missing_heading_are_dead() {
        let file = workspace::root().join("README.md");
        let dead = |target| why_dead(&file, "# There", target).expect("readable");
        assert_eq!(dead("no-such-file.md"), Some("no such file"));
        assert_eq!(dead("#nowhere"), Some("no such heading"));
        assert_eq!(dead("#there"), None);
        assert_eq!(dead("https://example.org/x"), None);
    }
}
