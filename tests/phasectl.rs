//! phasectl as people run it: the real binary, its files and its exit codes, with openssl, cpio and
//! curl on the other side.
//!
//! Kernels, programs and modules are small files made here, with the headers of real ones.

// The lints that keep PID 1 from panicking: a test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

fn phasectl<I: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phasectl"))
        .current_dir(folder)
        .env_remove("SOURCE_DATE_EPOCH")
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs a command line whose words are separated by blanks, which must succeed.
fn done(folder: &Path, line: &str) -> String {
    let output = phasectl(folder, line.split_ascii_whitespace());
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command line that must be refused with `code` and one line that has `part` in it.
fn refused(folder: &Path, line: &str, code: i32, part: &str) {
    let output = phasectl(folder, line.split_ascii_whitespace());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(said.contains(part), "{line}: {said}");
    if code != 2 {
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
    }
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program).current_dir(folder).args(arguments).output().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// An ELF program with one PT_INTERP segment if `interpreter` is not empty.
fn elf(machine: u16, interpreter: &str) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend(0x40_0000_u64.to_le_bytes()); // e_entry
    elf.extend(64_u64.to_le_bytes()); // e_phoff
    elf.extend(0_u64.to_le_bytes()); // e_shoff
    elf.extend(0_u32.to_le_bytes());
    for half in [64, 56, u16::from(!interpreter.is_empty()), 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    if !interpreter.is_empty() {
        let size = interpreter.len() as u64 + 1;
        elf.extend(3_u32.to_le_bytes()); // PT_INTERP
        elf.extend(4_u32.to_le_bytes());
        for word in [120, 0, 0, size, size, 1_u64] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(interpreter.as_bytes());
        elf.push(0);
    }
    elf
}

fn program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder with a key pair `k`, kernels of both architectures, an initramfs and static programs.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut bzimage = vec![0; 70_000];
    bzimage[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    bzimage[0x236] = 1;
    fs::write(at("bzimage"), bzimage).unwrap();
    let mut image = vec![0; 70_000];
    image[56..60].copy_from_slice(b"ARM\x64");
    fs::write(at("image"), image).unwrap();
    fs::write(at("initrd"), b"an initramfs").unwrap();
    fs::write(at("empty"), b"").unwrap();
    program(&at("payload"), &elf(X86_64, ""));
    program(&at("payload-arm64"), &elf(AARCH64, ""));
    program(&at("dynamic"), &elf(X86_64, "/lib64/ld-linux-x86-64.so.2"));
    done(folder.path(), "keygen --out k");
    folder
}

// keygen

#[test]
fn a_key_is_made_once_and_kept_private() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let said = json(done(at, "keygen --out keys --name release --json").as_bytes());
    let (private, public) = (at.join("keys/release.key"), at.join("keys/release.pub"));
    assert_eq!(mode(&private), 0o600);
    let der = run(at, "openssl", &["pkey", "-in", "keys/release.key", "-pubout", "-outform", "DER"]).stdout;
    let raw = &der[der.len() - 32..];
    let id: String = Sha256::digest(raw)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(said["keyid"], id.as_str());
    let pem = run(at, "openssl", &["pkey", "-in", "keys/release.key", "-pubout"]).stdout;
    assert_eq!(pem, fs::read(&public).unwrap());

    let before = fs::read(&private).unwrap();
    refused(at, "keygen --out keys --name release", 1, "release.key exists and is never overwritten");
    fs::remove_file(&private).unwrap();
    refused(at, "keygen --out keys --name release", 1, "release.pub exists and is never overwritten");
    assert!(!private.exists(), "no private key without its public half");
    fs::write(&private, before).unwrap();
    refused(at, "keygen --out keys --name ../release", 2, "no dot in front");
}

#[test]
fn the_folder_for_a_key_can_be_unusable() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    refused(folder.path(), "keygen --out file/k", 1, "cannot create");
}

// publish

const PUBLISH: &str = "publish --key k.key --into tree --arch x86_64 --kernel bzimage --initramfs initrd";

fn published(folder: &Path) -> Value {
    json(&fs::read(folder.join("tree/stable/x86_64/manifest.signed.json")).unwrap())
}

