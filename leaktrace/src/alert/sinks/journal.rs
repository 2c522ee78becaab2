//! systemd's journal, by its native protocol: each field can be asked for (`journalctl LEAKTRACE_SUBJECT=...`).

use std::{path::PathBuf, time::Duration};

use super::{Deliver, datagram, failure::Failure};
use crate::alert::{Alert, text};

/// All alerts: `journalctl MESSAGE_ID=...`.
const MESSAGE_ID: &str = "6f1e2d0a5c8b4a7e9d3c41b7a2f09e58";

/// Most bytes of a field, so that all of them fit into a datagram.
const MOST: usize = 8 * 1024;

/// See the module.
pub(super) struct Journal {
    pub path: PathBuf,
    pub limit: Duration,
}

impl Deliver for Journal {
    fn deliver(&mut self, alert: &Alert) -> Result<(), Failure> {
        datagram::send(&self.path, &message(alert), self.limit)
    }
}

fn message(alert: &Alert) -> Vec<u8> {
    let suspects: Vec<&str> = alert.suspects.iter().map(|suspect| suspect.line.as_str()).collect();
    let sites: Vec<String> = alert.suspects.iter().map(|suspect| suspect.site.to_string()).collect();
    let fields = [
        ("MESSAGE", text::one_line(alert)),
        ("PRIORITY", text::priority(alert.kind).to_string()),
        ("SYSLOG_IDENTIFIER", "leaktrace".to_owned()),
        ("MESSAGE_ID", MESSAGE_ID.to_owned()),
        ("LEAKTRACE_KIND", alert.kind.to_string()),
        ("LEAKTRACE_FINGERPRINT", alert.fingerprint.clone()),
        ("LEAKTRACE_SUBJECT", alert.subject.key.clone()),
        ("LEAKTRACE_NAME", alert.subject.name.clone()),
        ("LEAKTRACE_SUSPECTS", suspects.join("\n")),
        ("LEAKTRACE_SITES", sites.join("\n")),
        ("LEAKTRACE_SEE_MORE", alert.see_more.join("\n")),
        ("LEAKTRACE_EVIDENCE", alert.evidence.clone().unwrap_or_default()),
    ];
    let mut message = Vec::new();
    for (name, mut value) in fields {
        text::cut(&mut value, MOST);
        add(&mut message, name, &value);
    }
    message
}

/// With its length, as values with line breaks must be; those without may.
fn add(message: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    message.extend_from_slice(name.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(&(value.len() as u64).to_le_bytes());
    message.extend_from_slice(value.as_bytes());
    message.push(b'\n');
}
