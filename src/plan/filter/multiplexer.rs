//! The multiplexers of 32 bit x86: system calls with the number of another call as the first argument. Facts
//! only, read by `decide` and `program`.

/// A multiplexer.
#[derive(Debug)]
pub(crate) struct Multiplexer {
    /// Its name.
    pub(crate) name: &'static str,
    /// The bits of the first argument that the kernel uses.
    pub(crate) mask: u32,
    /// The calls that it makes, by their numbers in the first argument.
    pub(crate) calls: &'static [(u32, &'static str)],
}

/// socketcall(2), `SYS_*` of linux/net.h. Its `send` and `recv` are `sendto` and `recvfrom` without an
/// address.
pub(crate) const SOCKETCALL: Multiplexer = Multiplexer {
    name: "socketcall",
    mask: u32::MAX,
    calls: &[
        (1, "socket"),
        (2, "bind"),
        (3, "connect"),
        (4, "listen"),
        (5, "accept"),
        (6, "getsockname"),
        (7, "getpeername"),
        (8, "socketpair"),
        (9, "sendto"),
        (10, "recvfrom"),
        (11, "sendto"),
        (12, "recvfrom"),
        (13, "shutdown"),
        (14, "setsockopt"),
        (15, "getsockopt"),
        (16, "sendmsg"),
        (17, "recvmsg"),
        (18, "accept4"),
        (19, "recvmmsg"),
        (20, "sendmmsg"),
    ],
};

/// ipc(2), linux/ipc.h.
pub(crate) const IPC: Multiplexer = Multiplexer {
    name: "ipc",
    mask: 0xffff,
    calls: &[
        (1, "semop"),
        (2, "semget"),
        (3, "semctl"),
        (4, "semtimedop"),
        (11, "msgsnd"),
        (12, "msgrcv"),
        (13, "msgget"),
        (14, "msgctl"),
        (21, "shmat"),
        (22, "shmdt"),
        (23, "shmget"),
        (24, "shmctl"),
    ],
};