#[test]
fn openssl_verifies_what_is_published() {
    let folder = workshop();
    let at = folder.path();
    let said = json(done(at, &format!("{PUBLISH} --cmdline quiet --json")).as_bytes());
    let mut manifest = published(at);
    let signed = manifest["signed"]["data"].as_str().unwrap().to_owned();
    let data = STANDARD.decode(signed).unwrap();
    let signature = manifest["signatures"][0].clone();
    assert_eq!(signature["keyid"], said["keyids"][0]);
    fs::write(at.join("digest"), Sha256::digest(&data)).unwrap();
    fs::write(at.join("sig"), STANDARD.decode(signature["sig"].as_str().unwrap()).unwrap()).unwrap();
    let verify =
        ["pkeyutl", "-verify", "-pubin", "-inkey", "k.pub", "-rawin", "-in", "digest", "-sigfile", "sig"];
    let openssl = run(at, "openssl", &verify);
    assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stdout));

    let fields = manifest.as_object_mut().unwrap();
    fields.remove("signed");
    fields.remove("signatures");
    assert_eq!(json(&data), manifest, "the outer copy");
    let names: Vec<&String> = manifest.as_object().unwrap().keys().collect();
    assert!(names.is_sorted() && !data.contains(&b'\n') && !data.windows(2).any(|w| w == b": "), "canonical");
    assert_eq!(manifest["version"], "0.1");
    assert_eq!(manifest["manifest_version"], 1);
    assert_eq!((&manifest["channel"], &manifest["arch"]), (&"stable".into(), &"x86_64".into()));
    assert_eq!(manifest["cmdline"], "quiet");
    for (name, source) in [("kernel", "bzimage"), ("initramfs", "initrd")] {
        let artifact = &manifest["artifacts"][name];
        let stored = at.join("tree/stable/x86_64").join(artifact["urls"][0].as_str().unwrap());
        let bytes = fs::read(&stored).unwrap();
        assert_eq!(bytes, fs::read(at.join(source)).unwrap());
        assert_eq!(artifact["size"], bytes.len());
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(artifact["hash"], format!("sha256:{hash}").as_str());
        assert_eq!(stored.file_name().unwrap().to_str().unwrap(), format!("{name}-{}", &hash[..16]));
        assert_eq!(mode(&stored), 0o644);
    }
    let left = fs::read_dir(at.join("tree/stable/x86_64")).unwrap().count();
    assert_eq!(left, 3, "no temporary files");
}

#[test]
fn versions_rise_and_old_artifacts_stay() {
    let folder = workshop();
    let at = folder.path();
    done(at, PUBLISH);
    let old = published(at)["artifacts"]["kernel"]["urls"][0].as_str().unwrap().to_owned();
    let path = at.join("tree/stable/x86_64").join(&old);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let first = inode(&path);
    done(at, PUBLISH);
    assert_eq!(published(at)["manifest_version"], 2);
    assert_eq!(inode(&path), first, "a file somebody may be fetching is left alone");

    let mut kernel = fs::read(at.join("bzimage")).unwrap();
    kernel.push(1);
    fs::write(at.join("bzimage"), kernel).unwrap();
    refused(
        at,
        &format!("{PUBLISH} --manifest-version 2"),
        1,
        "version 2 is published already, with other content",
    );
    refused(at, &format!("{PUBLISH} --manifest-version 1"), 1, "manifest version 1 is lower than 2");
    refused(at, &format!("{PUBLISH} --manifest-version 0"), 2, "0");
    assert_eq!(published(at)["manifest_version"], 2);
    done(at, &format!("{PUBLISH} --manifest-version 10"));
    done(at, &format!("{PUBLISH} --manifest-version 10 --expires 60d"));
    assert_eq!(published(at)["manifest_version"], 10);
    assert!(path.exists());
    assert_ne!(published(at)["artifacts"]["kernel"]["urls"][0], old.as_str());

    // A damaged file under an artifact's name is replaced.
    let name = published(at)["artifacts"]["initramfs"]["urls"][0].as_str().unwrap().to_owned();
    let path = at.join("tree/stable/x86_64").join(name);
    fs::write(&path, b"damaged").unwrap();
    done(at, PUBLISH);
    assert_eq!(fs::read(path).unwrap(), b"an initramfs");

    fs::write(at.join("tree/stable/x86_64/manifest.signed.json"), "{").unwrap();
    refused(at, PUBLISH, 1, "is damaged");
}

