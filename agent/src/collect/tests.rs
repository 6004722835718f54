use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::*;

fn host(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let host = Host {
        cards: devlink::Asked::default(),
        proc: dir.path().join("proc"),
        sys: dir.path().join("sys"),
        nvml: None,
        nscq: None,
        fence_log: dir.path().join("run/fence.log"),
        boot_log: logs::OF_TPM,
        lib: dir.path().join("lib"),
        mounts: vec![PathBuf::from("/srv/studies")],
        hashed: firmware::Hashed::default(),
    };
    (dir, host)
}

fn value(claims: &[Claim], name: &str) -> Option<Value> {
    let found = claims.iter().find(|claim| claim.name == name)?;
    found.value.clone()
}

#[test]
fn each_file_becomes_a_claim_with_its_source() {
    let secure_boot = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let setup_mode = "sys/firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let (_dir, host) = host(&[
        ("sys/class/dmi/id/bios_version", b"2.1\n"),
        ("sys/class/dmi/id/chassis_serial", b"ABC123\n"),
        (secure_boot, &[6, 0, 0, 0, 1]),
        (setup_mode, &[6, 0, 0, 0]),
        (
            "sys/kernel/security/lockdown",
            b"none [integrity] confidentiality\n",
        ),
        ("sys/kernel/security/lsm", b"lockdown,bpf"),
        ("sys/module/module/parameters/sig_enforce", b"Y\n"),
        ("proc/sys/kernel/tainted", b"4096\n"),
        ("proc/sys/kernel/osrelease", b"6.12.0\n"),
        ("proc/cmdline", b"quiet\xff\n"),
        (
            "proc/cpuinfo",
            b"processor\t: 0\nmicrocode\t: 0x2\n\nprocessor\t: 1\nmicrocode\t: 0x1\n\n",
        ),
        (
            "proc/driver/nvidia/version",
            b"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n\
              GCC version:  gcc version 12.2.0\n",
        ),
    ]);
    let claims = host.file_claims();
    let cases = [
        ("firmware.version", Value::Text("2.1".into())),
        ("firmware.vendor", Value::Unavailable("no such file".into())),
        ("boot.efi", Value::Flag(true)),
        ("boot.secure-boot", Value::Flag(true)),
        (
            "boot.setup-mode",
            Value::Unavailable("4 bytes are not attributes and one flag".into()),
        ),
        ("kernel.lockdown", Value::Text("integrity".into())),
        ("kernel.module-signatures", Value::Flag(true)),
        ("kernel.taint", Value::Number(4096)),
        ("kernel.release", Value::Text("6.12.0".into())),
        ("cpu.microcode", Value::Text("0x1, 0x2".into())),
        (
            "cpu.model",
            Value::Unavailable("no field \"model name\"".into()),
        ),
        ("nvidia.present", Value::Flag(true)),
        ("nvidia.driver-version", Value::Text("580.65.06".into())),
    ];
    for (name, want) in cases {
        assert_eq!(value(&claims, name), Some(want), "{name}");
    }
    assert!(
        matches!(
            value(&claims, "kernel.cmdline"),
            Some(Value::Unavailable(_))
        ),
        "not UTF-8"
    );
    let mut names: Vec<_> = claims.iter().map(|claim| &claim.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), claims.len(), "each claim once");
    assert!(claims.iter().all(|claim| !claim.source.is_empty()));
    assert_eq!(host.chassis_serial(), "ABC123");
}

