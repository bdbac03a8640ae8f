//! Medians, and the paired ratio that every claim of this suite is made of.

/// A ratio measured in pairs, one per round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    /// Two-sided 95 % bounds of the geometric mean, by Student's t on the logarithms.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// `ours[i] / theirs[i]`, where both were measured in round `i`.
///
/// # Panics
/// If the lengths differ, or there are fewer than two rounds: no bound exists then.
pub(crate) fn paired_ratio(ours: &[f64], theirs: &[f64]) -> Ratio {
    assert!(ours.len() == theirs.len() && ours.len() >= 2, "a paired ratio wants the same rounds of both");
    let logs: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| (a / b).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = t_quantile(logs.len() - 1) * (variance / n).sqrt();
    Ratio { median: median(&logs).exp(), low: (mean - half).exp(), high: (mean + half).exp() }
}

/// The median; NaN if there is nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The `q`-quantile, between the two nearest values where none sits there; NaN if there is nothing.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The 97.5 % quantile of Student's t: a table up to 30 degrees of freedom, within 0.2 % beyond.
fn t_quantile(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    TABLE.get(degrees - 1).copied().unwrap_or(1.96 + 2.4 / degrees as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    #[test]
    fn quantiles_interpolate() {
        assert!(close(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(close(quantile(&[0.0, 10.0], 0.99), 9.9));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_common_factor_of_a_round_cancels() {
        let theirs = [1.0, 50.0, 3.0, 700.0];
        let ours: Vec<f64> = theirs.iter().map(|x| x * 1.02).collect();
        let ratio = paired_ratio(&ours, &theirs);
        assert!(close(ratio.median, 1.02) && close(ratio.low, 1.02) && close(ratio.high, 1.02), "{ratio:?}");
    }

    #[test]
    fn bounds_are_students() {
        // Logs 0.1, 0.2, 0.3, 0.4: mean 0.25, s = 0.129099, t(3) = 3.182, half-width 0.205395.
        let ours: Vec<f64> = [0.1f64, 0.2, 0.3, 0.4].iter().map(|x| x.exp()).collect();
        let ratio = paired_ratio(&ours, &[1.0; 4]);
        assert!(close(ratio.low.ln(), 0.25 - 0.205_395), "{ratio:?}");
        assert!(close(ratio.high.ln(), 0.25 + 0.205_395), "{ratio:?}");
    }

    #[test]
    fn t_falls_towards_the_normal_quantile() {
        assert!(close(t_quantile(14), 2.145));
        assert!((t_quantile(40) - 2.021).abs() < 0.002);
        assert!((t_quantile(120) - 1.980).abs() < 0.002);
    }
}