#[test]
fn two_keys_make_two_signatures_and_a_base_makes_urls_absolute() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out k2");
    done(
        at,
        &format!("{PUBLISH} --key k2.key --channel beta --url-base https://a.example/x/ --url-base http://b"),
    );
    let manifest = json(&fs::read(at.join("tree/beta/x86_64/manifest.signed.json")).unwrap());
    assert_eq!(manifest["signatures"].as_array().unwrap().len(), 2);
    let urls = manifest["artifacts"]["kernel"]["urls"].as_array().unwrap();
    assert!(urls[0].as_str().unwrap().starts_with("https://a.example/x/beta/x86_64/kernel-"));
    assert!(urls[1].as_str().unwrap().starts_with("http://b/beta/x86_64/kernel-"));
    refused(at, &format!("{PUBLISH} --key k.key"), 1, "which was given already");
}

#[test]
fn what_cannot_boot_is_not_published() {
    let folder = workshop();
    let at = folder.path();
    let with = |kernel: &str, initramfs: &str, key: &str| {
        format!("publish --key {key} --into tree --arch x86_64 --kernel {kernel} --initramfs {initramfs}")
    };
    refused(at, &with("image", "initrd", "k.key"), 1, "kernel image is for arm64 (Image), not for x86_64");
    refused(at, &with("initrd", "initrd", "k.key"), 1, "initrd is not a kernel for x86_64");
    refused(at, &with("empty", "initrd", "k.key"), 1, "kernel empty is empty");
    refused(at, &with("bzimage", "empty", "k.key"), 1, "initramfs empty is empty");
    refused(at, &with("bzimage", "none", "k.key"), 1, "cannot open none");
    refused(at, &with("bzimage", ".", "k.key"), 1, ". is a directory");
    refused(at, &with("bzimage", "initrd", "none.key"), 1, "cannot open none.key");
    refused(at, &with("bzimage", "initrd", "k.pub"), 1, "k.pub is open to others (mode 0644)");
    fs::copy(at.join("k.pub"), at.join("p")).unwrap();
    fs::set_permissions(at.join("p"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(at, &with("bzimage", "initrd", "p"), 1, "p is a public key");
    fs::set_permissions(at.join("k.key"), fs::Permissions::from_mode(0o604)).unwrap();
    refused(at, PUBLISH, 1, "private key k.key is open to others (mode 0604); chmod 600 k.key");
    fs::set_permissions(at.join("k.key"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(at, &format!("{PUBLISH} --channel ../x"), 2, "a letter or digit");
    refused(at, &format!("{PUBLISH} --expires soon"), 2, "such as 30d");
    refused(at, &PUBLISH.replace("x86_64", "riscv64"), 2, "unknown architecture");
    assert!(!at.join("tree/stable/x86_64/manifest.signed.json").exists());
    let left = fs::read_dir(at.join("tree/stable/x86_64")).map_or(0, |files| {
        files
            .filter(|file| !file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("kernel-"))
            .count()
    });
    assert_eq!(left, 0, "no temporary files");
    done(at, &PUBLISH.replace("x86_64", "aarch64").replace("bzimage", "image"));
    assert!(at.join("tree/stable/arm64/manifest.signed.json").exists());
}

#[test]
fn one_publisher_at_a_time() {
    let folder = workshop();
    let at = folder.path();
    done(at, PUBLISH);
    let lock = fs::File::open(at.join("tree/stable/x86_64")).unwrap();
    lock.lock().unwrap();
    refused(at, PUBLISH, 1, "another phasectl publishes into tree/stable/x86_64");
    drop(lock);
    done(at, PUBLISH);
}

// initramfs

const PACK: &str = "initramfs --out out.img --payload payload --key k.pub";

#[test]
fn cpio_reads_the_archive_back() {
    let folder = workshop();
    let at = folder.path();
    fs::write(at.join("policy.json"), r#"{"threshold":1}"#).unwrap();
    fs::write(at.join("note"), "n").unwrap();
    let line = format!("{PACK} --policy policy.json --file note:/etc/note --mtime 1000000000");
    let said = json(done(at, &format!("{line} --json")).as_bytes());
    let first = fs::read(at.join("out.img")).unwrap();
    assert_eq!(said["size"], first.len());
    assert_eq!(said["arch"], "x86_64");
    assert_eq!(mode(&at.join("out.img")), 0o644);
    done(at, &line);
    assert_eq!(fs::read(at.join("out.img")).unwrap(), first, "the same bytes again");
    assert_eq!(first[4..8], [0; 4], "no time in the gzip header");

    let listing = run(at, "sh", &["-c", "gzip -dc out.img | TZ=UTC cpio -itv --numeric-uid-gid --quiet"]);
    assert!(
        listing.status.success() && listing.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&listing.stderr)
    );
    let listing = String::from_utf8(listing.stdout).unwrap();
    let lines: Vec<String> =
        listing.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for wanted in [
        "crw------- 1 0 0 5, 1 Sep 9 2001 dev/console",
        "crw-rw-rw- 1 0 0 1, 3 Sep 9 2001 dev/null",
        "crw-r--r-- 1 0 0 1, 11 Sep 9 2001 dev/kmsg",
        "drwxr-xr-x 2 0 0 0 Sep 9 2001 proc",
        "drwxrwxrwt 2 0 0 0 Sep 9 2001 tmp",
        "-rwxr-xr-x 1 0 0 64 Sep 9 2001 init",
        "lrwxrwxrwx 1 0 0 7 Sep 9 2001 bin/phaseboot -> ../init",
        "-rw-r--r-- 1 0 0 113 Sep 9 2001 etc/phaseboot/keys/k.pub",
        "-rw-r--r-- 1 0 0 15 Sep 9 2001 etc/phaseboot/policy.json",
        "-rw-r--r-- 1 0 0 1 Sep 9 2001 etc/note",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted}\n{listing}");
    }
    let mine = done(at, "inspect out.img");
    assert_eq!(mine.lines().count(), lines.len());
    assert!(mine.contains("crw-------    0    0       5, 1 dev/console"), "{mine}");

    let plain = done(at, &format!("{PACK} --no-device-nodes --compress none --json"));
    assert_eq!(json(plain.as_bytes())["size"], json(plain.as_bytes())["unpacked_size"]);
    assert!(!done(at, "inspect out.img").contains("dev/console"));
}

#[test]
fn what_cannot_start_is_not_packed() {
    let folder = workshop();
    let at = folder.path();
    refused(at, &format!("{PACK} --arch arm64"), 1, "payload payload is for x86_64, the archive for arm64");
    refused(
        at,
        &PACK.replace("payload payload", "payload initrd"),
        1,
        "payload initrd is not an ELF program",
    );
    refused(at, &PACK.replace("payload payload", "payload none"), 1, "cannot open none");
    refused(
        at,
        &PACK.replace("payload payload", "payload dynamic"),
        1,
        "needs the interpreter /lib64/ld-linux-x86-64.so.2, which is not in the archive",
    );
    refused(at, &format!("{PACK} --file payload-arm64:/bin/x"), 1, "program payload-arm64 is for arm64");
    refused(at, &format!("{PACK} --file payload:/init"), 1, "/init is in the archive twice");
    refused(at, &format!("{PACK} --file payload:/../x"), 2, "not a path for the archive");
    refused(at, &format!("{PACK} --init /bin/sh"), 1, "/init does not lead to a file of the archive");
    refused(at, &format!("{PACK} --key k.key"), 1, "k.key is a private key");
    refused(at, &format!("{PACK} --key k.pub"), 1, "which was given already");
    refused(at, &format!("{PACK} --key initrd"), 1, "initrd is not an Ed25519 public key");
    refused(at, "initramfs --out out.img --payload payload", 2, "--key");
    fs::write(at.join("policy.json"), "[1]").unwrap();
    refused(at, &format!("{PACK} --policy policy.json"), 1, "policy.json is not a JSON object");
    fs::write(at.join("policy.json"), "{").unwrap();
    refused(at, &format!("{PACK} --policy policy.json"), 1, "policy.json is not JSON");
    refused(at, &PACK.replace("out.img", "none/out.img"), 1, "cannot create a file in none");
    assert!(!at.join("out.img").exists());
    assert!(done(at, "initramfs --out out.img --payload payload --no-keys").contains("NONE"));
}

#[test]
fn somebody_elses_init_can_come_first() {
    let folder = workshop();
    let at = folder.path();
    program(&at.join("script"), b"#!/bin/sh\nexec /bin/phaseboot boot\n");
    refused(
        at,
        &format!("{PACK} --file script:/bin/start --init /bin/start"),
        1,
        "/init needs the interpreter /bin/sh, which is not in the archive",
    );
    done(at, &format!("{PACK} --file script:/bin/start --file payload:/bin/sh --init /bin/start"));
    let listing = done(at, "inspect out.img");
    assert!(listing.contains("init -> /bin/start"), "{listing}");

    // A dynamic program is welcome with its interpreter, also behind a link.
    refused(
        at,
        &format!("{PACK} --file script:/bin/start --file dynamic:/bin/sh --init /bin/start"),
        1,
        "ld-linux",
    );
    let with_loader = "--file dynamic:/bin/sh --file payload:/lib64/ld-linux-x86-64.so.2";
    done(at, &format!("{PACK} --file script:/init2 --init /init2 {with_loader}").replace("init2", "start"));
    let foreign = with_loader.replace("payload:", "payload-arm64:");
    refused(at, &format!("{PACK} --file script:/start --init /start {foreign}"), 1, "is for arm64");
}

/// A module tree as depmod leaves it: `top` needs `base-lib`, which is compressed.
fn module_tree(at: &Path, machine: u16) -> PathBuf {
    let tree = at.join("lib/modules/6.1.0-test");
    fs::create_dir_all(tree.join("kernel/net")).unwrap();
    let mut xz = Command::new("xz")
        .args(["-c", "--check=crc32"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    xz.stdin.take().unwrap().write_all(&elf(machine, "")).unwrap();
    let packed = xz.wait_with_output().unwrap().stdout;
    fs::write(tree.join("kernel/net/base-lib.ko.xz"), packed).unwrap();
    for name in ["top", "virtio_net", "other"] {
        fs::write(tree.join(format!("kernel/net/{name}.ko")), elf(machine, "")).unwrap();
    }
    let dep = "kernel/net/top.ko: kernel/net/base-lib.ko.xz\nkernel/net/base-lib.ko.xz:\n\
               kernel/net/virtio_net.ko:\nkernel/net/other.ko:\n";
    fs::write(tree.join("modules.dep"), dep).unwrap();
    fs::write(tree.join("modules.alias"), "alias pci:v1* top\nalias pci:v2* other\nalias x base_lib\n")
        .unwrap();
    fs::write(tree.join("modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n").unwrap();
    tree
}

#[test]
fn modules_come_with_what_they_need() {
    let folder = workshop();
    let at = folder.path();
    module_tree(at, X86_64);
    let line = format!("{PACK} --modules lib/modules/6.1.0-test --compress fast");
    let said = json(done(at, &format!("{line} --module top --module virtio-pci --json")).as_bytes());
    assert_eq!(said["modules"]["modules"], serde_json::json!(["base_lib", "top"]));
    let unpack = "mkdir root && cd root && gzip -dc ../out.img | cpio -idm --quiet 'lib/*'";
    assert!(run(at, "sh", &["-c", unpack]).status.success());
    let root = at.join("root/lib/modules/6.1.0-test");
    assert_eq!(
        fs::read_to_string(root.join("modules.alias")).unwrap(),
        "alias pci:v1* top\nalias x base_lib\n"
    );
    let dep = "kernel/net/base-lib.ko.xz:\nkernel/net/top.ko: kernel/net/base-lib.ko.xz\n";
    assert_eq!(fs::read_to_string(root.join("modules.dep")).unwrap(), dep);
    let kept = fs::read(root.join("kernel/net/base-lib.ko.xz")).unwrap();
    assert_eq!(kept, fs::read(at.join("lib/modules/6.1.0-test/kernel/net/base-lib.ko.xz")).unwrap());
    assert!(!root.join("kernel/net/other.ko").exists());

    let said = json(done(at, &format!("{line} --json")).as_bytes());
    assert_eq!(said["modules"]["modules"], serde_json::json!(["virtio_net"]), "the common ones");
    refused(at, &format!("{line} --module nonsense"), 1, "the kernel 6.1.0-test has no module nonsense");
    refused(at, &format!("{PACK} --modules lib/modules"), 1, "is not a folder lib/modules/RELEASE");
    refused(at, &format!("{PACK} --modules none"), 1, "cannot open the modules none");
    refused(at, &format!("{PACK} --module top"), 2, "--modules");
    fs::remove_file(at.join("lib/modules/6.1.0-test/kernel/net/base-lib.ko.xz")).unwrap();
    refused(at, &format!("{line} --module top"), 1, "kernel/net/base-lib.ko.xz");
}

#[test]
fn foreign_modules_are_refused() {
    let folder = workshop();
    let at = folder.path();
    module_tree(at, AARCH64);
    let line = format!("{PACK} --modules lib/modules/6.1.0-test --compress fast");
    refused(
        at,
        &format!("{line} --module virtio_net"),
        1,
        "virtio_net.ko is for arm64, the archive for x86_64",
    );
    refused(
        at,
        &format!("{line} --module base_lib"),
        1,
        "base-lib.ko.xz is for arm64, the archive for x86_64",
    );
    done(at, &format!("{line} --module top").replace("payload payload", "payload payload-arm64"));
}

#[test]
fn a_tree_without_indexes_is_indexed_elsewhere() {
    let folder = workshop();
    let at = folder.path();
    let tree = module_tree(at, X86_64);
    for index in ["modules.dep", "modules.alias"] {
        fs::remove_file(tree.join(index)).unwrap();
    }
    fs::write(tree.join("modules.order"), "").unwrap();
    // depmod reads symbols, which these modules do not have; their names are all that counts here.
    let output = phasectl(
        at,
        format!("{PACK} --modules lib/modules/6.1.0-test --module other --compress fast").split(' '),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!tree.join("modules.dep").exists(), "the tree is not written to");
}

// serve

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_phasectl"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, url) = line.trim().split_once(" on ").unwrap();
        Self { url: url.to_owned(), child }
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Status, headers in lower case, and body, as curl sees them.
    fn get(&self, path: &str, more: &[&str]) -> (u16, String, Vec<u8>) {
        let output = Command::new("curl")
            .args(["--silent", "--include", "--path-as-is", "--max-time", "20"])
            .args(more)
            .arg(format!("{}{path}", self.url))
            .output()
            .unwrap();
        let at = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(output.stdout[..at].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, output.stdout[at + 4..].to_vec())
    }

    /// Ends the server as a service manager does, and returns its access log.
    fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("tree/sub/.git")).unwrap();
    fs::write(at("secret"), "secret").unwrap();
    fs::write(at("tree/sub/.git/config"), "secret").unwrap();
    fs::write(at("tree/.hidden"), "secret").unwrap();
    fs::write(at("tree/file"), (0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    fs::write(at("tree/sub/a b"), "blank").unwrap();
    symlink("../secret", at("tree/out")).unwrap();
    symlink("/etc", at("tree/etc")).unwrap();
    symlink("file", at("tree/in")).unwrap();
    folder
}

#[test]
fn files_are_served_and_nothing_else() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let content = fs::read(folder.path().join("tree/file")).unwrap();
    let (status, head, body) = server.get("/file", &[]);
    assert_eq!(status, 200);
    assert_eq!(body, content);
    assert!(head.contains("content-length: 400000") && head.contains("accept-ranges: bytes"), "{head}");
    assert_eq!(server.get("/in", &[]).2, content);
    assert_eq!(server.get("/sub/a%20b?x=/../../secret", &[]).2, b"blank");
    for path in [
        "/",
        "/none",
        "/sub",
        "/sub/",
        "/out",
        "/etc/passwd",
        "/.hidden",
        "/%2ehidden",
        "/sub/.git/config",
        "/../secret",
        "/sub/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret",
        "/sub/..%2f..%2fsecret",
        "/..%5csecret",
        "/%252e%252e/secret",
        "//etc/passwd",
        "/file%00",
        "/%",
        "/%zz",
        "/sub/%c0%ae%c0%ae/secret",
    ] {
        let (status, _, body) = server.get(path, &[]);
        assert_eq!(status, 404, "{path}");
        assert_eq!(body, b"no such file\n", "{path}");
    }
    let (status, head, _) = server.get("/file", &["--request", "DELETE"]);
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let log = server.stop();
    assert!(log.contains(" GET /file 200 400000 bytes in "), "{log}");
    assert!(log.contains(" GET /%2e%2e/secret 404 "), "{log}");
}

#[test]
fn parts_are_served() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let content = fs::read(folder.path().join("tree/file")).unwrap();
    for (range, start, end) in [
        ("0-0", 0, 1),
        ("0-399999", 0, 400_000),
        ("399999-", 399_999, 400_000),
        ("1000-", 1000, 400_000),
        ("300000-900000", 300_000, 400_000),
        ("-1", 399_999, 400_000),
        ("-900000", 0, 400_000),
        ("0-18446744073709551615", 0, 400_000),
    ] {
        let (status, head, body) = server.get("/file", &["--header", &format!("Range: bytes={range}")]);
        assert_eq!(status, 206, "{range}");
        assert!(
            head.contains(&format!("content-range: bytes {start}-{}/400000", end - 1)),
            "{range}: {head}"
        );
        assert!(head.contains(&format!("content-length: {}\r\n", end - start)), "{range}: {head}");
        assert!(body == content[start..end], "{range}");
    }
    for range in ["400000-", "400000-400001", "-0", "99999999999999999999-"] {
        let (status, head, _) = server.get("/file", &["--header", &format!("Range: bytes={range}")]);
        assert_eq!(status, 416, "{range}");
        assert!(head.contains("content-range: bytes */400000"), "{range}: {head}");
    }
    for range in ["lines=0-1", "bytes=5-1", "bytes=x", "bytes=0-1,5-6"] {
        let (status, _, body) = server.get("/file", &["--header", &format!("Range: {range}")]);
        assert_eq!((status, body.len()), (200, 400_000), "{range}");
    }
    // curl's own way to go on after a break.
    fs::write(folder.path().join("part"), &content[..123_456]).unwrap();
    let url = format!("{}/file", server.url);
    assert!(run(folder.path(), "curl", &["-s", "-C", "-", "-o", "part", &url]).status.success());
    assert!(fs::read(folder.path().join("part")).unwrap() == content);
}

#[test]
fn conditions_are_kept() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let (status, head, body) = server.get("/file", &["--head"]);
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 400000"), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");

    let status = |headers: &[&str]| {
        let mut arguments = Vec::new();
        for header in headers {
            arguments.extend(["--header", header]);
        }
        server.get("/file", &arguments).0
    };
    let (same, listed) = (format!("If-None-Match: {tag}"), format!("If-None-Match: \"x\", W/{tag}"));
    assert_eq!(status(&[&same]), 304);
    assert_eq!(status(&[&listed]), 304);
    assert_eq!(status(&["If-None-Match: *"]), 304);
    assert_eq!(status(&["If-None-Match: \"x\""]), 200);
    assert_eq!(status(&[&same, "Range: bytes=0-1"]), 304);
    let matching = format!("If-Range: {tag}");
    assert_eq!(status(&[&matching, "Range: bytes=0-1"]), 206);
    assert_eq!(status(&["If-Range: \"x\"", "Range: bytes=0-1"]), 200);
    assert_eq!(status(&["If-Range: Sat, 01 Jan 2000 00:00:00 GMT", "Range: bytes=0-1"]), 200);

    fs::write(folder.path().join("tree/new"), "other").unwrap();
    fs::rename(folder.path().join("tree/new"), folder.path().join("tree/file")).unwrap();
    assert_eq!(status(&[&same]), 200);
    assert_eq!(status(&[&matching, "Range: bytes=0-1"]), 200);
}

#[test]
fn slow_clients_do_not_stop_others() {
    let folder = site();
    fs::File::create(folder.path().join("tree/large")).unwrap().set_len(64 << 20).unwrap();
    let server = Server::start(&folder.path().join("tree"));
    let mut slow = Vec::new();
    for request in ["GET /large HTTP/1.1\r\nHost: x\r\n\r\n", "GET /fi"] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            slow.push(stream);
        }
    }
    let since = Instant::now();
    assert_eq!(server.get("/file", &[]).2.len(), 400_000);
    assert!(since.elapsed() < Duration::from_secs(10));

    // What one of them takes later is still right.
    let mut first = BufReader::new(slow.swap_remove(0));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        first.read_line(&mut line).unwrap();
    }
    let got = std::io::copy(&mut first.by_ref().take(64 << 20), &mut std::io::sink()).unwrap();
    assert_eq!(got, 64 << 20);
    let since = Instant::now();
    let log = server.stop();
    assert!(since.elapsed() < Duration::from_secs(30), "the end does not wait for slow clients");
    assert!(log.contains(" GET /large 200 67108864 bytes in "), "{log}");
    assert!(log.contains(" of 67108864, cut off in "), "{log}");
}

