//! A development over time as a row of bars. Pure.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The least range that a picture spans, as a share of the largest value: what hardly changes must not look as if it leapt.
const LEAST_RANGE: f64 = 0.125;

/// One bar for each of the latest `width` values, the latest at the right end.
pub(super) fn line(values: &[u64], width: usize) -> String {
    let shown = values.get(values.len().saturating_sub(width)..).unwrap_or(values);
    let (Some(most), Some(least)) = (shown.iter().max(), shown.iter().min()) else {
        return " ".repeat(width);
    };
    let (most, least) = (*most as f64, *least as f64);
    let range = (most - least).max(most * LEAST_RANGE);
    let lowest = (least - (range - (most - least)) / 2.0).max(0.0);
    let bars = shown.iter().map(|value| bar(*value as f64 - lowest, range));
    std::iter::repeat_n(' ', width.saturating_sub(shown.len())).chain(bars).collect()
}

fn bar(height: f64, range: f64) -> char {
    let step = if range > 0.0 { height / range * (BARS.len() - 1) as f64 } else { 0.0 };
    BARS.get(step.round() as usize).or(BARS.last()).copied().unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn growth_climbs_from_left_to_right() {
        assert_eq!(line(&[0, 1, 2, 3, 4, 5, 6, 7], 8), "▁▂▃▄▅▆▇█");
        assert_eq!(line(&[9, 9, 0, 7], 2), "▁█");
        assert_eq!(line(&[3, 7], 4), "  ▁█");
    }

    #[test]
    fn what_hardly_changes_looks_flat() {
        let flat = line(&[1_000_000, 1_000_024, 1_000_000, 1_000_024], 4);
        assert!(flat.chars().all(|bar| ('▄'..='▅').contains(&bar)), "{flat}");
        assert_eq!(line(&[0, 0], 2), "▁▁");
    }

    #[test]
    fn no_values_and_no_room_are_no_error() {
        assert_eq!(line(&[], 3), "   ");
        assert_eq!(line(&[1, u64::MAX], 0), "");
    }
}
