//! Tests of `nspawn`: texts in, layers and problems out.

use super::*;
use crate::config::layer::settings;

/// Parses the text of a file. Returns the settings as `KEY=VALUE@LINE`, and the problems.
fn parsed(trust: Trust, text: &str) -> (Vec<String>, Vec<String>) {
    let (layer, problems) = parse(Path::new("web.nspawn"), trust, text.as_bytes());
    let lines =
        settings().flat_map(|setting| layer.lines(setting).into_iter().map(move |line| (setting, line)));
    let shown = lines.map(|(setting, line)| {
        let origin = line.origin.to_string();
        format!("{}={}@{}", setting.key, line.value, origin.rsplit(':').next().unwrap())
    });
    (shown.collect(), problems.iter().map(ToString::to_string).collect())
}

/// Returns the settings of a trusted text without problems.
fn settings_of(text: &str) -> Vec<String> {
    let (settings, problems) = parsed(Trust::Trusted, text);
    assert!(problems.is_empty(), "{problems:?}");
    settings
}

#[test]
fn a_connection_is_the_most_specific_one_requested() {
    for (lines, expected) in [
        ("Private=yes", "network.mode=\"none\"@2"),
        ("Private=no", "network.mode=\"host\"@2"),
        ("VirtualEthernet=no", "network.mode=\"host\"@2"),
        ("Private=no\nVirtualEthernet=1", "network.mode=\"veth\"@3"),
        ("VirtualEthernet=yes\nBridge=br0", "network.mode=\"bridge\"@3"),
        ("Bridge=br0\nBridge=\nPrivate=yes", "network.mode=\"none\"@4"),
        ("Zone=lan", "network.mode=\"zone\"@2"),
        ("NamespacePath=/run/netns/x", "network.mode=\"namespace\"@2"),
        ("MACVLAN=eth1 eth2:lan", "network.mode=\"macvlan\"@2"),
        ("IPVLAN=eth1", "network.mode=\"ipvlan\"@2"),
        ("Interface=eth1", "network.mode=\"interface\"@2"),
        ("VirtualEthernetExtra=ve-x:lan1", "network.mode=\"none\"@2"),
    ] {
        let settings = settings_of(&format!("[Network]\n{lines}\n"));
        assert_eq!(settings[0], expected, "{lines}: {settings:?}");
    }
    assert_eq!(
        settings_of("[Network]\nPort=80\nPort=udp:53\nPrivate=\n"),
        ["network.ports=\"80:80\"@2", "network.ports=\"53:53/udp\"@3"]
    );
}

#[test]
fn a_start_mode_does_not_contradict_an_earlier_one() {
    let mode = |lines: &str| {
        let (settings, problems) = parsed(Trust::Untrusted, &format!("[Exec]\n{lines}\n"));
        (settings.join(" "), problems.len())
    };
    assert_eq!(mode("Boot=yes"), ("boot=true@2".into(), 0));
    assert_eq!(mode("Boot=no\nBoot=yes"), ("boot=true@3".into(), 0));
    assert_eq!(mode("Boot=no"), ("boot=false@2".into(), 0));
    assert_eq!(mode("ProcessTwo=no"), ("boot=false@2".into(), 0));
    assert_eq!(mode("ProcessTwo=yes"), ("boot=false@2 as-pid2=true@2".into(), 0));
    assert_eq!(mode("Boot=yes\nProcessTwo=yes"), ("boot=true@2".into(), 1));
    assert_eq!(mode("Boot=yes\nBoot=no\nProcessTwo=no"), ("boot=true@2".into(), 1));
    assert_eq!(mode("ProcessTwo=yes\nBoot=yes"), ("boot=false@2 as-pid2=true@2".into(), 1));
    assert_eq!(mode("Boot="), (String::new(), 1));
}

#[test]
fn users_and_ownership_imply_each_other() {
    let users = |lines: &str| settings_of(lines).join(" ");
    assert_eq!(users("[Exec]\nPrivateUsers=0"), "users.private=\"no\"@2");
    assert_eq!(users("[Exec]\nPrivateUsers=managed"), "users.private=\"pick\"@2");
    assert_eq!(
        users("[Files]\nPrivateUsersOwnership=off"),
        "users.private=\"no\"@2 users.ownership=\"off\"@2"
    );
    assert_eq!(
        users("[Exec]\nPrivateUsers=1000000:65536"),
        "users.private=\"1000000:65536\"@2 users.ownership=\"off\"@2"
    );
    assert_eq!(
        users("[Exec]\nPrivateUsers=yes\n[Files]\nPrivateUsersChown=yes"),
        "users.private=\"yes\"@2 users.ownership=\"chown\"@4"
    );
    assert_eq!(
        users("[Files]\nPrivateUsersOwnership=chown"),
        "users.private=\"no\"@2 users.ownership=\"off\"@2"
    );
    for unsupported in ["[Exec]\nPrivateUsers=1000:10", "[Exec]\nPrivateUsersDelegate=2"] {
        let (settings, problems) = parsed(Trust::Trusted, unsupported);
        assert!(settings.is_empty() && problems.len() == 1, "{unsupported}: {settings:?}, {problems:?}");
        assert!(problems[0].starts_with("web.nspawn:2: '"), "{problems:?}");
    }
}

