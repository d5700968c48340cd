//! A graph as lines of text. Called by `graph`.

use super::{GraphNode, LineStyle};

/// Formats a tree, one line for each node.
pub(super) fn format(root: &GraphNode, style: LineStyle) -> String {
    let mut text = line(root);
    below(&mut text, root, "", style);
    text
}

/// Adds the lines of the nodes below a node.
fn below(text: &mut String, node: &GraphNode, indent: &str, style: LineStyle) {
    let (branch, last, bar) = match style {
        LineStyle::Ascii => ("|-- ", "`-- ", "|   "),
        LineStyle::Unicode => ("├── ", "└── ", "│   "),
    };
    for (at, child) in node.children.iter().enumerate() {
        let is_last = at + 1 == node.children.len();
        text.push_str(&format!("{indent}{}{}", if is_last { last } else { branch }, line(child)));
        below(text, child, &format!("{indent}{}", if is_last { "    " } else { bar }), style);
    }
}

fn line(node: &GraphNode) -> String {
    let edge = node.edge.as_ref().map(|edge| format!("[{edge}] ")).unwrap_or_default();
    let lines = if node.lines.is_empty() { String::new() } else { format!(": {}", node.lines.join(", ")) };
    format!("{edge}{}{lines}\n", node.title)
}
