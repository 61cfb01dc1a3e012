//! Medians, and numbers as people read them.

/// The middle value, or the mean of the two middle ones.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// Half the distance between the least and the most, as a part of the median; nothing for a single value.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.into_iter().collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let middle = median(values.iter().copied())?;
    (values.len() > 1 && middle > 0.0).then(|| (most - least) / 2.0 / middle)
}

/// Three digits, and `k` or `M` where they say enough.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        1e6.. => (value / 1e6, " M"),
        1e4.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// The same, or a dash.
pub fn short_or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let rows: [(&[f64], Option<f64>); 5] = [
            (&[], None),
            (&[7.0], Some(7.0)),
            (&[9.0, 1.0, 5.0], Some(5.0)),
            (&[4.0, 1.0, 3.0, 2.0], Some(2.5)),
            (&[f64::NAN, 2.0], Some(2.0)),
        ];
        for (values, expected) in rows {
            assert_eq!(median(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_spread_is_half_the_distance_by_the_median() {
        assert_eq!(spread([90.0, 100.0, 110.0]), Some(0.1));
        assert_eq!(spread([0.0, 0.0]), None);
        assert_eq!(spread([]), None);
        assert_eq!(spread([5.0]), None);
    }

    #[test]
    fn numbers_are_short() {
        let rows = [
            (0.0, "0.00"),
            (0.123, "0.12"),
            (12.34, "12.3"),
            (999.4, "999"),
            (9_999.0, "9999"),
            (12_345.0, "12.3 k"),
            (2_500_000.0, "2.50 M"),
        ];
        for (value, expected) in rows {
            assert_eq!(short(value), expected);
        }
    }
}
