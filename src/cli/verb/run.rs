//! `coracle run`. The module `option_layer` translates the options to settings.

mod address_options;
mod credential_options;
mod image_options;
mod journal_options;
mod mount_options;
mod option_layer;
mod resource_options;
mod variables;

use super::VerbResult;
use super::provision_options::AccountOptions;
use crate::cli::argument_table::{ArgumentRow, Slot, TableParser, long, positional, short};
use crate::config::Options;
use crate::config::nspawn::SettingsMode;
use crate::config::values::systemd_boolean;
use crate::control::provision;
use crate::error::Error;
use crate::machine::Machine;
use crate::machine::contract::Contract;
use crate::paths::Paths;
use crate::run::RunMode;
use address_options::AddressOptions;
use clap::Args;
use credential_options::CredentialOptions;
use image_options::ImageOptions;
use journal_options::JournalOptions;
use mount_options::MountOptions;
use resource_options::ResourceOptions;
use std::ffi::OsString;
use std::path::PathBuf;

/// Run a command or a whole system in the foreground
///
/// The options have the names and the meaning of systemd-nspawn(1).
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// The program and its arguments, or arguments for the init; a shell by default
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,

    /// Only show the steps; claim and create nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Suppress messages of coracle itself
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// The use of the .nspawn file of the machine: yes, no, override or trusted
    #[arg(long, value_name = "MODE")]
    pub(crate) settings: Option<String>,

    /// The directory with the root file system
    #[arg(short = 'D', long, value_name = "DIR", help_heading = "Image")]
    pub(crate) directory: Option<PathBuf>,

    /// Options for stacks and disk images.
    #[command(flatten)]
    pub(crate) disk: ImageOptions,

    /// Mount the root read-only
    #[arg(long, help_heading = "Image")]
    pub(crate) read_only: bool,

    /// Create a missing root directory as a copy of this one
    #[arg(long, value_name = "DIR", conflicts_with_all = ["mstack", "ephemeral"], help_heading = "Image")]
    pub(crate) template: Option<PathBuf>,

    /// Make a directory inside the root the root, and show the outer one at OLD
    #[arg(long, value_name = "NEW[:OLD]", help_heading = "Image")]
    pub(crate) pivot_root: Option<String>,

    /// Discard all changes of the root at the end
    #[arg(short = 'x', long, help_heading = "Image")]
    pub(crate) ephemeral: bool,

    /// The part of the root that is empty at each boot: yes, state, overlay or no
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        help_heading = "Image"
    )]
    pub(crate) volatile: Option<String>,

    /// Boot the system: run its init as PID 1
    #[arg(short, long, conflicts_with = "as_pid2", help_heading = "Execution")]
    pub(crate) boot: bool,

    /// Run the command as PID 2, with a minimal init as PID 1
    #[arg(short, long, help_heading = "Execution")]
    pub(crate) as_pid2: bool,

    /// The working directory inside
    #[arg(long, value_name = "DIR", help_heading = "Execution")]
    pub(crate) chdir: Option<String>,

    /// Set an environment variable of PID 1; without VALUE, pass on the caller's
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]", help_heading = "Execution")]
    pub(crate) setenv: Vec<String>,

    /// Run the command as this user of the machine, looked up inside by getent(1)
    #[arg(short, long, value_name = "USER", help_heading = "Execution")]
    pub(crate) uid: Option<String>,

    /// The signal that requests a clean shutdown from PID 1
    #[arg(long, value_name = "SIGNAL", help_heading = "Execution")]
    pub(crate) kill_signal: Option<String>,

    /// Whether fsync(2) and similar calls have no effect: faster, and a crash of the host loses files
    #[arg(long, value_name = "BOOL", value_parser = boolean, help_heading = "Execution")]
    pub(crate) suppress_sync: Option<bool>,

    /// The architecture that uname(2) reports inside: x86 or x86-64
    #[arg(long, value_name = "NAME", help_heading = "Execution")]
    pub(crate) personality: Option<String>,

    /// Whether PID 1 reports when the machine is ready
    #[arg(long, value_name = "BOOL", value_parser = boolean, help_heading = "Execution")]
    pub(crate) notify_ready: Option<bool>,

    /// The name of the machine; options override the settings of its definition
    #[arg(short = 'M', long, value_name = "NAME", help_heading = "Identity")]
    pub(crate) machine: Option<String>,

    /// The host name inside; the name of the machine by default
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    pub(crate) hostname: Option<String>,

    /// The machine id of a system without one
    #[arg(long, value_name = "UUID", help_heading = "Identity")]
    pub(crate) uuid: Option<String>,

    /// Link the journal directories: no, host, try-host, guest, try-guest or auto
    #[arg(long, value_name = "MODE", help_heading = "Identity")]
    pub(crate) link_journal: Option<String>,

    /// The same as --link-journal=try-guest
    #[arg(short = 'j', overrides_with = "link_journal", help_heading = "Identity")]
    pub(crate) link_journal_try_guest: bool,

    /// How /etc/localtime is set up: off, copy, bind, symlink, delete or auto
    #[arg(long, value_name = "MODE", help_heading = "Identity")]
    pub(crate) timezone: Option<String>,

    /// The slice of the scope of the machine
    #[arg(short = 'S', long, value_name = "SLICE", help_heading = "Unit")]
    pub(crate) slice: Option<String>,

    /// Set a property of the scope, for example MemoryMax=512M
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Unit")]
    pub(crate) property: Vec<String>,

    /// Whether to register with systemd-machined: yes, no or auto
    #[arg(long, value_name = "BOOL|auto", help_heading = "Unit")]
    pub(crate) register: Option<String>,

    /// Run in the unit of the caller, not in a new scope
    #[arg(long, help_heading = "Unit")]
    pub(crate) keep_unit: bool,

    /// The range of user ids: pick, yes, no, identity, BASE or BASE:COUNT; yes is that of the root's owner
    #[arg(
        long,
        value_name = "RANGE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        help_heading = "Users"
    )]
    pub(crate) private_users: Option<String>,

    /// How files get into that range: map, foreign, chown, off or auto
    #[arg(long, value_name = "MODE", help_heading = "Users")]
    pub(crate) private_users_ownership: Option<String>,

    /// The same as --private-users=pick, by default with --private-users-ownership=auto
    #[arg(short = 'U', overrides_with = "private_users", help_heading = "Users")]
    pub(crate) user_namespace: bool,

    /// Create a private network with a loopback interface only
    #[arg(long, help_heading = "Network")]
    pub(crate) private_network: bool,

    /// Create a private network, linked to the host
    #[arg(short, long, help_heading = "Network")]
    pub(crate) network_veth: bool,

    /// Create a private network, linked to a bridge of the host
    #[arg(long, value_name = "INTERFACE", conflicts_with = "network_zone", help_heading = "Network")]
    pub(crate) network_bridge: Option<String>,

    /// Create a private network, linked to the machines of a zone
    #[arg(long, value_name = "ZONE", help_heading = "Network")]
    pub(crate) network_zone: Option<String>,

    /// Static addresses.
    #[command(flatten)]
    pub(crate) addresses: AddressOptions,

    /// Add another link to the host, with the names of both ends
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub(crate) network_veth_extra: Vec<String>,

    /// Move an interface of the host into the machine while it is running
    ///
    /// HOST may be one of its alternative names; inside it then has its own name.
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub(crate) network_interface: Vec<String>,

    /// Add a macvlan on an interface of the host
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub(crate) network_macvlan: Vec<String>,

    /// Add an ipvlan on an interface of the host
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub(crate) network_ipvlan: Vec<String>,

    /// Join a network namespace
    #[arg(long, value_name = "PATH", help_heading = "Network")]
    pub(crate) network_namespace_path: Option<String>,

    /// Forward a port of the host to the machine, for example 8080:80 or 5353:53/udp
    #[arg(short, long, value_name = "PORT", help_heading = "Network")]
    pub(crate) port: Vec<String>,

    /// How /etc/resolv.conf is set up: auto, off, delete, or copy-, replace- or bind- with host, static,
    /// uplink or stub
    #[arg(long, value_name = "MODE", help_heading = "Network")]
    pub(crate) resolv_conf: Option<String>,

    /// Add capabilities, separated by commas
    #[arg(long, value_name = "LIST", help_heading = "Security")]
    pub(crate) capability: Vec<String>,

    /// Drop capabilities, separated by commas
    #[arg(long, value_name = "LIST", help_heading = "Security")]
    pub(crate) drop_capability: Vec<String>,

    /// Keep capabilities in the command of any user, separated by commas
    #[arg(long, value_name = "LIST", conflicts_with = "boot", help_heading = "Security")]
    pub(crate) ambient_capability: Vec<String>,

    /// Whether setuid programs gain no privileges
    #[arg(long, value_name = "BOOL", value_parser = boolean, help_heading = "Security")]
    pub(crate) no_new_privileges: Option<bool>,

    /// The SELinux context of processes
    #[arg(short = 'Z', long, value_name = "CONTEXT", help_heading = "Security")]
    pub(crate) selinux_context: Option<String>,

    /// The SELinux context of files in the file systems at /run, /tmp and /dev
    #[arg(short = 'L', long, value_name = "CONTEXT", help_heading = "Security")]
    pub(crate) selinux_apifs_context: Option<String>,

    /// Allow system calls and @groups, or deny them with a leading ~
    #[arg(long, value_name = "[~]LIST", help_heading = "Security")]
    pub(crate) system_call_filter: Vec<String>,

    /// Allow sockets of these address families only, of all others with a leading ~, or of none
    #[arg(long, value_name = "[~]LIST|none", help_heading = "Security")]
    pub(crate) restrict_address_families: Vec<String>,

    /// Options for resources.
    #[command(flatten)]
    pub(crate) resources: ResourceOptions,

    /// Options for further mounts.
    #[command(flatten)]
    pub(crate) mounts: MountOptions,

    /// Options for credentials.
    #[command(flatten)]
    pub(crate) credentials: CredentialOptions,

    /// First settings.
    #[command(flatten)]
    pub(crate) account: AccountOptions,

    /// Options for a forwarded journal.
    #[command(flatten)]
    pub(crate) journal: JournalOptions,

    /// The mode of the console: auto, interactive, read-only, passive, pipe, autopipe or journal
    #[arg(long, value_name = "MODE", help_heading = "Console")]
    pub(crate) console: Option<String>,

    /// The same as --console=pipe
    #[arg(short = 'P', long, overrides_with = "console", help_heading = "Console")]
    pub(crate) pipe: bool,
}

