//! Switches that variables of the caller set.

use super::setting::{Single, settings};
use crate::machine::switches::Switches;

settings! {
    /// Settings of variables of the caller.
    SwitchesSettings {
        /// Whether an empty tmpfs covers `/tmp`.
        tmpfs_tmp: Single<bool> = FlagOnly "tmpfs-tmp";
        /// Whether the image is locked.
        lock: Single<bool> = FlagOnly "lock";
        /// Whether a system without an os-release(5) is refused.
        check_os_release: Single<bool> = FlagOnly "check-os-release";
        /// Whether a filter restricts system calls.
        filter: Single<bool> = FlagOnly "filter";
        /// Whether settings of the network are writable inside.
        network_settings: Single<bool> = FlagOnly "network-settings";
        /// Whether `/proc` and `/sys` are writable.
        writable_api: Single<bool> = FlagOnly "writable-api";
        /// The name of the manager.
        service: Single<String> = FlagOnly "container-service";
    }
}

impl SwitchesSettings {
    /// Builds the switches of the machine.
    pub(super) fn build(&self) -> Switches {
        let is_on = |switch: &Single<bool>| switch.value() != Some(&false);
        Switches {
            tmpfs_tmp: is_on(&self.tmpfs_tmp),
            tmpfs_run: true,
            lock: is_on(&self.lock),
            check_os_release: is_on(&self.check_os_release),
            filter: is_on(&self.filter),
            network_settings: self.network_settings.value() == Some(&true),
            writable_api: self.writable_api.value() == Some(&true),
            service: self.service.value().cloned(),
        }
    }
}
