//! What was said of a machine, each value with the place it was said at: the first stage. Made by
//! `toml` and by the command line, merged by `files`, turned into a machine by `resolve`. It holds
//! no default: what nobody said is empty here.

mod mount;

pub use mount::{Mount, MountWord};

use super::values::{
    Argument, Capability, Device, Given, Hostname, Limit, OwnershipWord, Quota, Rate, Signal, Size, Slice,
    Syscall, Uuid, Value, Variable, Weight,
};
use crate::error::Result;
use crate::machine::Register;
use crate::machine::console::Console;
use crate::machine::egress::Destination;
use crate::machine::init::{InitChoice, Wait};
use crate::machine::name::Name;
use crate::machine::network::{HostNames, InterfaceName, Mode, Names, Port, ResolvConf, Zone};
use crate::machine::security::Procfs;
use crate::machine::users::Users;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// On the command line, by this option.
    Flag(&'static str),
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => f.write_str(flag),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A value and where it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<T> {
    /// What was said.
    pub value: T,
    /// Where.
    pub origin: Origin,
}

/// A setting of one value: what is said above replaces what is said below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct One<T>(Option<Said<T>>);

/// A setting of many values: what is said above is appended to what is said below, unless the
/// list below was emptied first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Many<T> {
    resets: bool,
    items: Vec<Said<T>>,
}

impl<T> Default for One<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self { resets: false, items: Vec::new() }
    }
}

impl<T> One<T> {
    /// What was said, if anything.
    pub fn value(&self) -> Option<&T> {
        self.0.as_ref().map(|said| &said.value)
    }

    /// Where it was said; the default where nothing was.
    pub fn origin(&self) -> Origin {
        self.0.as_ref().map_or(Origin::Default, |said| said.origin.clone())
    }

    /// Says `value`; what was said before is forgotten.
    pub fn set(&mut self, value: T, origin: Origin) {
        self.0 = Some(Said { value, origin });
    }

    /// Says the default, where nothing was said.
    pub fn fill(&mut self, default: impl FnOnce() -> T) {
        self.0.get_or_insert_with(|| Said { value: default(), origin: Origin::Default });
    }

    fn over(self, below: Self) -> Self {
        Self(self.0.or(below.0))
    }
}

impl<T> Many<T> {
    /// The values in order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|said| &said.value)
    }

    /// The values in order, each with its origin.
    pub fn said(&self) -> &[Said<T>] {
        &self.items
    }

    /// Says one value more.
    pub fn push(&mut self, value: T, origin: Origin) {
        self.items.push(Said { value, origin });
    }

    /// Takes all of them out, to be said anew.
    pub fn take(&mut self) -> Vec<Said<T>> {
        std::mem::take(&mut self.items)
    }

    /// Keeps of the values that are the same by `key` the last one, in its place.
    pub fn keep_last<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        let mut seen = BTreeSet::new();
        self.items.reverse();
        self.items.retain(|said| seen.insert(key(&said.value)));
        self.items.reverse();
    }

    /// Forgets what was said so far, here and below.
    pub fn reset(&mut self) {
        *self = Self { resets: true, items: Vec::new() };
    }

    fn over(self, mut below: Self) -> Self {
        if self.resets {
            return self;
        }
        below.items.extend(self.items);
        below
    }
}

/// One line of `config --explain`: a value as it is written in a definition, and its origin.
pub type Told = (String, Origin);

/// How a setting takes a word, and how it shows what it holds.
trait Holds {
    fn say(&mut self, given: &Given, origin: Origin) -> Result<()>;
    fn clear(&mut self);
    fn tell(&self) -> Vec<Told>;
}

impl<T: Value> Holds for One<T> {
    fn say(&mut self, given: &Given, origin: Origin) -> Result<()> {
        self.set(T::read(given)?, origin);
        Ok(())
    }

    fn clear(&mut self) {
        self.0 = None;
    }

    fn tell(&self) -> Vec<Told> {
        self.0.iter().map(|said| (said.value.show(), said.origin.clone())).collect()
    }
}

impl<T: Value> Holds for Many<T> {
    fn say(&mut self, given: &Given, origin: Origin) -> Result<()> {
        self.push(T::read(given)?, origin);
        Ok(())
    }

    fn clear(&mut self) {
        self.reset();
    }

    fn tell(&self) -> Vec<Told> {
        self.items.iter().map(|said| (said.value.show(), said.origin.clone())).collect()
    }
}

