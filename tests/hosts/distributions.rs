//! `create --from` by the programs that Debian has of distributions: dnf and zypper install from small repositories of
//! the test, which are signed by a key of its own; mmdebstrap, debootstrap and pacstrap are stopped by the network.

use crate::archives::{has_no_drafts, with_store};
use crate::support::Host;

/// The key of all repositories, in `/srv/own.asc`.
const KEYS: &str = "
    mkdir -m 700 /root/.gnupg; gpg -q --batch --passphrase '' --quick-gen-key own@example.test rsa3072 sign never 2>/dev/null
    gpg -q --batch --passphrase '' --quick-gen-key other@example.test rsa3072 sign never 2>/dev/null
    gpg -q --armor --export own@example.test >/srv/own.asc
";

/// The packages that the recipes of Fedora, CentOS and openSUSE name, as packages without a program.
const RPM: &str = r#"
    mkdir -p /srv/rpm /root/build; cd /root/build
    names='systemd dbus-broker dnf5 dnf passwd iproute fedora-release-container centos-stream-release dbus-1 zypper iproute2
        openSUSE-release'
    {
        printf 'Name: own\nVersion: 1\nRelease: 1\nSummary: test\nLicense: MIT\nBuildArch: noarch\n%%description\ntest\n'
        for name in $names; do printf '%%package -n %s\nSummary: test\n%%description -n %s\ntest\n' $name $name; done
        printf '%%install\nmkdir -p %%{buildroot}/usr/share/own %%{buildroot}/etc\n'
        for name in $names; do printf 'echo %s >%%{buildroot}/usr/share/own/%s\n' $name $name; done
        for name in $names; do printf '%%files -n %s\n/usr/share/own/%s\n' $name $name; done
    } >own.spec
    rpmbuild -bb --quiet --define "_rpmdir /srv/rpm" --define '_build_name_fmt %%{NAME}.rpm' own.spec
    sign() { rpmsign --define "_gpg_name $1" --define '__gpg /usr/bin/gpg' --addsign /srv/rpm/*.rpm >/dev/null; }
    index() {
        rm -rf /srv/rpm/repodata; createrepo_c -q /srv/rpm
        gpg -q --batch --yes -u "$1" --armor --detach-sign /srv/rpm/repodata/repomd.xml
        gpg -q --armor --export "$1" >/srv/rpm/repodata/repomd.xml.key
    }
"#;

fn start() -> Host {
    let host = with_store(crate::support::Host::builder().on("host-distributions"));
    host.sh_ok(KEYS);
    host
}

/// Creates an image, which is refused with a cause. Nothing is left.
#[track_caller]
fn refused(host: &Host, arguments: &str, cause: &str) {
    let failed = host.sh(&format!("coracle create web --from={arguments}"));
    assert!(failed.status != 0 && failed.stderr.contains(cause), "{failed}");
    has_no_drafts(host);
    host.sh_ok(
        "! ls -d /var/lib/machines/web* 2>/dev/null && ! ls -A /var/lib/coracle/storage/layers 2>/dev/null | grep .",
    );
}

/// Creates two images, the second one from the base of the first, which has a file.
#[track_caller]
fn created(host: &Host, arguments: &str, program: &str, file: &str) {
    let first = host.sh_ok(&format!("coracle create web --from={arguments}"));
    assert!(first.contains(&format!("created by {program}")), "{first}");
    let second = host.sh_ok(&format!("coracle create shop --from={arguments}"));
    assert!(second.contains("created today") && second.trim().ends_with(" ms"), "{second}");
    for name in ["web", "shop"] {
        host.sh_ok(&format!("coracle export {name} - | tar -t | grep -x ./{file}"));
    }
    host.sh_ok("coracle remove web shop; rm -r /var/lib/coracle/storage/bases/*; coracle prune");
    has_no_drafts(host);
}

#[test]
fn debian_ubuntu_and_devuan_name_what_is_missing() {
    let host = start();
    for (from, cause) in [
        ("debian --mirror=http://127.0.0.1:9/debian", "'mmdebstrap' has not created the root file system"),
        ("ubuntu --mirror=http://127.0.0.1:9/ubuntu", "'mmdebstrap' has not created the root file system"),
        ("devuan --mirror=http://127.0.0.1:9/devuan", "the keys of devuan are missing"),
        ("void --mirror=http://127.0.0.1:9/void", "the program 'xbps-install' is not installed"),
        ("alpine --mirror=http://127.0.0.1:9/alpine", "the program 'apk' is not installed"),
    ] {
        refused(&host, from, cause);
    }
    // With its keys, the program of Devuan is stopped by the network, too.
    host.sh_ok(
        "cp /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/devuan-archive-keyring.gpg",
    );
    refused(
        &host,
        "devuan --mirror=http://127.0.0.1:9/devuan",
        "'debootstrap' has not created the root file system",
    );
    host.stop();
}

#[test]
fn dnf_and_zypper_install_signed_packages_only() {
    let host = start();
    for distribution in ["fedora", "centos"] {
        refused(&host, &format!("{distribution} --mirror=http://127.0.0.1:9/rpm"), "the keys of");
    }
    host.sh_ok(
        "mkdir -p /etc/pki/rpm-gpg /usr/share/distribution-gpg-keys/opensuse
         for key in /etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-43-x86_64 /etc/pki/rpm-gpg/RPM-GPG-KEY-centosofficial-SHA256 \
             /usr/share/distribution-gpg-keys/opensuse/RPM-GPG-KEY-openSUSE; do cp /srv/own.asc $key; done",
    );
    refused(&host, "fedora --mirror=http://127.0.0.1:9/rpm", "'dnf' has not created the root file system");
    refused(
        &host,
        "opensuse --mirror=http://127.0.0.1:9/rpm",
        "'zypper' has not created the root file system",
    );
    // Packages without a signature, and with that of another key.
    host.sh_ok(&format!("{RPM}\nindex other@example.test"));
    host.sh_ok("cd /srv/rpm; ls *.rpm || { find . -name '*.rpm' -exec mv {} . \\;; ls *.rpm; }");
    let from = |distribution: &str| format!("{distribution} --mirror=file:///srv/rpm");
    let sign = |index: &str| {
        let functions = RPM.split_once("    sign()").expect("functions").1;
        host.sh_ok(&format!("sign(){functions}\n{index}"));
    };
    sign("index own@example.test");
    refused(&host, &from("fedora"), "'dnf' has not created the root file system");
    sign("sign other@example.test; index other@example.test");
    for distribution in ["fedora", "centos"] {
        refused(&host, &from(distribution), "'dnf' has not created the root file system");
    }
    refused(&host, &from("opensuse"), "'zypper' has not created the root file system");
    sign("sign own@example.test; index own@example.test");
    created(&host, &from("fedora"), "dnf", "usr/share/own/dbus-broker");
    created(&host, &from("centos"), "dnf", "usr/share/own/centos-stream-release");
    created(&host, &from("opensuse"), "zypper", "usr/share/own/zypper");
    host.stop();
}

#[test]
fn pacstrap_is_stopped_by_the_network() {
    let host = start();
    host.sh_ok(
        "printf '[options]\\nArchitecture = auto\\n[core]\\nServer = http://127.0.0.1:9/arch\\n' >/etc/pacman.conf",
    );
    refused(&host, "arch", "'pacstrap' has not created the root file system");
    host.stop();
}
