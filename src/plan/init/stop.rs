//! How each init system is asked to power off or to reboot, as data. Called through `plan::init`;
//! `supervisor` and `control` carry it out.

use crate::machine::init::{Init, REAL_TIME_SIGNALS};

/// One thing done to ask a machine's init for something. Paths are resolved inside the machine's
/// root, as its PID 1 sees it at that moment, with the rights of the guest's root; links are refused but for
/// runit's own, into `/run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopAction {
    /// Send a signal to PID 1.
    Signal(i32),
    /// Write bytes, in one write, to the first of these paths that is a FIFO with a reader.
    WriteFifo {
        /// Where the FIFO may be.
        paths: &'static [&'static str],
        /// What is written.
        bytes: Vec<u8>,
    },
    /// Set the permissions of a file.
    SetMode {
        /// The file.
        path: &'static str,
        /// Its permissions, as in chmod(2).
        mode: u32,
        /// What is done where there is no such file.
        missing: MissingFile,
    },
}

/// What is done where there is no file to set the permissions of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingFile {
    /// It is made, empty; its owner is the machine's root.
    Create,
    /// Nothing.
    Skip,
}

/// What systemd(1) counts its signals from.
const SIGRTMIN: i32 = *REAL_TIME_SIGNALS.start();

/// What is done, in order, to make a machine power itself off. A signal that the definition names
/// comes in place of all of it.
///
/// Where the init is not known, or not yet ready to listen, nothing may come of it: the caller has a
/// time limit.
pub fn orderly_stop(init: Init, signal: Option<i32>) -> Vec<StopAction> {
    if let Some(signal) = signal {
        return vec![StopAction::Signal(signal)];
    }
    match init {
        // systemd(1), SIGNALS: poweroff.target.
        Init::Systemd => vec![StopAction::Signal(SIGRTMIN + 4)],
        // openrc-init(8) has no list of signals; the program, from 0.25 on, stops its services and
        // halts. Its FIFO for openrc-shutdown(8) comes to be only when the system is up.
        Init::OpenRc => vec![StopAction::Signal(libc::SIGTERM)],
        Init::SysVinit => vec![runlevel(b'0')],
        Init::Runit => runit(0),
        // What s6-linux-init-maker(1) installs for s6-svscan(1): SIGUSR1 powers off, SIGTERM is
        // ignored. An s6-svscan without that ignores the first and ends by the second.
        Init::S6 => vec![StopAction::Signal(libc::SIGUSR1), StopAction::Signal(libc::SIGTERM)],
        // dinit(8), SIGNALS: stops services and halts.
        Init::Dinit => vec![StopAction::Signal(libc::SIGTERM)],
        // init of busybox(1): power off, as the applet of that name asks for.
        Init::Busybox => vec![StopAction::Signal(libc::SIGUSR2)],
        Init::Unknown => vec![StopAction::Signal(libc::SIGTERM)],
    }
}

/// What is done, in order, to make a machine reboot itself.
pub fn orderly_reboot(init: Init) -> Vec<StopAction> {
    match init {
        // systemd(1), SIGNALS: reboot.target.
        Init::Systemd => vec![StopAction::Signal(SIGRTMIN + 5)],
        Init::SysVinit => vec![runlevel(b'6')],
        Init::Runit => runit(EXECUTABLE),
        // init of busybox(1): reboot, as the applet of that name asks for.
        Init::Busybox => vec![StopAction::Signal(libc::SIGTERM)],
        // The signal that the kernel sends to PID 1 for ctrl-alt-del, see reboot(2); s6-linux-init,
        // dinit(8), openrc-init and most others take it so.
        Init::OpenRc | Init::S6 | Init::Dinit | Init::Unknown => vec![StopAction::Signal(libc::SIGINT)],
    }
}

/// A request to init(8) of sysvinit to change the runlevel, as telinit(8) writes it: `struct
/// init_request` of its initreq.h, 384 bytes. Debian has the FIFO in /run, others in /dev.
fn runlevel(level: u8) -> StopAction {
    const MAGIC: i32 = 0x0309_1969;
    const CHANGE_RUNLEVEL: i32 = 1;
    // Between SIGTERM and SIGKILL to what init started itself; telinit's default.
    const SECONDS: i32 = 3;

    let mut bytes = Vec::with_capacity(384);
    for word in [MAGIC, CHANGE_RUNLEVEL, i32::from(level), SECONDS] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.resize(384, 0);
    StopAction::WriteFifo { paths: &["/run/initctl", "/dev/initctl"], bytes }
}

/// What runit(8) takes for a file that is executable by its owner.
const EXECUTABLE: u32 = 0o100;

/// What runit-init(8) does for `init 0` and `init 6`: whether runit(8) reboots after stage 3 depends
/// on the permissions of a file, and so does whether it heeds SIGCONT. Both are symbolic links into
/// /run where the root may be read-only (Debian, Void).
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
    fn systemd_is_asked_by_its_own_signals() {
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
    fn runit_is_told_by_files_before_the_signal() {
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
    fn powering_off_is_never_what_reboots() {
        for init in [Init::OpenRc, Init::S6, Init::Dinit, Init::Busybox, Init::Unknown] {
            let reboot = orderly_reboot(init);
            assert!(orderly_stop(init, None).iter().all(|action| !reboot.contains(action)), "{init:?}");
        }
    }
}
