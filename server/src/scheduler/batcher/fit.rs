//! The online fit of execution time against batch cost: `took = fixed + per_cost * cost`. Pure.

use std::time::Duration;

/// What an observation weighs after one more: about the last 30 batches count.
const MEMORY: f64 = 0.97;

/// How fast the spread follows the residuals.
const SPREAD_RATE: f64 = 0.1;

/// A residual beyond so many spreads is clipped to them: one slow run says little.
const CLIP: f64 = 4.0;

/// So many clipped residuals of one sign in a row are no outliers but a change of regime.
const CHANGE: i32 = 3;

/// Within so many first observations one that took far less than the rest shows that those before were
/// cold starts, and they are forgotten.
const COLD: u32 = 8;

/// The spread is taken for at least this share of the mean, so that exact repetition (a virtual device)
/// does not make every later deviation an outlier.
const MIN_SPREAD: f64 = 0.01;

/// The noise of a single observation, as a share, before there are enough to show it.
const YOUNG: f64 = 0.1;

/// Deviation of the share of the fixed part, before anything is known: it is spread evenly over 0 to 1.
const PRIOR_DEVIATION: f64 = 0.29;

/// The share of the time that is taken to grow with the cost while nothing has shown it. It is small, so
/// that the window tries a larger batch, which shows it.
const SLOPED: f64 = 0.1;

/// A mean absolute deviation times this is the standard deviation of normal noise.
const NORMAL: f64 = 1.25;

/// Execution time against batch cost, learned from the batches that ran.
///
/// Weighted least squares over centered sums (no cancellation, whatever the size of the numbers) with
/// exponential forgetting. Two things differ from the textbook:
///
/// - *What is not seen again is not forgotten.* While batches all have the same cost they tell nothing
///   about the slope, and what is known of it stays; it is forgotten as batches of other costs replace it.
/// - *A slope nobody has shown is guessed.* With one cost only, most of the time is taken to be fixed. The
///   guess weighs as much as the noise of the observations makes it, so two batches of clearly different
///   costs overrule it.
///
/// One slow run is clipped. Several in a row that all deviate to one side are a new regime (another clock
/// rate, a neighbor on the device): the fit starts over, with the shape of the old line as its guess.
///
/// Both parts are never negative: where the line would start below zero it is fitted through the origin,
/// where it would fall it is level.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecutionFit {
    seen: u32,
    /// Sum of weights.
    weight: f64,
    /// Weighted means of cost and of nanoseconds.
    cost: f64,
    nanos: f64,
    /// Weighted sums of squares and products around the means.
    cost_cost: f64,
    cost_nanos: f64,
    nanos_nanos: f64,
    /// Sum of weights of those: what is not seen again is not forgotten.
    spread_weight: f64,
    /// Mean absolute residual, in nanoseconds.
    deviation: f64,
    /// Clipped residuals in a row, with their sign.
    clipped: i32,
    line: Line,
    /// The line before the last change of regime: the slope is guessed from its shape.
    former: Option<Line>,
}

/// The fitted line, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    fixed: f64,
    per_cost: f64,
    /// The share of the guess in the slope, from 0 to 1.
    guessed: f64,
}

impl Line {
    fn at(self, cost: f64) -> f64 {
        self.fixed + self.per_cost * cost
    }

    /// The part of the time at this cost that grows with it.
    fn sloped_share(self, cost: f64) -> f64 {
        let whole = self.at(cost);
        if whole > 0.0 { self.per_cost * cost / whole } else { SLOPED }
    }
}

impl ExecutionFit {
    /// Learns from a batch of this cost that took so long.
    pub fn observe(&mut self, cost: u64, took: Duration) {
        let (cost, nanos) = (cost as f64, took.as_nanos() as f64);
        if self.seen > 0 && self.seen < COLD && nanos < 0.5 * self.least(cost) {
            *self = Self { former: self.former, ..Self::default() };
        }
        let nanos = self.judge(cost, nanos);
        self.add(cost, nanos);
        self.seen = self.seen.saturating_add(1);
        self.line = self.solve();
    }