#[test]
fn untrusted_files_lower_rights_only() {
    let text: String = table::SECTIONS
        .iter()
        .flat_map(|section| {
            let keys = keys().filter(move |(of, _)| of == section);
            let value = |key| match key {
                "Capability" => "CAP_NET_ADMIN",
                "MachineID" => "6d1d3ac08d0f4d2a9a0c0123456789ab",
                "PrivateUsers" => "no",
                "PrivateUsersOwnership" => "off",
                "Bind" | "BindReadOnly" | "TemporaryFileSystem" | "Inaccessible" => "/srv",
                "SystemCallFilter" => "keyctl\nSystemCallFilter=~chown",
                "DropCapability" => "CAP_MKNOD",
                "KillSignal" => "TERM",
                "Volatile" | "ResolvConf" | "Timezone" | "SuppressSync" | "ProcessTwo" | "Boot" => "no",
                "WorkingDirectory" => "/srv",
                "Environment" => "A=B",
                "Personality" => "x86-64",
                "PivotRoot" => "/srv:/old",
                "RestrictAddressFamilies" => "AF_UNIX",
                _ => "yes",
            };
            std::iter::once(format!("[{section}]"))
                .chain(keys.map(move |(_, key)| format!("{key}={}", value(key))))
        })
        .collect::<Vec<_>>()
        .join("\n");
    let (layer, problems) = parse(Path::new("web.nspawn"), Trust::Untrusted, text.as_bytes());
    let set: Vec<&str> =
        settings().filter(|setting| layer.is_set(setting)).map(|setting| setting.key).collect();
    assert_eq!(
        set,
        [
            "root.read-only",
            "root.volatile",
            "root.pivot",
            "boot.wait",
            "boot.stop-signal",
            "boot.suppress-sync",
            "boot.personality",
            "network.resolv-conf",
            "security.capabilities.drop",
            "security.syscalls.deny",
            "security.address-families",
            "security.no-new-privileges",
            "environment",
            "boot",
            "command",
            "chdir",
            "user",
            "identity.hostname",
            "identity.timezone",
        ]
    );
    assert!(
        problems.iter().all(|problem| problem.message.ends_with("the file is not trusted")),
        "{problems:#?}"
    );
    let privileged = keys()
        .filter(|(section, key)| *section != "Network" && table::find(section, key).unwrap().is_privileged);
    // In addition: [Network], and the allowed system calls.
    assert_eq!(problems.len(), privileged.count() + 2);
}

#[test]
fn problems_are_warnings_unless_a_setting_is_required() {
    let (settings, problems) = parsed(
        Trust::Trusted,
        "[Exec]\nBoot=maybe\nCapability=CAP_X net_raw\nKilSignal=TERM\nX-Other=1\nTimezone=off\nLinkJournal=host\n\
         Environment='A=B\nPrivateUsersDelegate=1\n[Network]\nMACVLAN=eth1 a/b\nPort=x\nPort=80\nPort=80:80\n[Files]\nBindUserShell=x\n",
    );
    assert_eq!(
        settings,
        [
            "network.mode=\"macvlan\"@11",
            "network.macvlan=\"eth1\"@11",
            "network.ports=\"80:80\"@13",
            "security.capabilities.add=\"CAP_NET_RAW\"@3",
            "identity.timezone=\"off\"@6",
            "journal.link=\"host\"@7",
        ]
    );
    assert_eq!(
        problems,
        [
            "web.nspawn:2: warning: 'Boot=': 'maybe' is not a boolean, ignoring\n  hint: write yes or no",
            "web.nspawn:3: warning: 'Capability=': unknown capability \"CAP_X\", ignoring\n  hint: see capabilities(7) for the list",
            "web.nspawn:4: warning: unknown key 'KilSignal' in [Exec], ignoring\n  hint: did you mean 'KillSignal'?",
            "web.nspawn:8: warning: 'Environment=': a quote in ''A=B' does not end, ignoring",
            "web.nspawn:9: 'PrivateUsersDelegate=': ids are not delegated\n  hint: set security.nesting in a definition for containers inside",
            "web.nspawn:11: 'MACVLAN=': \"a/b\" is not the name of an interface\n  hint: list the interfaces of the host \
         with 'ip link'; a name has at most 15 characters",
            "web.nspawn:12: warning: 'Port=': \"x\" is not a port to forward, ignoring\n  hint: write [ADDRESS:]HOST[:GUEST][/udp], \
         for example \"8080:80\", \"[::1]:5353:53/udp\" or \"8000-8010:9000-9010\"",
            "web.nspawn:14: warning: 'Port=': an earlier line forwards '80:80', ignoring",
            "web.nspawn:16: warning: 'BindUserShell=': expected true, false or the path of a shell, found a string, ignoring",
        ]
    );
}

