//! The `phaseboot` command as scripts see it: exit codes, one line on standard error, and the way from
//! `phasectl publish` and `serve` to verified files, with both real programs.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic and print"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use phaseboot::arch::Arch;
use phaseboot::sys::arch::NATIVE;
use serde_json::Value;

fn phaseboot(folder: &Path, arguments: &str) -> Output {
    let words = arguments.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_phaseboot")).current_dir(folder).args(words).output().unwrap()
}

fn phasectl(folder: &Path, arguments: &str) {
    let words = arguments.split_whitespace();
    let output =
        Command::new(env!("CARGO_BIN_EXE_phasectl")).current_dir(folder).args(words).output().unwrap();
    assert!(output.status.success(), "phasectl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command that has to fail: its exit code, and its one line of explanation.
fn failure(folder: &Path, arguments: &str) -> (i32, String) {
    let output = phaseboot(folder, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().last().unwrap_or_default().to_owned();
    let code = output.status.code().unwrap();
    assert_ne!(code, 0, "phaseboot {arguments}");
    assert!(last.contains(&format!("(exit code {code})")), "phaseboot {arguments}: {text}");
    (code, last)
}

/// The smallest file that is a kernel for this machine by its header, with `fill` for a body.
fn kernel(fill: u8) -> Vec<u8> {
    let mut file = vec![fill; 64 * 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    match NATIVE {
        Arch::X86_64 => {
            // Documentation/arch/x86/boot.rst: setup_sects, boot_flag, jump, magic, protocol 2.15.
            put(0x1f1, &[4]);
            put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
            put(0x202, b"HdrS\x0f\x02");
            put(0x211, &[1]);
            put(0x1f4, &3800u32.to_le_bytes());
            put(0x230, &0x20_0000u32.to_le_bytes());
            put(0x234, &[1, 0, 0x3f, 0]);
            put(0x238, &2047u32.to_le_bytes());
            put(0x258, &0x100_0000u64.to_le_bytes());
            put(0x260, &0x100_0000u32.to_le_bytes());
        }
        Arch::Aarch64 => {
            // Documentation/arch/arm64/booting.rst: text_offset, image_size, flags, magic.
            put(8, &0u64.to_le_bytes());
            put(16, &0x10_0000u64.to_le_bytes());
            put(24, &0xau64.to_le_bytes());
            put(56, b"ARM\x64");
        }
    }
    file
}

/// The same where the kernel command line is `line`, in a network namespace of its own without any
/// network, and with an /etc/resolv.conf of its own; None, and a word why, where that cannot be had.
fn phaseboot_told(folder: &Path, line: &str, prepare: &str, arguments: &str) -> Option<Output> {
    fs::write(folder.join("cmdline"), format!("{line}\n")).unwrap();
    fs::create_dir_all(folder.join("run")).unwrap();
    fs::write(folder.join("resolv.conf"), "").unwrap();
    let inside = |command: &str| {
        let script = format!(
            "mount --bind resolv.conf \"$(readlink -f /etc/resolv.conf)\" && mount --bind cmdline /proc/cmdline \
             && mount --bind run /run && {command}"
        );
        Command::new("unshare")
            .args(["--mount", "--net", "sh", "-c", &script])
            .current_dir(folder)
            .env("PHASEBOOT", env!("CARGO_BIN_EXE_phaseboot"))
            .output()
    };
    if !inside("true").is_ok_and(|output| output.status.success()) {
        println!("skipped: no namespaces here");
        return None;
    }
    Some(inside(&format!("{prepare} exec \"$PHASEBOOT\" {arguments}")).unwrap())
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keys, a trust folder and a published tree in one folder.
fn published() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("trust/keys")).unwrap();
    phasectl(at, "keygen --out mine");
    fs::copy(at.join("mine.pub"), at.join("trust/keys/mine.pub")).unwrap();
    fs::write(at.join("vmlinuz"), kernel(7)).unwrap();
    fs::write(at.join("initrd"), vec![9; 10_000]).unwrap();
    phasectl(
        at,
        &format!(
            "publish --key mine.key --into www --channel stable --arch {NATIVE} --kernel vmlinuz --initramfs initrd"
        ),
    );
    folder
}

fn serve(folder: &Path) -> (Server, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_phasectl"))
        .current_dir(folder)
        .args(["serve", "www", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();
    (Server(child), url)
}

#[test]
fn mistakes_end_in_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in ["bot", "boot --tust x", "fetch", "kexec", "verify", "fdt", "boot --method both"] {
        let (code, line) = failure(folder.path(), arguments);
        assert_eq!(code, 2, "{line}");
        assert!(line.contains("phaseboot --help"), "{line}");
    }
    let help = phaseboot(folder.path(), "");
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("exit codes:"));
    assert!(phaseboot(folder.path(), "--version").status.success());
}

#[test]
fn verify_says_who_signed_or_why_not() {
    let folder = published();
    let at = folder.path();
    let manifest = format!("www/stable/{NATIVE}/manifest.signed.json");
    let output = phaseboot(at, &format!("verify {manifest} --trust trust --json"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["manifest_version"], 1);
    assert_eq!(verdict["signed_by"].as_array().unwrap().len(), 1);

    assert_eq!(failure(at, &format!("verify {manifest} --trust nowhere")).0, 13);
    assert_eq!(failure(at, &format!("verify {manifest} --trust trust --channel beta")).0, 14);
    assert_eq!(failure(at, "verify vmlinuz --trust trust").0, 12);
    assert_eq!(failure(at, "verify absent --trust trust").0, 2);
    assert_eq!(failure(at, "verify /dev/zero --trust trust").0, 12);
    let text = fs::read_to_string(at.join(&manifest)).unwrap();
    fs::write(at.join("edited"), text.replace("\"stable\"", "\"stabel\"")).unwrap();
    assert_eq!(failure(at, "verify edited --trust trust").0, 12);
    phasectl(at, "keygen --out stranger");
    fs::rename(at.join("stranger.pub"), at.join("trust/keys/mine.pub")).unwrap();
    assert_eq!(failure(at, &format!("verify {manifest} --trust trust")).0, 13);
}

/// A command line that is meant for another init.
const IBFT: &str = "root=/dev/sda1 ip=ibft phase.timeout=5";
/// A system with a network.
const ROUTED: &str = "ip link set lo up; ip link add cable type veth peer name other; \
                      ip link set other up; ip link set cable up; ip addr add 10.99.0.2/24 dev cable;";

#[test]
fn what_is_given_for_another_init_stops_only_who_needs_a_network() {
    let folder = published();
    let at = folder.path();
    let told = |prepare: &str, arguments: &str| {
        let output = phaseboot_told(at, IBFT, prepare, arguments)?;
        Some((output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let verify = format!("verify www/stable/{NATIVE}/manifest.signed.json --trust trust");
    let Some((code, text)) = told("", &verify) else { return };
    assert!(code == 0 && text.contains("warning: ip=ibft") && text.contains("passed over"), "{text}");
    let fetch = "fetch --out got --provider http://10.99.0.2:1/ --trust trust";
    let (code, text) = told("", fetch).unwrap();
    assert!(code == 2 && text.contains("config failed: ip=ibft"), "{text}");
    let (code, text) = told("", "net up").unwrap();
    assert!(code == 2 && text.contains("config failed: ip=ibft"), "{text}");
    let (code, text) = told(ROUTED, fetch).unwrap();
    assert!(code == 11 && text.contains("warning: ip=ibft") && text.contains("refused"), "{text}");
    assert!(told("", "kexec --kernel vmlinuz --dry-run").unwrap().0 != 2);
}

#[test]
fn what_is_wrong_with_the_configuration_is_json_and_kept() {
    let folder = published();
    let line = "phase.log=json phase.proxy=bad";
    for (arguments, code) in [
        ("fetch --out got --provider http://10.99.0.2:1/ --trust trust", 2),
        ("net up", 2),
        ("boot --dry-run --provider http://10.99.0.2:1/ --trust nowhere", 13),
    ] {
        let kept = folder.path().join("run/phaseboot/log.jsonl");
        let _ = fs::remove_file(&kept);
        let Some(output) = phaseboot_told(folder.path(), line, "", arguments) else { return };
        assert_eq!(output.status.code(), Some(code), "{arguments}");
        let (shown, kept) = (String::from_utf8(output.stderr).unwrap(), fs::read_to_string(kept).unwrap());
        assert_eq!(shown, kept, "{arguments}");
        let last: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "error", "{arguments}");
    }
}

#[test]
fn net_up_follows_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let prepare = "ip link add eth7 type veth peer name other; ip link set other up;";
    let line = "ip=10.99.7.2::10.99.7.1:24::eth7:none nameserver=10.99.7.3 phase.log=json";
    let Some(output) = phaseboot_told(folder.path(), line, prepare, "net up --json") else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let uplink: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&uplink["interface"], &uplink["ipv4"]["address"]), (&"eth7".into(), &"10.99.7.2".into()));
    assert_eq!(uplink["dns"][0], "10.99.7.3");
    let names = fs::read_to_string(folder.path().join("resolv.conf")).unwrap();
    assert!(names.contains("nameserver 10.99.7.3\n"), "{names}");
    let beside = fs::read_dir("/etc").unwrap().flatten().map(|entry| entry.file_name().into_string());
    assert!(!beside.flatten().any(|name| name.starts_with("resolv.conf.")));
    // Errors, records and what is kept are the same objects.
    for text in [output.stderr, fs::read(folder.path().join("run/phaseboot/log.jsonl")).unwrap()] {
        let text = String::from_utf8(text).unwrap();
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(objects.iter().any(|object| object["step"] == "net"), "{text}");
    }
    let output = phaseboot_told(folder.path(), line, prepare, "net up").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("eth7 10.99.7.2/24 routers 10.99.7.1 dns 10.99.7.3"), "{text}");
}

#[test]
fn a_record_that_cannot_be_relied_on_is_refused() {
    let folder = published();
    let at = folder.path();
    let verify = format!("verify www/stable/{NATIVE}/manifest.signed.json --trust trust");
    assert!(phaseboot(at, &format!("{verify} --record none.json")).status.success());
    assert!(!at.join("none.json").exists(), "verify only reads");
    fs::write(at.join("seen.json"), "").unwrap();
    let (code, line) = failure(at, &format!("{verify} --record seen.json"));
    assert_eq!(code, 14, "{line}");
    assert!(line.contains("rollback failed") && line.contains("seen.json"), "{line}");
    // Before anything is asked of the network.
    let (code, line) =
        failure(at, "fetch --out none --provider http://127.0.0.1:9 --trust trust --record seen.json");
    assert_eq!(code, 14, "{line}");
    fs::write(at.join("trust/policy.json"), r#"{"rollback_record":"required"}"#).unwrap();
    let (code, line) = failure(at, &verify);
    assert_eq!(code, 14, "{line}");
    assert!(line.contains("--record FILE"), "{line}");
    assert!(phaseboot(at, &format!("{verify} --record none.json")).status.success());
}

#[test]
fn fetch_leaves_verified_files_or_none() {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    if routes.lines().count() < 2 {
        println!("skipped: without a route, phaseboot would ask this network for a lease");
        return;
    }
    let folder = published();
    let at = folder.path();
    let (_server, url) = serve(at);
    let output = phaseboot(at, &format!("fetch --out got --provider {url} --trust trust"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(at.join("got/kernel")).unwrap(), kernel(7));
    assert_eq!(fs::read(at.join("got/initramfs")).unwrap(), vec![9; 10_000]);
    let manifest = fs::read(at.join(format!("www/stable/{NATIVE}/manifest.signed.json"))).unwrap();
    assert_eq!(fs::read(at.join("got/manifest.signed.json")).unwrap(), manifest);

    let (code, line) = failure(at, &format!("fetch --out none --provider {url}/nowhere --trust trust"));
    assert_eq!(code, 11, "{line}");
    let kernel_file = fs::read_dir(at.join(format!("www/stable/{NATIVE}")))
        .unwrap()
        .find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.to_string_lossy().ends_with(".kernel")))
        .unwrap();
    fs::write(kernel_file, kernel(8)).unwrap();
    let (code, line) = failure(at, &format!("fetch --out none --provider {url} --trust trust"));
    assert_eq!(code, 15, "{line}");
    assert!(!at.join("none").exists());
}

#[test]
fn fdt_copies_a_tree_without_its_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/src/devicetree/testdata/qemu-virt-gicv3.dtb");
    let output = phaseboot(at, &format!("fdt --in {tree} --out copy.dtb --print"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let source = String::from_utf8(output.stdout).unwrap();
    assert!(source.contains("linux,dummy-virt") && source.contains("kaslr-seed = <0x00 0x00>"), "{source}");
    assert_eq!(fs::metadata(at.join("copy.dtb")).unwrap().len(), fs::metadata(tree).unwrap().len());
    fs::write(at.join("cut.dtb"), &fs::read(tree).unwrap()[..500]).unwrap();
    assert_eq!(failure(at, "fdt --in cut.dtb --print").0, 23);
    assert_eq!(failure(at, "fdt --in absent --print").0, 2);
    assert_eq!(failure(at, "fdt --in /dev/zero --print").0, 23);
}

/// The same as nobody, from a folder that everybody may read; None, and a word why, where that cannot be.
fn phaseboot_as_nobody(arguments: &str) -> Option<Output> {
    let run = |program: &str, words: &str| {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", program])
            .args(words.split_whitespace())
            .current_dir("/")
            .output()
    };
    let program = env!("CARGO_BIN_EXE_phaseboot");
    if !run(program, "--version").is_ok_and(|output| output.status.success()) {
        println!("skipped: nobody cannot be had here");
        return None;
    }
    Some(run(program, arguments).unwrap())
}

/// Whether this machine's kernel can load no other one: only then may a test ask it to.
fn has_no_kexec() -> bool {
    let is_missing = !Path::new("/sys/kernel/kexec_loaded").exists() && Path::new("/sys/kernel").exists();
    if !is_missing {
        println!("skipped: this kernel has kexec");
    }
    is_missing
}

/// What doctor says, its exit code, and its last words on standard error.
fn examined(output: &Output) -> (Value, i32, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let code = output.status.code().unwrap();
    assert_eq!(report["exit"], code, "{report}");
    assert_eq!(report["ok"], code == 0, "{report}");
    let first = report["checks"].as_array().unwrap().iter().find(|check| check["state"] == "blocker");
    assert_eq!(first.is_some(), code != 0, "{report}");
    (report, code, String::from_utf8(output.stderr.clone()).unwrap())
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn doctor_examines_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let output = phaseboot(at, "doctor --json");
    let (report, code, said) = examined(&output);
    let text = String::from_utf8(phaseboot(at, "doctor").stdout).unwrap();
    for one in report["checks"].as_array().unwrap() {
        assert!(text.lines().any(|line| line.contains(one["name"].as_str().unwrap())), "{one}: {text}");
        if one["state"] == "blocker" || one["state"] == "warning" {
            assert_ne!(one["cure"], "", "{one}");
        }
    }
    if has_no_kexec() {
        assert_eq!(code, 20, "{report}");
        assert!(said.contains("cannot start another kernel") && said.contains("(exit code 20)"), "{said}");
        let check = check(&report, "kexec_file_load");
        assert_eq!(check["state"], "blocker");
        assert!(check["cure"].as_str().unwrap().contains("CONFIG_KEXEC"), "{check}");
    }
}

#[test]
fn doctor_works_for_everybody_and_says_what_root_would_know() {
    let Some(output) = phaseboot_as_nobody("doctor --json") else { return };
    let (report, code, _) = examined(&output);
    assert_eq!(code, 20);
    let privilege = check(&report, "privilege");
    assert_eq!((&privilege["state"], &privilege["saw"]), (&"blocker".into(), &"no CAP_SYS_BOOT".into()));
    assert!(privilege["cure"].as_str().unwrap().contains("root"));
    // Hidden or not, it is no reason of its own.
    assert_ne!(check(&report, "memory map")["state"], "blocker");
}

#[test]
fn doctor_looks_at_a_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("page"), "<html>not found</html>").unwrap();
    fs::write(at.join("vmlinuz"), kernel(7)).unwrap();
    fs::write(at.join("initrd"), [0; 4096]).unwrap();
    fs::File::create(at.join("huge")).unwrap().set_len(1 << 42).unwrap();
    let doctor = |arguments: &str| examined(&phaseboot(at, &format!("doctor --json {arguments}"))).0;
    let page = doctor("--kernel page");
    assert_eq!(check(&page, "kernel")["state"], "blocker");
    assert!(check(&page, "kernel")["saw"].as_str().unwrap().contains("web page"), "{page}");
    let swapped = doctor("--kernel vmlinuz --initrd initrd --initrd page");
    assert_eq!(check(&swapped, "ramdisk")["saw"], "initrd is a web page, not a ramdisk", "{swapped}");
    let good = doctor("--kernel vmlinuz --initrd initrd");
    assert_eq!(check(&good, "memory")["state"], "ok", "{good}");
    let saw = check(&good, "signature")["saw"].as_str().unwrap();
    assert!(saw.contains("the kernel has none"), "{good}");
    let (code, line) = failure(at, "doctor --kernel vmlinuz --initrd huge");
    assert!(code == 2 && line.contains("huge is larger than the limit"), "{line}");
    for missing in ["doctor --kernel nowhere", "doctor --kernel vmlinuz --initrd nowhere"] {
        let (code, line) = failure(at, missing);
        assert_eq!(code, 2, "{line}");
        assert!(line.contains("nowhere"), "{line}");
    }
}

#[test]
fn kexec_says_that_this_kernel_has_none() {
    if !has_no_kexec() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("vmlinuz"), kernel(7)).unwrap();
    for (arguments, expected, says) in [
        ("--status", 20, "this kernel was built without kexec_file_load"),
        ("-S", 20, "this kernel was built without kexec_file_load"),
        ("--exec", 20, "this kernel was built without kexec_file_load"),
        ("--unload", 20, "this kernel was built without kexec_file_load"),
        ("--kernel vmlinuz --load-only", 20, "this kernel was built without kexec_file_load"),
        ("--kernel vmlinuz --dry-run", 20, "this kernel was built without kexec_file_load"),
        ("-c -l vmlinuz", 20, "this kernel was built without kexec_load"),
    ] {
        let (code, line) = failure(at, &format!("kexec {arguments}"));
        assert_eq!(code, expected, "{line}");
        assert!(line.contains(says), "{line}");
    }
    if let Some(output) = phaseboot_as_nobody("kexec --kernel /dev/null --dry-run") {
        assert_eq!(output.status.code(), Some(20));
    }
}

