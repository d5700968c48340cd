//! The document of a bundle: the properties of the OCI runtime specification that Coracle uses, as they are
//! written. Text is borrowed from the file where it has no escapes.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A list of texts.
pub(super) type Texts<'a> = Vec<Cow<'a, str>>;

/// `config.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    #[serde(borrow)]
    pub(super) oci_version: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) process: Option<Process<'a>>,
    #[serde(borrow, default)]
    pub(super) root: Option<BundleRoot<'a>>,
    #[serde(borrow, default)]
    pub(super) hostname: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) mounts: Vec<BundleMount<'a>>,
    #[serde(borrow, default)]
    pub(super) linux: Option<Linux<'a>>,
    #[serde(borrow, default)]
    pub(super) hooks: BTreeMap<Cow<'a, str>, Vec<Hook<'a>>>,
    #[serde(borrow, default)]
    pub(super) annotations: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// `process`.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Process<'a> {
    pub(super) terminal: Option<bool>,
    pub(super) console_size: Option<ConsoleSize>,
    #[serde(borrow)]
    pub(super) cwd: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) env: Texts<'a>,
    #[serde(borrow)]
    pub(super) args: Option<Texts<'a>>,
    #[serde(borrow)]
    pub(super) rlimits: Vec<BundleRlimit<'a>>,
    #[serde(borrow)]
    pub(super) capabilities: Option<CapabilitySets<'a>>,
    pub(super) no_new_privileges: Option<bool>,
    pub(super) oom_score_adj: Option<i64>,
    pub(super) user: Option<BundleUser>,
}

/// `process.consoleSize`.
#[derive(Debug, Deserialize)]
pub(super) struct ConsoleSize {
    pub(super) height: u64,
    pub(super) width: u64,
}

/// An entry of `process.rlimits`.
#[derive(Debug, Deserialize)]
pub(super) struct BundleRlimit<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    pub(super) soft: Quantity,
    pub(super) hard: Quantity,
}

/// `process.capabilities`.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct CapabilitySets<'a> {
    #[serde(borrow)]
    pub(super) effective: Option<Texts<'a>>,
    #[serde(borrow)]
    pub(super) bounding: Option<Texts<'a>>,
    #[serde(borrow)]
    pub(super) inheritable: Option<Texts<'a>>,
    #[serde(borrow)]
    pub(super) permitted: Option<Texts<'a>>,
    #[serde(borrow)]
    pub(super) ambient: Option<Texts<'a>>,
}

/// `process.user`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BundleUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
    #[serde(default)]
    pub(super) additional_gids: Vec<u32>,
}

/// `root`.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct BundleRoot<'a> {
    #[serde(borrow)]
    pub(super) path: Option<Cow<'a, str>>,
    pub(super) readonly: Option<bool>,
}

/// An entry of `mounts`.
#[derive(Debug, Deserialize)]
pub(super) struct BundleMount<'a> {
    #[serde(borrow)]
    pub(super) destination: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) source: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) options: Texts<'a>,
    #[serde(borrow, rename = "type", default)]
    pub(super) kind: Option<Cow<'a, str>>,
}

/// `linux`.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Linux<'a> {
    #[serde(borrow)]
    pub(super) namespaces: Option<Vec<Namespace<'a>>>,
    pub(super) uid_mappings: Vec<IdMapping>,
    pub(super) gid_mappings: Vec<IdMapping>,
    #[serde(borrow)]
    pub(super) devices: Vec<BundleDevice<'a>>,
    #[serde(borrow)]
    pub(super) cgroups_path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) resources: Option<BundleResources<'a>>,
    #[serde(borrow)]
    pub(super) sysctl: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) seccomp: Option<Seccomp<'a>>,
    #[serde(borrow)]
    pub(super) masked_paths: Texts<'a>,
    #[serde(borrow)]
    pub(super) readonly_paths: Texts<'a>,
}

/// An entry of `linux.namespaces`.
#[derive(Debug, Deserialize)]
pub(super) struct Namespace<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) path: Option<Cow<'a, str>>,
}

/// An entry of `linux.uidMappings` or `linux.gidMappings`.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(super) container_id: u32,
    #[serde(rename = "hostID")]
    pub(super) host_id: u32,
    pub(super) size: u32,
}

