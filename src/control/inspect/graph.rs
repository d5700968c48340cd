//! The isolation of a machine as a graph: its namespaces, its user ids, its cgroup, its network, and the tree of its
//! mounts. Called by `inspect`.

use super::{Inspection, VisibleMount};
use crate::control::graph::{GraphNode, NodeKind};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

impl Inspection {
    /// Returns the graph of the inspection. Parts that the machine shares with the host are `Exposed`.
    pub(crate) fn graph(&self) -> GraphNode {
        let leader = format!("PID 1 is process {}", self.leader);
        let mut root = GraphNode::new(NodeKind::Machine, self.name.clone()).with_lines([leader]);
        root.children.extend(self.namespace_nodes());
        root.children.push(self.user_node());
        root.children.push(property("rights").with_lines(self.right_lines()));
        root.children.extend(self.unconfined_node());
        let limits = self.limits.iter().map(|limit| format!("{} {}", limit.name, limit.value));
        let cgroup = self.cgroup.iter().map(|cgroup| cgroup.display().to_string());
        root.children.push(property("cgroup and limits").with_lines(cgroup.chain(limits)));
        if let Some(link) = &self.host_interface {
            let addresses = self.addresses.iter().map(IpAddr::to_string);
            root.children.push(GraphNode::new(NodeKind::Link, format!("link {link}")).with_lines(addresses));
        }
        root.children.extend(mount_tree(&self.mounts));
        root
    }

    /// Returns a node for the machine's own namespaces, for those of the host, and for each owner of others.
    fn namespace_nodes(&self) -> Vec<GraphNode> {
        let (mut own, mut hosts) = (Vec::new(), Vec::new());
        let mut shared: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for namespace in &self.namespaces {
            let kind = namespace.kind.clone();
            match (namespace.shared_with_host, namespace.shared_with.is_empty()) {
                (true, _) => hosts.push(kind),
                (false, true) => own.push(kind),
                (false, false) => namespace
                    .shared_with
                    .iter()
                    .for_each(|other| shared.entry(other).or_default().push(kind.clone())),
            }
        }
        let of = |kind, title: &str, names: Vec<String>| {
            (!names.is_empty()).then(|| GraphNode::new(kind, title).with_lines([names.join(" ")]))
        };
        let mut nodes: Vec<GraphNode> =
            of(NodeKind::Property, "namespaces of its own", own).into_iter().collect();
        nodes.extend(of(NodeKind::Exposed, "namespaces of the host", hosts));
        nodes.extend(shared.into_iter().filter_map(|(other, kinds)| {
            of(NodeKind::Exposed, &format!("namespaces shared with {other}"), kinds)
        }));
        nodes
    }

    fn user_node(&self) -> GraphNode {
        let is_root = self.id_map.iter().any(|line| line.starts_with("0 0 "));
        let kind = if is_root { NodeKind::Exposed } else { NodeKind::Property };
        let lines = self.id_map.iter().map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [inside, outside, count] => format!("{inside} is {outside} on the host, {count} ids"),
            _ => line.clone(),
        });
        GraphNode::new(kind, "user ids").with_lines(lines)
    }

    fn right_lines(&self) -> Vec<String> {
        let filter = if self.filter { "system-call filter" } else { "no system-call filter" };
        let label = self.label.as_ref().map_or("no label".to_owned(), |label| format!("label {label}"));
        let mut lines = vec![format!("{} capabilities", self.capabilities.len()), filter.to_owned(), label];
        lines.push(format!("procfs {}", self.describe_procfs()));
        lines.extend(self.no_new_privileges.then(|| "no new privileges".to_owned()));
        lines.extend(self.nesting.then(|| "containers inside".to_owned()));
        lines
    }

    fn unconfined_node(&self) -> Option<GraphNode> {
        let node = GraphNode::new(NodeKind::Exposed, "not confined");
        (!self.unconfined.is_empty()).then(|| node.with_lines(self.unconfined.clone()))
    }
}

fn property(title: &str) -> GraphNode {
    GraphNode::new(NodeKind::Property, title)
}

/// Returns the mounts, each below the mount that contains its mount point.
fn mount_tree(mounts: &[VisibleMount]) -> Vec<GraphNode> {
    let mut tops: Vec<GraphNode> = Vec::new();
    let mut order: Vec<&VisibleMount> = mounts.iter().collect();
    order.sort_by_key(|mount| Path::new(&mount.target).components().count());
    // Deepest first, and of mounts at the same place the last one, which covers the others.
    for mount in order.into_iter().rev() {
        let is_below = |node: &GraphNode| Path::new(&node.title).starts_with(&mount.target);
        let (mut inside, outside): (Vec<_>, Vec<_>) = tops.into_iter().partition(is_below);
        inside.sort_by(|one, other| one.title.cmp(&other.title));
        let mut node = mount_node(mount);
        node.children = inside;
        tops = outside;
        tops.push(node);
    }
    tops
}

fn mount_node(mount: &VisibleMount) -> GraphNode {
    let is_read_only = mount.options.split(',').any(|option| option == "ro");
    let what = if is_read_only { format!("{}, read-only", mount.kind) } else { mount.kind.clone() };
    property(&mount.target).with_lines([what])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_below_the_mounts_that_contain_them() {
        let mount = |target: &str, kind: &str, options: &str| VisibleMount {
            target: target.into(),
            kind: kind.into(),
            source: String::new(),
            root: "/".into(),
            options: options.into(),
        };
        let mounts = [
            mount("/", "ext4", "rw"),
            mount("/proc", "proc", "rw,nosuid"),
            mount("/proc/sys", "proc", "ro,nosuid"),
            mount("/process", "tmpfs", "rw"),
            mount("/proc", "tmpfs", "ro"),
        ];
        let tree = mount_tree(&mounts);
        let text = tree.iter().map(|node| {
            node.format(crate::control::graph::GraphFormat::Text(crate::control::graph::LineStyle::Ascii))
        });
        let expected = "/: ext4\n|-- /proc: proc\n|   `-- /proc: tmpfs, read-only\n|       `-- /proc/sys: proc, \
                        read-only\n`-- /process: tmpfs\n";
        assert_eq!(text.collect::<String>(), expected);
    }
}
