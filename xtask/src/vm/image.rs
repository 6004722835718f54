//! Disks: an initial ramdisk, an ext4 root made from a folder, a FAT boot disk. No loop device, no
//! mount, no right beyond writing files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::modules;
use super::packages::Stack;
use crate::{cmd, install, paths};

/// Room for programs, modules, and what a scenario writes.
const ROOT_SIZE: &str = "768M";
/// FAT32 starts at 33 MiB.
const BOOT_KIB: u32 = 64 * 1024;

/// Programs of the machine this runs on that tests call inside.
const TOOLS: &[&str] = &[
    "ip",
    "tc",
    "rdma",
    "nsenter",
    "unshare",
    "wg",
    "ibv_rc_pingpong",
];

/// A folder that becomes a root disk.
#[derive(Debug)]
pub(super) struct Root {
    folder: PathBuf,
}

impl Root {
    /// Busybox, programs with their libraries, modules, and a first program.
    pub(super) fn stage(folder: &Path, stack: &Stack, programs: &[PathBuf]) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("clear {}", folder.display()))?;
        }
        for dir in [
            "bin",
            "boot",
            "dev",
            "etc/bailiwick",
            "modules",
            "proc",
            "root",
            "run",
            "sbin",
            "sys",
            "tmp",
            "usr/bin",
            "usr/sbin",
            "var/lib/bailiwick",
        ] {
            let dir = folder.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let root = Self {
            folder: folder.to_owned(),
        };
        root.busybox(stack)?;
        root.script("sbin/init", include_str!("init.sh"))?;
        for tool in TOOLS {
            let file = cmd::find(tool).with_context(|| format!("{tool} was installed"))?;
            root.program(&file, &format!("usr/sbin/{tool}"), false)?;
        }
        root.soft_roce()?;
        for program in programs {
            let name = program.file_name().and_then(|name| name.to_str());
            let name = name.context("a program has a name")?;
            root.program(program, &format!("usr/bin/{name}"), true)?;
        }
        let mut all = modules::FOR_TESTS.to_vec();
        root.modules(stack, "tests", &all)?;
        all = modules::WAYS_OUT.to_vec();
        root.modules(stack, "ways-out", &all)?;
        root.unsigned(stack)?;
        Ok(root)
    }

    /// What boots it, for whoever starts it anew from inside.
    pub(super) fn kernel(&self, stack: &Stack, initrd: &Path) -> Result<()> {
        for (from, to) in [(&*stack.kernel, "boot/vmlinuz"), (initrd, "boot/initrd")] {
            let to = self.folder.join(to);
            fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
        Ok(())
    }

    /// A place in it.
    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.folder.join(below)
    }

    /// Writes the disk.
    pub(super) fn disk(&self, file: &Path) -> Result<()> {
        drop(fs::remove_file(file));
        cmd::output(
            cmd::command(cmd::find("mke2fs").context("mke2fs was installed")?)
                .args([
                    "-q",
                    "-t",
                    "ext4",
                    "-L",
                    "bailiwick",
                    "-E",
                    "root_owner=0:0",
                    "-d",
                ])
                .arg(&self.folder)
                .arg(file)
                .arg(ROOT_SIZE),
        )
        .map(drop)
    }

    fn busybox(&self, stack: &Stack) -> Result<()> {
        busybox(stack, &self.folder)?;
        let list = cmd::output(cmd::command(&stack.busybox).arg("--list"))?;
        for applet in list.lines() {
            let link = self.folder.join("bin").join(applet);
            if link.symlink_metadata().is_err() {
                symlink("/bin/busybox", &link).with_context(|| format!("link {applet}"))?;
            }
        }
        Ok(())
    }

    fn script(&self, at: &str, text: &str) -> Result<()> {
        write_program(&self.folder.join(at), text.as_bytes())
    }

    /// A program, and the libraries that the loader of this machine would give it.
    fn program(&self, from: &Path, at: &str, strip: bool) -> Result<()> {
        let to = self.folder.join(at);
        fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        if strip {
            // Measured at each start, by a processor that is itself a program.
            cmd::run(cmd::command("strip").arg("--strip-debug").arg(&to))?;
        }
        for library in libraries(&cmd::output(cmd::command("ldd").arg(from))?) {
            self.library(&library)?;
            // Which way to the TPM is asked for by name, while it runs.
            if library
                .file_name()
                .is_some_and(|name| name == "libtss2-tctildr.so.0")
            {
                self.library(&library.with_file_name("libtss2-tcti-device.so.0"))?;
            }
        }
        Ok(())
    }

    fn library(&self, from: &Path) -> Result<()> {
        let to = self.folder.join(from.strip_prefix("/").unwrap_or(from));
        if to.exists() {
            return Ok(());
        }
        let dir = to.parent().context("a library lies in a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        Ok(())
    }

    /// libibverbs finds its drivers by name, while it runs.
    fn soft_roce(&self) -> Result<()> {
        let tool = cmd::find("ibv_rc_pingpong").context("ibverbs-utils was installed")?;
        let libraries = libraries(&cmd::output(cmd::command("ldd").arg(tool))?);
        let verbs = libraries
            .iter()
            .find(|file| file.display().to_string().contains("libibverbs.so"))
            .context("ibv_rc_pingpong needs libibverbs")?;
        // Where the loader found it may be a link to where packages put things.
        let verbs = fs::canonicalize(verbs).context("libibverbs")?;
        let folder = verbs.with_file_name("libibverbs");
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let driver = entries
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("librxe-"))
            .context("ibverbs-providers was installed")?;
        self.library(&driver.path())?;
        self.library(Path::new(install::SOFT_ROCE))
    }

    /// A module without its signature, which stands behind what the program format knows of.
    fn unsigned(&self, stack: &Stack) -> Result<()> {
        let file = modules::order(stack, &["dummy"])?
            .pop()
            .context("dummy is a module")?;
        let name = modules::copy(stack, &file, &self.folder.join("etc/bailiwick"))?;
        let unsigned = self.path("etc/bailiwick/unsigned.ko");
        fs::rename(self.path("etc/bailiwick").join(name), &unsigned).context("name a module")?;
        cmd::run(cmd::command("strip").arg("--strip-debug").arg(&unsigned))
    }

    fn modules(&self, stack: &Stack, list: &str, wanted: &[&str]) -> Result<()> {
        copy_modules(stack, &self.folder.join("modules"), list, wanted)
    }
}

