//! Translates the options of `coracle run` to a [`Layer`] of settings.

use super::{RunArgs, variables};
use crate::config::address_families;
use crate::config::command::{Argument, Variable};
use crate::config::layer::{Layer, Origin, Setting};
use crate::config::mounts::{self, MountEntry};
use crate::config::problem::{self, Problem};
use crate::config::security::SyscallName;
use crate::config::users::OwnershipChoice;
use crate::config::values::{RawValue, Value, systemd_boolean, word_or_auto};
use crate::error::{Error, Kind, Result};
use crate::machine::console::Console;
use crate::machine::init::Wait;
use crate::machine::journal::{JournalLink, LinkNeed};
use crate::machine::users::Users;
use std::io::IsTerminal;
use std::path::{Component, Path, PathBuf};

/// An option with the value of one setting: its name, the key of the setting, its value.
type WordOption = (&'static str, &'static str, fn(&RunArgs) -> Option<&str>);
const WORDS: &[WordOption] = &[
    ("--machine=", "name", |run| run.machine.as_deref()),
    ("--volatile=", "root.volatile", |run| run.volatile.as_deref().map(plain_truth)),
    ("--chdir=", "chdir", |run| run.chdir.as_deref()),
    ("--uid=", "user", |run| run.uid.as_deref()),
    ("--kill-signal=", "boot.stop-signal", |run| run.kill_signal.as_deref()),
    ("--personality=", "boot.personality", |run| run.personality.as_deref()),
    ("--hostname=", "identity.hostname", |run| run.hostname.as_deref()),
    ("--uuid=", "identity.uuid", |run| run.uuid.as_deref()),
    ("--timezone=", "identity.timezone", |run| run.timezone.as_deref().map(word_or_auto)),
    ("--link-journal=", "journal.link", |run| run.link_journal.as_deref()),
    ("--forward-journal-max-use=", "journal.forward-max-use", |run| {
        run.journal.forward_journal_max_use.as_deref()
    }),
    ("--forward-journal-keep-free=", "journal.forward-keep-free", |run| {
        run.journal.forward_journal_keep_free.as_deref()
    }),
    ("--forward-journal-max-file-size=", "journal.forward-max-file-size", |run| {
        run.journal.forward_journal_max_file_size.as_deref()
    }),
    ("--forward-journal-max-files=", "journal.forward-max-files", |run| {
        run.journal.forward_journal_max_files.as_deref()
    }),
    ("--slice=", "slice", |run| run.slice.as_deref()),
    ("--register=", "register", |run| run.register.as_deref().map(plain_truth)),
    ("--oom-score-adjust=", "resources.oom-score-adjust", |run| run.resources.oom_score_adjust.as_deref()),
    ("--network-bridge=", "network.bridge", |run| run.network_bridge.as_deref()),
    ("--network-zone=", "network.zone", |run| run.network_zone.as_deref()),
    ("--network-namespace-path=", "network.namespace-path", |run| run.network_namespace_path.as_deref()),
    ("--resolv-conf=", "network.resolv-conf", |run| run.resolv_conf.as_deref().map(word_or_auto)),
    ("--selinux-context=", "security.selinux-context", |run| run.selinux_context.as_deref()),
    ("--selinux-apifs-context=", "security.selinux-apifs-context", |run| {
        run.selinux_apifs_context.as_deref()
    }),
    ("--image-policy=", "root.image-policy", |run| run.disk.image_policy.as_deref()),
    ("--root-hash=", "root.root-hash", |run| run.disk.root_hash.as_deref()),
    ("--pivot-root=", "root.pivot", |run| run.pivot_root.as_deref()),
    ("--private-users=", "users.private", |run| run.private_users.as_deref().map(range_from_root)),
    ("--private-users-ownership=", "users.ownership", |run| run.private_users_ownership.as_deref()),
];

