//! The graphs of `network` and `inspect`: Graphviz draws them, and a parser of XML reads the pictures.

use crate::support::Host;

/// Counts the boxes of a picture, and fails if its text is not XML.
const BOXES: &str = "import sys, xml.etree.ElementTree as tree
root = tree.fromstring(sys.stdin.buffer.read())
assert root.tag.endswith('svg'), root.tag
print(sum(1 for node in root.iter() if node.tag.endswith('rect') and node.get('class')))";

/// Returns a graph in all formats: as text, and the number of boxes of our picture and of nodes of Graphviz.
#[track_caller]
fn graph(host: &Host, verb: &str) -> (String, usize, usize) {
    let text = host.sh_ok(&format!("coracle {verb} --graph"));
    assert_eq!(text, host.sh_ok(&format!("coracle {verb} --graph=text")));
    host.write("/run/boxes.py", BOXES);
    let count = |script: &str| -> usize {
        let shown = host.sh_ok(script);
        shown.trim().parse().unwrap_or_else(|_| panic!("no number from {script}: {shown}"))
    };
    let boxes = count(&format!("coracle {verb} --graph=svg | python3 /run/boxes.py"));
    // The program draws the whole graph, and complains of nothing.
    let drawn = host.sh(&format!(
        "coracle {verb} --graph=dot >/run/graph.dot; dot -Tsvg -o /run/graph.svg /run/graph.dot"
    ));
    assert!(drawn.status == 0 && drawn.stderr.is_empty(), "{drawn}");
    let nodes = count("dot -Tplain /run/graph.dot | grep -c '^node '");
    (text, boxes, nodes)
}

#[test]
fn graphviz_and_parsers_of_xml_read_the_graphs() {
    let host = Host::builder()
        .on("host-callers-tools")
        .guest_as("busybox", "a")
        .guest_as("busybox", "b")
        .guest_as("busybox", "alone")
        .start();
    host.sh_ok("ip link add br0 type bridge; ip link set br0 up");
    let zone = "[network]\nzone = \"lan\"\n";
    host.define("a", &format!("{zone}ports = [\"8080:80\"]\n"));
    host.define("b", zone);
    host.define("alone", "[network]\nmacvlan = [\"br0\"]\n[resources]\ntasks-max = 100\n");
    host.coracle(&["start", "a", "b", "alone"]);

    let (text, boxes, nodes) = graph(&host, "network");
    let address = |name: &str| host.address(name);
    for part in [
        "bridge vz-lan: zone lan, ",
        "[vb-a] a: ",
        ", port 8080:80\n",
        "[ve-alone] alone: ",
        "interface br0\n",
    ] {
        assert!(text.contains(part), "no '{part}' in\n{text}");
    }
    for name in ["a", "b", "alone"] {
        assert!(text.contains(&format!("{name}: ")) && text.contains(&address(name)), "{text}");
    }
    // The host, two interfaces, three machines; one of them is connected twice.
    assert_eq!((text.lines().count(), boxes, nodes), (7, 7, 6), "{text}");

    let (text, boxes, nodes) = graph(&host, "inspect alone");
    for part in [
        "alone: PID 1 is process ",
        "namespaces of its own: user mnt pid net",
        "link ve-alone: ",
        "/proc: proc",
    ] {
        assert!(text.contains(part), "no '{part}' in\n{text}");
    }
    assert!(boxes == text.lines().count() && boxes == nodes && boxes > 15, "{boxes} {nodes}\n{text}");
    let ascii = host.sh_ok("LANG=C coracle network --graph");
    assert!(ascii.is_ascii() && ascii.contains("|-- "), "{ascii}");
    assert_eq!(host.exec(&["coracle", "network", "--graph=png"]).status, 2);
    host.stop();
}
