//! What is told.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::watched::{MemoryReading, Subject, Suspect};

/// Why somebody is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// Memory is above a number of bytes.
    #[default]
    MemoryAbove,
    /// Memory is above a share of the cgroup's limit.
    ShareOfLimit,
    /// The limit is near in time, if growth goes on.
    TimeToLimit,
    /// A site was judged a leak.
    Suspect,
    /// The kernel has chosen a process to be killed for want of memory.
    OomKill,
    /// The daemon itself is in trouble (full disk, damaged history).
    Daemon,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alert {
    /// Number within the history; 0 until it is written there.
    pub id: u64,
    /// Why.
    pub kind: AlertKind,
    /// What makes two alerts the same: the rule, the subject, the site.
    pub fingerprint: String,
    /// Seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// Name of this host.
    pub host: String,
    /// Of whom; empty key: of the daemon itself.
    pub subject: Subject,
    /// Its memory at that moment.
    pub memory: MemoryReading,
    /// One sentence with the figures.
    pub sentence: String,
    /// The worst suspects, at most five.
    pub suspects: Vec<Suspect>,
    /// Commands and places that show more, as they can be typed.
    pub see_more: Vec<String>,
    /// Directory with evidence, if some was written.
    pub evidence: Option<String>,
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryAbove => "memory_above",
            Self::ShareOfLimit => "share_of_limit",
            Self::TimeToLimit => "time_to_limit",
            Self::Suspect => "suspect",
            Self::OomKill => "oom_kill",
            Self::Daemon => "daemon",
        })
    }
}
