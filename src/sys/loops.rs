//! Loop devices (loop(4)): block devices of a part of a file. Called by `image`.
//!
//! A device is released by the kernel with its last user, the descriptor or the mount: a killed process
//! leaves none.
#![allow(unsafe_code)]

use crate::error::{Context, Error, Result};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::path::PathBuf;

/// `LOOP_CTL_GET_FREE` of `linux/loop.h`.
const GET_FREE: libc::c_ulong = 0x4c82;
/// `LOOP_GET_STATUS64`.
const GET_STATUS: libc::c_ulong = 0x4c05;
/// `LOOP_CONFIGURE` (Linux 5.8).
const CONFIGURE: libc::c_ulong = 0x4c0a;
/// `LO_FLAGS_READ_ONLY`.
const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`.
const AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`. The kernel ignores it if the file system of the file has none.
const DIRECT_IO: u32 = 16;
/// `LOOP_MAJOR` of `linux/major.h`.
const MAJOR: u32 = 7;
/// The number of attempts: another process may take the free device first.
const ATTEMPTS: usize = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Default)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [[u8; 32]; 4],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A part of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoopPart {
    /// Its first byte.
    pub(crate) offset: u64,
    /// Its size, bytes.
    pub(crate) size: u64,
    /// Whether the device refuses writes.
    pub(crate) read_only: bool,
}

/// A loop device in use.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    /// The open device. It is released with it, unless it is mounted.
    pub(crate) descriptor: OwnedFd,
    /// Its node.
    pub(crate) path: PathBuf,
}

/// Attaches a part of a file to a free loop device.
///
/// # Errors
/// No loop devices in the kernel, no access to them, or none free.
pub(crate) fn attach(file: BorrowedFd<'_>, part: LoopPart, name: &str) -> Result<LoopDevice> {
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open '/dev/loop-control'")
        .map_err(|error| {
            error.with_hint("load the module: modprobe loop; a container needs this device too")
        })?;
    let config = config(file, part, name)?;
    for _ in 0..ATTEMPTS {
        let number = free_number(&control)?;
        let device = open(number, part.read_only)?;
        match configure(&device.descriptor, &config) {
            Ok(()) => return Ok(device),
            // Another process was faster.
            Err(Errno::BUSY) => {}
            Err(errno) => {
                return Err(errno).context(|| format!("cannot attach it to '{}'", device.path.display()));
            }
        }
    }
    Err(Error::from(Errno::BUSY).context("cannot attach it to a loop device: other programs take them all"))
}

fn config(file: BorrowedFd<'_>, part: LoopPart, name: &str) -> Result<LoopConfig> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| Error::new("an invalid descriptor"))?;
    let flags = AUTOCLEAR | DIRECT_IO | if part.read_only { READ_ONLY } else { 0 };
    let mut info = LoopInfo { offset: part.offset, size_limit: part.size, flags, ..LoopInfo::default() };
    // The name of the file is in the first two of the names; its last byte stays zero.
    for (to, from) in info.names.iter_mut().flatten().zip(name.bytes().take(63)) {
        *to = from;
    }
    Ok(LoopConfig { fd, block_size: 0, info, reserved: [0; 8] })
}

fn free_number(control: &OwnedFd) -> Result<u32> {
    // SAFETY: the call has no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) };
    u32::try_from(number)
        .map_err(|_| Error::from(std::io::Error::last_os_error()).context("cannot get a free loop device"))
}

/// Opens the device of a number. Creates its node where `/dev` has none: in a container.
fn open(number: u32, read_only: bool) -> Result<LoopDevice> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let flags = if read_only { OFlags::RDONLY } else { OFlags::RDWR } | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opening = || format!("cannot open '{}'", path.display());
    let descriptor = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let device = rustix::fs::makedev(MAJOR, number);
            let mode = Mode::from_raw_mode(0o660);
            match rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::BlockDevice, mode, device) {
                Err(Errno::EXIST) | Ok(()) => {}
                Err(errno) => return Err(errno).context(|| format!("cannot create '{}'", path.display())),
            }
            rustix::fs::open(&path, flags, Mode::empty()).context(opening)?
        }
        opened => opened.context(opening)?,
    };
    let found = rustix::fs::fstat(&descriptor).context(opening)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::BlockDevice
        || found.st_rdev != rustix::fs::makedev(MAJOR, number)
    {
        return Err(Error::new(format!("'{}' is not loop device {number}", path.display())));
    }
    Ok(LoopDevice { descriptor, path })
}

