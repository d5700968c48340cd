//! The types of partitions (UAPI Discoverable Partitions Specification). Facts only.

use crate::machine::id128::Id128;

/// The use of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The root file system.
    Root,
    /// `/usr`.
    Usr,
    /// `/home`.
    Home,
    /// `/srv`.
    Srv,
    /// The EFI system partition: `/efi` or `/boot`.
    Esp,
    /// The extended boot loader partition: `/boot`.
    Xbootldr,
    /// `/var/tmp`.
    Tmp,
    /// `/var`.
    Var,
}

impl Role {
    /// Returns the name that policies of images and messages have for it (systemd.image-policy(7)).
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Usr => "usr",
            Self::Home => "home",
            Self::Srv => "srv",
            Self::Esp => "esp",
            Self::Xbootldr => "xbootldr",
            Self::Tmp => "tmp",
            Self::Var => "var",
        }
    }
}

/// The meaning of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A file system.
    Role(Role),
    /// The signature of the hashes of dm-verity for a file system.
    Signature(Role),
    /// A file system of Linux without a certain use.
    Generic,
}

const fn id(value: u128) -> Id128 {
    Id128::new(value.to_be_bytes())
}

/// The types that do not depend on the architecture.
const COMMON: [(Id128, Meaning); 7] = [
    (id(0xc12a_7328_f81f_11d2_ba4b_00a0_c93e_c93b), Meaning::Role(Role::Esp)),
    (id(0xbc13_c2ff_59e6_4262_a352_b275_fd6f_7172), Meaning::Role(Role::Xbootldr)),
    (id(0x933a_c7e1_2eb4_4f13_b844_0e14_e2ae_f915), Meaning::Role(Role::Home)),
    (id(0x3b8f_8425_20e0_4f3b_907f_1a25_a76f_98e8), Meaning::Role(Role::Srv)),
    (id(0x4d21_b016_b534_45c2_a9fb_5c16_e091_fd2d), Meaning::Role(Role::Var)),
    (id(0x7ec6_f557_3bc5_4aca_b293_16ef_5df6_39d1), Meaning::Role(Role::Tmp)),
    (id(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4), Meaning::Generic),
];

/// The types of an architecture.
struct Architecture {
    /// Its name in the specification.
    name: &'static str,
    /// Its name in the compiler.
    arch: &'static str,
    root: Id128,
    usr: Id128,
    root_signature: Id128,
    usr_signature: Id128,
}

const ARCHITECTURES: [Architecture; 7] = [
    Architecture {
        name: "x86-64",
        arch: "x86_64",
        root: id(0x4f68_bce3_e8cd_4db1_96e7_fbca_f984_b709),
        usr: id(0x8484_680c_9521_48c6_9c11_b072_0656_f69e),
        root_signature: id(0x4109_2b05_9fc8_4523_994f_2def_0408_b176),
        usr_signature: id(0xe7bb_33fb_06cf_4e81_8273_e543_b413_e2e2),
    },
    Architecture {
        name: "x86",
        arch: "x86",
        root: id(0x4447_9540_f297_41b2_9af7_d131_d5f0_458a),
        usr: id(0x7525_0d76_8cc6_458e_bd66_bd47_cc81_a812),
        root_signature: id(0x5996_fc05_109c_48de_808b_23fa_0830_b676),
        usr_signature: id(0x974a_71c0_de41_43c3_be5d_5c5c_cd1a_d2c0),
    },
    Architecture {
        name: "arm64",
        arch: "aarch64",
        root: id(0xb921_b045_1df0_41c3_af44_4c6f_280d_3fae),
        usr: id(0xb0e0_1050_ee5f_4390_949a_9101_b171_04e9),
        root_signature: id(0x6db6_9de6_29f4_4758_a7a5_9621_90f0_0ce3),
        usr_signature: id(0xc23c_e4ff_44bd_4b00_b2d4_b41b_3419_e02a),
    },
    Architecture {
        name: "riscv64",
        arch: "riscv64",
        root: id(0x72ec_70a6_cf74_40e6_bd49_4bda_08e8_f224),
        usr: id(0xbeae_c34b_8442_439b_a40b_9843_81ed_097d),
        root_signature: id(0xefe0_f087_ea8d_4469_821a_4c2a_96a8_386a),
        usr_signature: id(0xd2f9_000a_7a18_453f_b5cd_4d32_f77a_7b32),
    },
    Architecture {
        name: "ppc64-le",
        arch: "powerpc64",
        root: id(0xc31c_45e6_3f39_412e_80fb_4809_c498_0599),
        usr: id(0x15bb_03af_77e7_4d4a_b12b_c0d0_84f7_491c),
        root_signature: id(0xd4a2_36e7_e873_4c07_bf1d_bf6c_f7f1_c3c6),
        usr_signature: id(0xc8bf_bd1e_268e_4521_8bba_bf31_4c39_9557),
    },
    Architecture {
        name: "s390x",
        arch: "s390x",
        root: id(0x5eea_d9a9_fe09_4a1e_a1d7_520d_0053_1306),
        usr: id(0x8a4f_5770_50aa_4ed3_874a_99b7_10db_6fea),
        root_signature: id(0xc801_87a5_73a3_491a_901a_017c_3fa9_53e9),
        usr_signature: id(0x3f32_4816_667b_46ae_86ee_9b0c_0c6c_11b4),
    },
    Architecture {
        name: "loongarch64",
        arch: "loongarch64",
        root: id(0x7705_5800_792c_4f94_b39a_98c9_1b76_2bb6),
        usr: id(0xe611_c702_575c_4cbe_9a46_434f_a0bf_7e3f),
        root_signature: id(0x5afb_67eb_ecc8_4f85_ae8e_ac1e_7c50_e7d0),
        usr_signature: id(0xb024_f315_d330_444c_8461_44bb_de52_4e99),
    },
];

fn native() -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.arch == std::env::consts::ARCH)
}

/// Returns the meaning of a type for this architecture. `None` for another type.
pub(super) fn meaning(kind: Id128) -> Option<Meaning> {
    let of_architecture = native().into_iter().flat_map(|native| {
        [
            (native.root, Meaning::Role(Role::Root)),
            (native.usr, Meaning::Role(Role::Usr)),
            (native.root_signature, Meaning::Signature(Role::Root)),
            (native.usr_signature, Meaning::Signature(Role::Usr)),
        ]
    });
    COMMON.into_iter().chain(of_architecture).find(|(known, _)| *known == kind).map(|(_, meaning)| meaning)
}

/// Returns the name of another architecture of which the type is the root or `/usr`.
pub(super) fn foreign(kind: Id128) -> Option<&'static str> {
    let others = ARCHITECTURES.iter().filter(|other| other.arch != std::env::consts::ARCH);
    others.into_iter().find(|other| other.root == kind || other.usr == kind).map(|other| other.name)
}
