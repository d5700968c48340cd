//! The options of `coracle run`: those of systemd-nspawn(1). Data only; `layer` gives them their
//! meaning.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// `run`.
#[derive(Debug, Default, Args)]
pub struct Run {
    /// The program and its arguments, or arguments for the init; a shell where not given
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<OsString>,

    /// Do nothing; show what would be done, step by step
    #[arg(long)]
    pub dry_run: bool,

    /// Say nothing but what the machine says
    #[arg(short, long)]
    pub quiet: bool,

    /// The directory with the root file system
    #[arg(short = 'D', long, value_name = "DIR", help_heading = "Image")]
    pub directory: Option<PathBuf>,

    /// Mount the root read-only
    #[arg(long, help_heading = "Image")]
    pub read_only: bool,

    /// Boot the system: run its init as PID 1
    #[arg(short, long, conflicts_with = "as_pid2", help_heading = "Execution")]
    pub boot: bool,

    /// Run the command as PID 2, below a small init
    #[arg(short, long, help_heading = "Execution")]
    pub as_pid2: bool,

    /// The working directory inside
    #[arg(long, value_name = "DIR", help_heading = "Execution")]
    pub chdir: Option<String>,

    /// A variable for PID 1; without a value, ours
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]", help_heading = "Execution")]
    pub setenv: Vec<String>,

    /// Run the command as this user of the machine
    #[arg(short, long, value_name = "USER", help_heading = "Execution")]
    pub uid: Option<String>,

    /// The signal that asks PID 1 for an orderly stop
    #[arg(long, value_name = "SIGNAL", help_heading = "Execution")]
    pub kill_signal: Option<String>,

    /// Whether the machine is ready when PID 1 says so, or at once
    #[arg(long, value_name = "BOOL", value_parser = boolean, help_heading = "Execution")]
    pub notify_ready: Option<bool>,

    /// The machine's name, and the definition whose settings lie below these options
    #[arg(short = 'M', long, value_name = "NAME", help_heading = "Identity")]
    pub machine: Option<String>,

    /// The host name inside, where it is not the machine's name
    #[arg(long, value_name = "NAME", help_heading = "Identity")]
    pub hostname: Option<String>,

    /// The machine id for a system that has none yet
    #[arg(long, value_name = "UUID", help_heading = "Identity")]
    pub uuid: Option<String>,

    /// The slice of the machine's scope
    #[arg(short = 'S', long, value_name = "SLICE", help_heading = "Unit")]
    pub slice: Option<String>,

    /// Whether systemd-machined is told: yes, no or auto
    #[arg(long, value_name = "BOOL|auto", help_heading = "Unit")]
    pub register: Option<String>,

    /// Run in the unit we are in, not in a scope of its own
    #[arg(long, help_heading = "Unit")]
    pub keep_unit: bool,

    /// The range of user ids: pick, no, identity, BASE or BASE:COUNT
    #[arg(
        long,
        value_name = "RANGE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        help_heading = "Users"
    )]
    pub private_users: Option<String>,

    /// How files get to that range: map, off or auto
    #[arg(long, value_name = "MODE", help_heading = "Users")]
    pub private_users_ownership: Option<String>,

    /// The same as --private-users=pick --private-users-ownership=auto
    #[arg(short = 'U', conflicts_with_all = ["private_users", "private_users_ownership"], help_heading = "Users")]
    pub user_namespace: bool,

    /// A network of its own with nothing in it but a loopback interface
    #[arg(long, help_heading = "Network")]
    pub private_network: bool,

    /// A network of its own, linked to the host
    #[arg(short, long, help_heading = "Network")]
    pub network_veth: bool,

    /// A network of its own, linked to a bridge of the host
    #[arg(long, value_name = "INTERFACE", conflicts_with = "network_zone", help_heading = "Network")]
    pub network_bridge: Option<String>,

    /// A network of its own, linked to those of the same zone
    #[arg(long, value_name = "ZONE", help_heading = "Network")]
    pub network_zone: Option<String>,

    /// A further link to the host, with its two names
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub network_veth_extra: Vec<String>,

    /// An interface of the host that is the machine's while it runs
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub network_interface: Vec<String>,

    /// A macvlan on an interface of the host
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub network_macvlan: Vec<String>,

    /// An ipvlan on an interface of the host
    #[arg(long, value_name = "HOST[:INSIDE]", help_heading = "Network")]
    pub network_ipvlan: Vec<String>,

    /// A network namespace to join
    #[arg(long, value_name = "PATH", help_heading = "Network")]
    pub network_namespace_path: Option<String>,

    /// A port of the host that leads to the machine, as 8080:80 or 5353:53/udp
    #[arg(short, long, value_name = "PORT", help_heading = "Network")]
    pub port: Vec<String>,

    /// What becomes of its /etc/resolv.conf: auto, off, delete, or copy-, replace- or bind- with host, static, uplink or stub
    #[arg(long, value_name = "MODE", help_heading = "Network")]
    pub resolv_conf: Option<String>,

    /// Capabilities to add, separated by commas
    #[arg(long, value_name = "LIST", help_heading = "Security")]
    pub capability: Vec<String>,

    /// Capabilities to take away
    #[arg(long, value_name = "LIST", help_heading = "Security")]
    pub drop_capability: Vec<String>,

    /// Whether setuid programs gain nothing
    #[arg(long, value_name = "BOOL", value_parser = boolean, help_heading = "Security")]
    pub no_new_privileges: Option<bool>,

    /// The SELinux context of what runs
    #[arg(short = 'Z', long, value_name = "CONTEXT", help_heading = "Security")]
    pub selinux_context: Option<String>,

    /// The SELinux context of files in the file systems it gets at /run, /tmp and /dev
    #[arg(short = 'L', long, value_name = "CONTEXT", help_heading = "Security")]
    pub selinux_apifs_context: Option<String>,

    /// System calls and @groups to allow, or with ~ in front to deny
    #[arg(long, value_name = "[~]LIST", help_heading = "Security")]
    pub system_call_filter: Vec<String>,

    /// Show a file or directory of the host inside; options: rbind norbind idmap noidmap
    #[arg(long, value_name = "SOURCE[:TARGET[:OPTIONS]]", help_heading = "Mounts")]
    pub bind: Vec<String>,

    /// The same, read-only
    #[arg(long, value_name = "SOURCE[:TARGET[:OPTIONS]]", help_heading = "Mounts")]
    pub bind_ro: Vec<String>,

    /// An empty file system in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", help_heading = "Mounts")]
    pub tmpfs: Vec<String>,

    /// Hide what is at this place
    #[arg(long, value_name = "TARGET", help_heading = "Mounts")]
    pub inaccessible: Vec<String>,

    /// What the console is connected to: interactive, read-only, passive, pipe or autopipe
    #[arg(long, value_name = "MODE", help_heading = "Console")]
    pub console: Option<String>,

    /// The same as --console=pipe
    #[arg(short = 'P', long, conflicts_with = "console", help_heading = "Console")]
    pub pipe: bool,
}

/// The words for truth of systemd.
fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Ok(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}