/// A boolean option: its name, the key of the setting, its value.
type BooleanOption = (&'static str, &'static str, fn(&RunArgs) -> Option<bool>);
const BOOLEANS: &[BooleanOption] = &[
    ("--read-only", "root.read-only", |run| run.read_only.then_some(true)),
    ("--ephemeral", "root.ephemeral", |run| run.ephemeral.then_some(true)),
    ("--boot", "boot", |run| run.boot.then_some(true)),
    ("--as-pid2", "as-pid2", |run| run.as_pid2.then_some(true)),
    ("--suppress-sync=", "boot.suppress-sync", |run| run.suppress_sync),
    ("--keep-unit", "keep-unit", |run| run.keep_unit.then_some(true)),
    ("--no-new-privileges=", "security.no-new-privileges", |run| run.no_new_privileges),
];

/// A list option, which may be repeated: its name, the key of the setting, its items.
type ListOption = (&'static str, &'static str, fn(&RunArgs) -> &[String]);
const LISTS: &[ListOption] = &[
    ("--bind-user=", "users.bind", |run| &run.mounts.bind_user),
    ("--bind-user-group=", "users.bind-groups", |run| &run.mounts.bind_user_group),
    ("--port=", "network.ports", |run| &run.port),
    ("--network-address=", "network.address", |run| &run.addresses.network_address),
    ("--network-gateway=", "network.gateway", |run| &run.addresses.network_gateway),
    ("--network-veth-extra=", "network.veth-extra", |run| &run.network_veth_extra),
    ("--network-interface=", "network.interface", |run| &run.network_interface),
    ("--network-macvlan=", "network.macvlan", |run| &run.network_macvlan),
    ("--network-ipvlan=", "network.ipvlan", |run| &run.network_ipvlan),
    ("--capability=", "security.capabilities.add", |run| &run.capability),
    ("--drop-capability=", "security.capabilities.drop", |run| &run.drop_capability),
    ("--ambient-capability=", "security.capabilities.ambient", |run| &run.ambient_capability),
];

