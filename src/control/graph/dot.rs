//! A graph in the language of Graphviz (`man dot`). Called by `graph`.

use super::{GraphNode, NodeKind};

/// Formats a graph. A machine or interface that occurs twice is one node with two edges.
pub(super) fn format(root: &GraphNode) -> String {
    let mut text = String::from(
        "digraph coracle {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n  \
         edge [fontname=\"sans-serif\", fontsize=10, arrowhead=none];\n",
    );
    let mut seen = Vec::new();
    add(&mut text, root, &mut seen);
    text + "}\n"
}

/// Adds a node and those below it, and returns its number.
fn add<'a>(text: &mut String, node: &'a GraphNode, seen: &mut Vec<(NodeKind, &'a str)>) -> usize {
    let identity = (node.kind, node.title.as_str());
    let is_one = [NodeKind::Machine, NodeKind::Link].contains(&node.kind);
    let known = seen.iter().position(|known| is_one && *known == identity);
    let number = known.unwrap_or_else(|| {
        let label: Vec<String> =
            std::iter::once(&node.title).chain(&node.lines).map(|line| escaped(line)).collect();
        let color = color(node.kind);
        text.push_str(&format!(
            "  n{} [label=\"{}\", fillcolor=\"{color}\"];\n",
            seen.len(),
            label.join("\\n")
        ));
        seen.push(identity);
        seen.len() - 1
    });
    for child in &node.children {
        let below = add(text, child, seen);
        let label = child.edge.as_ref().map(|edge| format!(" [label=\"{}\"]", escaped(edge)));
        text.push_str(&format!("  n{number} -> n{below}{};\n", label.unwrap_or_default()));
    }
    number
}

fn color(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Host => "#dbe4ee",
        NodeKind::Link => "#fdf1d6",
        NodeKind::Machine => "#d9f0dd",
        NodeKind::Property => "#f2f2f2",
        NodeKind::Exposed => "#f9d9d6",
    }
}

/// Escapes a text for a quoted string.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
