//! Loads a system-call filter (seccomp(2)).
#![allow(unsafe_code)]

/// One instruction of classic BPF, `struct sock_filter` of `linux/filter.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub(crate) code: u16,
    /// Offset of the next instruction if a comparison is true.
    pub(crate) jt: u8,
    /// Offset of the next instruction if it is false.
    pub(crate) jf: u8,
    /// The operand.
    pub(crate) k: u32,
}

/// Installs a filter for this process and all its children, permanently.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN and `no_new_privs`, `EINVAL` for an invalid program.
pub fn install(program: &[Instruction]) -> std::io::Result<()> {
    #[repr(C)]
    struct SockFprog {
        length: u16,
        instructions: *const Instruction,
    }
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let length = u16::try_from(program.len()).map_err(|_| rustix::io::Errno::INVAL)?;
    let program = SockFprog { length, instructions: program.as_ptr() };
    // SAFETY: the program lives across the call, which copies it; `SockFprog` and `Instruction`
    // have the layout of sock_fprog and sock_filter.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program)) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
