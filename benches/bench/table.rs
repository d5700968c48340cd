//! Numbers as text: medians, ratios, aligned columns. Called by every part.

/// The median of unsorted values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The smallest.
pub fn min(values: &[f64]) -> f64 {
    quantile(values, 0.0)
}

/// How far the middle half of the values spreads, as a part of the median: how noisy it was.
pub fn spread(values: &[f64]) -> f64 {
    (quantile(values, 0.75) - quantile(values, 0.25)) / median(values)
}

/// The interval of sample values that contains the true median in 19 of 20 samples: as many values around the
/// middle as the sign test requires.
pub fn bounds(values: &[f64]) -> (f64, f64) {
    let aside = 0.98 * (values.len() as f64).sqrt();
    let part = |places: f64| (0.5 + places / values.len().saturating_sub(1).max(1) as f64).clamp(0.0, 1.0);
    (quantile(values, part(-aside)), quantile(values, part(aside)))
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * sorted.len().saturating_sub(1) as f64;
    sorted.get(place.round() as usize).copied().unwrap_or(f64::NAN)
}

/// A number with as many digits as mean something.
pub fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "-".into(),
        value if value.abs() < 10.0 => format!("{value:.2}"),
        value if value.abs() < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// `value` over `base`, as `1.23x`.
pub fn ratio(value: f64, base: Option<f64>) -> String {
    base.map_or_else(|| "-".into(), |base| format!("{}x", number(value / base)))
}

/// Prints a table: the first column to the left, the others to the right.
pub fn print(title: &str, head: &[&str], rows: &[Vec<String>]) {
    println!("\n{title}\n");
    let head: Vec<String> = head.iter().map(|word| (*word).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for row in &all {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<0$}", width(column)),
            _ => format!("{cell:>0$}", width(column)),
        });
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
