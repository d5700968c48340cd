//! Graphs of `network` and `inspect`: a tree of nodes as text, as a picture in SVG, or in the DOT language of
//! Graphviz. Their verbs build the tree.

mod dot;
mod svg;
mod text;

/// The format of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GraphFormat {
    /// Lines of text, with characters that draw lines in the encoding of the terminal.
    Text(LineStyle),
    /// Scalable Vector Graphics.
    Svg,
    /// The language of Graphviz.
    Dot,
}

/// The characters that draw the lines of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineStyle {
    /// Characters of ASCII.
    Ascii,
    /// Characters of Unicode.
    Unicode,
}

/// The kind of a node, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// The host.
    Host,
    /// A bridge or another interface of the host.
    Link,
    /// A machine.
    Machine,
    /// A property of a machine.
    Property,
    /// A part of the host that is open to the machine.
    Exposed,
}

/// A node with the nodes below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphNode {
    /// Its kind.
    pub(crate) kind: NodeKind,
    /// Its title. Machines, and interfaces, of one title are the same node.
    pub(crate) title: String,
    /// The label of the edge from its parent.
    pub(crate) edge: Option<String>,
    /// Further lines of the node.
    pub(crate) lines: Vec<String>,
    /// The nodes below it.
    pub(crate) children: Vec<GraphNode>,
}

impl GraphNode {
    /// Creates a node without lines and children.
    pub(crate) fn new(kind: NodeKind, title: impl Into<String>) -> Self {
        Self { kind, title: title.into(), edge: None, lines: Vec::new(), children: Vec::new() }
    }

    /// Sets the label of the edge from its parent.
    pub(crate) fn with_edge(mut self, label: impl Into<String>) -> Self {
        self.edge = Some(label.into());
        self
    }

    /// Adds lines.
    pub(crate) fn with_lines(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self
    }

    /// Formats the graph.
    pub(crate) fn format(&self, format: GraphFormat) -> String {
        match format {
            GraphFormat::Text(style) => text::format(self, style),
            GraphFormat::Svg => svg::format(self),
            GraphFormat::Dot => dot::format(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> GraphNode {
        let machine = |title: &str| GraphNode::new(NodeKind::Machine, title);
        let mut zone = GraphNode::new(NodeKind::Link, "zone lan").with_lines(["vz-lan".to_owned()]);
        zone.children.push(machine("a").with_edge("vb-a").with_lines(["10.0.0.2".into(), "fd00::2".into()]));
        zone.children.push(machine("<b>\"\\"));
        let mut host = GraphNode::new(NodeKind::Host, "host");
        host.children.extend([zone, machine("a").with_edge("eth1")]);
        host
    }

    #[test]
    fn trees_are_drawn_as_text() {
        assert_eq!(
            graph().format(GraphFormat::Text(LineStyle::Ascii)),
            "host\n|-- zone lan: vz-lan\n|   |-- [vb-a] a: 10.0.0.2, fd00::2\n|   `-- <b>\"\\\n`-- [eth1] a\n"
        );
        let unicode = graph().format(GraphFormat::Text(LineStyle::Unicode));
        assert!(unicode.contains("│   └── <b>"), "{unicode}");
    }

    #[test]
    fn equal_nodes_are_one_node_of_graphviz() {
        let dot = graph().format(GraphFormat::Dot);
        assert!(dot.starts_with("digraph coracle {\n") && dot.ends_with("}\n"), "{dot}");
        assert!(dot.contains(r#"label="a\n10.0.0.2\nfd00::2""#), "{dot}");
        assert_eq!(dot.matches("label=\"a").count(), 1, "{dot}");
        assert!(dot.contains(r#"label="<b>\"\\""#), "{dot}");
        assert!(dot.contains("n0 -> n2 [label=\"eth1\"];"), "{dot}");
    }

    #[test]
    fn pictures_escape_names_and_contain_all_boxes() {
        let svg = graph().format(GraphFormat::Svg);
        assert!(svg.contains("&lt;b&gt;&quot;\\") && !svg.contains("<b>"), "{svg}");
        assert_eq!(svg.matches("<rect class=").count(), 5, "{svg}");
        assert_eq!(svg.matches("<path ").count(), 4, "{svg}");
    }
}
