//! The console of the machine, an option of `coracle run`.

use super::profile::Profile;
use super::setting::{Single, settings};
use super::values::{RawValue, Value, words};
use crate::error::Result;
use crate::machine::console::Console;

settings! {
    /// The setting of the console.
    ConsoleSettings {
        /// The connection of the console.
        console: Single<Console> = FlagOnly "console", |profile| if profile == Profile::Unit {
            Console::Journal
        } else {
            Console::Auto
        };
    }
}

impl ConsoleSettings {
    /// Builds the console of the machine.
    pub(super) fn build(&self) -> Result<Console> {
        self.console.required("console")
    }
}

words!(
    Console,
    [
        ("auto", Console::Auto),
        ("interactive", Console::Interactive),
        ("read-only", Console::ReadOnly),
        ("passive", Console::Passive),
        ("pipe", Console::Pipe),
        // Decided by the option, which knows the standard streams.
        ("autopipe", Console::Pipe),
        ("journal", Console::Journal),
    ]
);
