//! Labels. Their values come from processes that are watched, and the encoder takes them as they are: here they are made harmless
//! and short.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

use super::chosen::Chosen;
use crate::{
    report::human::{cut_middle, printable},
    watched::Suspect,
};

/// Most characters of a value.
const MOST: usize = 200;

/// A value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value(String);

/// Labels with their values.
pub(super) type Labels<const N: usize> = [(&'static str, Value); N];

impl Value {
    pub(super) fn of(text: &str) -> Self {
        Self(cut_middle(&printable(text), MOST).into_owned())
    }
}

impl EncodeLabelValue for Value {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '\\' => encoder.write_str(r"\\"),
            '"' => encoder.write_str("\\\""),
            // Line breaks are no printable characters, so there is none.
            letter => encoder.write_char(letter),
        })
    }
}

/// Labels of a subject.
pub(super) fn subject(chosen: &Chosen<'_>) -> Labels<4> {
    let subject = &chosen.state.subject;
    let container = subject.container.as_ref().map(crate::target::Container::short).unwrap_or_default();
    [
        ("subject", Value::of(&subject.key)),
        ("kind", Value::of(&subject.kind.to_string())),
        ("name", Value::of(&subject.name)),
        ("container", Value::of(&container)),
    ]
}

/// Labels of a suspect.
pub(super) fn suspect(chosen: &Chosen<'_>, suspect: &Suspect) -> Labels<6> {
    let [key, kind, name, container] = subject(chosen);
    let site = ("site", Value::of(&suspect.site.to_string()));
    [key, kind, name, container, site, ("line", Value::of(&suspect.line))]
}

/// One more label.
pub(super) fn with<const N: usize, const M: usize>(
    labels: Labels<N>,
    one: &'static str,
    value: &str,
) -> Labels<M> {
    let mut labels = labels.into_iter();
    std::array::from_fn(|_| labels.next().unwrap_or_else(|| (one, Value::of(value))))
}
