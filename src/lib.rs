//! Coracle boots whole root file systems as machines. This page is the map: the modules, the flow of data,
//! and the rules for both. `tests/architecture.rs` enforces them.
//!
//! # One way through
//!
//! ```text
//! flags ┐
//!       ├─► config::Layer ─► machine::Machine ─► claim::Claims ─► image::attach ─► plan::Facts ─► plan::Plan
//! files ┘      (said)            (meant)           (claimed)       (attached)      (found)      (planned)
//!                                                     │                                             │
//!                                           state::record::Record ◄─ supervisor ◄───────────────────┘
//!                                                     │               (done)  ◄─channel─► builder, PID 1
//!                                                     └─► control, cleanup
//! ```
//!
//! *Said → meant → claimed → attached → found → planned → done.* Each stage has its own type, and a value
//! that exists is valid: there is no `validate()`. All problems of a definition are reported together, before
//! the host is changed. What a machine uses exclusively (name, root, ids, addresses, ports) is chosen and
//! locked in one call and named in the state record before anything is created. [`run`] is this picture as
//! code, on one page.
//!
//! **Folders are stages. Files inside a stage are features, and a feature has the same noun in every stage.**
//! Mounts, for example: `machine/mounts.rs` defines them, `plan/mounts.rs` plans the steps,
//! `payload/mounts.rs` carries them out.
//!
//! # Stages and their dependencies
//!
//! | module | content | may use |
//! |---|---|---|
//! | [`error`] | the one error type: chain, hint, exit status | – |
//! | [`machine`] | plain types of a machine; readable alone | – |
//! | [`paths`] | all paths of the host, below one root; the replacement of files | `machine` (its name) |
//! | [`sys`] | system calls that no library has; the only `unsafe` | – |
//! | [`tree`] | walks, writes, archives and removes trees of files | `sys` |
//! | [`config`] | text → layers → a machine; the only place with defaults | `machine`, `paths`, `image` (names, inits of stacks) |
//! | [`channel`] | the typed channel between parent and children | – |
//! | [`plan`] | pure: a machine and facts → steps for three processes | `machine`, `channel` (its synchronisation points), `sys` (its plain data) |
//! | [`payload`] | the children: a loop over steps each | `plan` (its steps), `channel`, `sys` |
//! | [`host`] | systemd, cgroups, root trees, locks and processes of the host | `machine`, `paths`, `plan` (its types), `sys` |
//! | [`network`] | links, addresses, DHCP, names, the firewall | `machine`, `paths`, `host`, `sys` |
//! | [`state`] | files about machines: records, failures, bind mounts, id ranges | `machine`, `paths`, `host`, `network`, `sys` |
//! | [`image`] | names → images, their locks, their mounts, the store of what they share | `machine`, `paths`, `host`, `state`, `sys`, `tree` |
//! | [`protocol`] | calls and replies at a machine's control socket, for both sides | `machine` (its ports), `network` (the traffic policy) |
//! | [`claim`] | chooses and locks name, root, ids, addresses and ports; writes the record | `machine`, `paths`, `host`, `network`, `state`, `image` (locks) |
//! | [`supervisor`] | the parent: host steps, synchronisation, the event loop, cleanup | all above but `config` |
//! | [`generator`] | definitions → properties of units, for systemd | `machine`, `paths`, `config` |
//! | [`control`] | the verbs: one function each, no output | `machine`, `paths`, `config`, `host`, `network`, `state`, `image`, `protocol`, `sys`, `tree`, `generator`; for `exec` and `bind` also `plan`, `channel`, `payload` |
//! | [`ask`] | what users without root ask of the service: verbs, actions, words of jobs, as data | `machine` |
//! | [`service`] | the bus service: decides by polkit, and lets systemd run the verbs | `ask`, `machine`, `paths`, `config`, `host`, `state`, `sys` |
//! | [`run`] | the pipeline on one page | all above, and the output of `cli` |
//! | [`cli`] | one file per verb: arguments, help, output | `machine`, `paths`, `ask`, `config`, `control`, `run` |
//! | `main` | parses, calls, prints the errors, exits | `cli`, `run`, `service`, `control`, `generator`, `paths` |
//!
//! Every module uses `error`. The rules keep configuration, bus and journal out of the children, so that no
//! state of the host leaks into them; they keep plans testable as text, and the place of each feature
//! predictable.
//!
//! # Processes
//!
//! ```text
//! supervisor  (host's namespaces)
//!  ├─ builder (the host's rights, a mount namespace of the host's user namespace, the machine's pid,
//!  │           ipc, net and cgroup namespaces): creates the mount tree, ends
//!  └─ PID 1   (user, pid, ipc, uts, net, cgroup and last a mount namespace): becomes the payload
//! ```
//!
//! *Two children with a user namespace, one without.* If a less privileged user namespace copies a mount
//! namespace, all mounts of the copy are locked together: they cannot be unmounted, and covered files stay
//! covered (mount_namespaces(7)). So PID 1 mounts nothing. The builder, with the rights of the host, creates
//! the whole tree, and PID 1 copies its mount namespace into its user namespace: root inside cannot unmount a
//! mask. Without a user namespace there is no such lock, and PID 1 creates the tree itself.
//!
//! *A machine's mount namespace is a copy of an empty one*, which is pinned once after a boot: no mount of the
//! host is copied, and the root is changed by chroot(2) to the tree attached over the empty root. What is
//! mounted from the host is opened before, or on a visit to the host's namespace. Where the kernel refuses to
//! pin it, the namespace is a copy of the host's, and the root is changed by pivot_root(2).
//!
//! *Clone first, single-threaded.* Children are cloned from a process with one thread; [`sys`] refuses any
//! other. tokio is `current_thread`, and no event loop of it outlives a call, except that of the bus, which ends
//! with the launch (`host::systemd::session`).
//!
//! *A command shares the memory of its client until it is executed* (`exec`), in a machine with ids of its own
//! and without a terminal: no page is copied, and the guest may not trace it. The client waits meanwhile and
//! allocates nothing. If the guest kills the child halfway, the client prints a constant and ends.
//!
//! *Hostile bytes meet no rights.* `import` reads and hashes a stream, a decoder with two pipes decompresses it,
//! and an extractor with throw-away ids, whose file system is the new image, writes it
//! (`src/image/import/pipeline.rs`). Both have a short list of system calls, and all parsers are Rust.
//!
//! *Three acts in one process.* `launch` does the expensive work: definitions, D-Bus, netlink. When the
//! machine runs, it executes itself again as `supervise` and hands over descriptors and state
//! ([`supervisor::handover`]): the same pid and the same child, but a new address space with one event loop
//! and few capabilities, which is not dumpable. A reboot of the guest leads back to `launch`. At the end, and
//! in the unit's `ExecStopPost=`, `cleanup` undoes. In the foreground all acts share one address space.
//!
//! *The state record is the undo list.* Before a step creates anything that could outlive the process, the
//! record in `/run/coracle/NAME` names it; `cleanup` removes everything in the record, continues after
//! errors, and deletes the record last. The same cleanup serves a failed step, an ordinary end, a killed
//! supervisor, and the next start.
//!
//! # Synchronisation points
//!
//! ```text
//! supervisor                          PID 1                       builder
//! clone ────────────────────────────► Cloned
//! map ids, release ─────────────────► enter a cgroup namespace
//!                                     Unshared
//! build ────────────────────────────────────────────────────────► create the tree
//! link, register                                                  │
//! built ◄────────────────────────────────────────── console, Done ┘
//! release ──────────────────────────► copy the mounts, drop rights
//! Ready ◄──────────────────────────── execute: the channel ends
//! ```
//!
//! Without a user namespace PID 1 reports Ready only, and is held there if it has a link or a registration.
//!
//! [`channel::SyncPoint`] declares the synchronisation points, in the order of the protocol; a test over all
//! golden plans checks that both sides reach them in that order. The children report, the parent prints: a
//! child never prints and never logs; its failure is a message with the step, the cause and the hint.
//! Messages of a child are untrusted: bounded, decoded into a value or an error, never a panic.
//!
//! # Steps
//!
//! A step is data and one short `run`. [`plan`] makes all decisions. The order is written in one place
//! ([`plan::make`]) with the reason beside each line. `describe()` serves the debug log, the `--dry-run`
//! output and the context of errors.

// `pub` items are for `main`, the tests and the fuzz targets; all others are `pub(crate)` at most.
#![deny(unreachable_pub, missing_docs, clippy::missing_docs_in_private_items)]
// The documentation is built with private items.
#![allow(rustdoc::private_intra_doc_links)]

pub(crate) mod ask;
pub mod channel;
pub mod claim;
pub mod cli;
pub mod config;
pub mod control;
pub mod error;
pub mod generator;
pub mod host;
pub mod image;
pub mod machine;
pub mod network;
pub mod paths;
pub mod payload;
pub mod plan;
pub mod protocol;
pub mod run;
pub mod service;
pub mod state;
pub mod supervisor;
pub mod sys;
pub mod tree;
