//! The table: one row for each thing measured, one column for each runtime.

use std::time::Duration;

/// Figures of one runtime for one row.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    sorted: Vec<f64>,
}

impl Figures {
    /// From measurements in any order; `None` where there are none.
    pub(crate) fn new(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self { sorted: values })
    }

    /// The value below which this share of the measurements lies.
    fn percentile(&self, share: f64) -> f64 {
        // `as`: an index into a short list.
        self.sorted[((self.sorted.len() - 1) as f64 * share).round() as usize]
    }

    /// The middle one.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    fn show(&self) -> String {
        let number = |value: f64| match value {
            v if v >= 100.0 => format!("{v:.0}"),
            v if v >= 10.0 => format!("{v:.1}"),
            v => format!("{v:.2}"),
        };
        if self.sorted.len() == 1 {
            return number(self.median());
        }
        let (low, high) = (self.percentile(0.1), self.percentile(0.9));
        format!("**{}** ({}–{})", number(self.median()), number(low), number(high))
    }
}

/// Milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What a row promises of podrun's median.
pub(crate) enum Target {
    /// Nothing.
    None,
    /// At most this share of the named runtime's.
    Share(f64, &'static str),
    /// At least this many times the named runtime's.
    Times(f64, &'static str),
    /// At most this.
    AtMost(f64),
}

/// One thing measured.
pub(crate) struct Row {
    /// What, and in which unit.
    pub(crate) what: String,
    /// The figures of each column; `None` where it has no such thing.
    pub(crate) cells: Vec<Option<Figures>>,
    /// What was promised.
    pub(crate) target: Target,
}

/// Prints the table. The first column is podrun's.
pub(crate) fn print(columns: &[String], rows: &[Row]) {
    println!("| what | {} | target | met |", columns.join(" | "));
    println!("|---|{}---|---|", "---|".repeat(columns.len()));
    for row in rows {
        let cells: Vec<_> = row
            .cells
            .iter()
            .map(|cell| cell.as_ref().map_or_else(|| "–".to_owned(), Figures::show))
            .collect();
        let own = row.cells[0].as_ref().map(Figures::median);
        let of = |name: &str| {
            let column = columns.iter().position(|column| column == name)?;
            row.cells[column].as_ref().map(Figures::median)
        };
        let met = |limit: Option<f64>, holds: fn(f64, f64) -> bool| match (own, limit) {
            (Some(own), Some(limit)) if holds(own, limit) => "yes",
            (Some(_), Some(_)) => "no",
            _ => "not measured",
        };
        let at_most = |own, limit| own <= limit;
        let (target, met) = match row.target {
            Target::None => (String::new(), ""),
            Target::Share(share, name) => {
                let limit = of(name).map(|value| value * share);
                let shown = limit.map_or_else(String::new, |limit| format!(" = {limit:.2}"));
                (format!("≤ {share:.2} × {name}{shown}"), met(limit, at_most))
            }
            Target::Times(times, name) => {
                let limit = of(name).map(|value| value * times);
                let shown = limit.map_or_else(String::new, |limit| format!(" = {limit:.0}"));
                (format!("≥ {times:.0} × {name}{shown}"), met(limit, |own, limit| own >= limit))
            }
            Target::AtMost(limit) => (format!("≤ {limit}"), met(Some(limit), at_most)),
        };
        println!("| {} | {} | {target} | {met} |", row.what, cells.join(" | "));
    }
}
