//! The published tree and its signatures.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::pe::pe;
use crate::{PUBLISH, X86_64, bzimage, done, elf, json, mode, phasectl, refused, run, workshop};

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
    assert_eq!(signature["keyid"], said["releases"][0]["keyids"][0]);
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
        assert_eq!(stored.file_name().unwrap().to_str().unwrap(), format!("{}.{name}", &hash[..16]));
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
    let name = urls[0].as_str().unwrap().strip_prefix("https://a.example/x/beta/x86_64/").unwrap();
    assert!(name.ends_with(".kernel"));
    assert_eq!(urls[1], format!("http://b/beta/x86_64/{name}").as_str());
    refused(at, &format!("{PUBLISH} --key k.key"), 1, "which was given already");
}

#[test]
fn a_unified_kernel_images_own_command_line_is_looked_at_where_it_counts() {
    let folder = workshop();
    let at = folder.path();
    for (name, line) in
        [("quoted", "a=\"b".to_owned()), ("long", "x".repeat(3000)), ("good", "quiet".to_owned())]
    {
        fs::write(at.join(name), pe(&[(".linux", &bzimage()), (".cmdline", line.as_bytes())])).unwrap();
    }
    let publish = |image: &str, more: &str| {
        format!("publish --key k.key --into {image}.tree --kernel {image} --initramfs initrd {more}")
    };
    let own = "the unified kernel image's own command line: ";
    refused(at, publish("quoted", "").trim_end(), 1, &format!("{own}a quote that is not closed"));
    refused(
        at,
        publish("long", "").trim_end(),
        1,
        &format!("{own}the command line for the next kernel is 3000"),
    );
    done(at, publish("good", "").trim_end());
    done(at, &publish("long", "--cmdline quiet"));
}