#[test]
fn the_errors_of_a_bad_file_are_reported_first() {
    let (_, problems) =
        parsed(Trust::Trusted, &format!("[Exec]\n{}PrivateUsersDelegate=1\n", "Wrong=1\n".repeat(10_000)));
    assert_eq!(problems.len(), MAX_PROBLEMS);
    assert!(problems[0].starts_with("web.nspawn:10002: 'PrivateUsersDelegate='"), "{}", problems[0]);
}

#[test]
fn settings_of_processes_are_read() {
    assert_eq!(
        settings_of(
            "[Exec]\nLimitNOFILE=1024:4096\nLimitNOFILE=5\nLimitCPU=10s\nOOMScoreAdjust=-5\nCPUAffinity=7\nCPUAffinity=\n\
             CPUAffinity=0-1,3 2\nTimezone=yes\nAmbientCapability=CAP_CHOWN CAP_KILL\nSuppressSync=yes"
        ),
        [
            "boot.suppress-sync=true@11",
            "resources.cpu-affinity=\"0-1\"@8",
            "resources.cpu-affinity=3@8",
            "resources.cpu-affinity=2@8",
            "resources.oom-score-adjust=-5@5",
            "resources.rlimits=nofile = \"1024:4096\"@2",
            "resources.rlimits=nofile = 5@3",
            "resources.rlimits=cpu = 10@4",
            "security.capabilities.ambient=\"CAP_CHOWN\"@10",
            "security.capabilities.ambient=\"CAP_KILL\"@10",
            "identity.timezone=\"auto\"@9",
        ]
    );
}

#[test]
fn address_families_are_allowed_or_forbidden() {
    let lines = "[Exec]\nRestrictAddressFamilies=AF_UNIX\nRestrictAddressFamilies=\nRestrictAddressFamilies=~AF_INET AF_X AF_KEY";
    for trust in [Trust::Trusted, Trust::Untrusted] {
        let (settings, problems) = parsed(trust, lines);
        let expected =
            ["security.address-families=\"~AF_INET\"@4", "security.address-families=\"~AF_KEY\"@4"];
        assert_eq!(settings, expected);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("unknown address family \"~AF_X\", ignoring"), "{problems:?}");
    }
}

#[test]
fn lists_grow_and_empty_values_reset() {
    assert_eq!(
        settings_of(
            "[Exec]\nParameters=a 'b c'\nParameters=d\nEnvironment=A=1\nEnvironment=\nEnvironment=B=2 \"C=3 4\"\nUser=joe\nUser=\n"
        ),
        [
            "environment=B = \"2\"@6",
            "environment=C = \"3 4\"@6",
            "command=\"a\"@2",
            "command=\"b c\"@2",
            "command=\"d\"@3"
        ]
    );
}

#[test]
fn no_bytes_cause_a_panic() {
    let mut state = 7_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let all: Vec<_> = keys().collect();
    let values = [
        "",
        "yes",
        "no",
        ":",
        "+",
        "/:/:",
        "\\",
        "~",
        "~@x y",
        "0:0",
        "4294967295",
        "'",
        "a b",
        "\u{1b}",
        "/a:/b:x,y",
    ];
    for _ in 0..5_000 {
        let mut text = String::new();
        for _ in 0..next(8) {
            let (section, key) = all[next(all.len())];
            text += &format!("[{section}]\n{key}={}\n", values[next(values.len())]);
        }
        for trust in [Trust::Trusted, Trust::Untrusted] {
            let (_, problems) = parse(Path::new("web.nspawn"), trust, text.as_bytes());
            assert!(problems.iter().all(|problem| problem.line.is_some()), "{text}: {problems:?}");
        }
    }
}
