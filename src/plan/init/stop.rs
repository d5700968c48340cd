//! The requests to power off or to reboot for each init system, as data. Called through `plan::init`;
//! `supervisor` and `control` carry them out.

use crate::machine::init::{Init, REAL_TIME_SIGNALS};

/// One action of a request to an init. Paths are resolved inside the root of the machine's PID 1, with the
/// rights of the guest's root; symbolic links are refused except runit's own, into `/run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopAction {
    /// Send a signal to PID 1.
    Signal(i32),
    /// Write bytes, in one write, to the first of these paths that is a FIFO with a reader.
    WriteFifo {
        /// The possible paths of the FIFO.
        paths: &'static [&'static str],
        /// The written bytes.
        bytes: Vec<u8>,
    },
    /// Set the permissions of a file.
    SetMode {
        /// The file.
        path: &'static str,
        /// Its permissions, as in chmod(2).
        mode: u32,
        /// The action for a missing file.
        missing: MissingFile,
    },
}

/// The action for a missing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissingFile {
    /// Create an empty one, owned by the machine's root.
    Create,
    /// Skip the action.
    Skip,
}

/// The base of the signal numbers of systemd(1).
const SIGRTMIN: i32 = *REAL_TIME_SIGNALS.start();

/// Returns the actions, in order, that request a power-off. A signal of the definition replaces all of them.
///
/// An unknown init, or one that is not up yet, may ignore the request: the caller needs a timeout.
pub(crate) fn orderly_stop(init: Init, signal: Option<i32>) -> Vec<StopAction> {
    if let Some(signal) = signal {
        return vec![StopAction::Signal(signal)];
    }
    match init {
        // systemd(1), SIGNALS: poweroff.target.
        Init::Systemd => vec![StopAction::Signal(SIGRTMIN + 4)],
        // openrc-init(8) does not document signals; from 0.25 on it stops its services and halts. Its FIFO
        // for openrc-shutdown(8) is created only when the system is up.
        Init::OpenRc => vec![StopAction::Signal(libc::SIGTERM)],
        Init::SysVinit => vec![runlevel(b'0')],
        Init::Runit => runit(0),
        // With the scripts of s6-linux-init-maker(1) for s6-svscan(1), SIGUSR1 powers off and SIGTERM is
        // ignored. Without them, s6-svscan ignores the first signal and exits after the second.
        Init::S6 => vec![StopAction::Signal(libc::SIGUSR1), StopAction::Signal(libc::SIGTERM)],
        // dinit(8), SIGNALS: stops services and halts.
        Init::Dinit => vec![StopAction::Signal(libc::SIGTERM)],
        // init of busybox(1): the signal of its poweroff applet.
        Init::Busybox => vec![StopAction::Signal(libc::SIGUSR2)],
        Init::Unknown => vec![StopAction::Signal(libc::SIGTERM)],
    }
}

/// Returns the actions, in order, that request a reboot.
pub(crate) fn orderly_reboot(init: Init) -> Vec<StopAction> {
    match init {
        // systemd(1), SIGNALS: reboot.target.
        Init::Systemd => vec![StopAction::Signal(SIGRTMIN + 5)],
        Init::SysVinit => vec![runlevel(b'6')],
        Init::Runit => runit(EXECUTABLE),
        // init of busybox(1): the signal of its reboot applet.
        Init::Busybox => vec![StopAction::Signal(libc::SIGTERM)],
        // The kernel's signal to PID 1 for ctrl-alt-del, reboot(2); s6-linux-init, dinit(8), openrc-init and
        // most other inits reboot with it.
        Init::OpenRc | Init::S6 | Init::Dinit | Init::Unknown => vec![StopAction::Signal(libc::SIGINT)],
    }
}