#[test]
fn what_cannot_boot_is_not_published() {
    let folder = workshop();
    let at = folder.path();
    let with = |kernel: &str, initramfs: &str, key: &str| {
        format!("publish --key {key} --into tree --arch x86_64 --kernel {kernel} --initramfs {initramfs}")
    };
    fs::write(at.join("vmlinux"), elf(X86_64, "")).unwrap();
    fs::write(at.join("vmlinuz.gz"), [0x1f, 0x8b, 8]).unwrap();
    fs::write(at.join("cut"), &bzimage()[..69_000]).unwrap();
    fs::write(at.join("zimage"), {
        let mut zimage = bzimage();
        zimage[0x211] = 0;
        zimage
    })
    .unwrap();
    for (kernel, said) in [
        (
            "image",
            "image: kernel is a kernel for arm64, not for x86_64; use the kernel that was built for this architecture",
        ),
        ("initrd", "initrd: kernel is of no kind that phaseboot knows, 12 bytes; use a bzImage (x86_64)"),
        ("empty", "empty: kernel is empty, 0 bytes; this is another file than was meant"),
        (
            "vmlinux",
            "vmlinux: kernel is an ELF file for x86_64 (a vmlinux?), 64 bytes; use arch/x86/boot/bzImage",
        ),
        (
            "vmlinuz.gz",
            "vmlinuz.gz: kernel is a broken gzip file: it promises 10 bytes more, 3 are left (after 0 unpacked bytes)",
        ),
        ("cut", "cut: kernel is a truncated bzImage"),
        ("zimage", "zimage: kernel has a broken bzImage header: it is a zImage"),
    ] {
        refused(at, &with(kernel, "initrd", "k.key"), 1, said);
    }
    assert!(!at.join("tree").exists(), "refused before anything is written");
    refused(at, &with("bzimage", "empty", "k.key"), 1, "initramfs empty is empty");
    refused(at, &with("bzimage", "none", "k.key"), 1, "cannot open none");
    refused(at, &with("bzimage", ".", "k.key"), 1, ". is a directory");
    refused(at, &with("bzimage", "initrd", "none.key"), 1, "cannot open none.key");
    refused(at, &with("bzimage", "initrd", "k.pub"), 1, "k.pub is a public key");
    fs::copy(at.join("k.pub"), at.join("p")).unwrap();
    fs::set_permissions(at.join("p"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(at, &with("bzimage", "initrd", "p"), 1, "p is a public key");
    fs::set_permissions(at.join("k.key"), fs::Permissions::from_mode(0o604)).unwrap();
    refused(at, PUBLISH, 1, "private key k.key is open to others (mode 0604); chmod 600 k.key");
    fs::set_permissions(at.join("k.key"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(at, &format!("{PUBLISH} --channel ../x"), 2, "no dot in front");
    refused(at, &format!("{PUBLISH} --expires soon"), 2, "such as 30d");
    refused(at, &PUBLISH.replace("x86_64", "riscv64"), 2, "unknown architecture");
    assert!(!at.join("tree/stable/x86_64/manifest.signed.json").exists());
    let left = fs::read_dir(at.join("tree/stable/x86_64")).map_or(0, |files| {
        files
            .filter(|file| !file.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".kernel"))
            .count()
    });
    assert_eq!(left, 0, "no temporary files");
    done(at, &PUBLISH.replace("x86_64", "aarch64").replace("bzimage", "image"));
    assert!(at.join("tree/stable/arm64/manifest.signed.json").exists());
}

#[test]
fn a_command_line_has_to_fit_the_kernel() {
    let folder = workshop();
    let at = folder.path();
    let arm64 = PUBLISH.replace("x86_64", "arm64").replace("bzimage", "image");
    // COMMAND_LINE_SIZE 2048 of both: x86 less what kexec_file_load keeps for itself.
    for (line, limit) in [(PUBLISH, 2016), (arm64.as_str(), 2047)] {
        let with = |length| format!("{line} --cmdline {}", "x".repeat(length));
        done(at, &with(limit));
        refused(
            at,
            &with(limit + 1),
            1,
            &format!("--cmdline: the command line for the next kernel is {} bytes long", limit + 1),
        );
    }
    assert_eq!(published(at)["manifest_version"], 1);
    refused(at, &format!("{PUBLISH} --cmdline a=\"b"), 1, "--cmdline: ");
}

#[test]
fn a_manifest_that_phaseboot_would_refuse_is_not_published() {
    let folder = workshop();
    let at = folder.path();
    let before = || fs::read(at.join("tree/stable/x86_64/manifest.signed.json")).unwrap();
    done(at, PUBLISH);
    let first = before();
    let many: Vec<String> = (0..33).map(|n| format!(" --url-base http://h{n}")).collect();
    let why = "not published, because phaseboot would refuse it: manifest \
               tree/stable/x86_64/manifest.signed.json is malformed: artifacts.kernel: more than 32 urls";
    refused(at, &format!("{PUBLISH}{}", many.concat()), 1, why);
    refused(
        at,
        &format!("{PUBLISH} --url-base http://{}", "h".repeat(2100)),
        1,
        "more than 32 urls, or \"http://hhh",
    );
    let control = phasectl(at, PUBLISH.split(' ').chain(["--cmdline", "a\x1bb"]));
    let said = String::from_utf8(control.stderr).unwrap();
    assert!(control.status.code() == Some(1) && said.contains("control characters"), "{said}");
    assert_eq!(before(), first);
}

#[test]
fn one_publisher_at_a_time() {
    let folder = workshop();
    let at = folder.path();
    done(at, PUBLISH);
    let lock = fs::File::open(at.join("tree/stable/x86_64")).unwrap();
    lock.lock().unwrap();
    refused(at, PUBLISH, 1, "another phasectl is at work in tree/stable/x86_64, for more than 10 s");
    // One that is not there for long is waited for.
    let other = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        drop(lock);
    });
    done(at, PUBLISH);
    other.join().unwrap();
}

const DTB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/devicetree/testdata/qemu-virt-gicv3.dtb");

/// A release of both architectures, with everything that one can have.
fn both() -> String {
    format!(
        "publish --key k.key --into tree --kernel bzimage --kernel image --initramfs x86_64=initrd \
         --initramfs arm64=initrd --rootfs arm64=initrd --dtb arm64={DTB} --cmdline quiet \
         --cmdline x86_64=console=ttyS0 --mirror http://m.example"
    )
}

#[test]
fn several_architectures_are_published_together() {
    let folder = workshop();
    let at = folder.path();
    let said = json(done(at, &format!("{} --json", both())).as_bytes());
    let manifest =
        |arch| json(&fs::read(at.join(format!("tree/stable/{arch}/manifest.signed.json"))).unwrap());
    let (x86, arm) = (manifest("x86_64"), manifest("arm64"));
    assert_eq!((&x86["cmdline"], &arm["cmdline"]), (&"console=ttyS0".into(), &"quiet".into()));
    assert!(x86["artifacts"].get("rootfs").is_none() && x86["artifacts"].get("dtbs").is_none());
    let tree = &arm["artifacts"]["dtbs"]["qemu-virt-gicv3.dtb"];
    assert_eq!(tree["size"], fs::metadata(DTB).unwrap().len());
    let urls: Vec<&str> = tree["urls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    assert_eq!(urls[1], format!("http://m.example/stable/arm64/{}", urls[0]), "here first, then the mirror");
    assert!(arm["artifacts"]["rootfs"]["urls"][0].as_str().unwrap().ends_with(".rootfs"));
    assert_eq!(said["releases"][1]["artifacts"]["qemu-virt-gicv3.dtb"]["file"], urls[0]);
    // plasmd takes files with these names for artifacts of its own manifest.
    for file in fs::read_dir(at.join("tree/stable/arm64")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(
            !["initramfs", "initrd", "vmlinuz", "bzImage", "rootfs", "."].iter().any(|p| name.starts_with(p)),
            "{name}"
        );
    }
}

#[test]
fn what_belongs_to_no_architecture_is_refused() {
    let folder = workshop();
    let at = folder.path();
    fs::write(at.join("x.dtb"), [0xd0, 0x0d, 0xfe, 0xed]).unwrap();
    let kernels = "publish --key k.key --into tree --kernel bzimage --kernel arm64=image";
    for (options, said) in [
        ("--initramfs initrd", "--initramfs initrd: for which architecture? Put ARCH= in front"),
        ("--initramfs x86_64=initrd", "--initramfs is missing for arm64"),
        ("--kernel image --initramfs initrd", "--kernel is given twice for arm64"),
        (
            "--initramfs x86_64=initrd --initramfs arm64=initrd --initramfs arm64=initrd",
            "--initramfs is given twice for arm64",
        ),
        ("--initramfs x86_64=initrd --initramfs arm64=initrd --dtb arm64=x.dtb", "x.dtb: "),
        (
            "--initramfs x86_64=initrd --initramfs arm64=initrd --cmdline a --cmdline b",
            "--cmdline is given twice",
        ),
    ] {
        refused(at, &format!("{kernels} {options}"), 1, said);
    }
    refused(
        at,
        &format!("{PUBLISH} --rootfs arm64=initrd"),
        1,
        "--rootfs is given for arm64, which has no --kernel",
    );
    refused(at, &PUBLISH.replace("--kernel bzimage", "--kernel arm64=bzimage"), 1, "not for arm64");
    assert!(!at.join("tree").exists());
    done(at, &PUBLISH.replace("--arch x86_64", ""));
    assert_eq!(published(at)["arch"], "x86_64", "as the kernel is");
}

#[test]
fn nothing_goes_live_unless_everything_can() {
    let folder = workshop();
    let at = folder.path();
    done(at, &both());
    let before = snapshot(&at.join("tree"));
    fs::write(at.join("bzimage"), [bzimage(), vec![1]].concat()).unwrap();
    // Only the second of the two manifests is one that phaseboot would refuse.
    let long = format!("{} --cmdline arm64={}", both(), "x".repeat(3000));
    refused(at, &long, 1, "--cmdline: ");
    fs::write(at.join("tree/stable/arm64/manifest.signed.json"), "{").unwrap();
    refused(at, &both(), 1, "arm64/manifest.signed.json is damaged");
    fs::remove_file(at.join("tree/stable/arm64/manifest.signed.json")).unwrap();
    let mut after = before.clone();
    after.remove("stable/arm64/manifest.signed.json");
    assert_eq!(snapshot(&at.join("tree")), after);
}

/// Every file below `folder`, with its content.
fn snapshot(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let found = run(folder, "find", &[".", "-type", "f", "-printf", "%P\\n"]);
    let names = String::from_utf8(found.stdout).unwrap();
    names.lines().map(|name| (name.to_owned(), fs::read(folder.join(name)).unwrap())).collect()
}

/// Runs a script in which `tree` is a file system of 400 kB of its own; None if that cannot be had.
fn on_a_small_disk(at: &Path, script: &str) -> Option<String> {
    fs::create_dir_all(at.join("tree")).unwrap();
    let small = |script: &str| {
        let mount = format!("mount -t tmpfs -o size=400k none tree && {script}");
        run(at, "unshare", &["-m", "-r", "sh", "-c", &mount])
    };
    if !small("true").status.success() {
        println!("skipped: no mount namespace with a file system of its own can be made here");
        return None;
    }
    let output = small(&format!("PATH=\"$PATH\":$(dirname {}); {script}", env!("CARGO_BIN_EXE_phasectl")));
    Some(String::from_utf8(output.stderr).unwrap())
}

const LIST: &str = "(cd tree && find . -type f | sort | xargs sha256sum)";

#[test]
fn a_full_disk_leaves_the_old_release() {
    let folder = workshop();
    let at = folder.path();
    fs::write(at.join("big"), vec![7; 400_000]).unwrap();
    let big = PUBLISH.replace("initrd", "big");
    let both = both().replace("arm64=initrd", "arm64=big");
    for line in [big, both] {
        let script = format!(
            "phasectl {PUBLISH} >&2 && {LIST} > before; phasectl {line}; echo $? > code; {LIST} > after"
        );
        let Some(said) = on_a_small_disk(at, &script) else { return };
        assert_eq!(fs::read_to_string(at.join("code")).unwrap(), "1\n", "{said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("phasectl: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains("No space left on device"), "{said}");
        assert_eq!(fs::read(at.join("after")).unwrap(), fs::read(at.join("before")).unwrap());
        assert_eq!(fs::read_to_string(at.join("before")).unwrap().lines().count(), 3);
    }
}

#[test]
fn a_full_disk_leaves_keys_and_lists_as_they_were() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out two");
    let script = format!(
        "phasectl {PUBLISH} >&2 && cat /dev/zero > tree/ballast; {LIST} > before
         for line in 'keygen --out tree/key' 'sign tree/stable/x86_64/manifest.signed.json --key two.key' \
            'keys rotate --root two.key --add k.pub --into tree' 'keys rotate --root two.key --add k.pub --file tree/l' \
            '{PUBLISH} --cmdline other'
         do phasectl $line; echo $?; done > codes; {LIST} > after"
    );
    let Some(said) = on_a_small_disk(at, &script) else { return };
    let codes = fs::read_to_string(at.join("codes")).unwrap();
    let codes: Vec<&str> = codes.lines().filter(|line| line.len() == 1).collect();
    assert_eq!(codes, ["1"; 5], "{said}");
    assert_eq!(said.matches("No space left on device").count(), 6, "cat's and five of ours: {said}");
    assert_eq!(fs::read(at.join("after")).unwrap(), fs::read(at.join("before")).unwrap());
}

#[test]
fn what_a_killed_publisher_left_is_cleared_away() {
    let folder = workshop();
    let at = folder.path();
    done(at, PUBLISH);
    let left = at.join("tree/stable/x86_64/.phasectl-abc");
    fs::write(&left, "half").unwrap();
    done(at, PUBLISH);
    assert!(!left.exists());
}

#[test]
fn plasmd_s_own_folder_is_good_enough() {
    let folder = workshop();
    let at = folder.path();
    fs::create_dir_all(at.join("tree/stable/x86_64")).unwrap();
    fs::rename(at.join("bzimage"), at.join("tree/stable/x86_64/vmlinuz")).unwrap();
    fs::rename(at.join("initrd"), at.join("tree/stable/x86_64/initramfs.img")).unwrap();
    let line = PUBLISH
        .replace("bzimage", "tree/stable/x86_64/vmlinuz")
        .replace("initrd", "tree/stable/x86_64/initramfs.img");
    done(at, &line);
    assert_eq!(fs::read(at.join("tree/stable/x86_64/vmlinuz")).unwrap(), bzimage());
    assert_eq!(published(at)["artifacts"]["kernel"]["size"], 70_000);
}

#[test]
fn the_last_version_is_only_believed_if_it_is_ours() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out stranger");
    done(at, &format!("{} --manifest-version 9000", PUBLISH.replace("k.key", "stranger.key")));
    refused(at, PUBLISH, 1, "is signed by none of the keys; give --trust or --manifest-version");
    refused(at, &format!("{PUBLISH} --manifest-version 5"), 1, "manifest version 5 is lower than 9000");
    fs::create_dir_all(at.join("trust/keys")).unwrap();
    for name in ["k.pub", "stranger.pub"] {
        fs::copy(at.join(name), at.join("trust/keys").join(name)).unwrap();
    }
    done(at, &format!("{PUBLISH} --trust trust"));
    assert_eq!(published(at)["manifest_version"], 9001);
    fs::write(at.join("trust/policy.json"), r#"{"threshold":2}"#).unwrap();
    refused(at, &format!("{PUBLISH} --trust trust"), 1, "1 of 2 needed");
    refused(at, &format!("{PUBLISH} --trust nowhere"), 13, "no trusted key");
}

/// Signs, as somebody could elsewhere, the manifest of stable/x86_64 with other content, under the
/// next version, and returns the command that makes it live.
fn by_hand(at: &Path, kernel: &[u8], change: impl Fn(&mut Value)) -> String {
    let mut manifest = published(at);
    for name in ["signed", "signatures"] {
        manifest.as_object_mut().unwrap().remove(name);
    }
    manifest["manifest_version"] = (manifest["manifest_version"].as_u64().unwrap() + 1).into();
    let hash: String = Sha256::digest(kernel).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(at.join("tree/stable/x86_64/hand"), kernel).unwrap();
    manifest["artifacts"]["kernel"] =
        serde_json::json!({ "hash": format!("sha256:{hash}"), "size": kernel.len(), "urls": ["hand"] });
    change(&mut manifest);
    fs::write(at.join("hand.json"), manifest.to_string()).unwrap();
    done(at, "sign hand.json --key k.key");
    "sign hand.json --into tree --threshold 1 --public k.pub".to_owned()
}

#[test]
fn what_cannot_boot_does_not_go_live_by_way_of_a_draft() {
    let folder = workshop();
    let at = folder.path();
    done(at, PUBLISH);
    let image = fs::read(at.join("image")).unwrap();
    refused(at, &by_hand(at, &image, |_| ()), 1, "tree/stable/x86_64/hand: kernel is a kernel for arm64");
    refused(at, &by_hand(at, b"no kernel", |_| ()), 1, "hand: kernel is of no kind that phaseboot knows");
    let kernel = bzimage();
    let long = by_hand(at, &kernel, |manifest| manifest["cmdline"] = "x".repeat(2017).into());
    refused(at, &long, 1, "cmdline: the command line for the next kernel is 2017 bytes long");
    let open = by_hand(at, &kernel, |manifest| manifest["cmdline"] = "a=\"b".into());
    refused(at, &open, 1, "cmdline: ");
    let other = by_hand(at, &kernel, |manifest| manifest["arch"] = "riscv64".into());
    refused(at, &other, 1, "unknown architecture");
    assert_eq!(published(at)["manifest_version"], 1);
    done(at, &by_hand(at, &kernel, |_| ()));
    assert_eq!(published(at)["manifest_version"], 2);
}

#[test]
fn signatures_of_the_same_bytes_are_united() {
    let folder = workshop();
    let at = folder.path();
    done(at, "keygen --out two");
    done(at, &format!("{PUBLISH} --draft draft.json"));
    done(at, "sign draft.json --key two.key --out other.json");
    let into = "--into tree --threshold 1 --public k.pub";
    done(at, &format!("sign other.json {into}"));
    // The draft has only one of the two signatures.
    done(at, &format!("sign draft.json {into}"));
    assert_eq!(published(at)["signatures"].as_array().unwrap().len(), 2);
    for key in ["k.pub", "two.pub"] {
        done(at, &format!("verify tree/stable/x86_64/manifest.signed.json --key {key}"));
    }
    // Of key lists as well.
    done(at, "keys rotate --root k.key --root two.key --add k.pub --file both.json");
    done(at, "sign both.json --key-list --into tree --threshold 2 --public k.pub --public two.pub");
    let mut one = json(&fs::read(at.join("both.json")).unwrap());
    one["signatures"].as_array_mut().unwrap().pop();
    fs::write(at.join("one.json"), one.to_string()).unwrap();
    done(at, "sign one.json --key-list --into tree --threshold 1 --public k.pub");
    let live = json(&fs::read(at.join("tree/keys.json")).unwrap());
    assert_eq!(live["signatures"].as_array().unwrap().len(), 2);
}

#[test]
fn what_fails_leaves_no_empty_folder() {
    let folder = workshop();
    let at = folder.path();
    let arm64 = PUBLISH.replace("x86_64", "arm64").replace("bzimage", "image");
    refused(at, &arm64.replace("--initramfs initrd", "--initramfs empty"), 1, "initramfs empty is empty");
    assert!(!at.join("tree").exists());
    done(at, &format!("{PUBLISH} --draft draft.json"));
    fs::create_dir_all(at.join("tree/stable/aarch64")).unwrap();
    // One line: nothing is said of plasmd, whose listing stays as it was.
    refused(at, &arm64.replace("--initramfs initrd", "--initramfs empty"), 1, "initramfs empty is empty");
    assert!(!at.join("tree/stable/arm64").exists());
    refused(at, "sign draft.json --into other --threshold 1 --public k.pub", 15, "is missing");
    assert!(!at.join("other").exists());
    let output = phasectl(at, arm64.split_ascii_whitespace());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("plasmd will no longer list"), "{said}");
}

#[test]
fn a_folder_that_is_another_s_is_left_alone() {
    let folder = workshop();
    let at = folder.path();
    done(at, &format!("{PUBLISH} --channel testing"));
    let testing = at.join("tree/testing/x86_64/manifest.signed.json");
    let before = fs::read(&testing).unwrap();
    std::os::unix::fs::symlink("testing", at.join("tree/stable")).unwrap();
    done(at, &PUBLISH.replace("--into tree", "--into elsewhere"));
    let live = "elsewhere/stable/x86_64/manifest.signed.json";
    for line in [
        PUBLISH.to_owned(),
        format!("{PUBLISH} --manifest-version 7"),
        format!("sign {live} --into tree --threshold 1 --public k.pub"),
    ] {
        refused(at, &line, 1, "tree/stable/x86_64/manifest.signed.json is for testing/x86_64");
    }
    assert_eq!(fs::read(&testing).unwrap(), before);
}
