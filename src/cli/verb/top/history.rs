//! The history of `top`: past values of machines as bars.

use std::collections::{HashMap, VecDeque};

/// The number of values kept for each machine; no terminal is wider.
const KEPT: usize = 240;
/// Bars of Unicode, from low to high.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same for terminals with another encoding.
const ASCII: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// A quantity with a history, in the order of [`Values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    Cpu,
    Memory,
    Io,
    Network,
    Tasks,
    Pressure,
}

impl Quantity {
    /// All quantities.
    pub(super) const ALL: [Self; 6] =
        [Self::Cpu, Self::Memory, Self::Io, Self::Network, Self::Tasks, Self::Pressure];

    /// Returns the lowest value that reaches the top of a bar: an idle machine has low bars.
    fn least_top(self) -> f64 {
        match self {
            Self::Cpu | Self::Pressure => 10.0,
            Self::Memory => 1_048_576.0,
            Self::Io | Self::Network => 65_536.0,
            Self::Tasks => 10.0,
        }
    }
}

/// The values of a machine at one time, in the order of [`Quantity::ALL`].
pub(super) type Values = [Option<f64>; 6];

/// The past values of machines.
#[derive(Debug, Default)]
pub(super) struct History {
    machines: HashMap<String, VecDeque<Values>>,
    /// Whether the terminal shows Unicode.
    is_unicode: bool,
}

impl History {
    /// Creates an empty history.
    pub(super) fn new(is_unicode: bool) -> Self {
        Self { is_unicode, ..Self::default() }
    }

    /// Adds the values of a machine.
    pub(super) fn add(&mut self, name: &str, values: Values) {
        let past = self.machines.entry(name.to_owned()).or_default();
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(values);
    }

    /// Forgets all machines but those for which `is_kept` holds.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.machines.retain(|name, _| is_kept(name));
    }

    /// Returns the highest of the last `count` values of all machines.
    pub(super) fn top(&self, quantity: Quantity, count: usize) -> f64 {
        let values = self.machines.keys().flat_map(|name| self.last(name, quantity, count));
        values.flatten().fold(quantity.least_top(), f64::max)
    }

    /// Returns a bar for each of the last `width` values of a machine, the newest at the right. A bar of full
    /// height is `top`; an unknown value is blank.
    pub(super) fn bars(&self, name: &str, quantity: Quantity, top: f64, width: usize) -> String {
        let glyphs = if self.is_unicode { BLOCKS } else { ASCII };
        let bar = |value: Option<f64>| value.map_or(' ', |value| glyphs[level(value / top)]);
        let bars: String = self.last(name, quantity, width).map(bar).collect();
        format!("{bars:>width$}")
    }

    fn last(&self, name: &str, quantity: Quantity, count: usize) -> impl Iterator<Item = Option<f64>> {
        let past = self.machines.get(name);
        let skipped = past.map_or(0, |past| past.len().saturating_sub(count));
        past.into_iter().flatten().skip(skipped).map(move |values| values[quantity as usize])
    }
}

/// Returns the level of a bar for a share of the full height.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited before")]
fn level(share: f64) -> usize {
    (share * 8.0).ceil().clamp(1.0, 8.0) as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(percent: f64) -> Values {
        [Some(percent), None, None, None, None, None]
    }

    #[test]
    fn bars_show_the_newest_values_at_the_right() {
        let mut history = History::new(true);
        [0.0, 12.5, 50.0, 100.0].into_iter().for_each(|percent| history.add("web", cpu(percent)));
        assert_eq!(history.top(Quantity::Cpu, 9), 100.0);
        assert_eq!(history.bars("web", Quantity::Cpu, 100.0, 6), "  ▁▁▄█");
        assert_eq!(history.bars("web", Quantity::Cpu, 100.0, 2), "▄█");
        assert_eq!(history.bars("web", Quantity::Memory, 1.0, 2), "  ");
        assert_eq!(history.bars("db", Quantity::Cpu, 100.0, 2), "  ");
        (0..500).for_each(|_| history.add("web", cpu(1.0)));
        assert_eq!(history.bars("web", Quantity::Cpu, 1.0, 300).trim().chars().count(), KEPT);
        history.retain(|name| name != "web");
        assert_eq!(history.top(Quantity::Cpu, 9), 10.0);
    }

    #[test]
    fn bars_of_other_encodings_are_ascii() {
        let mut history = History::new(false);
        [1.0, 100.0].into_iter().for_each(|percent| history.add("web", cpu(percent)));
        assert_eq!(history.bars("web", Quantity::Cpu, 100.0, 2), "_#");
    }
}