/// A mount option: its name, its parser, its values.
type Mounts = (&'static str, fn(&str) -> Result<MountEntry>, fn(&RunArgs) -> &[String]);
const MOUNTS: &[Mounts] = &[
    ("--bind=", |text| mounts::bind(text, false), |run| &run.mounts.bind),
    ("--bind-ro=", |text| mounts::bind(text, true), |run| &run.mounts.bind_ro),
    ("--tmpfs=", mounts::tmpfs, |run| &run.mounts.tmpfs),
    ("--overlay=", |text| mounts::overlay(text, false), |run| &run.mounts.overlay),
    ("--overlay-ro=", |text| mounts::overlay(text, true), |run| &run.mounts.overlay_ro),
    ("--inaccessible=", mounts::inaccessible, |run| &run.mounts.inaccessible),
];

impl RunArgs {
    /// Returns the settings of the options.
    ///
    /// # Errors
    /// All problems of the options, as one error of kind [`Kind::Usage`].
    pub fn layer(&self) -> Result<Layer> {
        self.settings()
            .map_err(|problems| problem::combined("cannot use the options", &problems).with_kind(Kind::Usage))
    }

    /// Returns the settings of the options.
    ///
    /// # Errors
    /// All problems of the options.
    pub(in crate::cli) fn settings(&self) -> std::result::Result<Layer, Vec<Problem>> {
        let mut flags = Flags { layer: Layer::default(), problems: Vec::new() };
        variables::read(variables::of_process, &mut flags.layer, |error| {
            flags.problems.push(Problem::new(None, &error));
        });
        for (flag, key, get) in WORDS {
            if let Some(text) = get(self) {
                flags.set(flag, key, &RawValue::Text(text));
            }
        }
        for (flag, key, get) in BOOLEANS {
            if let Some(truth) = get(self) {
                flags.set(flag, key, &RawValue::Boolean(truth));
            }
        }
        for (flag, key, get) in LISTS {
            for item in get(self).iter().flat_map(|list| items(list)) {
                flags.set(flag, key, &RawValue::Text(item));
            }
        }
        for (flag, read, get) in MOUNTS {
            for text in get(self) {
                if let Some(mount) = flags.check(flag, text, read(text)) {
                    flags.layer.mounts.entries.push(mount, Origin::Flag(flag));
                }
            }
        }
        if let Some(shell) = &self.mounts.bind_user_shell {
            let raw = systemd_boolean(shell).map_or(RawValue::Text(shell), RawValue::Boolean);
            flags.set("--bind-user-shell=", "users.bind-shell", &raw);
        }
        flags.set_special(self);
        if flags.problems.is_empty() { Ok(flags.layer) } else { Err(flags.problems) }
    }
}

/// A layer under construction.
struct Flags {
    layer: Layer,
    problems: Vec<Problem>,
}

impl Flags {
    fn set(&mut self, flag: &'static str, key: &str, raw: &RawValue) {
        let text = if let RawValue::Text(text) = raw { text } else { "" };
        let result = match Setting::find(key) {
            Some(setting) => self.layer.set(setting, raw, Origin::Flag(flag)),
            None => Err(Error::new(format!("there is no setting '{key}'"))),
        };
        self.check(flag, text, result);
    }

    /// Returns the value. `None` after a problem, which is collected.
    fn check<T>(&mut self, flag: &str, text: &str, read: Result<T>) -> Option<T> {
        let context = || format!("'{flag}{}'", text.escape_debug());
        read.map_err(|error| self.problems.push(Problem::new(None, &error.context(context())))).ok()
    }

    /// Sets the options that do not map to one setting.
    fn set_special(&mut self, run: &RunArgs) {
        if let Some(directory) = &run.directory {
            let absolute = absolute(directory);
            if let Some(absolute) = self.check("--directory=", &directory.to_string_lossy(), absolute) {
                self.layer.root.directory.set(absolute, Origin::Flag("--directory="));
            }
        }
        if let Some(stack) = &run.disk.mstack
            && let Some(absolute) = self.check("--mstack=", &stack.to_string_lossy(), absolute(stack))
        {
            self.layer.root.stack.set(absolute, Origin::Flag("--mstack="));
        }
        if let Some(image) = &run.disk.image
            && let Some(absolute) = self.check("--image=", &image.to_string_lossy(), absolute(image))
        {
            self.layer.root.image.set(absolute, Origin::Flag("--image="));
        }
        self.verity(run);
        self.received_journal(run);
        if !run.boot && run.command.first().is_some_and(|program| program.is_empty()) {
            let error = Error::new("the program is empty").with_hint("name a program of the machine");
            self.check::<()>("COMMAND=", "", Err(error));
        }
        for argument in &run.command {
            self.layer.command.command.push(Argument(argument.clone()), Origin::Flag("COMMAND"));
        }
        if run.user_namespace {
            self.layer.users.private.set(Users::Pick, Origin::Flag("-U"));
            if run.private_users_ownership.is_none() {
                self.layer.users.ownership.set(OwnershipChoice::Auto, Origin::Flag("-U"));
            }
        }
        if run.link_journal_try_guest {
            self.layer.journal.link.set(JournalLink::Guest(LinkNeed::Optional), Origin::Flag("-j"));
        }
        let veth = run.network_veth.then_some(Origin::Flag("--network-veth"));
        let private = run.private_network.then_some(Origin::Flag("--private-network"));
        self.layer.network.set_requested_mode(veth, private);
        if let Some(notify) = run.notify_ready {
            let wait = if notify { Wait::Ready } else { Wait::Running };
            self.layer.boot.wait.set(wait, Origin::Flag("--notify-ready="));
        }
        self.process_limits(run);
        self.credentials(run);
        self.environment(run);
        self.system_calls(run);
        self.address_families(run);
        self.console(run);
    }

    /// Sets limits, of which values can contain commas and blanks.
    fn process_limits(&mut self, run: &RunArgs) {
        for text in &run.property {
            self.set("--property=", "properties", &RawValue::Text(text));
        }
        // Like all options with one value, the last one counts.
        for processors in run.resources.cpu_affinity.iter().flat_map(|list| items(list)) {
            self.set("--cpu-affinity=", "resources.cpu-affinity", &RawValue::Text(processors));
        }
        for text in &run.resources.rlimit {
            self.set("--rlimit=", "resources.rlimits", &RawValue::Text(text));
        }
    }

    /// Adds credentials. No problem contains the content.
    fn credentials(&mut self, run: &RunArgs) {
        let given =
            run.credentials.set_credential.iter().map(|text| ("--set-credential=", "credentials.set", text));
        let loaded = run
            .credentials
            .load_credential
            .iter()
            .map(|text| ("--load-credential=", "credentials.load", text));
        let mut names: Vec<&str> = Vec::new();
        for (flag, key, text) in given.chain(loaded) {
            let name = text.split_once(':').map_or("", |(name, _)| name);
            let result = match Setting::find(key) {
                Some(_) if names.contains(&name) => {
                    Err(Error::new("the name is in use").with_hint("pass each credential once"))
                }
                Some(setting) => self.layer.set(setting, &RawValue::Text(text), Origin::Flag(flag)),
                None => Err(Error::new(format!("there is no setting '{key}'"))),
            };
            self.check(flag, name, result);
            names.push(name);
        }
    }

    fn environment(&mut self, run: &RunArgs) {
        for text in &run.setenv {
            let variable = match text.split_once('=') {
                Some((name, value)) => Variable::new(name, value),
                None => match std::env::var(text) {
                    Ok(value) => Variable::new(text, &value),
                    Err(_) if Variable::new(text, "").is_err() => Variable::new(text, ""),
                    Err(error) => {
                        log::debug!(
                            "cannot pass on the variable '{}': {error}, ignoring",
                            text.escape_debug()
                        );
                        continue;
                    }
                },
            };
            if let Some(variable) = self.check("--setenv=", text, variable) {
                self.layer.command.environment.push(variable, Origin::Flag("--setenv="));
            }
        }
    }

    fn system_calls(&mut self, run: &RunArgs) {
        const FLAG: &str = "--system-call-filter=";
        for text in &run.system_call_filter {
            let (denied, list) = text.strip_prefix('~').map_or((false, text.as_str()), |list| (true, list));
            for name in items(list) {
                let Some(name) = self.check(FLAG, text, SyscallName::read(&RawValue::Text(name))) else {
                    continue;
                };
                let into = if denied {
                    &mut self.layer.security.syscalls_deny
                } else {
                    &mut self.layer.security.syscalls_allow
                };
                into.push(name, Origin::Flag(FLAG));
            }
        }
    }

    /// Sets files of hashes, which may be relative to the working directory.
    fn verity(&mut self, run: &RunArgs) {
        const SIGNATURE: &str = "--root-hash-sig=";
        if let Some(text) = &run.disk.root_hash_sig {
            let path = match text.starts_with("base64:") {
                true => Ok(PathBuf::from(text)),
                false => absolute(Path::new(text)).and_then(readable),
            };
            if let Some(path) = self.check(SIGNATURE, text, path) {
                let raw = path.to_string_lossy();
                self.set(SIGNATURE, "root.root-hash-signature", &RawValue::Text(&raw));
            }
        }
        if let Some(data) = &run.disk.verity_data
            && let Some(absolute) = self.check("--verity-data=", &data.to_string_lossy(), absolute(data))
        {
            self.layer.root.verity_data.set(absolute, Origin::Flag("--verity-data="));
        }
    }

    fn received_journal(&mut self, run: &RunArgs) {
        if let Some(path) = &run.journal.forward_journal
            && let Some(absolute) = self.check("--forward-journal=", path, absolute(Path::new(path)))
        {
            self.layer.journal.forward.set(absolute, Origin::Flag("--forward-journal="));
        }
    }

    fn address_families(&mut self, run: &RunArgs) {
        const FLAG: &str = "--restrict-address-families=";
        for text in &run.restrict_address_families {
            for rule in address_families::rules(text) {
                if let Some(rule) = self.check(FLAG, text, rule) {
                    self.layer.security.address_families.push(rule, Origin::Flag(FLAG));
                }
            }
        }
    }

    fn console(&mut self, run: &RunArgs) {
        match run.console.as_deref() {
            Some("autopipe") => {
                let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
                let console = if terminal { Console::Interactive } else { Console::Pipe };
                self.layer.console.console.set(console, Origin::Flag("--console="));
            }
            Some(text) => self.set("--console=", "console", &RawValue::Text(text)),
            None if run.pipe => self.layer.console.console.set(Console::Pipe, Origin::Flag("--pipe")),
            None => {}
        }
    }
}

/// Splits a list at commas and blanks.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', ' ', '\t']).filter(|item| !item.is_empty())
}

