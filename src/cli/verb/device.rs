//! `coracle device`.

use super::VerbResult;
use crate::cli::output::{self, Align, Legend};
use crate::control::device::{self, DeviceRequest};
use crate::control::hotplug;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Add devices of the host to a running machine, remove or list them
///
/// An added device ends with the machine or its reboot. Permanent ones are in security.devices of the
/// definition, and USB devices that are added whenever they are plugged in, in security.hotplug.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    #[command(subcommand)]
    request: DeviceVerb,
}

#[derive(Debug, Subcommand)]
enum DeviceVerb {
    /// Add a device: its permission, its node, and its properties of udev
    Add {
        /// The machine
        #[arg(value_name = "NAME", value_parser = Name::new)]
        name: Name,

        /// The device of the host: its path, or usb:VENDOR:PRODUCT for a USB device, with a further :SERIAL if
        /// there are several
        #[arg(value_name = "DEVICE")]
        device: PathBuf,

        /// The path inside, below /dev; that of the host by default
        #[arg(value_name = "PATH")]
        path: Option<PathBuf>,

        /// Permit reading only
        #[arg(long)]
        read_only: bool,
    },
    /// Remove a device that was added
    Remove {
        /// The machine
        #[arg(value_name = "NAME", value_parser = Name::new)]
        name: Name,

        /// Its path inside, or the device of the host
        #[arg(value_name = "DEVICE")]
        device: PathBuf,
    },
    /// List the devices that were added
    List {
        /// The machine
        #[arg(value_name = "NAME", value_parser = Name::new)]
        name: Name,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add USB devices that were plugged in, and remove those that were unplugged; run by a unit
    #[command(hide = true)]
    Sync,
    /// Forget the permissions of a machine that stops; run by its unit
    #[command(hide = true)]
    Forget {
        /// The machine
        #[arg(value_name = "NAME", value_parser = Name::new)]
        name: Name,
    },
}

impl DeviceArgs {
    /// Returns whether the call changes a machine.
    pub(super) fn is_request(&self) -> bool {
        !matches!(self.request, DeviceVerb::List { .. })
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        match &self.request {
            DeviceVerb::Add { name, device, path, read_only } => {
                let (path, read_only) = (path.as_deref(), *read_only);
                let request = DeviceRequest { name, device, path, read_only, hotplug: false };
                device::add(paths, &request)?;
            }
            DeviceVerb::Sync => hotplug::sync(paths)?,
            DeviceVerb::Remove { name, device } => device::remove(paths, name, device)?,
            DeviceVerb::List { name, json } => {
                let list = device::list(paths, name)?;
                if *json {
                    output::json(&list)?;
                } else {
                    let columns =
                        ["PATH", "DEVICE", "KIND", "NUMBER", "ACCESS"].map(|name| (name, Align::Left));
                    let rows: Vec<Vec<String>> = list.iter().map(device::cells).collect();
                    output::text(&output::table(&columns, &rows, Legend::Shown))?;
                }
            }
            DeviceVerb::Forget { name } => device::forget(name)?,
        }
        Ok(0)
    }
}
