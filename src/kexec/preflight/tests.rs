//! What is found on machines of every kind.

use super::Availability::{Available, Missing, Refused, Unknown};
use super::*;
use crate::error::Exit;
use crate::kexec::Call::{FileLoad, Load};

const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];
const REFUSED: Availability = Refused(Errno::PERM);

fn found(method: Method, file: Availability, load: Availability) -> Result<Preflight, Error> {
    judge(Arch::X86_64, method, file, load, Lockdown::None)
}

#[test]
fn file_first_then_load_where_we_can() {
    for arch in ARCHES {
        for (method, file, load, expected) in [
            (Method::Auto, Available, Available, &[FileLoad, Load][..]),
            (Method::Auto, Unknown, Unknown, &[FileLoad, Load]),
            (Method::Auto, Missing, Available, &[Load]),
            (Method::Auto, Available, Missing, &[FileLoad]),
            (Method::Auto, Available, REFUSED, &[FileLoad]),
            (Method::File, Available, Available, &[FileLoad]),
            (Method::Load, Available, Available, &[Load]),
        ] {
            assert_eq!(judge(arch, method, file, load, Lockdown::None).unwrap().calls(), expected);
        }
    }
}

#[test]
fn each_blocker_has_its_own_error() {
    for method in [Method::Auto, Method::File, Method::Load] {
        let error = found(method, Missing, Missing).unwrap_err();
        assert_eq!(error.exit(), Exit::KexecUnavailable);
        assert!(error.to_string().starts_with("this kernel was built without kexec"));
    }
    let error = found(Method::Auto, REFUSED, REFUSED).unwrap_err();
    assert!(matches!(error, Error::NotPermitted { call: FileLoad, .. }));
    assert_eq!(error.exit(), Exit::KexecUnavailable);
    let appraised = Refused(Errno::ACCESS);
    assert_eq!(found(Method::Load, Missing, appraised).unwrap_err().exit(), Exit::KexecRefused);
}

#[test]
fn lockdown_leaves_kexec_file_load_alone() {
    for (lockdown, mode) in
        [(Lockdown::Integrity, "integrity"), (Lockdown::Confidentiality, "confidentiality")]
    {
        for load in [REFUSED, Unknown] {
            let found = judge(Arch::Aarch64, Method::Auto, Available, load, lockdown).unwrap();
            assert_eq!(found.calls(), [FileLoad]);
            let [untried] = found.untried() else { panic!("{found:?}") };
            assert_eq!(untried.to_string(), format!("kexec_load is left out: lockdown ({mode}) forbids it"));
            for (method, file) in [(Method::Auto, Missing), (Method::Load, Available)] {
                let error = judge(Arch::Aarch64, method, file, load, lockdown).unwrap_err();
                assert_eq!(error.exit(), Exit::KexecRefused);
                assert!(error.to_string().contains(mode), "{error}");
            }
        }
    }
}

#[test]
fn what_is_left_out_is_told_with_its_reason() {
    for (load, words) in [
        (Missing, "this kernel was built without it"),
        (Refused(Errno::ACCESS), "EACCES (a security module (IMA, SELinux) forbids it)"),
    ] {
        let found = found(Method::Auto, Available, load).unwrap();
        assert_eq!(found.untried()[0].to_string(), format!("kexec_load is left out: {words}"));
    }
    // Only what was wanted.
    assert!(found(Method::File, Available, Missing).unwrap().untried().is_empty());
}

#[test]
fn a_policy_can_want_the_keyring_asked() {
    let calls = |method, file, load| {
        found(method, file, load).and_then(Preflight::with_keyring).map(|found| found.calls().to_vec())
    };
    for method in [Method::Auto, Method::Load] {
        assert_eq!(calls(method, Available, Available).unwrap(), [FileLoad]);
        assert_eq!(calls(method, Unknown, Unknown).unwrap(), [FileLoad]);
        assert_eq!(calls(method, Missing, Available).unwrap(), [Load]);
        let error = calls(method, Refused(Errno::ACCESS), Available).unwrap_err();
        assert!(matches!(error, Error::NotPermitted { call: FileLoad, errno: Errno::ACCESS }));
    }
    let bound = found(Method::Auto, Available, Available).unwrap().with_keyring().unwrap();
    assert!(bound.untried()[0].to_string().contains("policy"));
}

#[test]
fn the_lockdown_mode_is_in_brackets() {
    assert_eq!(Lockdown::parse("[none] integrity confidentiality\n"), Lockdown::None);
    assert_eq!(Lockdown::parse("none [integrity] confidentiality\n"), Lockdown::Integrity);
    assert_eq!(Lockdown::parse("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
    assert_eq!(Lockdown::parse(""), Lockdown::None);
}

#[test]
fn without_proc_nothing_is_known() {
    let root = tempfile::tempdir().unwrap();
    let error = preflight(&Paths::under(root.path()), Method::Auto).unwrap_err();
    assert!(error.to_string().contains("proc/self/mountinfo: No such file"), "{error}");
    assert!(error.hint().contains("mount -t proc proc /proc"));
}

#[test]
fn the_sysctls_are_read_first() {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
    fs::write(paths.kexec_load_limit(), "0\n").unwrap();
    assert!(matches!(preflight(&paths, Method::Auto), Err(Error::Exhausted)));
    fs::write(paths.kexec_load_disabled(), "1\n").unwrap();
    let error = preflight(&paths, Method::Auto).unwrap_err();
    assert_eq!(error.exit(), Exit::KexecUnavailable);
    assert!(error.hint().contains("reboot"));
}