#[test]
fn what_lies_beneath_a_host_is_told() {
    let dm = |name: &str| format!("sys/dev/block/{name}/dm/uuid");
    let (lvm, table) = (
        dm("253:1"),
        "1 0 253:1 / /srv rw - xfs /dev/mapper/srv rw\n",
    );
    let files: &[(&str, &[u8])] = &[
        ("sys/module/nvidia/initstate", b"live\n"),
        ("sys/module/nvidia/taint", b"POE\n"),
        ("sys/module/nvidia/srcversion", b"ABCDEF\n"),
        ("sys/module/nvidia/version", b"580.65.06\n"),
        ("sys/module/ext4/initstate", b"live\n"),
        ("sys/module/ext4/taint", b"\n"),
        ("sys/module/kernel/parameters/x", b"built in\n"),
        ("proc/sys/kernel/osrelease", b"6.12.0\n"),
        (
            "lib/modules/6.12.0/modules.dep",
            b"../nvidia.ko:\nkernel/nvidia-drm.ko.xz:\nupdates/nvidia.ko: kernel/i2c.ko.xz\n",
        ),
        ("lib/modules/6.12.0/updates/nvidia.ko", b"\x7fELF, unsigned"),
        (
            "proc/driver/nvidia/version",
            b"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n",
        ),
        ("lib/firmware/nvidia/580.65.06/gsp_ga10x.bin", b"firmware"),
        ("lib/firmware/nvidia/580.65.06/LICENSE", b"text"),
        (
            "sys/devices/system/cpu/vulnerabilities/mds",
            b"Mitigation: Clear CPU buffers\n",
        ),
        ("sys/kernel/iommu_groups/0/type", b"DMA-FQ\n"),
        ("sys/kernel/iommu_groups/1/type", b"identity\n"),
        (
            "sys/class/ipmi/ipmi0/device/bmc/firmware_revision",
            b"1.74\n",
        ),
        ("sys/class/infiniband/mlx5_0/fw_ver", b"28.39.1002\n"),
        ("proc/self/mountinfo", table.as_bytes()),
        (&lvm, b"LVM-abc\n"),
        (
            "sys/dev/block/253:1/slaves/dm-0/dm/uuid",
            b"CRYPT-LUKS2-abc-x\n",
        ),
    ];
    let (dir, host) = host(files);
    let claims = host.file_claims();
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let digest = bailiwick_attestation::Sha256Digest::of(&[b"firmware"]);
    let module = bailiwick_attestation::Sha256Digest::of(&[b"\x7fELF, unsigned"]);
    let cases = [
        ("kernel.modules", Some(Value::Number(2))),
        ("kernel.modules-tainting", text("nvidia:POE")),
        ("module.nvidia.taint", text("POE")),
        ("module.nvidia.srcversion", text("ABCDEF")),
        ("module.nvidia.version", text("580.65.06")),
        ("module.nvidia.signer", text("unsigned")),
        ("module.nvidia.sha256", Some(Value::Data(module.0.to_vec()))),
        ("module.ext4.taint", None),
        (
            "nvidia.firmware.gsp_ga10x",
            Some(Value::Data(digest.0.to_vec())),
        ),
        (
            "cpu.vulnerability.mds",
            text("Mitigation: Clear CPU buffers"),
        ),
        ("iommu.groups", Some(Value::Number(2))),
        ("iommu.groups-untranslated", Some(Value::Number(1))),
        ("iommu.types", text("DMA-FQ, identity")),
        ("bmc.present", Some(Value::Flag(true))),
        ("bmc.firmware", text("1.74")),
        ("nic.mlx5_0.firmware", text("28.39.1002")),
        ("nic.mlx5_0.board", None),
        ("mount.srv.studies.device", text("/dev/mapper/srv")),
        ("mount.srv.studies.encrypted", Some(Value::Flag(true))),
        ("mount.srv.studies.verified", Some(Value::Flag(false))),
    ];
    for (name, want) in cases {
        assert_eq!(value(&claims, name), want, "{name}");
    }
    // A second leg that nobody encrypted.
    let bare = dir.path().join("sys/dev/block/253:1/slaves/sdb1");
    fs::create_dir_all(&bare).unwrap();
    // Firmware that changes is hashed again, and only then.
    let firmware = dir
        .path()
        .join("lib/firmware/nvidia/580.65.06/gsp_ga10x.bin");
    fs::write(firmware, b"other firmware").unwrap();
    let other = bailiwick_attestation::Sha256Digest::of(&[b"other firmware"]);
    let claims = host.file_claims();
    let changed = [
        ("mount.srv.studies.encrypted", Some(Value::Flag(false))),
        (
            "nvidia.firmware.gsp_ga10x",
            Some(Value::Data(other.0.to_vec())),
        ),
    ];
    for (name, want) in changed {
        assert_eq!(value(&claims, name), want, "{name}");
    }
}

#[test]
fn what_cannot_be_seen_of_a_host_is_not_denied() {
    let (_dir, host) = host(&[
        (
            "proc/self/mountinfo",
            b"1 0 0:30 / / rw - btrfs /dev/sda1 rw\n",
        ),
        ("sys/module/nvidia/initstate", b"live\n"),
    ]);
    let claims = host.file_claims();
    let missing = || Some(Value::Unavailable("no such file".to_owned()));
    let cases = [
        (
            "mount.srv.studies.encrypted",
            Some(Value::Unavailable(
                "btrfs is not on one block device".to_owned(),
            )),
        ),
        ("module.nvidia.taint", Some(Value::Text("?".to_owned()))),
        ("module.nvidia.version", None),
        ("module.nvidia.signer", missing()),
        ("module.nvidia.sha256", None),
        ("iommu.groups", missing()),
        ("cpu.vulnerabilities", missing()),
        ("bmc.present", Some(Value::Flag(false))),
        ("nvidia.gsp", None),
    ];
    for (name, want) in cases {
        assert_eq!(value(&claims, name), want, "{name}");
    }
}

