//! The list of verbs. Each verb is one file: its arguments, its help text, and `run`, which calls `control`
//! and prints the result. A new verb is a new file and three words here.

mod activate;
mod apply;
mod attach;
mod bind;
mod build;
mod check;
mod cleanup;
mod clone;
mod completions;
mod config;
mod convert;
mod copy_from;
mod copy_to;
mod create;
mod device;
mod disable;
mod dns_update;
mod doctor;
mod edit;
mod enable;
mod events;
mod exec;
mod export;
mod freeze;
mod health;
mod idle;
mod images;
mod import;
mod inspect;
mod kill;
mod launch;
mod list;
mod login;
mod logs;
mod migrate;
mod names;
mod network;
mod poweroff;
mod provision;
mod provision_options;
mod prune;
mod pull;
mod read_only;
mod reboot;
mod remove;
mod rename;
mod restart;
mod rollback;
mod run;
mod set;
mod shell;
mod show;
mod snapshot;
mod start;
mod stats;
mod status;
mod stop;
mod terminate;
mod thaw;
mod top;
mod unbind;
mod update;
mod verify;
mod zone_names;

pub(crate) use build::{BuildArgs, end_own_session, end_session};
pub(in crate::cli) use build::{SessionOptions, begin_session};
pub(crate) use exec::ExecArgs;
pub(crate) use launch::LaunchArgs;
pub(crate) use restart::RestartArgs;
pub(crate) use run::{RunArgs, settings_mode};
pub(crate) use start::StartArgs;
pub(crate) use stop::StopArgs;

use crate::control::require_root;
use crate::error::Error;
use crate::paths::Paths;
use clap::Subcommand;

/// The exit status of a verb, or all its errors.
pub type VerbResult = std::result::Result<u8, Failures>;

/// The errors of a verb, at least one.
#[derive(Debug)]
pub struct Failures(pub Vec<Error>);

impl From<Error> for Failures {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl From<Vec<Error>> for Failures {
    fn from(errors: Vec<Error>) -> Self {
        Self(errors)
    }
}

/// Runs a verb in a stack frame of its own: one for all verbs would touch seven pages.
#[inline(never)]
fn apart(run: impl FnOnce() -> VerbResult) -> VerbResult {
    run()
}

/// Defines [`Verb`] with one variant per verb, in the order of the help.
macro_rules! verbs {
    ($($verb:ident($arguments:ty)),* $(,)?) => {
        /// A verb with its arguments.
        #[derive(Debug, Subcommand)]
        pub enum Verb {
            $(#[allow(missing_docs, reason = "documented by the type")] $verb($arguments)),*
        }

        impl Verb {
            /// Runs the verb.
            ///
            /// # Errors
            /// All errors of the verb.
            pub fn run(self, paths: &Paths) -> VerbResult {
                if self.changes_machines() {
                    require_root()?;
                }
                match self {
                    Self::Run(verb) => verb.run(paths),
                    other => other.run_other(paths),
                }
            }

            /// Runs the verb. Apart from `run`, which needs no stack for the arguments of all verbs.
            #[inline(never)]
            fn run_other(self, paths: &Paths) -> VerbResult {
                match self {
                    $(Self::$verb(verb) => apart(|| verb.run(paths))),*
                }
            }
        }
    };
}

impl Verb {
    /// Returns whether the verb changes machines by itself. Others only read, or use systemd, which asks
    /// polkit(8). `run`, `exec`, `shell` and `login` have an exit status of their own for such errors.
    fn changes_machines(&self) -> bool {
        match self {
            Self::Bind(bind) => bind.is_request(),
            Self::Device(device) => device.is_request(),
            Self::Build(build) => build.is_request(),
            Self::Network(network) => network.is_request(),
            Self::Snapshot(snapshot) => snapshot.is_request(),
            Self::Migrate(migrate) => migrate.is_request(),
            Self::Rollback(_) => true,
            Self::Poweroff(_) | Self::Reboot(_) | Self::Terminate(_) | Self::Kill(_) | Self::Freeze(_) => {
                true
            }
            Self::Thaw(_) | Self::CopyTo(_) | Self::CopyFrom(_) | Self::Unbind(_) | Self::Attach(_) => true,
            Self::Launch(_)
            | Self::Activate(_)
            | Self::Cleanup(_)
            | Self::DnsUpdate(_)
            | Self::Health(_)
            | Self::Idle(_) => true,
            Self::Set(_) | Self::Edit(_) | Self::Apply(_) | Self::ReadOnly(_) | Self::Clone(_) => true,
            Self::Import(_)
            | Self::Pull(_)
            | Self::Export(_)
            | Self::Convert(_)
            | Self::Prune(_)
            | Self::Verify(_) => true,
            Self::Rename(_) | Self::Remove(_) | Self::Create(_) | Self::Update(_) | Self::Provision(_) => {
                true
            }
            _ => false,
        }
    }
}

verbs! {
    Run(Box<run::RunArgs>),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Restart(restart::RestartArgs),
    Enable(enable::EnableArgs),
    Disable(disable::DisableArgs),
    Poweroff(poweroff::PoweroffArgs),
    Reboot(reboot::RebootArgs),
    Terminate(terminate::TerminateArgs),
    Kill(kill::KillArgs),
    Freeze(freeze::FreezeArgs),
    Thaw(thaw::ThawArgs),
    List(list::ListArgs),
    Status(status::StatusArgs),
    Show(show::ShowArgs),
    Logs(logs::LogsArgs),
    Events(events::EventsArgs),
    Doctor(doctor::DoctorArgs),
    Stats(stats::StatsArgs),
    Network(network::NetworkArgs),
    Top(top::TopArgs),
    Inspect(inspect::InspectArgs),
    Images(images::ImagesArgs),
    Create(create::CreateArgs),
    Import(import::ImportArgs),
    Update(update::UpdateArgs),
    Pull(pull::PullArgs),
    Export(export::ExportArgs),
    Clone(clone::CloneArgs),
    Provision(provision::ProvisionArgs),
    Convert(convert::ConvertArgs),
    Migrate(migrate::MigrateArgs),
    ReadOnly(read_only::ReadOnlyArgs),
    Verify(verify::VerifyArgs),
    Prune(prune::PruneArgs),
    Snapshot(snapshot::SnapshotArgs),
    Rollback(rollback::RollbackArgs),
    Rename(rename::RenameArgs),
    Remove(remove::RemoveArgs),
    Exec(exec::ExecArgs),
    Shell(shell::ShellArgs),
    CopyTo(copy_to::CopyToArgs),
    CopyFrom(copy_from::CopyFromArgs),
    Bind(bind::BindArgs),
    Unbind(unbind::UnbindArgs),
    Device(device::DeviceArgs),
    Attach(attach::AttachArgs),
    Login(login::LoginArgs),
    Build(build::BuildArgs),
    Set(set::SetArgs),
    Apply(apply::ApplyArgs),
    Edit(edit::EditArgs),
    Check(check::CheckArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    Names(names::NamesArgs),
    Launch(launch::LaunchArgs),
    Activate(activate::ActivateArgs),
    Cleanup(cleanup::CleanupArgs),
    Health(health::HealthArgs),
    Idle(idle::IdleArgs),
    DnsUpdate(dns_update::DnsUpdateArgs),
    ZoneNames(zone_names::ZoneNamesArgs),
}