    /// How long a batch of this cost is expected to take; nothing before the first observation.
    pub fn predict(&self, cost: u64) -> Option<Duration> {
        (self.seen > 0).then(|| nanos(self.line.at(cost as f64)))
    }

    /// What a batch of this cost surely takes, short of luck: the prediction less the spread, and less what the
    /// prediction owes to a guess about the slope. Nothing before the first observation.
    pub fn at_least(&self, cost: u64) -> Option<Duration> {
        let slope = if (cost as f64) < self.cost {
            self.line.per_cost + self.line.guessed * (self.proportional() - self.line.per_cost)
        } else {
            self.line.per_cost * (1.0 - self.line.guessed)
        };
        let expected = nanos(self.nanos + slope * (cost as f64 - self.cost));
        (self.seen > 0).then(|| expected.min(nanos(self.line.at(cost as f64))).saturating_sub(self.spread()))
    }

    /// The part of the time that does not depend on the cost.
    pub fn fixed(&self) -> Duration {
        nanos(self.line.fixed)
    }

    /// Nanoseconds per unit of cost.
    pub fn per_cost_ns(&self) -> f64 {
        self.line.per_cost
    }

    /// How far executions scatter around the prediction: a standard deviation, from clipped residuals. It
    /// is as large as half the prediction where little has been seen.
    pub fn spread(&self) -> Duration {
        let young = self.nanos * 0.5 / f64::from(self.seen.max(1));
        nanos((self.deviation * NORMAL).max(young))
    }

    /// Batches learned from since the last cold start.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// The least time that the mean makes plausible for a cost: in proportion to it, if smaller.
    fn least(&self, cost: f64) -> f64 {
        if cost < self.cost { self.nanos * cost / self.cost } else { self.nanos }
    }

    /// Compares an observation with the line: updates the spread, and gives back what of it is believed.
    fn judge(&mut self, cost: f64, nanos: f64) -> f64 {
        if self.seen == 0 {
            return nanos;
        }
        let expected = self.line.at(cost);
        let residual = nanos - expected;
        let scale = self.deviation.max(MIN_SPREAD * expected);
        let limit = CLIP * scale;
        // The first line is a guess: what differs from it is no outlier yet.
        if self.seen < 3 || residual.abs() <= limit {
            self.clipped = 0;
            let rate = SPREAD_RATE.max(1.0 / f64::from(self.seen));
            self.deviation += rate * (residual.abs() - self.deviation);
            return nanos;
        }
        let sign = if residual > 0.0 { 1 } else { -1 };
        self.clipped = if self.clipped.signum() == sign { self.clipped + sign } else { sign };
        if self.clipped.abs() >= CHANGE {
            *self = Self { former: Some(self.line), ..Self::default() };
            return nanos;
        }
        self.deviation += SPREAD_RATE * (limit - self.deviation);
        expected + residual.signum() * limit
    }

    fn add(&mut self, cost: f64, nanos: f64) {
        let distance = cost - self.cost;
        // The part of what is known of the slope that this observation replaces.
        let variance = if self.weight > 0.0 { self.cost_cost / self.weight } else { 0.0 };
        let news = if variance > 0.0 { (distance * distance / variance).min(1.0) } else { 1.0 };
        let keep = 1.0 - (1.0 - MEMORY) * news;
        self.cost_cost *= keep;
        self.cost_nanos *= keep;
        self.nanos_nanos *= keep;
        self.spread_weight = self.spread_weight * keep + 1.0;
        self.weight = self.weight * MEMORY + 1.0;
        let share = 1.0 / self.weight;
        self.cost += distance * share;
        let above = nanos - self.nanos;
        self.nanos += above * share;
        self.cost_cost += distance * (cost - self.cost);
        self.cost_nanos += distance * (nanos - self.nanos);
        self.nanos_nanos += above * (nanos - self.nanos);
    }