#[test]
fn what_is_not_there_is_told_from_what_cannot_be_read() {
    let (dir, host) = host(&[
        ("sys/kernel/security/ima/binary_runtime_measurements", b"x"),
        ("run/log/systemd/tpm2-measure.log", b"z"),
        ("run/fence.log", b"y"),
    ]);
    let claims = host.file_claims();
    assert_eq!(value(&claims, "boot.efi"), Some(Value::Flag(false)));
    assert_eq!(
        value(&claims, "boot.secure-boot"),
        None,
        "no EFI, no variable"
    );
    assert_eq!(value(&claims, "nvidia.present"), Some(Value::Flag(false)));
    assert_eq!(value(&claims, "nvidia.driver-version"), None);

    let logs = read_logs(&host);
    let names: Vec<_> = logs.iter().map(|log| log.name).collect();
    let want = ["ima", "userspace", FENCE_LOG];
    assert_eq!(names, want, "a kernel without a boot log");
    assert!(logs[0].content.is_ok());
    assert_eq!(logs[1].content.as_ref().unwrap().0, b"z");
    assert_eq!(logs[2].content.as_ref().unwrap().0, b"y");

    let ima = dir
        .path()
        .join("sys/kernel/security/ima/binary_runtime_measurements");
    fs::write(ima, vec![0; IMA_LOG_LIMIT + 1]).unwrap();
    let logs = read_logs(&host);
    assert_eq!(
        logs[0].content.as_ref().unwrap_err(),
        &format!("more than {IMA_LOG_LIMIT} bytes")
    );
}

/// Where a paravisor keeps a TPM beside a guest, its log is of other registers than the guest's own.
#[test]
fn a_boot_log_is_of_the_registers_that_are_signed() {
    let (_dir, mut host) = host(&[
        ("sys/kernel/security/tpm0/binary_bios_measurements", b"tpm"),
        ("sys/firmware/acpi/tables/data/CCEL", b"guest"),
    ]);
    for (log, want) in [
        (logs::OF_TPM, b"tpm".as_slice()),
        (logs::OF_GUEST, b"guest"),
    ] {
        host.boot_log = log;
        let logs = read_logs(&host);
        let [boot] = &logs[..] else {
            panic!("{logs:?}");
        };
        assert_eq!(
            (boot.name, &*boot.content.as_ref().unwrap().0),
            ("boot", want)
        );
    }
    for (signer, want) in [("tpm", logs::OF_TPM), ("tee", logs::OF_GUEST)] {
        let text = format!(
            "deployment = \"demo\"\nnode = \"gpu-01\"\nsigner = \"{signer}\"\n[collector]\n\
             enroll = \"a:1\"\nevidence = \"a:1\"\n[policy]\napprovers = \"a\"\nthreshold = 1\n"
        );
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        assert_eq!(Host::of(&config).boot_log, want);
    }
}

#[tokio::test]
async fn a_probe_inherits_nothing_that_is_open() {
    let device = fs::File::open("/dev/null").unwrap();
    // As a TPM library opens it: not closed by an exec.
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::empty()).unwrap();
    let script = "for fd in /proc/self/fd/*; do echo ${fd##*/}; done";
    let args = ["-c", script].map(Into::into).to_vec();
    let said = nvml::run_bounded("/bin/sh".into(), args, Duration::from_secs(20), 4096);
    let said = String::from_utf8(said.await.unwrap()).unwrap();
    // The last one is the shell's, for the folder it lists.
    assert_eq!(said, "0\n1\n2\n3\n");
}

#[tokio::test]
async fn a_probe_that_hangs_talks_too_much_or_fails_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (
            "hangs",
            "exec sleep 60",
            "the probe did not answer in 300ms",
        ),
        (
            "talks",
            "exec cat /dev/zero",
            "the probe printed more than 131072 bytes",
        ),
        ("fails", "exit 3", "the probe ended with exit status: 3"),
    ];
    for (name, script, want) in cases {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let answer =
            nvml::run_bounded(path, Vec::new(), Duration::from_millis(300), 128 << 10).await;
        assert_eq!(answer.unwrap_err(), want, "{name}");
    }
}

#[test]
fn a_missing_library_is_said() {
    let why = nvml::probe(Some(Path::new("/nonexistent/libnvidia-ml.so.1"))).unwrap_err();
    assert!(why.contains("libnvidia-ml.so.1"), "{why}");
}
