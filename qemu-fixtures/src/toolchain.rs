//! The compilers for `*-unknown-linux-musl`.
//!
//! Where rustup has the musl target it is used as it is. Elsewhere Debian's `rustc-web` builds its
//! own standard library from `rust-web-src`, and links with Debian's gcc and `musl-dev`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::arch::Arch;
use crate::{folders, run};

/// What std asks of `libunwind.a`. The payload has no tables to unwind by (see [`flags`]), so gcc's unwinder
/// would be 17 kB that find nothing: a trace of the stack is empty with it, too. All but the first two are
/// named by a routine that the linker leaves out.
const UNWIND: &str = "\
int _Unwind_Backtrace(void) { return 5; /* _URC_END_OF_STACK */ }
#define NAMED(function) long function(void) { return 0; }
NAMED(_Unwind_GetIP) NAMED(_Unwind_GetIPInfo) NAMED(_Unwind_GetRegionStart) NAMED(_Unwind_GetTextRelBase)
NAMED(_Unwind_GetDataRelBase) NAMED(_Unwind_GetLanguageSpecificData) NAMED(_Unwind_SetGR) NAMED(_Unwind_SetIP)
";

/// Settings of the session that must not reach a payload.
const LEAKS: [&str; 9] =
    ["RUSTFLAGS", "RUSTC", "RUSTDOC", "CARGO", "CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "TARGET"];
/// Settings that start like a leak, and only say where things are or how to reach the registry.
const HARMLESS: [&str; 4] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];

/// Whether rustup's current toolchain has the musl target of `arch`.
pub(crate) fn rustup_has(arch: Arch) -> bool {
    let rustc = Command::new("rustc").args(["--print", "target-libdir", "--target", arch.target()]).output();
    rustc.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success()
            && fs::read_dir(folder).is_ok_and(|files| {
                files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
            })
    })
}

/// `cargo build` for payloads of these architectures in `target`, with nothing of the session's settings.
pub(crate) fn cargo_build(archs: &[Arch], target: &Path) -> Result<Command> {
    let rustup = archs.iter().all(|&arch| rustup_has(arch));
    let mut command = if rustup { rustup_cargo(archs) } else { debian_cargo(archs)? };
    for arch in archs {
        command.args(["--target", arch.target()]);
    }
    command.env("CARGO_TARGET_DIR", target).current_dir(folders::workspace());
    Ok(command)
}

fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let prefixes = ["CARGO_", "RUSTC_", "CC_", "CXX", "CFLAGS_", "AR_", "DEP_"];
        let leaks = LEAKS.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix));
        if leaks && !HARMLESS.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Per-target variables of cargo and of the `cc` crate.
fn target_env(command: &mut Command, arch: Arch, linker: &Path, flags: &[String]) {
    let small = arch.target().replace('-', "_");
    let big = small.to_uppercase();
    command
        .env(format!("CC_{small}"), linker)
        .env(format!("CFLAGS_{small}"), "-fno-asynchronous-unwind-tables -fno-unwind-tables")
        .env(format!("CARGO_TARGET_{big}_LINKER"), linker)
        .env(format!("CARGO_TARGET_{big}_RUSTFLAGS"), flags.join(" "));
}

/// The functions of ring that src/sys/ring.rs stands in for, tables and all. Of an assembler's file the linker
/// leaves out all or nothing, so every function of it is here, those of either architecture.
const REPLACED: [&str; 10] = [
    "p256_point_mul_base",
    "p256_point_mul_base_vartime",
    "x25519_public_from_private_generic_masked",
    "sha256_block_data_order_nohw",
    "sha256_block_data_order_ssse3",
    "sha256_block_data_order_avx",
    "sha256_block_data_order_hw",
    "sha512_block_data_order_nohw",
    "sha512_block_data_order_avx",
    "sha512_block_data_order_hw",
];