/// Returns the loop device that uses a part of a file together with another one of which at least one is
/// written to: two mounts of a file system destroy it. `None` if there is none. Devices that cannot be looked
/// at do not count.
pub(crate) fn conflicting(file: BorrowedFd<'_>, part: LoopPart) -> Option<PathBuf> {
    let own = rustix::fs::fstat(file).ok()?;
    let end = part.offset.saturating_add(part.size);
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix("loop")?.parse::<u32>().ok();
    for entry in std::fs::read_dir("/sys/block").ok()?.flatten() {
        let Some(number) = number(&entry.file_name()) else { continue };
        if !entry.path().join("loop").exists() {
            continue;
        }
        let Some((device, found)) = open(number, true).ok().and_then(|device| {
            let found = status(&device.descriptor)?;
            Some((device, found))
        }) else {
            continue;
        };
        let is_same = (found.device, found.inode) == (own.st_dev, own.st_ino);
        let other_end =
            if found.size_limit == 0 { u64::MAX } else { found.offset.saturating_add(found.size_limit) };
        let overlaps = found.offset < end && part.offset < other_end;
        if is_same && overlaps && !(part.read_only && found.flags & READ_ONLY != 0) {
            return Some(device.path);
        }
    }
    None
}

/// Returns the state of a device. `None` if it is free.
fn status(device: &OwnedFd) -> Option<LoopInfo> {
    let mut info = LoopInfo::default();
    // SAFETY: the kernel writes one `struct loop_info64`.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS as _, std::ptr::from_mut(&mut info)) };
    (result == 0).then_some(info)
}

fn configure(device: &OwnedFd, config: &LoopConfig) -> rustix::io::Result<()> {
    const { assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304) };
    // SAFETY: the configuration has the layout that the kernel reads, and lives across the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, std::ptr::from_ref(config)) };
    if result == -1 {
        let number = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(number));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    /// Returns the file behind a device. `None` if it is free.
    fn backing(device: &LoopDevice) -> Option<String> {
        let name = device.path.file_name().unwrap().to_str().unwrap();
        std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
    }

    #[test]
    fn a_part_of_a_file_is_a_device_until_it_is_closed() {
        if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/loop-control").exists() {
            return;
        }
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("disk.raw");
        let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(&[7; 1 << 20]).unwrap();
        file.write_all_at(b"here", 1 << 19).unwrap();
        let part = LoopPart { offset: 1 << 19, size: 4096, read_only: false };
        let devices = [0, 1].map(|_| attach(file.as_fd(), part, "disk.raw").unwrap());
        assert_ne!(devices[0].path, devices[1].path);
        for device in devices {
            let shown = backing(&device).unwrap();
            assert!(shown.trim_end().ends_with("disk.raw"), "{shown}");
            let opened = std::fs::File::from(device.descriptor.try_clone().unwrap());
            let mut bytes = [0; 4];
            opened.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"here");
            assert!(conflicting(file.as_fd(), part).is_some());
            assert!(conflicting(file.as_fd(), LoopPart { offset: 0, ..part }).is_none());
            assert!(opened.read_exact_at(&mut bytes, 4096).is_err());
            let flags = rustix::io::fcntl_getfd(&device.descriptor).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            drop(opened);
            let name = LoopDevice { descriptor: file.try_clone().unwrap().into(), path: device.path.clone() };
            drop(device);
            // Another program may have taken the device since.
            assert!(backing(&name).is_none_or(|other| !other.contains(path.to_str().unwrap())));
        }
    }
}
