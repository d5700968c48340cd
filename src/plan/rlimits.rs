//! The resource limits of a definition, as arguments of a step. Called by `plan`.

use super::step::ResourceLimit;
use crate::machine::resources::{Resources, Rlimit};
use rustix::process::Resource;

/// Returns the limits of the definition.
pub(super) fn of(resources: &Resources) -> Vec<ResourceLimit> {
    let limit = |limit: &Rlimit| {
        Some(ResourceLimit { resource: resource(limit.name)?, soft: limit.soft, hard: limit.hard })
    };
    resources.rlimits.iter().filter_map(limit).collect()
}

/// Returns the resource of a name in [`RLIMITS`](crate::machine::resources::RLIMITS).
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::resources::RLIMITS;

    #[test]
    fn every_limit_is_a_resource_of_the_kernel() {
        let resources: Vec<Resource> = RLIMITS.iter().filter_map(|row| resource(row.0)).collect();
        assert_eq!(resources.len(), RLIMITS.len());
        assert!(resources.iter().all(|one| resources.iter().filter(|other| *other == one).count() == 1));
    }
}