/// The initial ramdisk: busybox, what the root disk needs, a script.
pub(super) fn initrd(stack: &Stack, scratch: &Path, file: &Path) -> Result<()> {
    if scratch.exists() {
        fs::remove_dir_all(scratch).with_context(|| format!("clear {}", scratch.display()))?;
    }
    for dir in ["bin", "dev", "modules", "proc", "root", "sys"] {
        fs::create_dir_all(scratch.join(dir)).context("make the ramdisk's folders")?;
    }
    busybox(stack, scratch)?;
    write_program(&scratch.join("init"), include_bytes!("initrd.sh"))?;
    copy_modules(stack, &scratch.join("modules"), "order", modules::FOR_ROOT)?;
    let archive = fs::File::create(file).with_context(|| format!("make {}", file.display()))?;
    let mut pack = cmd::command("sh");
    pack.args([
        "-c",
        "find . | LC_ALL=C sort | cpio --quiet --reproducible -R 0:0 -o -H newc",
    ])
    .current_dir(scratch)
    .stdout(archive);
    cmd::run(&mut pack)
}

/// The boot disk: shim, GRUB beside it, its configuration, kernel and ramdisk. `runs` are lines of the
/// configuration before the kernel is started.
///
/// `linuxefi` and not `linux`: with Secure Boot off that one passes by the kernel's EFI stub, and no
/// stub is no event log (GRUB 2.06).
pub(super) fn boot(
    stack: &Stack,
    initrd: &Path,
    command_line: &str,
    runs: &str,
    disk: &Path,
) -> Result<()> {
    drop(fs::remove_file(disk));
    cmd::output(
        cmd::command(cmd::find("mkfs.fat").context("mkfs.fat was installed")?)
            .args(["-F", "32", "-n", "BOOT", "-C"])
            .arg(disk)
            .arg(BOOT_KIB.to_string()),
    )?;
    let menu = disk.with_extension("cfg");
    fs::write(
        &menu,
        format!(
            "set timeout=0\nlinuxefi ($root)/vmlinuz {command_line}\n{runs}initrdefi ($root)/initrd\nboot\n"
        ),
    )
    .context("write GRUB's configuration")?;
    mtool(
        "mmd",
        disk,
        &[
            "::EFI".as_ref(),
            "::EFI/BOOT".as_ref(),
            "::EFI/debian".as_ref(),
        ],
    )?;
    for (from, to) in [
        (stack.shim.as_path(), "::EFI/BOOT/BOOTX64.EFI"),
        (&stack.grub, "::EFI/BOOT/grubx64.efi"),
        (&menu, "::EFI/debian/grub.cfg"),
        (&stack.kernel, "::vmlinuz"),
        (initrd, "::initrd"),
    ] {
        mtool("mcopy", disk, &[from.as_os_str(), to.as_ref()])?;
    }
    Ok(())
}

fn mtool(tool: &str, disk: &Path, args: &[&std::ffi::OsStr]) -> Result<()> {
    let mut command = cmd::command(tool);
    // It would ask a person about what no file system is as big as.
    command
        .env("MTOOLS_SKIP_CHECK", "1")
        .arg("-i")
        .arg(disk)
        .args(args);
    cmd::output(&mut command).map(drop)
}

fn busybox(stack: &Stack, folder: &Path) -> Result<()> {
    let bytes = fs::read(&stack.busybox).context("read busybox")?;
    write_program(&folder.join("bin/busybox"), &bytes)?;
    symlink("/bin/busybox", folder.join("bin/sh")).context("link a shell")
}

fn write_program(file: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(file, bytes).with_context(|| format!("write {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} a program", file.display()))
}

fn copy_modules(stack: &Stack, folder: &Path, list: &str, wanted: &[&str]) -> Result<()> {
    let mut names = String::new();
    for file in modules::order(stack, wanted)? {
        names += &format!("{}\n", modules::copy(stack, &file, folder)?);
    }
    fs::write(folder.join(list), names).with_context(|| format!("write the list {list}"))
}

/// Files named in what `ldd` prints: `NAME => FILE (ADDRESS)`, or `FILE (ADDRESS)` of the loader.
fn libraries(text: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        let line = line.split_once("=> ").map_or(line, |(_, file)| file);
        let file = line.split_whitespace().next()?;
        file.starts_with('/').then(|| PathBuf::from(file))
    };
    text.lines().filter_map(file).collect()
}

/// A program of the workspace that must have been built.
pub(super) fn built(release: bool, name: &str) -> Result<PathBuf> {
    let file = paths::binary(release, name);
    if !file.exists() {
        bail!("{} was not built", file.display());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007f54300cd000)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f542df20000)\n\
                    \tlibgone.so => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f54300cf000)\n";
        let found: Vec<String> = libraries(text)
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libm.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(libraries("\tstatically linked\n").is_empty());
    }
}
