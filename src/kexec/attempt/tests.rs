//! Calls whose answers are given here instead of by a kernel.

use super::*;
use crate::error::Exit;
use Call::{FileLoad, Load};

const BOTH: &[Call] = &[FileLoad, Load];

/// What each call answers, in the order of asking; the calls asked, the pauses, and the outcome.
fn run(
    calls: &[Call],
    lockdown: Lockdown,
    answers: &[Result<(), Errno>],
) -> (Vec<Call>, usize, Result<Call, Vec<Errno>>) {
    let (mut asked, mut pauses) = (Vec::new(), 0);
    let outcome = first_that_loads(
        calls,
        lockdown,
        |index| {
            asked.push(calls[index]);
            Ok(answers[asked.len() - 1])
        },
        || pauses += 1,
    );
    let refused = |refused: Vec<Attempted>| refused.iter().map(|attempted| attempted.errno).collect();
    let outcome = outcome.unwrap().map_err(refused);
    (asked, pauses, outcome)
}

#[test]
fn the_first_that_loads_is_the_last_that_is_asked() {
    assert_eq!(run(BOTH, Lockdown::None, &[Ok(())]), (vec![FileLoad], 0, Ok(FileLoad)));
    for errno in [Errno::NOSYS, Errno::INVAL, Errno::NOMEM, Errno::KEYREJECTED, Errno::NOKEY] {
        let (asked, _, outcome) = run(BOTH, Lockdown::None, &[Err(errno), Ok(())]);
        assert_eq!((asked.as_slice(), outcome), (BOTH, Ok(Load)), "{errno:?}");
    }
    let (_, _, outcome) = run(BOTH, Lockdown::None, &[Err(Errno::NOEXEC), Err(Errno::NOMEM)]);
    assert_eq!(outcome, Err(vec![Errno::NOEXEC, Errno::NOMEM]));
}

#[test]
fn a_refusal_is_the_end() {
    for lockdown in [Lockdown::None, Lockdown::Integrity, Lockdown::Confidentiality] {
        for errno in [Errno::PERM, Errno::ACCESS, Errno::KEYREVOKED] {
            let (asked, _, outcome) = run(BOTH, lockdown, &[Err(errno)]);
            assert_eq!((asked, outcome), (vec![FileLoad], Err(vec![errno])));
        }
    }
    for errno in [Errno::KEYREJECTED, Errno::BADMSG, Errno::NODATA, Errno::NOEXEC] {
        let (asked, _, outcome) = run(BOTH, Lockdown::Integrity, &[Err(errno)]);
        assert_eq!((asked, outcome), (vec![FileLoad], Err(vec![errno])));
    }
}

#[test]
fn what_is_busy_is_asked_once_more() {
    let busy = Err(Errno::BUSY);
    assert_eq!(run(BOTH, Lockdown::None, &[busy, Ok(())]), (vec![FileLoad; 2], 1, Ok(FileLoad)));
    assert_eq!(run(BOTH, Lockdown::None, &[busy, busy]), (vec![FileLoad; 2], 1, Err(vec![Errno::BUSY])));
    let (asked, pauses, outcome) = run(BOTH, Lockdown::None, &[busy, Err(Errno::INVAL), busy, Ok(())]);
    assert_eq!((asked, pauses, outcome), (vec![FileLoad, FileLoad, Load, Load], 2, Ok(Load)));
}

#[test]
fn what_is_not_an_answer_is_passed_on() {
    let failed = || Err(Error::Map { name: "kernel", errno: Errno::NOMEM });
    let outcome = first_that_loads(&[Load], Lockdown::None, |_| failed(), || ());
    assert!(matches!(outcome, Err(Error::Map { .. })));
}

#[test]
fn the_report_names_each_call_and_its_answer() {
    let attempted = |call, errno| Attempted { call, errno, lockdown: Lockdown::None };
    let untried = vec![Untried { call: Load, reason: "lockdown (integrity) forbids it".to_owned() }];
    let error = Error::Load {
        attempts: vec![Attempted { lockdown: Lockdown::Integrity, ..attempted(FileLoad, Errno::PERM) }],
        untried,
    };
    assert_eq!(
        error.to_string(),
        "kexec_file_load answered EPERM (the kernel is locked down (integrity), and the image is not signed \
         with a key that it trusts); kexec_load is left out: lockdown (integrity) forbids it"
    );
    assert_eq!(error.exit(), Exit::KexecRefused);
    assert!(error.hint().contains("signed"));

    for (attempts, exit) in [
        (vec![attempted(FileLoad, Errno::KEYREJECTED), attempted(Load, Errno::ACCESS)], Exit::KexecRefused),
        (vec![attempted(FileLoad, Errno::KEYREJECTED), attempted(Load, Errno::NOSYS)], Exit::KexecRefused),
        (vec![attempted(FileLoad, Errno::INVAL), attempted(Load, Errno::NOMEM)], Exit::NotEnoughMemory),
        (vec![attempted(FileLoad, Errno::NOSYS), attempted(Load, Errno::NOSYS)], Exit::KexecUnavailable),
        (vec![attempted(FileLoad, Errno::BUSY)], Exit::LoadFailed),
        (vec![attempted(FileLoad, Errno::NOENT)], Exit::LoadFailed),
        (vec![], Exit::LoadFailed),
    ] {
        let error = Error::Load { attempts, untried: Vec::new() };
        assert_eq!(error.exit(), exit, "{error}");
    }
    let busy = attempted(Load, Errno::BUSY).to_string();
    assert!(busy.contains("CONFIG_HOTPLUG_CPU") && busy.contains("another kexec call"), "{busy}");
    assert_eq!(
        attempted(FileLoad, Errno::from_raw_os_error(524)).to_string(),
        "kexec_file_load answered ENOTSUPP (the kernel's signature is of another kind)"
    );
    assert_eq!(attempted(Load, Errno::NOENT).to_string(), "kexec_load answered errno 2, see the kernel log");
}
