//! Programs of Debian that build and test packages, each with Coracle's sessions and with its other means. Called by
//! `main`, in a host with the archive that they install from.

use super::boot::{Measure, compare_to};
use super::build::UNION;
use super::run::{self, shell};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

const BUILD_ROUNDS: usize = 3;
const REVERT_ROUNDS: usize = 8;
/// The address of the archive, on a port of the host: sessions reach it without a network beyond.
const MIRROR: &str = "http://192.0.2.1:8000/debian";
/// Serves the archive and installs a base for all: a directory, for the user of the mode `unshare` a tarball of it, for
/// LXC a copy.
const SETUP: &str = r#"
    storage=/var/lib/machines/.storage; base=/var/lib/machines/trixie; user=/home/builder
    mkdir -p /var/lib/coracle /var/tmp/work; mkdir -p -m 700 $storage; ln -sfn $storage /var/lib/coracle/storage
    rm -r $base
    ip address add 192.0.2.1/32 dev lo
    systemd-run -q --unit=archive python3 -m http.server --directory /srv 8000
    until bash -c 'exec 3<>/dev/tcp/127.0.0.1/8000' 2>/dev/null; do sleep 0.1; done
    debootstrap --variant=buildd --include=debhelper,passwd,systemd-sysv,dbus,udev,apt-utils trixie $base @MIRROR@ >/dev/null
    echo 'deb-src @MIRROR@ trixie main' >>$base/etc/apt/sources.list
    echo 'Acquire::Languages "none";' >$base/etc/apt/apt.conf.d/languages
    useradd --no-create-home builder; mkdir -p $user/.cache/sbuild $user/.cache/autopkgtest
    tar -C $base --exclude='./dev/*' -cf $user/.cache/sbuild/trixie-amd64.tar .
    cp /srv/debian/pool/main/s/sl/* $user
    for directory in ours schroot; do mkdir /var/tmp/work/$directory; cp /srv/debian/pool/main/s/sl/* /var/tmp/work/$directory; done
    quiet='$run_lintian = 0; $run_piuparts = 0; $run_autopkgtest = 0; $clean_source = 0; $nolog = 1;'
    echo "\$chroot_mode = 'unshare'; \$unshare_mmdebstrap_auto_create = 0; $quiet" >$user/.sbuildrc
    echo "\$chroot_mode = 'schroot'; \$schroot = '/usr/lib/coracle/unschroot'; $quiet" >/var/tmp/work/ours/.sbuildrc
    echo "\$chroot_mode = 'schroot'; \$schroot = '/usr/bin/schroot'; $quiet" >/var/tmp/work/schroot/.sbuildrc
    chown -R builder: $user
    printf '[trixie-amd64-sbuild]\ntype=directory\ndirectory=%s\nunion-type=overlay\nusers=root\nroot-users=root\nprofile=sbuild\n' \
        $base >/etc/schroot/chroot.d/trixie
    lxc=/var/lib/machines/.lxc; mkdir -p $lxc/trixie; cp -a $base $lxc/trixie/rootfs
    printf 'lxc.rootfs.path = dir:'$lxc'/trixie/rootfs\nlxc.uts.name = trixie\nlxc.net.0.type = empty\nlxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\nlxc.apparmor.profile = unconfined\n' \
        >$lxc/trixie/config
    @UNION@
"#;

/// Prints all tables.
pub fn all() {
    shell(&SETUP.replace("@MIRROR@", MIRROR).replace("@UNION@", UNION)).expect("the base of all");
    builds();
    reverts();
}

/// The build of a package from the archive by sbuild(1), with the installation of what it needs.
fn builds() {
    let build = |home: &str, prefix: &str| -> Measure {
        let script = format!("cd {home} && {prefix} env HOME={home} sbuild -d trixie sl_*.dsc >log 2>&1");
        let command = ["sh", "-c", &script].map(str::to_owned);
        Box::new(move || run::once(&command).map(|sample| sample.wall))
    };
    compare_to(
        "Packages: sbuild of sl",
        vec![
            ("--chroot-mode=unshare", build("/home/builder", "runuser -u builder --")),
            ("schroot", build("/var/tmp/work/schroot", "")),
            ("unschroot of coracle", build("/var/tmp/work/ours", "")),
        ],
        BUILD_ROUNDS,
        "--chroot-mode=unshare",
    );
}

/// The reverts of testbeds by the protocol of autopkgtest-virt-server(7).
fn reverts() {
    let tables: [(&str, &[(&str, &str)]); 2] = [
        (
            "Packages: revert of a testbed",
            &[
                (
                    "virt-unshare",
                    "runuser -u builder -- env HOME=/home/builder autopkgtest-virt-unshare --arch amd64 --release trixie \
                     --tarball /home/builder/.cache/sbuild/trixie-amd64.tar",
                ),
                ("virt-coracle", "autopkgtest-virt-coracle trixie"),
            ],
        ),
        (
            "Packages: revert of a booted testbed",
            &[
                ("virt-lxc", "autopkgtest-virt-lxc --ephemeral --lxcpath=/var/lib/machines/.lxc trixie"),
                ("virt-coracle --boot", "autopkgtest-virt-coracle --boot trixie"),
            ],
        ),
    ];
    for (title, ways) in tables {
        let measures = ways.iter().map(|&(name, command)| (name, revert(command))).collect();
        compare_to(title, measures, REVERT_ROUNDS, ways[0].0);
    }
}

/// Returns a measure of the reverts of one testbed, which is opened by the first of them.
fn revert(command: &'static str) -> Measure {
    let testbed: RefCell<Option<Testbed>> = RefCell::default();
    Box::new(move || {
        let mut testbed = testbed.borrow_mut();
        if testbed.is_none() {
            *testbed = Some(Testbed::open(command)?);
        }
        testbed.as_mut().map_or(Err("no testbed".to_owned()), |testbed| testbed.ask("revert"))
    })
}

/// A testbed, closed when dropped.
struct Testbed {
    program: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Testbed {
    fn open(command: &str) -> Result<Self, String> {
        let words = run::words(command);
        let mut program = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let (commands, answers) = (program.stdin.take(), program.stdout.take());
        let (commands, answers) = commands.zip(answers).ok_or("no streams")?;
        let mut testbed = Self { program, commands, answers: BufReader::new(answers) };
        testbed.answer()?;
        testbed.ask("open")?;
        Ok(testbed)
    }

    /// Sends a command, and returns the time to its answer, ms.
    fn ask(&mut self, command: &str) -> Result<f64, String> {
        let began = Instant::now();
        writeln!(self.commands, "{command}").map_err(|error| error.to_string())?;
        self.answer()?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    fn answer(&mut self) -> Result<(), String> {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(|error| error.to_string())?;
        if answer.starts_with("ok") { Ok(()) } else { Err(format!("it answered '{}'", answer.trim())) }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let _ = self.ask("close").and_then(|_| self.ask("quit"));
        let _ = self.program.wait();
    }
}
