//! The list of verbs. Each verb is one file: its arguments, its help text, and `run`, which calls `control`
//! and prints the result. A new verb is a new file and three words here.

mod activate;
mod apply;
mod attach;
mod bind;
mod check;
mod cleanup;
mod completions;
mod config;
mod copy_from;
mod copy_to;
mod disable;
mod dns_update;
mod doctor;
mod enable;
mod exec;
mod freeze;
mod inspect;
mod kill;
mod launch;
mod list;
mod login;
mod logs;
mod names;
mod network;
mod poweroff;
mod reboot;
mod restart;
mod run;
mod set;
mod shell;
mod show;
mod start;
mod stats;
mod status;
mod stop;
mod terminate;
mod thaw;
mod top;
mod unbind;

pub use exec::Exec;
pub use launch::Launch;
pub use run::Run;

use crate::error::Error;
use crate::paths::Paths;
use clap::Subcommand;

/// The exit status of a verb, or all its errors.
pub type Outcome = std::result::Result<u8, Failures>;

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
            pub fn run(self, paths: &Paths) -> Outcome {
                match self {
                    $(Self::$verb(verb) => verb.run(paths)),*
                }
            }
        }
    };
}

verbs! {
    Run(Box<run::Run>),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Enable(enable::Enable),
    Disable(disable::Disable),
    Poweroff(poweroff::Poweroff),
    Reboot(reboot::Reboot),
    Terminate(terminate::Terminate),
    Kill(kill::Kill),
    Freeze(freeze::Freeze),
    Thaw(thaw::Thaw),
    List(list::List),
    Status(status::Status),
    Show(show::Show),
    Logs(logs::Logs),
    Doctor(doctor::Doctor),
    Stats(stats::Stats),
    Network(network::Network),
    Top(top::Top),
    Inspect(inspect::Inspect),
    Exec(exec::Exec),
    Shell(shell::Shell),
    CopyTo(copy_to::CopyTo),
    CopyFrom(copy_from::CopyFrom),
    Bind(bind::Bind),
    Unbind(unbind::Unbind),
    Attach(attach::Attach),
    Login(login::Login),
    Set(set::Set),
    Apply(apply::Apply),
    Check(check::Check),
    Config(config::Config),
    Completions(completions::Completions),
    Names(names::Names),
    Launch(launch::Launch),
    Activate(activate::Activate),
    Cleanup(cleanup::Cleanup),
    DnsUpdate(dns_update::DnsUpdate),
}
