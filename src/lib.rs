//! Coracle boots whole root file systems as machines. This page is the map: where things live,
//! which way data flows, and the rules that keep it so. `tests/architecture.rs` holds us to it.
//!
//! # One way through
//!
//! ```text
//! flags ┐                                                   ┌─► supervisor ◄─channel─► builder, PID 1
//!       ├─► config::Layer ─► machine::Machine ─► plan::Plan ┘       │
//! TOML  ┘      (said)            (meant)             ▲ (to do)      ▼ (done)
//!                                      plan::Facts ──┘    state::record::Record ─► control, cleanup
//!                                      (found by host)
//! ```
//!
//! *Said → meant → to do → done.* Each stage has its own type, and a value that exists is valid:
//! there is no `validate()` to remember. All problems of a definition are reported together, before
//! anything on the host is touched. [`run`] is this drawing as code, on one page.
//!
//! **Folders are stages. Files inside a stage are features, and a feature has the same noun in every
//! stage.** Where do bind mounts live? What they are: `machine/mounts.rs`. What will be done:
//! `plan/mounts.rs`. Doing it: `payload/mounts.rs`.
//!
//! # Stages, and who may use whom
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`error`] | the one error type: chain, hint, exit status | nothing |
//! | [`machine`] | what a machine is; can be read alone | nothing |
//! | [`paths`] | every place on the host, below one root | `machine` (its name) |
//! | [`sys`] | system calls no library has; the only `unsafe` | nothing |
//! | [`config`] | which files count; text → layers → a machine; the only place with defaults | `machine`, `paths` |
//! | [`channel`] | the typed channel between parent and children | nothing |
//! | [`plan`] | pure: a machine and facts → steps for three processes | `machine`, `channel` (its synchronisation points), `sys` (its plain data) |
//! | [`payload`] | the children: a loop over steps each | `plan` (its steps), `channel`, `sys` |
//! | [`host`] | systemd, cgroups, root trees, locks and processes of the host | `machine`, `paths`, `plan` (what it asks for), `sys` |
//! | [`network`] | links, addresses, DHCP, names, the firewall | `machine`, `paths`, `host`, `sys` |
//! | [`state`] | files about machines: records, failures, bind mounts, id ranges | `machine`, `paths`, `host`, `network`, `sys` |
//! | [`supervisor`] | the parent: host steps, meetings, the event loop, undoing | all above but `config` |
//! | [`generator`] | definitions → properties of units, for systemd | `machine`, `paths`, `config` |
//! | [`control`] | the verbs: one function each, no output | `machine`, `paths`, `config`, `host`, `network`, `state`, `sys`, `generator`; for `exec` and `bind` also `plan`, `channel`, `payload` |
//! | [`run`] | the pipeline on one page | all above, and the output of `cli` |
//! | [`cli`] | one file per verb: arguments, help, output | `machine`, `paths`, `config`, `control`, `run` |
//! | `main` | parses, calls, prints the errors, exits | `cli`, `run`, `control`, `generator`, `paths` |
//!
//! Everybody uses `error`. What it buys: the children cannot name configuration, bus or journal, so
//! nothing of the host leaks into them by accident; a plan is tested as text; a newcomer knows the
//! room.
//!
//! # Processes
//!
//! ```text
//! supervisor  (host's namespaces)
//!  ├─ builder (the host's rights, a mount namespace of the host's kind, the machine's pid, ipc,
//!  │           net and cgroup namespaces): makes the tree, ends
//!  └─ PID 1   (user, pid, ipc, uts, net, cgroup and last a mount namespace): becomes the payload
//! ```
//!
//! *Two children.* A mount namespace that a less privileged user namespace copies from a more
//! privileged one has all its mounts locked together: none can be taken off, and what one covers
//! cannot be seen again (mount_namespaces(7)). So PID 1 mounts nothing. The builder, which has the
//! rights of the host, makes the whole tree, and PID 1 copies its mount namespace into its user
//! namespace: root inside cannot unmount a mask, nor reach below one. Without a user namespace there
//! is no such lock.
//!
//! *Clone first, single-threaded.* Children are cloned from a process of one thread; [`sys`] refuses
//! otherwise. tokio is the `current_thread` flavour, and no event loop of it outlives a call.
//!
//! *Three acts in one process.* `launch` does everything heavy: definitions, D-Bus, netlink. When the
//! machine runs, it executes itself again as `supervise`, handing over descriptors and a letter of
//! terms ([`supervisor::handover`]): the same pid, the same child, a fresh address space that holds
//! one event loop, with few capabilities, and nobody may look into it. A guest that reboots leads back
//! to `launch`. At the end, and in the unit's `ExecStopPost=`, `cleanup` undoes. In the foreground all
//! acts are in one address space.
//!
//! *The state record is the undo list.* Before a step makes anything that could outlive us, the
//! record in `/run/coracle/NAME` names it; `cleanup` removes what the record names, goes on
//! after errors, and removes the record last. So one way of undoing serves a failed step, an ordinary
//! end, a supervisor that was killed, and the next start.
//!
//! # Meetings
//!
//! ```text
//! supervisor                          PID 1                       builder
//! clone ────────────────────────────► Cloned
//! map ids, release ─────────────────► enter a cgroup namespace
//!                                     Unshared
//! build ────────────────────────────────────────────────────────► make the tree
//! link, register                                                  │
//! built ◄─────────────────────────────────────────── Done, console┘
//! release ──────────────────────────► copy the mounts, drop rights
//!                                     Ready
//! release ──────────────────────────► execute: the channel ends
//! ```
//!
//! [`channel::SyncPoint`] declares the synchronisation points, in the order of the protocol; a test over all golden plans
//! asserts that both sides meet in it. The children report, the parent speaks: a child never prints
//! and never logs, its failure is a message that names the step, the cause and where known the hint.
//! What a child says is untrusted: bounded, decoded into a value or an error, never a panic.
//!
//! # Steps
//!
//! A step is data and one short `run`. It takes no decision that [`plan`] could have taken. The order
//! is written in one place ([`plan::make`]) with the reason beside each line. `describe()` is the
//! debug log, the `--dry-run` output and the context of an error at once.

pub mod channel;
pub mod cli;
pub mod config;
pub mod control;
pub mod error;
pub mod generator;
pub mod host;
pub mod machine;
pub mod network;
pub mod paths;
pub mod payload;
pub mod plan;
pub mod protocol;
pub mod run;
pub mod state;
pub mod supervisor;
pub mod sys;