impl RunArgs {
    /// Reads the arguments without clap. `None` if clap must parse them.
    pub(in crate::cli) fn read(parse: TableParser<'_>) -> Option<Self> {
        let mut run = Self::default();
        parse(run.table())?;
        (!run.has_conflict()).then_some(run)
    }

    /// Returns the arguments as rows of a table.
    pub(in crate::cli) fn table(&mut self) -> Vec<ArgumentRow<'_>> {
        let mut rows = vec![
            positional(Slot::Command(&mut self.command)),
            long("dry-run", Slot::Flag(&mut self.dry_run)),
            long("quiet", Slot::Flag(&mut self.quiet)).or_short(b'q'),
            long("settings", Slot::Text(&mut self.settings)),
            long("directory", Slot::Path(&mut self.directory)).or_short(b'D'),
            long("read-only", Slot::Flag(&mut self.read_only)),
            long("template", Slot::Path(&mut self.template)),
            long("pivot-root", Slot::Text(&mut self.pivot_root)),
            long("ephemeral", Slot::Flag(&mut self.ephemeral)).or_short(b'x'),
            long("volatile", Slot::TextAfterEquals(&mut self.volatile, "yes")),
            long("boot", Slot::Flag(&mut self.boot)).or_short(b'b'),
            long("as-pid2", Slot::Flag(&mut self.as_pid2)).or_short(b'a'),
            long("chdir", Slot::Text(&mut self.chdir)),
            long("setenv", Slot::Texts(&mut self.setenv)).or_short(b'E'),
            long("uid", Slot::Text(&mut self.uid)).or_short(b'u'),
            long("kill-signal", Slot::Text(&mut self.kill_signal)),
            long("suppress-sync", Slot::Boolean(&mut self.suppress_sync, boolean)),
            long("personality", Slot::Text(&mut self.personality)),
            long("notify-ready", Slot::Boolean(&mut self.notify_ready, boolean)),
            long("machine", Slot::Text(&mut self.machine)).or_short(b'M'),
            long("hostname", Slot::Text(&mut self.hostname)),
            long("uuid", Slot::Text(&mut self.uuid)),
            long("timezone", Slot::Text(&mut self.timezone)),
            long("link-journal", Slot::Text(&mut self.link_journal)).in_group("journal"),
            short(b'j', Slot::Flag(&mut self.link_journal_try_guest)).in_group("journal"),
            long("slice", Slot::Text(&mut self.slice)).or_short(b'S'),
            long("property", Slot::Texts(&mut self.property)),
            long("register", Slot::Text(&mut self.register)),
            long("keep-unit", Slot::Flag(&mut self.keep_unit)),
            long("private-users", Slot::TextAfterEquals(&mut self.private_users, "yes")).in_group("users"),
            long("private-users-ownership", Slot::Text(&mut self.private_users_ownership)),
            short(b'U', Slot::Flag(&mut self.user_namespace)).in_group("users"),
            long("private-network", Slot::Flag(&mut self.private_network)),
            long("network-veth", Slot::Flag(&mut self.network_veth)).or_short(b'n'),
            long("network-bridge", Slot::Text(&mut self.network_bridge)),
            long("network-zone", Slot::Text(&mut self.network_zone)),
            long("network-veth-extra", Slot::Texts(&mut self.network_veth_extra)),
            long("network-interface", Slot::Texts(&mut self.network_interface)),
            long("network-macvlan", Slot::Texts(&mut self.network_macvlan)),
            long("network-ipvlan", Slot::Texts(&mut self.network_ipvlan)),
            long("network-namespace-path", Slot::Text(&mut self.network_namespace_path)),
            long("port", Slot::Texts(&mut self.port)).or_short(b'p'),
            long("resolv-conf", Slot::Text(&mut self.resolv_conf)),
            long("capability", Slot::Texts(&mut self.capability)),
            long("drop-capability", Slot::Texts(&mut self.drop_capability)),
            long("ambient-capability", Slot::Texts(&mut self.ambient_capability)),
            long("no-new-privileges", Slot::Boolean(&mut self.no_new_privileges, boolean)),
            long("selinux-context", Slot::Text(&mut self.selinux_context)).or_short(b'Z'),
            long("selinux-apifs-context", Slot::Text(&mut self.selinux_apifs_context)).or_short(b'L'),
            long("system-call-filter", Slot::Texts(&mut self.system_call_filter)),
            long("restrict-address-families", Slot::Texts(&mut self.restrict_address_families)),
            long("console", Slot::Text(&mut self.console)).in_group("console"),
            long("pipe", Slot::Flag(&mut self.pipe)).or_short(b'P').in_group("console"),
        ];
        rows.extend(self.disk.rows().into_iter().chain(self.addresses.rows()));
        rows.extend(self.resources.rows().into_iter().chain(self.account.rows()));
        rows.extend(self.mounts.rows());
        rows.extend(self.credentials.rows().into_iter().chain(self.journal.rows()));
        rows
    }

    /// Returns whether both of two conflicting options are set.
    fn has_conflict(&self) -> bool {
        self.boot && (self.as_pid2 || !self.ambient_capability.is_empty())
            || self.disk.mstack.is_some() && (self.directory.is_some() || self.template.is_some())
            || self.disk.image.is_some()
                && (self.directory.is_some() || self.disk.mstack.is_some() || self.template.is_some())
            || self.template.is_some() && self.ephemeral
            || self.network_bridge.is_some() && self.network_zone.is_some()
    }

    pub(super) fn run(&self, paths: &Paths) -> VerbResult {
        let options = self.options()?;
        self.foreground(paths, options)
    }

    /// Returns the options for `config`.
    ///
    /// # Errors
    /// All problems of the options, as one error of kind [`crate::error::Kind::Usage`].
    pub fn options(&self) -> Result<Options, Error> {
        let settings = settings_mode(self.settings.as_deref())?;
        Ok(Options { layer: self.layer()?, settings, contract: Contract::Coracle, bundle: self.bundle()? })
    }

    /// Returns the directory of the OCI bundle.
    ///
    /// # Errors
    /// The working directory cannot be determined.
    pub(in crate::cli) fn bundle(&self) -> Result<Option<PathBuf>, Error> {
        let bundle = self.disk.oci_bundle.as_deref().map(option_layer::absolute).transpose();
        bundle.map_err(|error| Error::usage(format!("'--oci-bundle=': {error}")))
    }

    /// Runs the machine of these options in the foreground. Returns its exit status.
    ///
    /// # Errors
    /// The reason why the machine does not run.
    pub(in crate::cli) fn foreground(&self, paths: &Paths, options: Options) -> VerbResult {
        match variables::of_process("SYSTEMD_LOG_LEVEL").map(|value| variables::log_level(&value)) {
            Some(Some(level)) => log::set_max_level(level),
            Some(None) => log::warn!("unknown log level in SYSTEMD_LOG_LEVEL, ignoring"),
            None if self.quiet => log::set_max_level(log::LevelFilter::Warn),
            None => {}
        }
        let mode = if self.dry_run { RunMode::DryRun } else { RunMode::Run };
        let settings = self.account.settings();
        let provision = |machine: &Machine| match settings.is_empty() {
            true => Ok(()),
            false => provision::provision_machine(paths, machine, &settings),
        };
        Ok(crate::run::foreground(paths, options, self.template.as_deref(), &provision, mode)?)
    }
}

/// Parses the value of `--settings=`.
pub(crate) fn settings_mode(word: Option<&str>) -> Result<SettingsMode, Error> {
    let Some(word) = word else { return Ok(SettingsMode::Yes) };
    SettingsMode::from_word(word).ok_or_else(|| {
        Error::usage(format!("'--settings={}': unknown mode", word.escape_debug()))
            .with_hint("write yes, no, override or trusted")
    })
}

/// Parses a boolean of systemd.
fn boolean(text: &str) -> Result<bool, String> {
    systemd_boolean(text).ok_or_else(|| "expected yes or no".to_owned())
}
