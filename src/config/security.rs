//! `[security]`: capabilities, system calls, devices, security labels and procfs.

use super::address_families::{self, FamilyRule};
use super::problem::Problem;
use super::profile;
use super::setting::{List, Origin, Single, Sourced, settings};
use super::values::{RawValue, Value, quoted, words};
use crate::error::{Error, Result, nearest};
use crate::machine::security::Sysctl;
use crate::machine::security::{CAPABILITIES, DeviceNode, NESTING_CALLS, OPTIONAL_DEVICES, Procfs, Security};
use crate::machine::syscall_profile::SyscallProfile;
use crate::machine::usb_device::UsbDevice;
use std::path::PathBuf;

settings! {
    /// Settings of the isolation from the kernel.
    SecuritySettings {
        /// Additional capabilities.
        capabilities_add: List<Capability> = List "security.capabilities.add";
        /// Removed capabilities.
        capabilities_drop: List<Capability> = List "security.capabilities.drop";
        /// Ambient capabilities of the command.
        capabilities_ambient: List<AmbientCapability> = List "security.capabilities.ambient";
        /// Inheritable capabilities of the command.
        capabilities_inheritable: List<Capability> = FlagOnly "security.capabilities.inheritable";
        /// Additional system calls.
        syscalls_allow: List<SyscallName> = List "security.syscalls.allow";
        /// Removed system calls.
        syscalls_deny: List<SyscallName> = List "security.syscalls.deny";
        /// The profile of system calls of a bundle.
        syscalls_profile: Single<Profile> = FlagOnly "security.syscalls.profile";
        /// Allowed or forbidden address families.
        address_families: List<FamilyRule> = List "security.address-families";
        /// Devices of the host that the machine gets.
        devices: List<DeviceName> = List "security.devices";
        /// USB devices that it gets while they are plugged in.
        hotplug: List<UsbDevice> = List "security.hotplug";
        /// The AppArmor profile of its processes.
        apparmor_profile: Single<String> = Single "security.apparmor-profile";
        /// The SELinux context of its processes.
        selinux_context: Single<String> = Single "security.selinux-context";
        /// The SELinux context of files in the API file systems.
        selinux_apifs_context: Single<String> = Single "security.selinux-apifs-context";
        /// Whether it can mount procfs and sysfs.
        procfs: Single<Procfs> = Single "security.procfs", |_| Procfs::Auto;
        /// Whether containers can run inside.
        nesting: Single<bool> = Single "security.nesting", |_| false;
        /// Whether setuid programs gain no privileges.
        no_new_privileges: Single<bool> = Single "security.no-new-privileges", |_| false;
        /// Device nodes of a bundle.
        nodes: List<Node> = FlagOnly "security.nodes";
        /// Parameters of the kernel for the machine's namespaces.
        sysctls: List<Sysctl> = FlagOnly "security.sysctls";
    }
}

impl SecuritySettings {
    /// Builds capabilities, system calls and devices of the machine.
    pub(super) fn build(&self, profile: profile::Profile, boots: bool) -> Result<Security> {
        let nesting = self.nesting.required("security.nesting")?;
        let nested: &[&str] = if nesting { &NESTING_CALLS } else { &[] };
        let optional: &[&str] = if nesting || profile.is_of_nspawn() { &OPTIONAL_DEVICES } else { &[] };
        let allowed = self.syscalls_allow.values().map(|name| name.0.clone());
        let names = |list: &List<Capability>| list.values().flat_map(Capability::names).collect();
        Ok(Security {
            capabilities_add: names(&self.capabilities_add),
            capabilities_drop: names(&self.capabilities_drop),
            capabilities_ambient: self.ambient(boots),
            syscalls_allow: allowed.chain(nested.iter().map(|name| (*name).to_owned())).collect(),
            syscalls_deny: self.syscalls_deny.values().map(|name| name.0.clone()).collect(),
            syscalls_profile: self.syscalls_profile.value().map(|profile| profile.0.clone()),
            address_families: address_families::build(self.address_families.values()),
            devices: self.devices.values().map(|device| device.0.clone().into()).collect(),
            hotplug: self.hotplug.values().cloned().collect(),
            optional_devices: optional.iter().map(PathBuf::from).collect(),
            apparmor_profile: self.apparmor_profile.value().cloned(),
            selinux_context: self.selinux_context.value().cloned(),
            selinux_apifs_context: self.selinux_apifs_context.value().cloned(),
            procfs: self.procfs.required("security.procfs")?,
            nesting,
            no_new_privileges: self.no_new_privileges.required("security.no-new-privileges")?,
            capabilities_inheritable: names(&self.capabilities_inheritable),
            nodes: self.nodes.values().map(|node| node.0.clone()).collect(),
            sysctls: self.sysctls.values().cloned().collect(),
        })
    }

    /// Returns the ambient capabilities. Those of a definition are for its commands, not for its init; an
    /// option is for this start.
    fn ambient(&self, boots: bool) -> Vec<String> {
        let ambient = self.capabilities_ambient.sourced().iter();
        let counts = |one: &&Sourced<AmbientCapability>| !boots || matches!(one.origin, Origin::Flag(_));
        ambient.filter(counts).flat_map(|one| one.value.0.names()).collect()
    }

    /// Returns warnings for names that are both added and removed.
    pub(super) fn warnings(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for added in self.capabilities_add.sourced() {
            if self.capabilities_drop.values().any(|dropped| *dropped == added.value) {
                let name = added.value.show();
                let text = format!("the capability {name} is both added and dropped; it is dropped");
                warnings.push(Problem::warning(&added.origin, text));
            }
        }
        for allowed in self.syscalls_allow.sourced() {
            if self.syscalls_deny.values().any(|denied| *denied == allowed.value) {
                let name = allowed.value.show();
                let text = format!("the system call {name} is both allowed and denied; it is denied");
                warnings.push(Problem::warning(&allowed.origin, text));
            }
        }
        warnings
    }
}

