//! The arguments and the environment of this process as procfs shows them.

use std::ffi::{CStr, CString};

/// The addresses that procfs shows (PR_SET_MM(2const), `struct prctl_mm_map`).
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Replaces the name, the arguments and the environment of this process in procfs, for a child that has those
/// of its parent and does not execute another program. On a kernel without CONFIG_CHECKPOINT_RESTORE both are
/// overwritten.
pub(crate) fn replace_title(name: &CStr, environment: &[CString]) {
    let _ = rustix::thread::set_name(name);
    super::forget_environment();
    crate::sys::entry::forget_arguments();
    let arguments = name.to_bytes_with_nul().to_vec();
    let environment: Vec<u8> =
        environment.iter().flat_map(|line| line.to_bytes_with_nul().to_vec()).collect();
    // They stay: procfs reads them as long as the process exists.
    let (arguments, environment): (&[u8], &[u8]) = (arguments.leak(), environment.leak());
    let Some(map) = shown_memory(arguments, environment) else { return };
    // SAFETY: the structure has the size that is passed and lives across the call. The kernel checks the
    // addresses, and only shows the memory there.
    unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            std::ptr::from_ref(&map),
            std::mem::size_of::<MemoryMap>(),
            0,
        )
    };
}

/// Returns the addresses of this process, with other ones of the arguments and the environment. `None` without
/// procfs.
fn shown_memory(arguments: &[u8], environment: &[u8]) -> Option<MemoryMap> {
    let text = crate::sys::pseudo_file::read("/proc/self/stat").ok()?;
    // The second field, the name in parentheses, may contain blanks.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    // Numbers of proc_pid_stat(5).
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    // SAFETY: zero asks for the end of the heap and changes nothing.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0usize) };
    let range = |bytes: &[u8]| {
        let start = bytes.as_ptr().addr() as u64;
        (start, start + bytes.len() as u64)
    };
    let ((arg_start, arg_end), (env_start, env_end)) = (range(arguments), range(environment));
    Some(MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk: u64::try_from(brk).ok()?,
        start_stack: field(28)?,
        arg_start,
        arg_end,
        env_start,
        env_end,
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::MAX,
    })
}
