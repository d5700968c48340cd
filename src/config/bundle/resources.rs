//! `linux.resources` of a bundle: properties of the scope (systemd.resource-control(5)). Called by `settings`.

use super::devices;
use super::document::{BlockIo, BundleResources, Cpu, DeviceRate, DeviceRule, Memory, Quantity};
use super::layer_builder::LayerBuilder;
use crate::config::resources::Processors;
use crate::config::unit::Property;
use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};

/// The weights of cgroups of version 1 and 2: the lowest, the default and the highest one.
const CPU_SHARES: [u64; 3] = [2, 1024, 262_144];
const BLOCK_WEIGHTS: [u64; 3] = [10, 500, 1000];
const WEIGHTS: [u64; 3] = [1, 100, 10_000];

const POINTER: &str = "/linux/resources";

/// Sets the properties of the scope.
pub(super) fn read(builder: &mut LayerBuilder, resources: &BundleResources<'_>) {
    device_rules(builder, &resources.devices);
    resources.memory.iter().for_each(|limits| memory(builder, limits));
    resources.cpu.iter().for_each(|limits| cpu(builder, limits));
    resources.block_io.iter().for_each(|limits| block_io(builder, limits));
    if let Some(pids) = &resources.pids {
        property(builder, "pids/limit", &format!("TasksMax={}", shown(pids.limit)));
    }
}

fn property(builder: &mut LayerBuilder, key: &str, text: &str) {
    let origin = builder.origin(&format!("{POINTER}/{key}"));
    builder.layer.unit.properties.push(Property(text.to_owned()), origin);
}

fn refuse(builder: &mut LayerBuilder, key: &str, error: &Error) {
    builder.refuse(&format!("{POINTER}/{key}"), error);
}

fn shown(Quantity(limit): Quantity) -> String {
    limit.map_or("infinity".to_owned(), |limit| limit.to_string())
}

/// Sets the allowed devices. A rule that denies removes from a list that is empty at first.
fn device_rules(builder: &mut LayerBuilder, rules: &[DeviceRule<'_>]) {
    let mut allowed = Vec::new();
    let mut allows_all = false;
    for (at, rule) in rules.iter().enumerate() {
        let key = format!("devices/{at}");
        let access = rule.access.as_deref().unwrap_or_default();
        let kind = rule.kind.as_deref().filter(|kind| !["", "a"].contains(kind));
        if access.chars().any(|letter| !"rwm".contains(letter)) {
            let error = Error::new(format!("unknown access {} to a device", quoted(access)));
            refuse(builder, &key, &error.with_hint("write letters of \"rwm\""));
            continue;
        }
        let is_whole = kind.is_none() && rule.major.is_none() && rule.minor.is_none();
        if !rule.allow || access.is_empty() {
            if !is_whole {
                let text = "devices that no other rule allows are denied: the rule has no effect, ignoring";
                builder.warn(&format!("{POINTER}/{key}"), text);
            }
            continue;
        }
        match pattern(rule, kind) {
            Ok(Some(pattern)) => allowed.push((key, format!("DeviceAllow={pattern} {access}"))),
            Ok(None) if ["r", "w", "m"].iter().all(|letter| access.contains(letter)) => allows_all = true,
            Ok(None) => {
                let error = Error::new("a rule for all devices must allow all kinds of access");
                refuse(builder, &key, &error.with_hint("write \"rwm\", or name a type of device"));
            }
            Err(error) => refuse(builder, &key, &error),
        }
    }
    if allows_all {
        return builder.warn(
            &format!("{POINTER}/devices"),
            "all devices are allowed: the machine gets those of every machine only, ignoring",
        );
    }
    allowed.iter().for_each(|(key, text)| property(builder, key, text));
}

/// Returns the devices of a rule. `None` for all.
fn pattern(rule: &DeviceRule<'_>, kind: Option<&str>) -> Result<Option<String>> {
    let class = match kind {
        None if rule.major.is_none() && rule.minor.is_none() => return Ok(None),
        None => {
            return Err(
                Error::new("a rule with a number requires a type").with_hint("write c or b for the type")
            );
        }
        Some("c") => "char",
        Some("b") => "block",
        Some(other) => return Err(Error::new(format!("unknown type {} of a device", quoted(other)))),
    };
    match (rule.major, rule.minor) {
        (None, None) => Ok(Some(format!("{class}-*"))),
        (Some(major), None) => {
            let (major, _) = devices::number(major, 0)?;
            Ok(Some(format!("{class}-{major}")))
        }
        (Some(major), Some(minor)) => {
            let (major, minor) = devices::number(major, minor)?;
            Ok(Some(format!("/dev/{class}/{major}:{minor}")))
        }
        (None, Some(_)) => Err(Error::new("a rule with a minor number requires a major one")),
    }
}

fn memory(builder: &mut LayerBuilder, limits: &Memory) {
    let number = |quantity: Option<Quantity>| quantity.and_then(|Quantity(limit)| limit);
    if let Some(swap) = number(limits.swap) {
        // The limit of version 1 is that of memory and swap together.
        match number(limits.limit).and_then(|limit| swap.checked_sub(limit)) {
            Some(swap) => property(builder, "memory/swap", &format!("MemorySwapMax={swap}")),
            None => builder.warn(
                &format!("{POINTER}/memory/swap"),
                "a limit of swap requires a limit of memory that is not above, ignoring",
            ),
        }
    }
    if let Some(limit) = number(limits.limit) {
        property(builder, "memory/limit", &format!("MemoryMax={limit}"));
    }
    if let Some(reservation) = number(limits.reservation) {
        property(builder, "memory/reservation", &format!("MemoryLow={reservation}"));
    }
}

fn cpu(builder: &mut LayerBuilder, limits: &Cpu<'_>) {
    if let Some(shares) = limits.shares {
        weight(builder, "cpu/shares", "CPUWeight=", shares, CPU_SHARES);
    }
    let quota = limits.quota.map(|Quantity(quota)| quota);
    match (quota, limits.period) {
        (Some(Some(quota)), Some(period)) if quota > 0 && period > 0 => {
            // A percentage with two digits, the precision of systemd.
            let share = u128::from(quota) * 10_000 / u128::from(period);
            let text = format!("CPUQuota={}.{:02}%", share / 100, share % 100);
            property(builder, "cpu/quota", &text);
            property(builder, "cpu/period", &format!("CPUQuotaPeriodSec={period}us"));
        }
        (None | Some(None), None) | (Some(None), Some(_)) => {}
        _ => {
            let error = Error::new("'quota' and 'period' require each other, and are above 0");
            refuse(builder, "cpu", &error.with_hint("set both, or remove both"));
        }
    }
    if let Some(text) = &limits.cpus {
        for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            let pointer = format!("{POINTER}/cpu/cpus");
            if let Some(processors) = builder.check(&pointer, Processors::read(&RawValue::Text(range))) {
                let origin = builder.origin(&pointer);
                builder.layer.resources.cpu_affinity.push(processors, origin);
            }
        }
    }
}

