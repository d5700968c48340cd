//! Terminals: window size, raw mode, and the controlling terminal.
#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::termios::{OptionalActions, Termios};

/// Makes a terminal the controlling one of this session leader.
///
/// # Errors
/// Any error of ioctl_tty(2), TIOCSCTTY.
pub(crate) fn take_control(terminal: BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// Gives up the controlling terminal of this session leader, if it is this one (ioctl_tty(2), TIOCNOTTY).
pub(crate) fn give_up_control(terminal: BorrowedFd<'_>) {
    // SAFETY: the request has no argument, and the descriptor is borrowed for the call.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
}

/// Sets a terminal to raw mode and returns its former settings.
///
/// # Errors
/// Any error of tcsetattr(3).
pub(crate) fn make_raw(terminal: BorrowedFd<'_>) -> std::io::Result<Termios> {
    let before = rustix::termios::tcgetattr(terminal)?;
    let mut raw = before.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
    Ok(before)
}

/// Restores a terminal's settings and discards unread input: a guest can make the terminal reply to a query,
/// which the shell would read as typed text.
pub(crate) fn restore(terminal: BorrowedFd<'_>, settings: &Termios) {
    let _ = rustix::termios::tcsetattr(terminal, OptionalActions::Flush, settings);
}

/// Copies the window size of one terminal to another.
pub(crate) fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = rustix::termios::tcgetwinsize(from) {
        let _ = rustix::termios::tcsetwinsize(to, size);
    }
}

/// Sets the window size of a terminal.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags};
    use rustix::fd::AsFd;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    #[test]
    fn unread_input_is_discarded() {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let side = std::fs::File::options().read(true).write(true).open(name).unwrap();
        let before = make_raw(side.as_fd()).unwrap();
        // The reply of a terminal to a query printed by a guest.
        rustix::io::write(&terminal, b"\x1b[?1;2c\n").unwrap();
        // The kernel forwards it from a queue.
        let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut watched = [PollFd::new(&side, PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut watched, Some(&limit)), Ok(1));
        restore(side.as_fd(), &before);
        assert_eq!(rustix::io::ioctl_fionread(&side).unwrap(), 0);
    }
}
