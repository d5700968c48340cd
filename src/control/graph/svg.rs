//! A graph as a picture: the root at the left, each level in a column, each node a box at the height of those
//! below it. Called by `graph`.

use super::{GraphNode, NodeKind};
use std::fmt::Write;

/// The width of a character of the font, which has one width for all, in pixels.
const CHARACTER: usize = 8;
/// The height of a line, pixels.
const LINE: usize = 17;
/// The space between text and border of a box, pixels.
const PADDING: usize = 9;
/// The space between boxes of a column, pixels.
const GAP: usize = 12;
/// The least space between columns, pixels.
const COLUMN_GAP: usize = 48;
/// The space around the picture, pixels.
const MARGIN: usize = 16;
/// The longest line of a box; longer ones are cut.
const LONGEST: usize = 72;
const STYLE: &str = "text{font:13px ui-monospace,'DejaVu Sans Mono',monospace;fill:#1c2128}\
    .t{font-weight:600}.e{font-size:11px;fill:#57606a}path{fill:none;stroke:#8b949e;stroke-width:1.3}\
    rect{stroke-width:1.3;rx:6px}.host{fill:#dbe4ee;stroke:#6e8aa8}.link{fill:#fdf1d6;stroke:#c69026}\
    .machine{fill:#d9f0dd;stroke:#46954a}.property{fill:#f4f5f7;stroke:#afb8c1}\
    .exposed{fill:#f9d9d6;stroke:#c93c37}";

/// The columns of a picture: left edge and width of the boxes, by depth.
type Columns = Vec<(usize, usize)>;

/// Draws a graph.
pub(super) fn format(root: &GraphNode) -> String {
    let columns = columns(root);
    let width = columns.last().map_or(0, |(left, width)| left + width) + MARGIN;
    let height = block(root) + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    draw(&mut svg, root, 0, MARGIN, &columns);
    svg + "</svg>\n"
}

/// Returns the place of each column. The space before it has room for the labels of its edges.
fn columns(root: &GraphNode) -> Columns {
    let mut columns = Columns::new();
    let (mut level, mut left) = (vec![root], MARGIN);
    while !level.is_empty() {
        let edges = level.iter().filter_map(|node| node.edge.as_deref()).map(length).max();
        if let Some((before, width)) = columns.last() {
            left = before + width + COLUMN_GAP + edges.unwrap_or(0) * CHARACTER;
        }
        let width = level.iter().map(|node| widest(node)).max().unwrap_or(0) * CHARACTER + 2 * PADDING;
        columns.push((left, width));
        level = level.iter().flat_map(|node| &node.children).collect();
    }
    columns
}

fn length(text: &str) -> usize {
    text.chars().count().min(LONGEST)
}

fn widest(node: &GraphNode) -> usize {
    node.lines.iter().chain([&node.title]).map(|line| length(line)).max().unwrap_or(0)
}

/// Returns the height of the box of a node.
fn own_height(node: &GraphNode) -> usize {
    (node.lines.len() + 1) * LINE + 2 * PADDING
}

/// Returns the height of the boxes below a node.
fn height_below(node: &GraphNode) -> usize {
    let gaps = node.children.len().saturating_sub(1) * GAP;
    node.children.iter().map(block).sum::<usize>() + gaps
}

/// Returns the height of a node with all those below it.
fn block(node: &GraphNode) -> usize {
    own_height(node).max(height_below(node))
}

/// Draws a node and those below it from `top`, and returns the middle of its box.
fn draw(svg: &mut String, node: &GraphNode, depth: usize, top: usize, columns: &Columns) -> usize {
    let (left, width) = columns.get(depth).copied().unwrap_or_default();
    let height = block(node);
    let middle = top + height / 2;
    let mut next = top + (height - height_below(node)) / 2;
    for child in &node.children {
        let (there, _) = columns.get(depth + 1).copied().unwrap_or_default();
        let end = draw(svg, child, depth + 1, next, columns);
        edge(svg, (left + width, middle), (there, end), child.edge.as_deref());
        next += block(child) + GAP;
    }
    let box_top = middle - own_height(node) / 2;
    let (class, own) = (class(node.kind), own_height(node));
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{left}\" y=\"{box_top}\" width=\"{width}\" height=\"{own}\"/>"
    );
    for (at, line) in std::iter::once(&node.title).chain(&node.lines).enumerate() {
        let (x, y) = (left + PADDING, box_top + PADDING + at * LINE + 13);
        let title = if at == 0 { " class=\"t\"" } else { "" };
        let _ = writeln!(svg, "<text{title} x=\"{x}\" y=\"{y}\">{}</text>", escaped(line));
    }
    middle
}

/// Draws the edge between two boxes, with its label before the second one.
fn edge(svg: &mut String, from: (usize, usize), to: (usize, usize), label: Option<&str>) {
    let bend = from.0 + COLUMN_GAP / 2;
    let _ = writeln!(
        svg,
        "<path d=\"M{} {} C{bend} {} {bend} {} {} {} H{}\"/>",
        from.0,
        from.1,
        from.1,
        to.1,
        from.0 + COLUMN_GAP - 8,
        to.1,
        to.0
    );
    if let Some(label) = label {
        let (x, y) = (from.0 + COLUMN_GAP - 4, to.1 - 5);
        let _ = writeln!(svg, "<text class=\"e\" x=\"{x}\" y=\"{y}\">{}</text>", escaped(label));
    }
}

fn class(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Host => "host",
        NodeKind::Link => "link",
        NodeKind::Machine => "machine",
        NodeKind::Property => "property",
        NodeKind::Exposed => "exposed",
    }
}

/// Escapes a text for XML, and cuts it.
fn escaped(text: &str) -> String {
    let is_long = text.chars().count() > LONGEST;
    let cut: String = text.chars().take(if is_long { LONGEST - 1 } else { LONGEST }).collect();
    let cut = cut.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    if is_long { cut + "…" } else { cut }
}