/// How a setting is written in a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `key = value`.
    One,
    /// `key = [value, …]`.
    Many,
    /// `key = value`, which stands alone, or `key = [value, …]`.
    OneOrMany,
    /// `[[key]]`, a table each.
    Mounts,
    /// `[key]`, a table of names of the user's choice.
    Variables,
    /// Not at all: the command line only.
    FlagOnly,
}

/// One row of the table of settings, which definitions and command line share.
pub struct Setting {
    /// The key in a definition, sections and key joined by dots.
    pub key: &'static str,
    /// How it is written there.
    pub shape: Shape,
    say: fn(&mut Layer, &Given, Origin) -> Result<()>,
    clear: fn(&mut Layer),
    tell: fn(&Layer) -> Vec<Told>,
}

impl Setting {
    /// Says `given` in `layer`.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn say(&self, layer: &mut Layer, given: &Given, origin: Origin) -> Result<()> {
        (self.say)(layer, given, origin)
    }

    /// Empties the setting in `layer` and below it.
    pub fn reset(&self, layer: &mut Layer) {
        (self.clear)(layer);
    }

    /// What `layer` holds for this setting.
    pub fn tell(&self, layer: &Layer) -> Vec<Told> {
        (self.tell)(layer)
    }

    /// The setting of `key`.
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }
}

/// Makes [`Layer`], its merge and [`SETTINGS`] from one list, so that no setting can be in one of
/// them only.
macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $holder:ident<$type:ty> = $shape:ident $key:literal;)*) => {
        /// Everything that can be said of a machine; nothing of it need be.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Layer {
            $($(#[$doc])* pub $field: $holder<$type>,)*
        }

        impl Layer {
            /// This layer merged over `below`.
            #[must_use]
            pub fn over(self, below: Self) -> Self {
                Self { $($field: self.$field.over(below.$field),)* }
            }
        }

        /// Every setting, in the order of coracle.toml(5).
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            shape: Shape::$shape,
            say: |layer, given, origin| layer.$field.say(given, origin),
            clear: |layer| layer.$field.clear(),
            tell: |layer| layer.$field.tell(),
        }),*];
    };
}

