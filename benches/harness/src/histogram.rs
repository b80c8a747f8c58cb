//! Latencies, counted in buckets.

/// Buckets for each doubling, as a power of two: values are off by less than 1 %.
const BITS: u32 = 7;
const STEPS: u64 = 1 << BITS;
/// Enough for an hour in nanoseconds.
const BUCKETS: usize = 36 << BITS;

/// A histogram of nanoseconds with buckets proportional to the values.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let bucket = bucket_of(value).min(BUCKETS - 1);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The quantile (0 to 1) of the values.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return middle_of(bucket).min(self.max);
            }
        }
        self.max
    }
}

/// The first `STEPS` buckets are one wide; each further group of `STEPS` covers a doubling.
fn bucket_of(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - BITS;
    ((u64::from(shift + 1) << BITS) + ((value >> shift) & (STEPS - 1))) as usize
}

fn middle_of(bucket: usize) -> u64 {
    let (group, step) = (bucket as u64 >> BITS, bucket as u64 & (STEPS - 1));
    match group.checked_sub(1) {
        None => step,
        Some(shift) => ((STEPS + step) << shift) + ((1 << shift) >> 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_off_by_less_than_one_per_cent() {
        let mut histogram = Histogram::default();
        for value in 1..=100_000 {
            histogram.record(value);
        }
        for (quantile, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let found = histogram.quantile(quantile) as f64;
            assert!((found - exact).abs() < exact * 0.01, "{quantile}: {found}");
        }
        assert_eq!((histogram.count(), histogram.max()), (100_000, 100_000));
    }

    #[test]
    fn a_merged_histogram_has_the_values_of_both() {
        let (mut small, mut large) = (Histogram::default(), Histogram::default());
        small.record(10);
        large.record(u64::MAX);
        small.merge(&large);
        assert_eq!((small.quantile(0.5), small.max(), small.count()), (10, u64::MAX, 2));
    }
}
