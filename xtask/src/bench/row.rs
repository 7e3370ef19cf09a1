//! A row of results, and the statistics of its samples.

use serde::{Deserialize, Serialize};

/// What one subject took in one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the part.
    pub table: String,
    /// What was done.
    pub case: String,
    /// Who did it: `none`, `empty`, `iptables`, `nftables`, `tapwall`.
    pub subject: String,
    /// What grows from row to row of a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Of the samples.
    pub unit: String,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
}

/// How large the thing was that was measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Size {
    /// `rules`, `guests`, `prefixes`, `flows`.
    pub of: String,
    /// How many.
    pub count: u64,
}

impl Row {
    /// Samples below which this share of all samples is; for an even split of two, their mean.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let place = share * (sorted.len().saturating_sub(1)) as f64;
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (below, above) = (at(place.floor() as usize), at(place.ceil() as usize));
        below + (above - below) * place.fract()
    }

    /// The middle sample.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// This by another: the middle one of the ratios of samples of the same turn. A machine that others use too is faster in one turn than in the next, for all
    /// subjects. Of rows that were not measured in turns the ratio of the medians.
    pub fn ratio(&self, baseline: &Self) -> f64 {
        if self.samples.len() != baseline.samples.len() {
            return self.median() / baseline.median();
        }
        let pairs = self.samples.iter().zip(&baseline.samples);
        let ratios = Self {
            samples: pairs.map(|(own, other)| own / other).collect(),
            ..self.clone()
        };
        ratios.median()
    }

    /// The smallest sample.
    pub fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The largest sample.
    pub fn most(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Whether there are enough samples for a 99th percentile to mean something.
    pub fn has_tail(&self) -> bool {
        self.samples.len() >= 20
    }
}

/// Slope of the logarithms: how cost grows with size (0: not at all, 1: in proportion). None of fewer than two sizes.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logarithms: Vec<(f64, f64)> = points
        .iter()
        .filter(|(size, cost)| *size > 0.0 && *cost > 0.0)
        .map(|(size, cost)| (size.ln(), cost.ln()))
        .collect();
    let count = logarithms.len() as f64;
    let mean_x = logarithms.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = logarithms.iter().map(|(_, y)| y).sum::<f64>() / count;
    let squares: f64 = logarithms.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let products: f64 = logarithms
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    (squares > 0.0).then(|| products / squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(samples: &[f64]) -> Row {
        Row {
            table: String::new(),
            case: String::new(),
            subject: String::new(),
            size: None,
            unit: String::new(),
            samples: samples.to_vec(),
        }
    }

    #[test]
    fn statistics() {
        let row = row(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!([row.least(), row.median(), row.most()], [1.0, 2.5, 4.0]);
    }

    #[test]
    fn a_ratio_is_one_of_samples_of_the_same_turn() {
        // The machine was half as fast in some turns, and not in the same share of each row's samples around its median.
        let (own, other) = (row(&[3.0, 6.0, 6.0]), row(&[2.0, 2.1, 4.0]));
        assert_eq!(own.ratio(&other), 1.5);
        assert_eq!(own.ratio(&row(&[3.0, 1.0])), 3.0);
    }

    #[test]
    fn exponents() {
        let close =
            |points: &[(f64, f64)], expect: f64| (exponent(points).unwrap() - expect).abs() < 1e-9;
        assert!(close(&[(10.0, 5.0), (100.0, 5.0), (1000.0, 5.0)], 0.0));
        assert!(close(&[(10.0, 20.0), (100.0, 200.0)], 1.0));
        assert!(close(&[(1.0, 3.0), (10.0, 300.0)], 2.0));
        assert_eq!(exponent(&[(10.0, 5.0)]), None);
        assert_eq!(exponent(&[]), None);
    }
}