settings! {
    /// The machine's name.
    name: One<Name> = FlagOnly "name";
    /// The root directory.
    directory: One<PathBuf> = One "root.directory";
    /// Whether the root is read-only.
    read_only: One<bool> = One "root.read-only";
    /// What becomes PID 1.
    init: One<InitChoice> = One "boot.init";
    /// When the machine counts as started.
    wait: One<Wait> = One "boot.wait";
    /// What asks PID 1 for an orderly stop.
    stop_signal: One<Signal> = One "boot.stop-signal";
    /// How long that may take.
    stop_timeout: One<Duration> = One "boot.stop-timeout";
    /// How long the guest may take to be up.
    start_timeout: One<Duration> = One "boot.start-timeout";
    /// Arguments of the init.
    arguments: Many<Argument> = Many "boot.arguments";
    /// Whether the guest gets a time namespace.
    time_namespace: One<bool> = One "boot.time-namespace";
    /// The user namespace.
    private: One<Users> = One "users.private";
    /// How files get to the machine's ids.
    ownership: One<OwnershipWord> = One "users.ownership";
    /// The kind of connection.
    mode: One<Mode> = One "network.mode";
    /// The zone it belongs to.
    zone: One<Zone> = One "network.zone";
    /// The bridge of the host its link is a port of.
    bridge: One<InterfaceName> = One "network.bridge";
    /// Interfaces of the host it gets a macvlan on.
    macvlan: Many<Names> = Many "network.macvlan";
    /// Interfaces of the host it gets an ipvlan on.
    ipvlan: Many<Names> = Many "network.ipvlan";
    /// Interfaces of the host that are its own while it runs.
    interface: Many<Names> = Many "network.interface";
    /// Further pairs of links.
    veth_extra: Many<Names> = Many "network.veth-extra";
    /// Whether the host forwards packets from them.
    veth_extra_routed: One<bool> = One "network.veth-extra-routed";
    /// The network namespace it joins.
    namespace: One<PathBuf> = One "network.namespace-path";
    /// What becomes of the guest's resolv.conf.
    resolv_conf: One<ResolvConf> = One "network.resolv-conf";
    /// Whether names are put into the guest's hosts(5).
    hosts: One<HostNames> = One "network.hosts";
    /// Ports of the host that lead to it.
    ports: Many<Port> = Many "network.ports";
    /// More of them, which start it.
    on_demand: Many<Port> = Many "network.on-demand";
    /// Whom it may begin to speak to.
    egress: Many<Destination> = OneOrMany "network.egress";
    /// The most that comes to it.
    rate_in: One<Rate> = One "network.rate-in";
    /// The most that it sends.
    rate_out: One<Rate> = One "network.rate-out";
    /// The most connections that it begins.
    connections_max: One<Limit> = One "network.connections-max";
    /// Further mounts.
    mounts: Many<Mount> = Mounts "mount";
    /// `MemoryMax=`.
    memory_max: One<Size> = One "resources.memory-max";
    /// `MemoryHigh=`.
    memory_high: One<Size> = One "resources.memory-high";
    /// `MemorySwapMax=`.
    memory_swap_max: One<Size> = One "resources.memory-swap-max";
    /// `CPUQuota=`.
    cpu_quota: One<Quota> = One "resources.cpu-quota";
    /// `CPUWeight=`.
    cpu_weight: One<Weight> = One "resources.cpu-weight";
    /// `TasksMax=`.
    tasks_max: One<Limit> = One "resources.tasks-max";
    /// `IOWeight=`.
    io_weight: One<Weight> = One "resources.io-weight";
    /// The most cgroups.
    cgroups_max: One<Limit> = One "resources.cgroups-max";
    /// The most levels of them.
    cgroup_depth_max: One<Limit> = One "resources.cgroup-depth-max";
    /// The most terminals.
    ptys_max: One<Limit> = One "resources.ptys-max";
    /// Capabilities added.
    capabilities_add: Many<Capability> = Many "security.capabilities.add";
    /// Capabilities taken.
    capabilities_drop: Many<Capability> = Many "security.capabilities.drop";
    /// System calls added.
    syscalls_allow: Many<Syscall> = Many "security.syscalls.allow";
    /// System calls taken.
    syscalls_deny: Many<Syscall> = Many "security.syscalls.deny";
    /// Devices of the host that the machine has.
    devices: Many<Device> = Many "security.devices";
    /// The AppArmor profile of its processes.
    apparmor_profile: One<String> = One "security.apparmor-profile";
    /// The SELinux context of its processes.
    selinux_context: One<String> = One "security.selinux-context";
    /// The SELinux context of files in file systems that it gets.
    selinux_apifs_context: One<String> = One "security.selinux-apifs-context";
    /// How much of procfs and sysfs it may mount.
    procfs: One<Procfs> = One "security.procfs";
    /// Whether containers run inside.
    nesting: One<bool> = One "security.nesting";
    /// Whether setuid programs gain nothing.
    no_new_privileges: One<bool> = One "security.no-new-privileges";
    /// Variables for PID 1.
    environment: Many<Variable> = Variables "environment";
    /// The kernel host name.
    hostname: One<Hostname> = One "identity.hostname";
    /// The machine id.
    uuid: One<Uuid> = One "identity.uuid";
    /// Whether an init is started.
    boot: One<bool> = FlagOnly "boot";
    /// Whether a stub init becomes PID 1.
    as_pid2: One<bool> = FlagOnly "as-pid2";
    /// The command, or arguments for the init.
    command: Many<Argument> = FlagOnly "command";
    /// The working directory.
    chdir: One<PathBuf> = FlagOnly "chdir";
    /// The user the command runs as.
    user: One<String> = FlagOnly "user";
    /// What the console is connected to.
    console: One<Console> = FlagOnly "console";
    /// Whether machined is told.
    register: One<Register> = FlagOnly "register";
    /// Whether the machine runs in our unit.
    keep_unit: One<bool> = FlagOnly "keep-unit";
    /// The slice of its scope.
    slice: One<Slice> = FlagOnly "slice";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(text: &str) -> Layer {
        let mut layer = Layer::default();
        layer.arguments.push(Argument::read(&Given::Text(text)).unwrap(), Origin::Default);
        layer
    }

    #[test]
    fn above_wins_lists_append_and_an_empty_list_forgets() {
        let mut below = argument("a");
        below.read_only.set(true, Origin::Flag("--read-only"));
        let mut above = argument("b");
        above.read_only.set(false, Origin::Default);
        let merged = above.clone().over(below.clone());
        assert_eq!(merged.read_only.value(), Some(&false));
        assert_eq!(merged.arguments.said().len(), 2);
        above.arguments.reset();
        assert!(above.over(below).arguments.said().is_empty());
    }

    #[test]
    fn every_key_is_there_once() {
        for (at, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..at].iter().all(|other| other.key != setting.key), "{}", setting.key);
        }
    }
}