/// An entry of `linux.devices`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BundleDevice<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) path: Cow<'a, str>,
    #[serde(default)]
    pub(super) major: Option<u32>,
    #[serde(default)]
    pub(super) minor: Option<u32>,
    #[serde(default)]
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) uid: Option<u32>,
    #[serde(default)]
    pub(super) gid: Option<u32>,
}

/// `linux.resources`.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct BundleResources<'a> {
    #[serde(borrow)]
    pub(super) devices: Vec<DeviceRule<'a>>,
    pub(super) memory: Option<Memory>,
    #[serde(borrow)]
    pub(super) cpu: Option<Cpu<'a>>,
    #[serde(rename = "blockIO")]
    pub(super) block_io: Option<BlockIo>,
    pub(super) pids: Option<Pids>,
}

/// An entry of `linux.resources.devices`.
#[derive(Debug, Deserialize)]
pub(super) struct DeviceRule<'a> {
    pub(super) allow: bool,
    #[serde(borrow, rename = "type", default)]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) major: Option<u32>,
    #[serde(default)]
    pub(super) minor: Option<u32>,
    #[serde(borrow, default)]
    pub(super) access: Option<Cow<'a, str>>,
}

/// `linux.resources.memory`.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) limit: Option<Quantity>,
    pub(super) reservation: Option<Quantity>,
    pub(super) swap: Option<Quantity>,
}

/// `linux.resources.cpu`.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct Cpu<'a> {
    pub(super) shares: Option<u64>,
    pub(super) quota: Option<Quantity>,
    pub(super) period: Option<u64>,
    #[serde(borrow)]
    pub(super) cpus: Option<Cow<'a, str>>,
}

/// `linux.resources.blockIO`.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BlockIo {
    pub(super) weight: Option<u64>,
    pub(super) weight_device: Vec<DeviceWeight>,
    pub(super) throttle_read_bps_device: Vec<DeviceRate>,
    pub(super) throttle_write_bps_device: Vec<DeviceRate>,
    #[serde(rename = "throttleReadIOPSDevice")]
    pub(super) throttle_read_iops_device: Vec<DeviceRate>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub(super) throttle_write_iops_device: Vec<DeviceRate>,
}

/// An entry of `linux.resources.blockIO.weightDevice`.
#[derive(Debug, Deserialize)]
pub(super) struct DeviceWeight {
    pub(super) major: u32,
    pub(super) minor: u32,
    #[serde(default)]
    pub(super) weight: Option<u64>,
}

/// The limit of a device.
#[derive(Debug, Deserialize)]
pub(super) struct DeviceRate {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) rate: u64,
}

/// `linux.resources.pids`.
#[derive(Debug, Deserialize)]
pub(super) struct Pids {
    pub(super) limit: Quantity,
}

/// `linux.seccomp`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seccomp<'a> {
    #[serde(borrow)]
    pub(super) default_action: Cow<'a, str>,
    #[serde(default)]
    pub(super) default_errno_ret: Option<u32>,
    #[serde(borrow, default)]
    pub(super) architectures: Texts<'a>,
    #[serde(borrow, default)]
    pub(super) syscalls: Vec<SeccompRule<'a>>,
}

/// An entry of `linux.seccomp.syscalls`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SeccompRule<'a> {
    #[serde(borrow)]
    pub(super) names: Texts<'a>,
    #[serde(borrow)]
    pub(super) action: Cow<'a, str>,
    #[serde(default)]
    pub(super) errno_ret: Option<u32>,
    #[serde(borrow, default)]
    pub(super) args: Vec<SeccompArgument<'a>>,
}

/// An entry of `linux.seccomp.syscalls[].args`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SeccompArgument<'a> {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    #[serde(borrow)]
    pub(super) op: Cow<'a, str>,
}

/// An entry of a list of `hooks`.
#[derive(Debug, Deserialize)]
pub(super) struct Hook<'a> {
    #[serde(borrow)]
    pub(super) path: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) args: Option<Texts<'a>>,
    #[serde(default)]
    pub(super) timeout: Option<u64>,
}

/// A limit. `None` is no limit: a negative number, or the highest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quantity(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        match (number.as_u64(), number.as_i64()) {
            (Some(u64::MAX), _) | (None, Some(_)) => Ok(Self(None)),
            (Some(limit), _) => Ok(Self(Some(limit))),
            (None, None) => Err(D::Error::custom(format!("{number} is not a whole number"))),
        }
    }
}
