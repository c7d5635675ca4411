//! Times and how they are printed.

use std::time::{Duration, Instant};

/// The times of one thing.
pub struct Samples {
    name: &'static str,
    times: Vec<Duration>,
}

impl Samples {
    /// None yet.
    pub fn new(name: &'static str) -> Samples {
        Samples { name, times: Vec::new() }
    }

    /// Does something and adds how long it took.
    pub fn time<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = what();
        self.times.push(begin.elapsed());
        result
    }

    /// Adds a time that was taken elsewhere.
    pub fn add(&mut self, time: Duration) {
        self.times.push(time);
    }

    fn quantile(&self, of_a_hundred: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[(times.len() - 1) * of_a_hundred / 100]
    }

    fn line(&self) -> String {
        let (median, p95) = (self.quantile(50), self.quantile(95));
        format!("{:<34} median {:>9.1} µs   p95 {:>9.1} µs", self.name, micros(median), micros(p95))
    }

    /// Prints these beside others, and the ratio of the medians; `aim` is what it should stay below, 0 for none.
    pub fn beside(&self, other: &Samples, aim: f64) {
        println!("{}", other.line());
        let ratio = self.quantile(50).as_secs_f64() / other.quantile(50).as_secs_f64();
        let aim = if aim > 0.0 { format!(" (aim {aim})") } else { String::new() };
        println!("{}   {ratio:.2} × the line above{aim}", self.line());
    }

    /// Prints these against a time that the median should stay below.
    pub fn aim(&self, aim: Duration) {
        println!("{}   aim {:.1} µs", self.line(), micros(aim));
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
