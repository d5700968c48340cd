//! Formats numbers: medians, ratios, aligned columns. Called by every part.

/// Returns the median of unsorted values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Returns the lower quartile: less noisy than the minimum, and less affected by load than the median.
pub fn lower_quartile(values: &[f64]) -> f64 {
    quantile(values, 0.25)
}

/// Returns the smallest value.
pub fn min(values: &[f64]) -> f64 {
    quantile(values, 0.0)
}

/// Returns the interquartile range relative to the median: a measure of the noise.
pub fn spread(values: &[f64]) -> f64 {
    (quantile(values, 0.75) - quantile(values, 0.25)) / median(values)
}

/// Returns the 95 % confidence interval of the median, by the sign test.
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

/// Formats a number with its significant digits.
pub fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "-".into(),
        value if value.abs() < 10.0 => format!("{value:.2}"),
        value if value.abs() < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// Returns `value` divided by `base`, for example `1.23x`.
pub fn ratio(value: f64, base: Option<f64>) -> String {
    base.map_or_else(|| "-".into(), |base| format!("{}x", number(value / base)))
}

/// Prints a table: the first column is left-aligned, all others right-aligned.
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