#[test]
fn kexec_refuses_what_makes_no_sense_before_it_touches_anything() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, says) in [
        ("kexec --exec --unload", "cannot be given together"),
        ("kexec --kernel nowhere --exec", "load nothing"),
        ("kexec --kernel nowhere --cmdline a --reuse-cmdline", "cannot be given together"),
        #[cfg(target_arch = "x86_64")]
        ("kexec --kernel nowhere --dtb tree", "--dtb has no use here"),
        ("kexec --kernel nowhere --reset usb", "--reset takes none, pci or xhci"),
        ("doctor --initrd nowhere", "doctor --initrd needs --kernel FILE"),
    ] {
        let (code, line) = failure(folder.path(), arguments);
        assert_eq!(code, 2, "{line}");
        assert!(line.contains(says) && line.contains("phaseboot --help"), "{line}");
    }
}

/// Ends, too, if the command does not, or takes a gigabyte of memory or of files, of those in memory too.
fn refused_at_once(folder: &Path, arguments: &str) -> (Option<i32>, String) {
    let limited = "ulimit -v 1048576 && ulimit -f 2097152 && exec timeout 10 \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_phaseboot")])
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn nobody_waits_for_a_pipe_and_no_device_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert!(Command::new("mkfifo").arg(at.join("pipe")).status().unwrap().success());
    fs::create_dir(at.join("folder")).unwrap();
    fs::write(at.join("vmlinuz"), kernel(7)).unwrap();
    for file in ["pipe", "folder", "/dev/zero"] {
        for command in ["inspect", "doctor --kernel", "doctor --kernel vmlinuz --initrd"] {
            let (code, text) = refused_at_once(at, &format!("{command} {file}"));
            assert_eq!(code, Some(2), "{command} {file}: {text}");
            assert!(text.contains(&format!("{file} is not a regular file")), "{text}");
        }
    }
    // What is small may come through a pipe, and an empty one is malformed.
    assert_eq!(refused_at_once(at, "fdt --print --in pipe").0, Some(23));
    fs::create_dir_all(at.join("trust/keys")).unwrap();
    phasectl(at, "keygen --out mine");
    fs::copy(at.join("mine.pub"), at.join("trust/keys/mine.pub")).unwrap();
    assert_eq!(refused_at_once(at, "verify --trust trust pipe").0, Some(12));
    let script = "cat \"$1\" | \"$0\" fdt --print --in /dev/stdin";
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/src/devicetree/testdata/qemu-virt-gicv3.dtb");
    let piped =
        Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_phaseboot"), tree]).output().unwrap();
    assert!(String::from_utf8(piped.stdout).unwrap().contains("linux,dummy-virt"));
}

#[test]
fn a_file_that_is_far_too_large_is_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::File::create(at.join("sparse")).unwrap().set_len(5 << 30).unwrap();
    for command in ["inspect sparse", "doctor --kernel sparse"] {
        let began = Instant::now();
        let (code, text) = refused_at_once(at, command);
        assert_eq!(code, Some(2), "{command}: {text}");
        assert!(began.elapsed() < Duration::from_secs(3), "{command}: {:?}", began.elapsed());
        assert!(text.contains("is larger than the limit of 4294967296 bytes"), "{text}");
    }
}

#[test]
fn a_path_is_printed_without_what_a_terminal_obeys() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["inspect", "verify --trust", "doctor --kernel", "fdt --print --in"] {
        let (code, text) = refused_at_once(folder.path(), &format!("{command} a\u{1b}[2Jb\u{9b}m"));
        assert!(code == Some(2) || code == Some(13), "{command}: {text}");
        assert!(!text.contains(['\u{1b}', '\u{9b}']), "{command}: {text:?}");
    }
}
