//! README.md, followed to the letter: its shell blocks run on a fresh host, each as one script. Programs that
//! need a network are replaced by stand-ins in `/usr/local/bin`, which log their command line; the test lists
//! all of them.

use crate::support::{Host, LONG, trees};

/// The beginnings of the command lines that stand-ins replace, in their order.
const REPLACED: &[&str] = &[
    "make demo",
    "make deps install",
    "apt-get install mmdebstrap",
    // By `coracle create`, with further arguments.
    "mmdebstrap ",
    // Those with the real programs are in `tests/callers/sbuild.rs`.
    "apt-get install sbuild mmdebstrap",
    "mmdebstrap --variant=buildd --include=passwd trixie /var/lib/machines/trixie",
    "sbuild -d trixie ",
];
/// The tree that the stand-in of mmdebstrap(1) copies.
const TREE: &str = "/srv/trixie";

/// The content of a fenced block.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    /// Command lines, as they are typed.
    Script(String),
    /// A recorded session: prompts, command lines and their output. `make picture` records it.
    Session,
}

/// Returns all fenced blocks of a document in Markdown.
fn blocks(text: &str) -> Vec<Block> {
    let is_fence = |line: &&str| line.starts_with("```");
    let mut lines = text.lines();
    let mut found = Vec::new();
    while lines.by_ref().any(|line| is_fence(&line)) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| !is_fence(line)).collect();
        let is_session = block.first().is_some_and(|line| line.starts_with("# "));
        found.push(if is_session { Block::Session } else { Block::Script(block.join("\n") + "\n") });
    }
    found
}

/// Writes the stand-ins.
fn replace_programs(host: &Host) {
    let stand_in = |name: &str, action: &str| {
        let text = format!("#!/bin/sh -e\necho \"{name} $*\" >>/run/replaced\n{action}\n");
        host.write(&format!("/usr/local/bin/{name}"), &text);
    };
    // `install` has run when the host was created, and the packages are in its tree.
    stand_in("make", "");
    stand_in("apt-get", "");
    stand_in("sbuild", "");
    stand_in("mmdebstrap", &format!("for target; do :; done\ncp -a {TREE}/. \"$target\""));
    host.sh_ok("chmod 755 /usr/local/bin/*");
}

#[test]
fn the_blocks_of_the_readme_run_on_a_fresh_host() {
    let tree = trees::tree("trixie");
    let host = Host::builder().bind(&tree.display().to_string(), TREE).on_disk().start();
    // The root of a nested host is an overlay, whose files cannot be mapped.
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    replace_programs(&host);
    let readme = include_str!("../../README.md");
    let blocks = blocks(readme);
    assert_eq!(blocks.iter().filter(|block| **block == Block::Session).count(), 1, "recorded sessions");
    let scripts: Vec<&String> = blocks
        .iter()
        .filter_map(|block| match block {
            Block::Script(script) => Some(script),
            Block::Session => None,
        })
        .collect();
    assert!(scripts.len() >= 3, "{scripts:?}");
    let outputs: Vec<String> = scripts
        .iter()
        .map(|script| host.exec_for(LONG, &["sh", "-ec", script]).success("a block").stdout)
        .collect();
    let replaced = host.read("/run/replaced");
    let replaced: Vec<&str> = replaced.lines().collect();
    let is_same = replaced.len() == REPLACED.len()
        && replaced.iter().zip(REPLACED).all(|(line, expected)| line.starts_with(expected));
    assert!(is_same, "a block has another command to replace: {replaced:?}");
    // What the text says of the blocks.
    assert!(outputs.iter().any(|output| output.ends_with("\nweb\n")), "{outputs:?}");
    assert_eq!(host.property("web", "ports"), "8080:80");
    let source = host.ok(&["coracle", "exec", "web", "--", "findmnt", "-no", "OPTIONS", "/srv/www"]);
    assert!(source.starts_with("ro"), "{source}");
    for line in inline_commands(readme) {
        let own = line.split(" -- ").next().unwrap_or(line);
        let parsed = host.exec(&["sh", "-c", &format!("{own} --help")]);
        assert!(parsed.status == 0 && parsed.stdout.contains("Usage: coracle "), "`{line}`: {parsed}");
    }
    host.sh_ok("coracle enable web && coracle config web --explain | grep ports");
    host.stop();
}

/// Returns the command lines in the text, such as `coracle enable web`.
fn inline_commands(text: &str) -> Vec<&str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter(|span| span.starts_with("coracle ") && !span.contains('\n')).collect()
}

#[test]
fn blocks_and_commands_of_a_document_are_found() {
    let text = "a `coracle list` b\n```\n# ls\nx\n```\nc\n```sh\none\ntwo\n```\n`two words`\n";
    assert_eq!(blocks(text), [Block::Session, Block::Script("one\ntwo\n".into())]);
    assert_eq!(
        inline_commands("a `coracle list` b `c`\n`coracle shell web`"),
        ["coracle list", "coracle shell web"]
    );
}
