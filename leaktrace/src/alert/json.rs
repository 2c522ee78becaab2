//! An alert as JSON, as `docs/alerts.md` describes it: what webhooks, commands and files get, and what the API answers.

use serde::Serialize;

use super::{Alert, AlertKind};
use crate::{
    report::{human::moment, json::harmless},
    watched::{MemoryReading, Subject, Suspect},
};

/// Version of the shape. Goes up when a field changes its meaning or goes away; new fields do not raise it.
pub const SCHEMA: u32 = 1;

/// The shape.
#[derive(Serialize)]
pub struct WireAlert<'a> {
    schema: u32,
    id: u64,
    kind: AlertKind,
    fingerprint: &'a str,
    at: String,
    at_unix_s: f64,
    host: &'a str,
    sentence: &'a str,
    /// `None`: of the daemon itself. Of its command only the program: alerts leave the host, and arguments may hold passwords.
    subject: Option<Subject>,
    memory: Option<&'a MemoryReading>,
    suspects: &'a [Suspect],
    see_more: &'a [String],
    evidence: Option<&'a str>,
}

impl<'a> From<&'a Alert> for WireAlert<'a> {
    fn from(alert: &'a Alert) -> Self {
        let of_somebody = !alert.subject.key.is_empty();
        Self {
            schema: SCHEMA,
            id: alert.id,
            kind: alert.kind,
            fingerprint: &alert.fingerprint,
            at: moment(alert.at_unix_s),
            at_unix_s: alert.at_unix_s,
            host: &alert.host,
            sentence: &alert.sentence,
            subject: of_somebody.then(|| without_arguments(&alert.subject)),
            memory: of_somebody.then_some(&alert.memory),
            suspects: &alert.suspects,
            see_more: &alert.see_more,
            evidence: alert.evidence.as_deref(),
        }
    }
}

fn without_arguments(subject: &Subject) -> Subject {
    let mut subject = subject.clone();
    subject.command.truncate(1);
    subject
}

/// One line, without its end.
pub fn line(alert: &Alert) -> String {
    let mut bytes = Vec::new();
    match harmless::write_compact(&WireAlert::from(alert), &mut bytes) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        // Memory takes everything that is written to it, and all keys are text.
        Err(error) => {
            tracing::error!("an alert cannot be written as JSON: {error}");
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_a_command_do_not_leave_the_host() {
        let command = ["/usr/bin/shop", "--password", "swordfish"].map(str::to_owned).to_vec();
        let subject = Subject { key: "process:b:1:2".into(), command, ..Subject::default() };
        let line = line(&Alert { subject, ..Alert::default() });
        assert!(line.contains("/usr/bin/shop") && !line.contains("swordfish"), "{line}");
    }
}
