//! The probe inside: what root of a machine can do, point by point, against what it may.

use crate::machines::Machines;

/// What the probe said: of each weight the names of what is open.
fn open(said: &str) -> [Vec<String>; 3] {
    assert!(said.lines().any(|line| line.starts_with("total\t")), "it did not come to its end: {said}");
    ["high", "medium", "low"].map(|weight| {
        let points = said.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let open = points.filter(|words| words[0] == "open" && words[1] == weight);
        open.map(|words| format!("{} {}", words[2], words[3]).trim().to_owned()).collect()
    })
}

#[test]
fn a_machine_leaves_open_what_a_system_needs_and_no_more() {
    let machines = Machines::shared();
    let out = machines.inside("own", &["probe"]).success("the probe");
    let [high, medium, low] = open(&out.stdout);
    assert_eq!(high, [""; 0]);
    assert!(medium.len() <= 8 && low.len() <= 3, "{medium:#?}\n{low:#?}");
}
