//! What a machine's settings are and where each was said. Called by `cli` for `config NAME`.

use super::layer::{Layer, Origin, SETTINGS, Shape};

/// One setting as it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its key, sections and key joined by dots.
    pub key: &'static str,
    /// The value as it is written in a definition; nothing where nobody limits it.
    pub value: Option<String>,
    /// Where it was said.
    pub origin: Origin,
}

/// Every setting of a definition in order, one line for each value.
pub fn lines(settings: &Layer) -> Vec<Line> {
    let mut lines = Vec::new();
    for setting in SETTINGS.iter().filter(|setting| setting.shape != Shape::FlagOnly) {
        let told = setting.tell(settings);
        if told.is_empty() {
            lines.push(Line { key: setting.key, value: None, origin: Origin::Default });
        }
        lines.extend(told.into_iter().map(|(value, origin)| Line {
            key: setting.key,
            value: Some(value),
            origin,
        }));
    }
    lines
}
