//! Files of a hostile tree: passwd, group, machine-id, and a program at the path of an init. The first byte
//! selects the file.
#![no_main]

use coracle::host::probe::Tree;
use coracle::machine::init::InitChoice;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = PathBuf::from(format!("/dev/shm/coracle-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(root.join("etc")).expect("a tree");
    std::fs::create_dir_all(root.join("sbin")).expect("a tree");
    root
});

const FILES: [&str; 5] = ["etc/passwd", "etc/group", "etc/machine-id", "etc/os-release", "sbin/init"];

fuzz_target!(|data: &[u8]| {
    let Some((which, content)) = data.split_first() else { return };
    let file = ROOT.join(FILES[usize::from(*which) % FILES.len()]);
    std::fs::write(&file, content).expect("write a file");
    let tree = Tree::open(&ROOT).expect("open the tree");
    for name in ["root", "daemon", "1000", ""] {
        let _ = (tree.user(name), tree.group(name));
    }
    let _ = (tree.machine_id(), tree.check_is_root(true), tree.find_init(&InitChoice::Auto));
    std::fs::remove_file(&file).expect("remove the file");
});