/// Returns the request of telinit(8) to init(8) of sysvinit to change the runlevel: `struct init_request` of
/// its initreq.h, 384 bytes. The FIFO of Debian is in /run, that of other distributions in /dev.
fn runlevel(level: u8) -> StopAction {
    const MAGIC: i32 = 0x0309_1969;
    const CHANGE_RUNLEVEL: i32 = 1;
    // The time between SIGTERM and SIGKILL for init's own processes; telinit's default.
    const SECONDS: i32 = 3;

    let mut bytes = Vec::with_capacity(384);
    for word in [MAGIC, CHANGE_RUNLEVEL, i32::from(level), SECONDS] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.resize(384, 0);
    StopAction::WriteFifo { paths: &["/run/initctl", "/dev/initctl"], bytes }
}

/// The mode that enables a file of runit(8): executable by its owner.
const EXECUTABLE: u32 = 0o100;

/// Returns the actions of runit-init(8) for `init 0` and `init 6`: the modes of two files determine whether
/// runit(8) handles SIGCONT, and whether it reboots after stage 3. Both are symbolic links into /run if the
/// root may be read-only (Debian, Void).
fn runit(reboot: u32) -> Vec<StopAction> {
    let missing = if reboot == 0 { MissingFile::Skip } else { MissingFile::Create };
    vec![
        StopAction::SetMode { path: "/etc/runit/reboot", mode: reboot, missing },
        StopAction::SetMode { path: "/etc/runit/stopit", mode: EXECUTABLE, missing: MissingFile::Create },
        StopAction::Signal(libc::SIGCONT),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_has_signals_of_its_own() {
        assert_eq!(orderly_stop(Init::Systemd, None), [StopAction::Signal(38)]);
        assert_eq!(orderly_reboot(Init::Systemd), [StopAction::Signal(39)]);
    }

    #[test]
    fn the_signal_of_the_definition_wins() {
        for init in [Init::Systemd, Init::SysVinit, Init::Runit, Init::Unknown] {
            assert_eq!(orderly_stop(init, Some(37)), [StopAction::Signal(37)]);
        }
    }

    #[test]
    fn sysvinit_gets_the_request_of_telinit() {
        let [StopAction::WriteFifo { paths, bytes }] = &orderly_stop(Init::SysVinit, None)[..] else {
            panic!("not one request");
        };
        assert_eq!(paths[0], "/run/initctl");
        assert_eq!(bytes.len(), 384);
        if cfg!(target_endian = "little") {
            assert_eq!(bytes[..16], [0x69, 0x19, 0x09, 0x03, 1, 0, 0, 0, b'0', 0, 0, 0, 3, 0, 0, 0]);
        }
        assert!(bytes[16..].iter().all(|byte| *byte == 0));
        let [StopAction::WriteFifo { bytes, .. }] = &orderly_reboot(Init::SysVinit)[..] else {
            panic!("not one request");
        };
        assert_eq!(bytes[8..12], i32::from(b'6').to_ne_bytes());
    }

    #[test]
    fn runit_needs_its_files_before_the_signal() {
        let off = orderly_stop(Init::Runit, None);
        assert_eq!(
            off[0],
            StopAction::SetMode { path: "/etc/runit/reboot", mode: 0, missing: MissingFile::Skip }
        );
        assert_eq!(off[2], StopAction::Signal(libc::SIGCONT));
        assert!(matches!(
            off[1],
            StopAction::SetMode { path: "/etc/runit/stopit", mode: 0o100, missing: MissingFile::Create }
        ));
        let reboot = orderly_reboot(Init::Runit);
        assert!(matches!(reboot[0], StopAction::SetMode { mode: 0o100, missing: MissingFile::Create, .. }));
        assert_eq!(off[1..], reboot[1..]);
    }

    #[test]
    fn a_power_off_request_never_reboots() {
        for init in [Init::OpenRc, Init::S6, Init::Dinit, Init::Busybox, Init::Unknown] {
            let reboot = orderly_reboot(init);
            assert!(orderly_stop(init, None).iter().all(|action| !reboot.contains(action)), "{init:?}");
        }
    }
}