/// Translates the other booleans of systemd to `yes` and `no`.
fn plain_truth(text: &str) -> &str {
    match text {
        "1" | "true" | "on" => "yes",
        "0" | "false" | "off" => "no",
        other => other,
    }
}

/// Refuses a file that cannot be opened.
fn readable(path: PathBuf) -> Result<PathBuf> {
    std::fs::File::open(&path).map(|_| path).map_err(Error::from)
}

/// Returns a path relative to the current directory as an absolute path. Symbolic links are resolved only in
/// a path with `..`.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    if path.components().any(|part| part == Component::ParentDir) {
        return path.canonicalize().map_err(Error::from);
    }
    std::path::absolute(path).map(|path| path.components().collect()).map_err(Error::from)
}

/// Returns the word for the range that begins at the ids of the host, which the option can name by its base.
fn range_from_root(text: &str) -> &str {
    if matches!(text, "0" | "0:65536") { "identity" } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::mount_options::MountOptions;
    use super::*;

    #[test]
    fn every_row_names_a_setting() {
        let keys = WORDS.iter().map(|row| row.1).chain(BOOLEANS.iter().map(|row| row.1));
        for key in keys.chain(LISTS.iter().map(|row| row.1)) {
            assert!(Setting::find(key).is_some(), "{key}");
        }
    }

    #[test]
    fn options_become_values_with_their_origin() {
        let run = RunArgs {
            mounts: MountOptions { bind_ro: vec!["/srv:/data".into()], ..MountOptions::default() },
            capability: vec!["net_raw,CAP_BPF".into()],
            system_call_filter: vec!["~@keyring keyctl".into()],
            private_users: Some("1000000".into()),
            register: Some("off".into()),
            ..RunArgs::default()
        };
        let layer = run.layer().unwrap();
        assert_eq!(layer.mounts.entries.sourced()[0].origin, Origin::Flag("--bind-ro="));
        assert_eq!(layer.security.capabilities_add.sourced().len(), 2);
        assert_eq!(layer.security.syscalls_deny.sourced().len(), 2);
        assert_eq!(layer.users.private.value(), Some(&Users::Fixed { base: 1_000_000, count: 65536 }));
        assert_eq!(layer.unit.register.value(), Some(&crate::machine::Register::No));
    }

    #[test]
    fn all_invalid_options_are_reported_together() {
        let run = RunArgs {
            uuid: Some("x".into()),
            capability: vec!["CAP_NOPE".into()],
            mounts: MountOptions { tmpfs: vec!["relative".into()], ..MountOptions::default() },
            ..RunArgs::default()
        };
        let error = run.layer().unwrap_err();
        assert_eq!(error.exit_status(), 2);
        let text = error.to_string();
        assert!(text.contains("3 problems") && text.contains("'--uuid=x'"), "{text}");
    }
}
