//! Hostile trees, and roots that must not be started twice.

use std::os::unix::fs::symlink;

use crate::lab::Lab;
use crate::support::install;
use crate::support::job::Job;

#[test]
#[ignore = "needs root"]
fn an_init_that_links_to_coracle_is_refused() {
    let lab = Lab::new();
    symlink("/proc/self/exe", lab.tree().join("usr/bin/trap")).unwrap();
    let output = lab.run(&[], &["trap"]);
    assert_eq!(output.status, 125, "{output}");
    assert!(output.stderr.contains("is the host's own program"), "{output}");
}

#[test]
#[ignore = "needs root"]
fn a_root_is_locked() {
    let lab = Lab::new();
    let binary = install::binary();
    let binary = binary.to_str().unwrap();
    let coracle = lab.coracle(binary, &[]).join(" ");
    let tree = lab.tree();
    let (name, tree) = (lab.name(), tree.display());
    let script = format!(
        "{coracle} run -M {name} -- sh -c 'echo up; read line' <{fifo} &
         exec 8>{fifo}
         until {coracle} show {name} -p leader 2>/dev/null | grep -q '[1-9]'; do sleep 0.05; done
         {coracle} run -D {tree} -M other-{name} -- true; echo $?
         {coracle} run -M {name} -- true; echo $?
         {coracle} cleanup {name}; echo $?
         exec 8>&-
         wait",
        fifo = lab.path("/fifo").display()
    );
    let made = std::process::Command::new("mkfifo").arg(lab.path("/fifo")).status().unwrap();
    assert!(made.success());
    let output = lab.wait(Job::start(&mut lab.apart(&["sh", "-c", &script]), None)).success("the script");
    assert_eq!(output.stdout, "up\n125\n125\n1\n", "{output}");
    assert!(output.stderr.contains(&format!("is in use by machine '{name}'")), "{output}");
    assert!(output.stderr.contains(&format!("machine '{name}' is already running")), "{output}");
    assert!(output.stderr.contains(&format!("machine '{name}' runs (supervisor: process")), "{output}");
}

#[test]
#[ignore = "needs root"]
fn a_killed_supervisor_kills_the_machine() {
    let lab = Lab::new();
    let binary = install::binary();
    let binary = binary.to_str().unwrap();
    let coracle = lab.coracle(binary, &[]).join(" ");
    let script = format!(
        "{coracle} run -M {name} -- tail -f /dev/null &
         run=$!
         until {coracle} show {name} -p phase 2>/dev/null | grep -q running; do sleep 0.05; done
         kill -9 $run
         wait $run
         {coracle} cleanup {name} && {coracle} cleanup {name} || exit 1
         while grep -qs tail /proc/[0-9]*/comm; do sleep 0.05; done",
        name = lab.name()
    );
    let output = lab.wait(Job::start(&mut lab.apart(&["sh", "-c", &script]), None)).success("the script");
    assert_eq!(output.stdout, "", "{output}");
}

#[test]
#[ignore = "needs root"]
fn a_dry_run_changes_no_file() {
    let lab = Lab::new();
    let output = lab.run(&["--dry-run"], &["true"]).success("a dry run");
    assert!(output.stdout.contains("execute '/usr/local/sbin/true'"), "{output}");
    assert!(!lab.tree().join("proc").exists());
    assert!(!lab.path("/run").exists(), "{output}");
}
