//! Archives, as cpio reads them, and what is refused.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use phaseboot::time::UnixTime;

use crate::{AARCH64, PACK, X86_64, done, elf, json, mode, phasectl, program, refused, run, workshop};

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
        "-rw-r--r-- 1 0 0 119 Sep 9 2001 etc/phaseboot/keys/k.pub",
        "-rw-r--r-- 1 0 0 15 Sep 9 2001 etc/phaseboot/policy.json",
        "-rw-r--r-- 1 0 0 21 Sep 9 2001 etc/phaseboot/build-time",
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
    refused(at, &format!("{PACK} --key k.key"), 1, "k.key: it holds a private key");
    refused(at, &format!("{PACK} --key k.pub"), 1, "key k.pub: ");
    refused(at, &format!("{PACK} --key initrd"), 1, "key initrd: \"an initramfs\" is no Ed25519 public key");
    refused(at, "initramfs --out out.img --payload payload", 2, "--key");
    for (policy, said) in [
        (&b"[1]"[..], "policy policy.json: it is no JSON object"),
        (b"{", "policy policy.json: EOF"),
        (b"\xff", "policy policy.json: invalid utf-8"),
        (br#"{"treshold":1}"#, "policy policy.json: unknown field `treshold`"),
        (br#"{"a\nb":1}"#, "policy policy.json: unknown field `a\u{fffd}b`"),
        (br#"{"threshold":0}"#, "policy policy.json: threshold is 0"),
        (
            br#"{"threshold":2}"#,
            "policy policy.json: the policy asks for 2 signatures, but only 1 keys are trusted; pack more public keys",
        ),
    ] {
        fs::write(at.join("policy.json"), policy).unwrap();
        refused(at, &format!("{PACK} --policy policy.json"), 1, said);
    }
    refused(at, &PACK.replace("out.img", "none/out.img"), 1, "cannot write none/out.img: No such file");
    assert!(!at.join("out.img").exists());
    assert!(done(at, "initramfs --out out.img --payload payload --no-keys").contains("NONE"));
}

#[test]
fn all_keys_of_a_file_count() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out k2");
    done(at, "keygen --out k3");
    let read = |name: &str| fs::read_to_string(at.join(name)).unwrap();
    fs::write(at.join("both.pub"), read("k.pub") + &read("k2.pub")).unwrap();
    fs::write(at.join("policy.json"), r#"{"threshold":3}"#).unwrap();
    let pack =
        "initramfs --out out.img --payload payload --compress fast --policy policy.json --key both.pub";
    refused(at, pack, 1, "the policy asks for 3 signatures, but only 2 keys are trusted");
    refused(at, &format!("{pack} --key k2.pub"), 1, "was given already");
    let said = json(done(at, &format!("{pack} --key k3.pub --json")).as_bytes());
    assert_eq!(said["keyids"].as_array().unwrap().len(), 3);

    // Keys that come later are not counted, and nobody counts where nobody has to sign.
    let without = pack.replace("--key both.pub", "--no-keys");
    assert!(done(at, &without).contains("will boot nothing until"));
    fs::write(at.join("policy.json"), r#"{"threshold":3,"allow_unsigned":true}"#).unwrap();
    done(at, pack);
    assert!(done(at, &without).contains("lets anybody's manifest boot"));

    let many: String = (1..=65)
        .map(|n| {
            done(at, &format!("keygen --out many{n}"));
            read(&format!("many{n}.pub"))
        })
        .collect();
    fs::write(at.join("many.pub"), many).unwrap();
    refused(at, &PACK.replace("k.pub", "many.pub"), 1, "65 keys; phaseboot trusts at most 64");
}

#[test]
fn an_archive_says_when_it_was_built() {
    let folder = workshop();
    let at = folder.path();
    let packed = |arguments: &str, epoch: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phasectl"));
        command.current_dir(at).env_remove("SOURCE_DATE_EPOCH").envs(epoch.map(|e| ("SOURCE_DATE_EPOCH", e)));
        let line = format!("{PACK} --compress none --json {arguments}");
        let output = command.args(line.split_ascii_whitespace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = json(&output.stdout)["build_time"].as_str().unwrap().to_owned();
        let file = run(at, "sh", &["-c", "cpio -i --quiet --to-stdout etc/phaseboot/build-time < out.img"]);
        assert_eq!(String::from_utf8(file.stdout).unwrap(), format!("{said}\n"));
        said
    };
    assert_eq!(packed("--mtime 1000000000", Some("5")), "2001-09-09T01:46:40Z");
    assert_eq!(packed("", Some("1000000000")), "2001-09-09T01:46:40Z");
    let now = UnixTime::parse_rfc3339(&packed("", None)).unwrap();
    assert!(UnixTime::now().0 - now.0 < 60);
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

#[test]
fn tls_roots_are_packed_as_the_policy_names_them() {
    let folder = workshop();
    let at = folder.path();
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata/ca.pem");
    fs::copy(authority, at.join("ca.pem")).unwrap();
    fs::write(at.join("policy.json"), r#"{"tls_roots":["ca.pem"]}"#).unwrap();
    let pack = format!("{PACK} --policy policy.json");
    done(at, &format!("{pack} --tls-root ca.pem"));
    assert!(done(at, "inspect out.img").contains(" etc/phaseboot/tls/ca.pem"));
    done(at, &format!("{pack} --file ca.pem:/etc/phaseboot/tls/ca.pem"));

    refused(at, &pack, 1, "the policy's tls_roots name ca.pem: give it with --tls-root");
    fs::copy(authority, at.join("other.pem")).unwrap();
    let line = format!("{pack} --tls-root ca.pem --tls-root other.pem");
    refused(at, &line, 1, "the policy's tls_roots do not name other.pem");
    refused(at, &format!("{PACK} --tls-root ca.pem"), 2, "--policy");
    refused(at, &format!("{pack} --tls-root none/ca.pem"), 1, "cannot open none/ca.pem");
    for (content, said) in
        [("", "it holds no PEM certificate"), ("-----BEGIN CERTIFICATE-----", "it is damaged")]
    {
        fs::write(at.join("ca.pem"), content).unwrap();
        refused(at, &format!("{pack} --tls-root ca.pem"), 1, &format!("tls/ca.pem: {said}"));
    }
}

#[test]
fn a_key_list_is_packed_if_the_packed_keys_signed_it() {
    let folder = workshop();
    let at = folder.path();
    for key in ["release", "stranger"] {
        done(at, &format!("keygen --out {key}"));
    }
    done(at, "keys rotate --root k.key --add release.pub --file keys.json");
    done(at, &format!("{PACK} --key-list keys.json"));
    assert!(done(at, "inspect out.img").contains(" etc/phaseboot/keys.json"));

    let pack = "initramfs --out other.img --payload payload --key";
    refused(at, &format!("{pack} stranger.pub --key-list keys.json"), 1, "not signed by the packed keys");
    fs::write(at.join("policy.json"), r#"{"min_keys_version":2}"#).unwrap();
    let older = format!("{pack} k.pub --key-list keys.json --policy policy.json");
    refused(at, &older, 1, "keys.json has version 1; 2 or newer");
    fs::write(at.join("keys.json"), "{}").unwrap();
    refused(at, &format!("{pack} k.pub --key-list keys.json"), 1, "keys.json");
    assert!(!at.join("other.img").exists());
}
