//! Tests of the record of a running machine.

use super::*;
use crate::machine::init::Init;

#[test]
fn a_record_survives_writing_and_reading() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::below(root.path());
    let name = Name::new("web").unwrap();
    std::fs::create_dir_all(paths.machine(&name)).unwrap();
    let record = Record {
        supervisor: std::process::id(),
        supervisor_start: start_time(std::process::id()).unwrap(),
        ..Record::new(name.clone())
    };
    record.write(&paths).unwrap();
    let read = Record::read(&paths, &name).unwrap().unwrap();
    assert_eq!(read, record);
    assert!(read.is_alive());
    assert!(!Record { supervisor_start: 1, ..read }.is_alive());
    assert_eq!(Record::all(&paths).len(), 1);
    for (phase, leader) in [(Phase::Starting, None), (Phase::Booting, Some(7))] {
        Record { phase, leader: Some(7), ..record.clone() }.write(&paths).unwrap();
        assert_eq!(Record::read(&paths, &name).unwrap().unwrap().leader, leader, "{phase:?}");
    }
}

#[test]
fn devices_of_this_boot_are_unconfined() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::below(root.path());
    let name = Name::new("web").unwrap();
    std::fs::create_dir_all(paths.machine(&name)).unwrap();
    let separate = Record { id_base: Some(65_536), leader: Some(7), ..Record::new(name.clone()) };
    assert!(separate.unconfined_now(&paths).is_empty());
    let device = devices::AddedDevice {
        device: "/dev/sda".into(),
        path: "/dev/sda".into(),
        block: true,
        number: 8 << 8,
        access: "r".to_owned(),
        hotplug: false,
        leader: 7,
    };
    devices::write(&paths, &name, std::slice::from_ref(&device)).unwrap();
    assert_eq!(separate.unconfined_now(&paths), [DEVICES]);
    let known = Record { unconfined: vec![DEVICES.to_owned()], ..separate.clone() };
    assert_eq!(known.unconfined_now(&paths), [DEVICES]);
    devices::write(&paths, &name, &[devices::AddedDevice { leader: 6, ..device }]).unwrap();
    assert!(separate.unconfined_now(&paths).is_empty());
    std::fs::write(paths.machine(&name).join(devices::FILE), "{").unwrap();
    assert_eq!(separate.unconfined_now(&paths), [DEVICES]);
}

#[test]
fn a_record_of_another_version_is_readable() {
    let read = |text: &str| serde_json::from_str::<Record>(text).unwrap();
    let bare = Record::new(Name::new("web").unwrap());
    assert_eq!(read(r#"{"name": "web"}"#), bare);
    assert_eq!(read(r#"{"name": "web", "init": "", "machine-id": "", "newer": [1]}"#), bare);
    for (word, kind) in [
        ("command", PayloadKind::Command),
        ("systemd", PayloadKind::Init(Init::Systemd)),
        ("newer", PayloadKind::Init(Init::Unknown)),
    ] {
        assert_eq!(read(&format!(r#"{{"name": "web", "init": "{word}"}}"#)).init, Some(kind));
    }
    let text = serde_json::to_value(&bare).unwrap();
    assert_eq!([&text["name"], &text["init"], &text["machine-id"]], ["web", "", ""]);
}