words!(Procfs, [("auto", Procfs::Auto), ("full", Procfs::Full), ("masked", Procfs::Masked)]);

/// The full name of a capability, or `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability(String);

impl Capability {
    /// Returns the name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Returns the full names of the capabilities.
    fn names(&self) -> Vec<String> {
        if self.0 == "all" {
            return CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
        }
        vec![self.0.clone()]
    }
}

impl Value for Capability {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else {
            return Err(raw.expected("a capability such as \"CAP_NET_RAW\""));
        };
        let upper = text.to_ascii_uppercase();
        if upper == "ALL" {
            return Ok(Self("all".to_owned()));
        }
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if CAPABILITIES.contains(&short) {
            return Ok(Self(format!("CAP_{short}")));
        }
        let error = Error::new(format!("unknown capability {}", quoted(text)));
        Err(match nearest(short, CAPABILITIES.iter().copied()) {
            Some(near) => error.with_hint(format!("did you mean \"CAP_{near}\"?")),
            None => error.with_hint("see capabilities(7) for the list"),
        })
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// The full name of a capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmbientCapability(Capability);

impl Value for AmbientCapability {
    fn read(raw: &RawValue) -> Result<Self> {
        let capability = Capability::read(raw)?;
        if capability.0 == "all" {
            return Err(Error::new("\"all\" is not possible for ambient capabilities")
                .with_hint("name each of them, for example \"CAP_NET_BIND_SERVICE\""));
        }
        Ok(Self(capability))
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// The name of a system call, or of a `@group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyscallName(pub String);

impl Value for SyscallName {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the name of a system call")) };
        let bare = text.strip_prefix('@').unwrap_or(text);
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if bare.is_empty() || bare.len() > 64 || !bare.bytes().all(fits) {
            return Err(Error::new(format!("{} is not the name of a system call", quoted(text))).with_hint(
                "write a name of syscalls(2), for example \"keyctl\", or a group, for example \"@keyring\"",
            ));
        }
        Ok(Self((*text).to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A device of the host: a path, or a name of the Container Device Interface such as `vendor.com/gpu=0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName(pub String);

impl DeviceName {
    /// Returns the device with a path below `/dev`.
    ///
    /// # Errors
    /// The path is not below `/dev`, or has a character that a word of a unit file cannot contain.
    pub(crate) fn path(text: &str) -> Result<Self> {
        let below = text.strip_prefix("/dev/").unwrap_or_default();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/".contains(&byte);
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if below.len() > 128 || !below.bytes().all(fits) || below.split('/').any(odd) {
            return Err(Error::new(format!("{} is not the path of a device", quoted(text)))
                .with_hint("write the full path of a node below /dev, for example \"/dev/kvm\""));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns whether the device is named by its path.
    pub(crate) fn is_path(&self) -> bool {
        self.0.starts_with('/')
    }
}

impl Value for DeviceName {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the path of a device")) };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let word = |word: &str| !word.is_empty() && word.len() <= 128 && word.bytes().all(fits);
        match text.split_once('=').and_then(|(kind, name)| Some((kind.split_once('/')?, name))) {
            Some(((vendor, class), name)) if word(vendor) && word(class) && word(name) => {
                Ok(Self((*text).to_owned()))
            }
            _ => Self::path(text),
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Value for UsbDevice {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Text(text) => Self::parse(text),
            _ => Err(raw.expected("a USB device such as \"usb:046d:c52b\"")),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// The profile of system calls of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile(pub(crate) SyscallProfile);

impl Value for Profile {
    /// Rejects all values: a profile is that of a bundle.
    fn read(raw: &RawValue) -> Result<Self> {
        Err(raw.expected("the profile of a bundle"))
    }

    fn show(&self) -> String {
        quoted(&format!("{} rules", self.0.rules.len()))
    }
}

/// A device node of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(pub(crate) DeviceNode);

impl Value for Node {
    /// Rejects all values: nodes are those of a bundle.
    fn read(raw: &RawValue) -> Result<Self> {
        Err(raw.expected("a node of a bundle"))
    }

    fn show(&self) -> String {
        quoted(&self.0.path.to_string_lossy())
    }
}

impl Value for Sysctl {
    /// Parses `KEY=VALUE`.
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a parameter of the kernel")) };
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        Self::new(key, value)
    }

    fn show(&self) -> String {
        quoted(&format!("{}={}", self.key, self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_parsed_in_any_spelling() {
        for text in ["CAP_NET_RAW", "net_raw", "Net_Raw", "cap_net_raw"] {
            assert_eq!(Capability::read(&RawValue::Text(text)).unwrap().names(), ["CAP_NET_RAW"]);
        }
        assert_eq!(Capability::read(&RawValue::Text("all")).unwrap().names().len(), 41);
        let error = Capability::read(&RawValue::Text("CAP_NET_RAM")).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean \"CAP_NET_RAW\"?"));
        assert!(AmbientCapability::read(&RawValue::Text("net_raw")).is_ok());
        assert!(AmbientCapability::read(&RawValue::Text("all")).is_err());
    }

    #[test]
    fn names_of_system_calls_are_checked() {
        for good in ["@keyring", "keyctl", "open_by_handle_at", "@basic-io"] {
            assert!(SyscallName::read(&RawValue::Text(good)).is_ok(), "{good}");
        }
        for bad in ["", "@", "~keyctl", "a b", "@@x", "A"] {
            assert!(SyscallName::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
    }
}
