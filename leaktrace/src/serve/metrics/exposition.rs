//! The two text formats: OpenMetrics for those who ask for it, and the older one of Prometheus for everybody else. They differ in how
//! a counter is called where it is described.

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format, 0.0.4.
    Prometheus,
}

impl Exposition {
    /// What an `Accept` header asks for.
    pub(in crate::serve) fn accepted(accept: &str) -> Self {
        let mut types = accept.split(',').map(|one| one.split(';').next().unwrap_or_default().trim());
        if types.any(|one| one.eq_ignore_ascii_case("application/openmetrics-text")) {
            return Self::OpenMetrics;
        }
        Self::Prometheus
    }

    pub(in crate::serve) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format, from OpenMetrics.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => older(&open_metrics),
        }
    }
}

/// Counters are described by the names of their samples; units and the end are not marked.
fn older(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // The description comes first, and does not say yet that it is one of a counter.
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let described = lines.peek().is_some_and(|next| line.starts_with("# HELP ") && is_counter(next));
        match line.splitn(4, ' ').collect::<Vec<&str>>().as_slice() {
            [mark, what, name, rest] if described || is_counter(line) => {
                text.extend([*mark, " ", *what, " ", *name, "_total ", *rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_describes_counters_by_their_samples_names() {
        let open = "# HELP a_seconds A.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1\n\
                    # HELP b B.\n# TYPE b gauge\nb{x=\"# TYPE z counter\"} 2\n# EOF\n";
        assert_eq!(
            older(open),
            "# HELP a_seconds_total A.\n# TYPE a_seconds_total counter\na_seconds_total 1\n\
             # HELP b B.\n# TYPE b gauge\nb{x=\"# TYPE z counter\"} 2\n"
        );
    }

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1";
        assert_eq!(Exposition::accepted(prometheus), Exposition::OpenMetrics);
        assert_eq!(Exposition::accepted("*/*"), Exposition::Prometheus);
        assert_eq!(Exposition::accepted(""), Exposition::Prometheus);
    }
}
