//! Files and what they mean to Coracle and to systemd-nspawn.

use super::{TRUSTED, UNTRUSTED};

/// A run in the foreground: the place and text of the file, the options and the command.
pub struct Case {
    pub place: &'static str,
    pub file: &'static str,
    pub words: &'static [&'static str],
    /// A part of the output of both programs. `None` if both fail.
    pub shown: Option<&'static str>,
}

/// Many settings.
const FULL: &str = "[Exec]\nEnvironment=FILE=yes\nHostname=by-file\nWorkingDirectory=/srv\nNoNewPrivileges=yes\n\
    DropCapability=CAP_NET_RAW CAP_SYS_CHROOT\nMachineID=6d1d3ac0-8d0f-4d2a-9a0c-0123456789ab\n[Files]\n\
    BindReadOnly=/srv/a\\:b:/bound\nTemporaryFileSystem=/scratch\n[Network]\nPrivate=yes\n";

/// Runs in the foreground.
pub const CASES: &[Case] = &[
    Case {
        place: TRUSTED,
        file: FULL,
        words: &["show"],
        shown: Some("by-file file=yes option= bound=found scratch=tmpfs links=lo,\n"),
    },
    Case {
        place: UNTRUSTED,
        file: FULL,
        words: &["show"],
        shown: Some("by-file file=yes option= bound= scratch= links=lo,outer,\n"),
    },
    Case {
        place: UNTRUSTED,
        file: FULL,
        words: &["--settings=trusted", "show"],
        shown: Some("bound=found scratch=tmpfs links=lo,\n"),
    },
    Case {
        place: TRUSTED,
        file: FULL,
        words: &["--settings=no", "show"],
        shown: Some("web file= option= bound= scratch= links=lo,outer,\n"),
    },
    Case {
        place: TRUSTED,
        file: FULL,
        words: &["-E", "OPTION=yes", "--tmpfs=/other", "--network-veth", "--hostname=by-option", "show"],
        shown: Some("by-option file= option=yes bound= scratch= links=host0,lo,\n"),
    },
    Case {
        place: TRUSTED,
        file: FULL,
        words: &[
            "--settings=override",
            "-E",
            "OPTION=yes",
            "--tmpfs=/other",
            "--network-veth",
            "--chdir=/root",
            "show",
        ],
        shown: Some("by-file file=yes option= bound=found scratch=tmpfs links=lo,\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nBoot=no\nParameters=show 'a b' \"c\\td\" e\\x41 \\\n# comment\n   last\n",
        words: &[],
        shown: Some("arguments=<a b><c\\td><e\\x41><last>\npid=1\n"),
    },
    Case {
        place: UNTRUSTED,
        file: "[Exec]\nProcessTwo=yes\nParameters=show x\n",
        words: &[],
        shown: Some("arguments=<x>\npid=2\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nProcessTwo=yes\nParameters=show x\n",
        words: &["show", "y"],
        shown: Some("arguments=<y>\npid=1\n"),
    },
    Case { place: TRUSTED, file: "[Exec]\nParameters=show x\n", words: &[], shown: Some("") },
    Case {
        place: TRUSTED,
        file: "[Files]\nReadOnly=yes\n",
        words: &["sh", "-c", "touch /x && echo w || echo r"],
        shown: Some("r\n"),
    },
    Case {
        place: UNTRUSTED,
        file: "[Files]\nVolatile=overlay\n",
        words: &["sh", "-c", "touch /x && echo w"],
        shown: Some("w\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nSystemCallFilter=~chroot\n",
        words: &["sh", "-c", "chroot / true 2>/dev/null || echo denied"],
        shown: Some("denied\n"),
    },
    Case {
        place: TRUSTED,
        file: "Stray=1\n[Exec]\nBoot=perhaps\nUnknown=1\nX-Mine=2\nno assignment\n=1\nCapability=CAP_NONE\nKillSignal=NONE\n\
               Environment=FILE=yes\n[Other]\nKey=1\n[Files]\nBind=relative\n[Network]\nPort=nonsense\n",
        words: &["show"],
        shown: Some("file=yes"),
    },
    Case { place: TRUSTED, file: "[Network]\nMACVLAN=not/valid\n", words: &["true"], shown: None },
    Case { place: TRUSTED, file: "[Exec\nBoot=no\n", words: &["true"], shown: None },
    Case {
        place: TRUSTED,
        file: "[Network]\nVirtualEthernet=yes\n",
        words: &["show"],
        shown: Some("links=host0,lo,\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Network]\nZone=lan\n",
        words: &["show"],
        shown: Some("links=host0,lo,\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Network]\nVirtualEthernetExtra=ve-x:lan1\n",
        words: &["show"],
        shown: Some("links=lan1,lo,\n"),
    },
    Case {
        place: TRUSTED,
        file: "\u{feff}[Exec]\r\nBoot=no\r\nHostname=crlf\r\nParameters=show \\\r\n  a\r\n",
        words: &[],
        shown: Some("crlf file= option="),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nBoot=no\nParameters='b c\nParameters=show c\n",
        words: &[],
        shown: Some(""),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nBoot=no\nParameters=show a\nParameters=\nParameters=show '' x\"y z\"\n",
        words: &[],
        shown: Some("arguments=<><xy z>\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nCapability=CAP_SYS_TIME cap_sys_module CAP_NONE\nDropCapability=CAP_MKNOD\n",
        words: &["show"],
        shown: Some("CapBnd"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nCapability=all\nDropCapability=CAP_NET_RAW\n",
        words: &["show"],
        shown: Some("CapBnd"),
    },
    Case {
        place: UNTRUSTED,
        file: "[Exec]\nCapability=CAP_SYS_TIME\nDropCapability=all\n",
        words: &["show"],
        shown: Some("CapBnd:\t0000000000000000\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nCapability=CAP_SYS_TIME\n",
        words: &["--capability=CAP_SYS_MODULE", "show"],
        shown: Some("CapBnd"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nCapability=CAP_SYS_TIME\n",
        words: &["--settings=override", "--capability=CAP_SYS_MODULE", "show"],
        shown: Some("CapBnd"),
    },
    Case {
        place: UNTRUSTED,
        file: "[Exec]\nPrivateUsers=pick\n",
        words: &["sh", "-c", "cut -c 22- /proc/self/uid_map"],
        shown: Some("4294967295\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nPrivateUsers=0\n",
        words: &["-U", "--settings=override", "sh", "-c", "cut -c 22- /proc/self/uid_map"],
        shown: Some("4294967295\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nPrivateUsers=identity\n",
        words: &["sh", "-c", "cat /proc/self/uid_map"],
        shown: Some("65536\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nEphemeral=yes\n",
        words: &["sh", "-c", "touch /left && echo w"],
        shown: Some("w\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Files]\nInaccessible=/var/www\n",
        words: &["sh", "-c", "ls -A /var/www | wc -l; stat -c %a /var/www"],
        shown: Some("0\n0\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Files]\nBind=/srv/a\\:b:/bound:norbind\nBind=/srv/a\\:b/file:/etc/new-file\n",
        words: &["sh", "-c", "cat /bound/file /etc/new-file; touch /bound/x; rm /bound/x"],
        shown: Some("found\nfound\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Files]\nTemporaryFileSystem=/scratch:size=1M,mode=1700\nTemporaryFileSystem=/srv/b\n",
        words: &[
            "sh",
            "-c",
            "stat -c %a /scratch /srv/b; df -k /scratch | tail -n 1 | tr -s \" \" | cut -d\" \" -f2",
        ],
        shown: Some("1700\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Files]\nVolatile=state\n",
        words: &["sh", "-c", "touch /x 2>/dev/null || echo r; touch /var/x && echo w"],
        shown: Some("r\nw\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Files]\nVolatile=yes\n",
        words: &["sh", "-c", "touch /x && echo w; touch /usr/x 2>/dev/null || echo r"],
        shown: Some("w\nr\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Files]\nReadOnly=yes\nVolatile=no\n",
        words: &["--read-only", "sh", "-c", "touch /x 2>/dev/null || echo r"],
        shown: Some("r\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nResolvConf=copy-host\n[Network]\nPrivate=yes\n",
        words: &["sh", "-c", "cat /etc/resolv.conf | md5sum"],
        shown: Some("-\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nResolvConf=no\n",
        words: &["sh", "-c", "rm -f /etc/resolv.conf; true"],
        shown: Some(""),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nMachineID=6d1d3ac08d0f4d2a9a0c0123456789ab\nMachineID=wrong\n",
        words: &["show"],
        shown: Some("6d1d3ac0-8d0f"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nMachineID=6d1d3ac08d0f4d2a9a0c0123456789ab\n",
        words: &["--uuid=7d1d3ac08d0f4d2a9a0c0123456789ab", "show"],
        shown: Some("web file="),
    },
    Case {
        place: TRUSTED,
        file: "[Network]\nBridge=outer\n",
        words: &["show"],
        shown: Some("links=host0,lo,\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Network]\nMACVLAN=outer\n",
        words: &["show"],
        shown: Some("links=lo,mv-outer,\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Network]\nVirtualEthernet=yes\nPort=8080:80\nPort=tcp:8080:80\nPort=0\n",
        words: &["show"],
        shown: Some("links=host0,lo,\n"),
    },
    Case { place: TRUSTED, file: "[Network]\nPort=8080:80\n", words: &["show"], shown: None },
    Case {
        place: TRUSTED,
        file: "[Network]\nPrivate=\n",
        words: &["show"],
        shown: Some("links=lo,outer,\n"),
    },
    Case {
        place: TRUSTED,
        file: "[Exec]\nPrivateUsers=pick\n",
        words: &["sh", "-c", "cut -c 22- /proc/self/uid_map"],
        shown: Some("65536\n"),
    },
];

/// The place and text of a file, and a part of the output of `show` in a unit.
pub const UNITS: &[(&str, &str, &str)] = &[
    (TRUSTED, "", "web file= option= bound= scratch= links=host0,lo,\n"),
    (TRUSTED, FULL, "by-file file= option= bound=found scratch=tmpfs links=lo,\n"),
    (UNTRUSTED, FULL, "by-file file= option= bound= scratch= links=host0,lo,\n"),
    (TRUSTED, "[Network]\nPrivate=no\n", "links=lo,outer,\n"),
    (TRUSTED, "[Network]\nVirtualEthernet=no\n", "links=lo,outer,\n"),
    (TRUSTED, "[Network]\nVirtualEthernet=no\nPrivate=yes\n", "links=lo,\n"),
    (TRUSTED, "[Network]\nZone=lan\n[Files]\nPrivateUsersOwnership=off\n", "links=host0,lo,\n"),
    (UNTRUSTED, "[Network]\nPrivate=no\n[Exec]\nPrivateUsers=no\nCapability=all\n", "links=host0,lo,\n"),
];