/// Sets a weight, converted from version 1.
fn weight(
    builder: &mut LayerBuilder,
    key: &str,
    name: &str,
    value: u64,
    [lowest, default, highest]: [u64; 3],
) {
    match converted(value, [lowest, default, highest]) {
        Some(weight) => property(builder, key, &format!("{name}{weight}")),
        None => {
            let error = Error::new(format!("{value} is not a weight"));
            refuse(builder, key, &error.with_hint(format!("use {lowest} to {highest}")));
        }
    }
}

fn converted(value: u64, [lowest, default, highest]: [u64; 3]) -> Option<u64> {
    let [least, usual, most] = WEIGHTS;
    (lowest..=highest).contains(&value).then(|| (value * usual / default).clamp(least, most))
}

fn block_io(builder: &mut LayerBuilder, limits: &BlockIo) {
    if let Some(value) = limits.weight {
        weight(builder, "blockIO/weight", "IOWeight=", value, BLOCK_WEIGHTS);
    }
    for (at, device) in limits.weight_device.iter().enumerate() {
        let Some(value) = device.weight else { continue };
        let key = format!("blockIO/weightDevice/{at}");
        let number = devices::number(device.major, device.minor);
        if let Some((major, minor)) = builder.check(&format!("{POINTER}/{key}"), number) {
            let name = format!("IODeviceWeight=/dev/block/{major}:{minor} ");
            weight(builder, &key, &name, value, BLOCK_WEIGHTS);
        }
    }
    let rates: [(&str, &str, &[DeviceRate]); 4] = [
        ("throttleReadBpsDevice", "IOReadBandwidthMax", &limits.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "IOWriteBandwidthMax", &limits.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "IOReadIOPSMax", &limits.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "IOWriteIOPSMax", &limits.throttle_write_iops_device),
    ];
    for (key, name, devices) in rates {
        for (at, device) in devices.iter().enumerate() {
            let key = format!("blockIO/{key}/{at}");
            let number = devices::number(device.major, device.minor);
            if let Some((major, minor)) = builder.check(&format!("{POINTER}/{key}"), number) {
                let rate = device.rate;
                property(builder, &key, &format!("{name}=/dev/block/{major}:{minor} {rate}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_converted() {
        for (value, expected) in [(1024, Some(100)), (2, Some(1)), (262_144, Some(10_000)), (1, None)] {
            assert_eq!(converted(value, CPU_SHARES), expected, "{value}");
        }
        assert_eq!(converted(1000, BLOCK_WEIGHTS), Some(200));
    }
}
