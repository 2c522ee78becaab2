//! The body that chat systems accept: `{"text": "..."}`. Slack, Mattermost, Rocket.Chat, Google Chat and Teams' workflows read it.

use serde::Serialize;

use super::{Alert, text};
use crate::report::human::{cut_middle, printable};

/// Most bytes of a text: less than the least limit of these systems.
const MOST: usize = 3500;

/// Frames of a suspect's stack that are shown.
const FRAMES: usize = 6;

#[derive(Serialize)]
struct Body {
    text: String,
}

/// The body.
pub fn body(alert: &Alert) -> String {
    serde_json::to_string(&Body { text: message(alert) }).unwrap_or_default()
}

fn message(alert: &Alert) -> String {
    let mut lines = vec![format!("*{}* {}", harmless(&alert.host), harmless(&alert.sentence))];
    for suspect in &alert.suspects {
        lines.push(format!("• {}", harmless(&text::suspect(suspect))));
        lines.extend(stack(&suspect.stack));
    }
    lines.extend(alert.evidence.as_ref().map(|directory| format!("Evidence: `{}`", harmless(directory))));
    lines.extend(alert.see_more.iter().map(|command| format!("See more: `{}`", harmless(command))));
    bounded(&lines)
}

fn stack(frames: &[String]) -> Option<String> {
    let shown: Vec<String> =
        frames.iter().take(FRAMES).map(|line| harmless(&cut_middle(line, 120))).collect();
    (!shown.is_empty()).then(|| format!("```\n{}\n```", shown.join("\n")))
}

/// Whole lines as far as there is room.
fn bounded(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines {
        if text.len() + line.len() + 1 > MOST && !text.is_empty() {
            text.push_str("\n…");
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
    text::cut(&mut text, MOST + 8);
    text
}

/// Names come from processes that are watched: none may call the whole channel, draw a link or leave its quotes.
fn harmless(text: &str) -> String {
    let replace = |letter| match letter {
        '<' => '‹',
        '>' => '›',
        '`' => '\'',
        '@' => '＠',
        letter => letter,
    };
    printable(text).chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::Suspect;

    #[test]
    fn names_cannot_call_a_channel_or_leave_their_quotes() {
        let suspect = Suspect { stack: vec!["``` <!channel> @here <lambda>".into()], ..Suspect::default() };
        let alert = Alert { sentence: "<!here> grows".into(), suspects: vec![suspect], ..Alert::default() };
        let text = message(&alert);
        assert!(!text.contains(['<', '@']) && text.matches("```").count() == 2, "{text}");
        assert!(text.contains("‹lambda›"), "{text}");
    }

    #[test]
    fn long_alerts_are_cut_at_a_line() {
        let suspect = Suspect { stack: vec!["x".repeat(100); 6], ..Suspect::default() };
        let alert =
            Alert { suspects: vec![suspect; 5], see_more: vec!["y".repeat(3000)], ..Alert::default() };
        let text = message(&alert);
        assert!(text.len() <= MOST + 8 && text.ends_with('…'), "{text}");
        assert_eq!(text.matches("```").count() % 2, 0);
    }
}