    fn proportional(&self) -> f64 {
        if self.cost > 0.0 { self.nanos / self.cost } else { 0.0 }
    }

    /// How far observations scatter around the line of least squares, as a share of their mean.
    fn noise(&self) -> f64 {
        let explained = if self.cost_cost > 0.0 { self.cost_nanos * self.cost_nanos / self.cost_cost } else { 0.0 };
        let variance = (self.nanos_nanos - explained).max(0.0) / (self.spread_weight - 2.0).max(1.0);
        let young = YOUNG / self.spread_weight.max(1.0);
        (variance.sqrt() / self.nanos.max(1.0)).max(MIN_SPREAD).max(young)
    }

    fn solve(&self) -> Line {
        if self.cost <= 0.0 {
            return Line { fixed: self.nanos, per_cost: 0.0, guessed: 1.0 };
        }
        let proportional = self.proportional();
        let noise = self.noise() / PRIOR_DEVIATION;
        let guess = noise * noise * self.cost * self.cost;
        let share = self.former.map_or(SLOPED, |line| line.sloped_share(self.cost));
        let slope = (self.cost_nanos + guess * share * proportional) / (self.cost_cost + guess);
        let per_cost = slope.clamp(0.0, proportional);
        let guessed = guess / (self.cost_cost + guess);
        Line { fixed: (self.nanos - per_cost * self.cost).max(0.0), per_cost, guessed }
    }
}