#[test]
fn one_connection_serves_many_requests() {
    let folder = site();
    let server = Server::start(&folder.path().join("tree"));
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let requests = "GET /sub/a%20b HTTP/1.1\r\nHost: x\r\n\r\nHEAD /file HTTP/1.1\r\nHost: x\r\n\r\n\
                    GET /sub/a%20b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(answers.matches("\r\n\r\nblank").count(), 2, "{answers}");
}

#[test]
fn what_cannot_be_served_is_said() {
    let folder = site();
    let at = folder.path();
    refused(at, "serve none", 1, "cannot serve none");
    refused(at, "serve secret", 1, "cannot serve secret");
    refused(at, "serve tree --listen nowhere", 2, "--listen");
    let server = Server::start(&at.join("tree"));
    refused(at, &format!("serve tree --listen {}", server.address()), 1, "cannot listen on");
}

// inspect

#[test]
fn files_are_described() {
    let folder = workshop();
    let at = folder.path();
    done(at, &format!("{PUBLISH} --cmdline quiet"));
    let manifest = "tree/stable/x86_64/manifest.signed.json";
    let text = done(at, &format!("inspect {manifest}"));
    for part in
        ["manifest stable/x86_64 version 1", "kernel     70.0 kB, sha256:", "cmdline    quiet", "signed by"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = json(done(at, &format!("inspect --json {manifest}")).as_bytes());
    assert_eq!((&said["kind"], &said["signed"]), (&"manifest".into(), &true.into()));
    assert_eq!(done(at, "inspect bzimage"), "kernel for x86_64: bzImage, 70.0 kB\n");
    assert_eq!(json(done(at, "inspect --json image").as_bytes())["arch"], "arm64");

    let path = at.join(manifest);
    let changed = fs::read_to_string(&path).unwrap().replace("quiet", "loud");
    fs::write(&path, changed).unwrap();
    refused(at, &format!("inspect {manifest}"), 12, "the outer copy differs from signed.data");
    fs::write(&path, "{").unwrap();
    refused(at, &format!("inspect {manifest}"), 12, "is malformed");
    let plain =
        r#"{"arch":"x86_64","artifacts":{"kernel":{"hash":"sha256:00","size_bytes":1}},"signatures":[]}"#;
    fs::write(&path, plain).unwrap();
    assert!(done(at, &format!("inspect {manifest}")).contains("UNSIGNED"));
    refused(at, "inspect initrd", 1, "initrd is neither a manifest, nor a kernel, nor a whole initramfs");
    refused(at, "inspect none", 1, "cannot open none");
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let folder = workshop();
    done(folder.path(), &format!("{PACK} --compress fast"));
    let script =
        format!("{} inspect out.img | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_phasectl"));
    let output = run(folder.path(), "bash", &["-c", &script]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}