/// Flags of both ways: a static executable at a fixed address, without this machine's folders in it.
/// Nothing unwinds through `panic=abort`, so the tables for it (a tenth of the file) are left out.
/// A boot verifies a few signatures, and does without a second implementation of the curve for AVX2.
/// Sections of one alignment side by side compress better, by 3 kB. Constants lie in the pages of the code, which
/// nobody can write either: 8 kB of padding less.
///
/// A place that panics is named by CRATE-VERSION/src/FILE, which is 10 kB shorter than with its folders. The
/// workspace needs no such flag, as cargo names its files from its root: so the flags are the same in every
/// worktree, and a copied target folder is a fresh one.
fn flags() -> Vec<String> {
    let mut flags = vec![
        "--cfg=curve25519_dalek_backend=\"serial\"".to_owned(),
        "-Crelocation-model=static".to_owned(),
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Cforce-unwind-tables=no".to_owned(),
        "-Clink-arg=-Wl,--sort-section=alignment".to_owned(),
        "-Clink-arg=-Wl,-z,noseparate-code".to_owned(),
        "-Clink-arg=-Wl,--no-eh-frame-hdr".to_owned(),
        "-Clink-arg=-Wl,-T,qemu-fixtures/payload.ld".to_owned(),
        "-Clink-arg=-Wl,--wrap=pthread_setname_np".to_owned(),
    ];
    flags.extend(REPLACED.map(|name| format!("-Clink-arg=-Wl,--wrap=ring_core_0_17_14__{name}")));
    if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
        let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
        let registries = cargo.join("registry/src");
        let folders = fs::read_dir(&registries).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut folders: Vec<PathBuf> = folders.collect();
        folders.sort();
        flags.extend(folders.iter().map(|folder| format!("--remap-path-prefix={}=", folder.display())));
    }
    flags
}

fn rustup_cargo(archs: &[Arch]) -> Command {
    let mut command = clean("cargo");
    command.arg("build");
    for &arch in archs {
        // rustup's musl targets bring crt files and libc; gcc only links, and compiles ring.
        target_env(&mut command, arch, Path::new(arch.gcc()), &flags());
    }
    command
}

/// Everything is compiled here, std too, and by a compiler that may be told more. Of what derives `Debug` only
/// the name is printed: nothing that people read is made of more. Of the place that panics only the file is
/// kept, which with what the panic says is enough to find it.
///
/// LLVM's outliner (`-enable-machine-outliner=always`) would save 40 kB more. It takes the rounds of SHA-256
/// apart as well, for processors without instructions for it, and inflate and zstd get a third slower.
fn debian_cargo(archs: &[Arch]) -> Result<Command> {
    let mut command = clean("/usr/bin/cargo");
    command
        .args(["build", "-Zbuild-std=std,panic_abort", "-Zbuild-std-features=optimize_for_size"])
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1");
    for &arch in archs {
        let folder = musl_gcc(arch)?;
        let mut flags = flags();
        flags.push("-Zfmt-debug=shallow".to_owned());
        flags.push("-Zlocation-detail=file".to_owned());
        flags.push("--remap-path-prefix=/usr/lib/rustlib/src/rust/library=".to_owned());
        flags.push("-Clink-self-contained=no".to_owned());
        flags.push(format!("-Lnative={}", folder.display()));
        target_env(&mut command, arch, &folder.join("cc"), &flags);
    }
    Ok(command)
}

/// A folder with `cc`, which is Debian's gcc for `arch` with musl, and the `libunwind.a` that std asks for.
fn musl_gcc(arch: Arch) -> Result<PathBuf> {
    let _turn = folders::lock("toolchain")?;
    let folder = folders::cache()?.join("toolchain").join(arch.gnu());
    let specs = format!("/usr/lib/{}-linux-musl/musl-gcc.specs", arch.gnu());
    let cc = folder.join("cc");
    let script = format!("#!/bin/sh\nexec {} \"$@\" -specs {specs}\n", arch.gcc());
    let files = BTreeMap::from([("cc", script.as_str()), ("unwind.c", UNWIND)]);
    let have = |name: &str, text: &str| fs::read_to_string(folder.join(name)).is_ok_and(|old| old == text);
    let unwind = folder.join("libunwind.a");
    if unwind.exists() && files.iter().all(|(name, text)| have(name, text)) {
        return Ok(folder);
    }
    if !Path::new(&specs).exists() {
        anyhow::bail!("{specs} is missing; run: cargo lab setup");
    }
    folders::afresh(&folder)?;
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    fs::set_permissions(&cc, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let options = ["-Os", "-ffunction-sections", "-fno-asynchronous-unwind-tables"];
    run::quiet(
        Command::new(&cc).args(options).args(["-c", "unwind.c", "-o", "unwind.o"]).current_dir(&folder),
    )?;
    let half = folder.join("libunwind.a.part");
    run::quiet(
        Command::new(arch.gcc().replace("gcc", "gcc-ar")).arg("rcs").arg(&half).arg(folder.join("unwind.o")),
    )?;
    fs::rename(&half, &unwind)?;
    Ok(folder)
}
