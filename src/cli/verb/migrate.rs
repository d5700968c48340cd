//! `coracle migrate`.

use super::VerbResult;
use crate::cli::nspawn::Nspawn;
use crate::cli::output;
use crate::control::migrate::{self, MigrateMode, MigrateReport};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Write definitions for machines of systemd-nspawn, whose units then run coracle
///
/// A definition has the settings of the .nspawn file, of the unit and of its drop-ins, each with its origin.
/// Unit, enablement, drop-ins, tree and a running machine stay as they are; the next start is that of
/// coracle.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The machines
    #[arg(value_name = "NAME", required_unless_present = "all", value_parser = Name::new)]
    names: Vec<Name>,

    /// All machines without a definition that have a .nspawn file, or a unit that is enabled or has drop-ins
    #[arg(long, conflicts_with = "names")]
    all: bool,

    /// Only show the definitions
    #[arg(long)]
    dry_run: bool,

    /// Write definitions without the settings that have no equal
    #[arg(long, conflicts_with_all = ["dry_run", "back"])]
    force: bool,

    /// Remove unchanged definitions: the units run systemd-nspawn again
    #[arg(long, conflicts_with = "dry_run")]
    back: bool,
}

impl MigrateArgs {
    /// Returns whether the call changes files.
    pub(super) fn is_request(&self) -> bool {
        !self.dry_run
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        if self.back {
            let names = if self.all { migrate::migrated(paths)? } else { self.names };
            migrate::migrate_back(paths, &names, &mut |name, file, start| {
                output::line(&format!(
                    "{name}: removed '{}'; '{start}' starts it with systemd-nspawn",
                    file.display()
                ))
            })?;
            return Ok(0);
        }
        let mode = match (self.dry_run, self.force) {
            (true, _) => MigrateMode::DryRun,
            (false, true) => MigrateMode::Force,
            (false, false) => MigrateMode::Complete,
        };
        let names = if self.all { migrate::candidates(paths)? } else { self.names };
        if names.is_empty() {
            output::line("no machine of systemd-nspawn without a definition")?;
        }
        migrate::migrate(paths, &names, mode, &Nspawn::options_of_unit, &mut |name, report| {
            output::text(&text(name, report, mode))
        })?;
        Ok(0)
    }
}

/// Returns the report for a person.
fn text(name: &Name, report: &MigrateReport, mode: MigrateMode) -> String {
    let MigrateReport { sources, file, settings, ids, replaced, lost, text, start } = report;
    let (is_dry, file) = (mode == MigrateMode::DryRun, file.display());
    let wrote = if is_dry { "would write" } else { "wrote" };
    let mut lines = vec![
        format!("{name}: {sources}"),
        format!("{wrote} {file}: {settings} settings, boot.machinectl = true; {ids}"),
    ];
    lines.extend(replaced.iter().map(|what| format!("not carried: {what}")));
    lines.extend(lost.iter().filter(|_| !is_dry).map(|what| format!("without an equal: {what}")));
    if is_dry {
        lines.push(String::new());
        lines.push(text.trim_end().to_owned());
    } else {
        lines.push(format!("'{start}' starts it with coracle"));
    }
    lines.join("\n") + "\n"
}
