//! Known vulnerabilities of container managers: each line is a class of them, with the tests that cover it.
//!
//! | class | examples | test |
//! |---|---|---|
//! | the runtime overwritten through `/proc/PID/exe` | CVE-2019-5736 | `escape`: `the_binary_of_the_host_is_not_writable_from_the_guest`, `exec_is_not_ptraceable_from_the_guest` |
//! | leaked descriptors and working directories | CVE-2024-21626, CVE-2016-9962 | [`inherited`]; for `exec`, `escape`: `exec_passes_no_descriptors_of_the_host` |
//! | links and races at mount targets | CVE-2021-30465, CVE-2019-16884, CVE-2025-31133, -52565, -52881 | [`trees`] |
//! | `/proc` or `/sys` of the image is not a directory | CVE-2019-16884 | [`trees`] |
//! | masks unmounted | CVE-2019-16884 and similar | [`probes`] |
//! | copies out of a container | CVE-2019-14271, CVE-2018-15664 | `escape`: `copied_names_are_escaped_and_special_files_skipped`, `special_files_of_the_guest_do_not_block_copies`; `copy` |
//! | traversal by archives | many | `copy`: archives |
//! | inheritable capabilities, supplementary groups | CVE-2022-24769, CVE-2022-2989 | [`inherited`] |
//! | `setgroups`, id ranges | CVE-2014-8989, CVE-2018-7169 | [`host_side`] |
//! | TIOCSTI, TIOCLINUX | CVE-2017-5226, CVE-2023-1523 | [`probes`]; on terminals of the host, `escape`: `the_terminal_of_the_caller_is_unreachable` |
//! | `release_agent` | CVE-2022-0492 | [`probes`] |
//! | abstract sockets | CVE-2020-15257 | [`inherited`] |
//! | shared keyring | | [`inherited`] |
//! | world-readable metadata | CVE-2016-6349 | [`host_side`] |
//! | the guest's bus and terminals trusted | | [`host_side`], `escape` |
//! | a setuid program of the guest executed by a user of the host | CVE-2025-64507 | [`confinement`] |
//! | state left after a kill, frozen machines | | [`host_side`]; `faults` |
//! | hostile definitions and names | | [`host_side`]; `config` |

mod confinement;
mod host_side;
mod inherited;
mod machines;
mod probes;
mod trees;