/// Nanoseconds as a duration: never negative, and bounded.
fn nanos(value: f64) -> Duration {
    // The cast saturates, and takes what is not a number for 0.
    Duration::from_nanos(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(value: f64) -> Duration {
        nanos(value * 1000.0)
    }

    /// A fit over `batches` batches of `took(cost)` µs, costs going round through `costs`.
    fn fitted(costs: &[u64], batches: usize, took: impl Fn(u64) -> f64) -> ExecutionFit {
        let mut fit = ExecutionFit::default();
        for cost in costs.iter().cycle().take(batches) {
            fit.observe(*cost, micros(took(*cost)));
        }
        fit
    }

    #[track_caller]
    fn assert_near(got: Duration, expected_us: f64, tolerance: f64) {
        let got = got.as_nanos() as f64 / 1000.0;
        assert!((got - expected_us).abs() <= tolerance * expected_us.max(1.0), "got {got} us, expected {expected_us} us");
    }

    #[test]
    fn it_knows_nothing_before_the_first_batch() {
        let fit = ExecutionFit::default();
        assert_eq!((fit.predict(8), fit.fixed(), fit.seen()), (None, Duration::ZERO, 0));
    }

    #[test]
    fn it_finds_both_parts_of_a_line() {
        for (fixed, per_cost) in [(1000.0, 10.0), (50.0, 100.0), (0.0, 30.0), (2000.0, 0.0)] {
            let fit = fitted(&[1, 8, 3, 16, 5], 40, |cost| fixed + per_cost * cost as f64);
            assert_near(fit.fixed() + Duration::from_micros(10), fixed + 10.0, 0.03);
            assert_near(fit.predict(64).unwrap(), fixed + per_cost * 64.0, 0.02);
        }
    }

    #[test]
    fn one_cost_alone_is_taken_as_mostly_fixed() {
        let fit = fitted(&[8], 20, |_| 800.0);
        assert_near(fit.predict(8).unwrap(), 800.0, 0.001);
        assert_near(fit.fixed(), 720.0, 0.001);
        assert_near(fit.predict(16).unwrap(), 880.0, 0.001);
    }

    #[test]
    fn what_is_guessed_is_not_sure() {
        let fit = fitted(&[8], 50, |_| 800.0);
        // If all of the time grew with the cost, a batch of one would take an eighth.
        assert_near(fit.at_least(1).unwrap(), 100.0 - 8.0, 0.01);
        assert_near(fit.at_least(80).unwrap(), 800.0 - 8.0, 0.01);
        let fit = fitted(&[1, 8], 50, |cost| 720.0 + 10.0 * cost as f64);
        let spread = fit.spread().as_nanos() as f64 / 1000.0;
        assert_near(fit.at_least(1).unwrap(), 730.0 - spread, 0.01);
        assert_near(fit.at_least(80).unwrap(), 1520.0 - spread, 0.01);
    }

    #[test]
    fn the_slope_outlives_a_long_run_of_one_cost() {
        let line = |cost: u64| 1000.0 + 10.0 * cost as f64;
        let mut fit = fitted(&[1, 16], 20, line);
        for _ in 0..1000 {
            fit.observe(16, micros(line(16)));
        }
        assert_near(fit.predict(1).unwrap(), 1010.0, 0.02);
    }

    #[test]
    fn a_cold_first_run_is_forgotten() {
        let mut fit = ExecutionFit::default();
        fit.observe(1, micros(900_000.0));
        for cost in [1, 2, 4, 8] {
            fit.observe(cost, micros(1000.0 + 50.0 * cost as f64));
        }
        assert_near(fit.predict(4).unwrap(), 1200.0, 0.05);
    }

    #[test]
    fn one_outlier_moves_little() {
        let mut fit = fitted(&[1, 8, 4, 16], 40, |cost| 1000.0 + 20.0 * cost as f64);
        fit.observe(8, micros(500_000.0));
        assert_near(fit.predict(8).unwrap(), 1160.0, 0.05);
    }

    #[test]
    fn a_change_of_regime_is_followed_within_fifty_batches() {
        for factor in [0.1, 0.5, 1.3, 3.0, 10.0] {
            let before = |cost: u64| 1000.0 + 20.0 * cost as f64;
            let mut fit = fitted(&[1, 8, 4, 16], 200, before);
            for cost in [2, 16, 1, 8, 4].into_iter().cycle().take(50) {
                fit.observe(cost, micros(before(cost) * factor));
            }
            assert_near(fit.predict(8).unwrap(), before(8) * factor, 0.1);
            assert_near(fit.predict(1).unwrap(), before(1) * factor, 0.15);
        }
    }

    #[test]
    fn noise_averages_out_and_shows_in_the_spread() {
        // A fixed sequence that scatters evenly over -100 to 100 us: its deviation is 58 us.
        let mut state = 7u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % 201) as f64 - 100.0
        };
        let mut fit = ExecutionFit::default();
        for cost in [1, 4, 16, 8, 2].into_iter().cycle().take(200) {
            fit.observe(cost, micros(1000.0 + 20.0 * cost as f64 + noise()));
        }
        assert_near(fit.predict(8).unwrap(), 1160.0, 0.05);
        assert_near(fit.spread(), 62.0, 0.4);
    }

    #[test]
    fn extreme_numbers_stay_finite() {
        let mut fit = ExecutionFit::default();
        for cost in [0, 1 << 40, u64::MAX, 1, 0, 1 << 40] {
            fit.observe(cost, Duration::from_nanos(1));
            fit.observe(cost, Duration::from_secs(100_000));
            fit.observe(cost, Duration::ZERO);
        }
        assert!(fit.per_cost_ns().is_finite() && fit.predict(u64::MAX).is_some() && fit.spread() < Duration::MAX);
        let fit = fitted(&[1 << 40, 1 << 39], 40, |cost| 5.0 + cost as f64 / 1e6);
        assert_near(fit.predict(1 << 40).unwrap(), 5.0 + (1u64 << 40) as f64 / 1e6, 0.01);
    }

    #[test]
    fn costs_of_nothing_are_taken_as_fixed() {
        let fit = fitted(&[0], 5, |_| 70.0);
        assert_near(fit.predict(1000).unwrap(), 70.0, 0.001);
    }
}
