//! `leaktrace top`.

use std::io::{IsTerminal, stdin, stdout};

use super::{
    Failure,
    args::{self, TopArguments},
    meant::{interval, target, time},
};
use crate::{report::model::Detail, session::SessionPlan, top};

/// Unless said otherwise, a survivor is that many intervals old: what lives as long as a request must not fill the picture.
const MIN_AGE_INTERVALS: u32 = 5;

/// Shows a trace until the user leaves, or the trace fails.
///
/// # Errors
/// Wrong usage, no terminal, and anything that keeps tracing from beginning.
pub fn run(typed: TopArguments) -> Result<(), Failure> {
    let plan = plan(typed)?;
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Failure::Usage(
            "top needs a terminal, for its picture and for keys: where there is none, `leaktrace trace` with the same target prints \
             reports"
                .to_owned(),
        ));
    }
    top::live::run(&plan)
}

fn plan(typed: TopArguments) -> Result<SessionPlan, Failure> {
    let target = target(&typed.target, typed.command)?;
    let interval = interval(&typed.interval)?;
    if typed.max_live_blocks == 0 {
        return Err(Failure::Usage("--max-live-blocks must be at least 1".to_owned()));
    }
    let min_age = typed.min_age.as_deref().map(|text| time("--min-age", text)).transpose()?;
    let light = typed.detail == args::Detail::Light;
    Ok(SessionPlan {
        detail: if light { Detail::Light } else { Detail::Exact },
        min_age: min_age.unwrap_or_else(|| interval.saturating_mul(MIN_AGE_INTERVALS)),
        max_live_blocks: typed.max_live_blocks,
        target_writes: !typed.no_target_writes,
        strict_scope: typed.strict_scope,
        follow_forks: !typed.no_follow_forks,
        ..SessionPlan::of(target, interval)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::{
        cli::args::{Arguments, Command},
        target::TargetSpec,
    };

    fn meant(line: &str) -> Result<SessionPlan, Failure> {
        let words = ["leaktrace", "top"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).map_err(|error| Failure::Usage(error.to_string()))?.command {
            Command::Top(typed) => plan(*typed),
            _ => Err(Failure::Failed("not top".into())),
        }
    }

    #[test]
    fn a_survivor_is_five_intervals_old_unless_said_otherwise() {
        let plan = meant("-p 7 --no-follow-forks").unwrap();
        assert_eq!(plan.target, TargetSpec::Pids(vec![7]));
        assert_eq!((plan.interval, plan.min_age), (Duration::from_secs(2), Duration::from_secs(10)));
        assert!(!plan.follow_forks && plan.target_writes && plan.detail == Detail::Exact);
        let plan = meant("--interval 1s --min-age 3s --detail light --container web").unwrap();
        assert_eq!((plan.min_age, plan.detail), (Duration::from_secs(3), Detail::Light));
    }

    #[test]
    fn wrong_usage_is_told() {
        for line in ["", "-p 1 --all", "-p 1 --interval 1ms", "-p 1 --max-live-blocks 0", "-p 1 --min-age x"]
        {
            assert!(matches!(meant(line), Err(Failure::Usage(_))), "{line}");
        }
    }
}
