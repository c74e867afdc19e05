//! What the kernel's answer to a kexec call means: kernel/kexec*.c, arch/*/kernel/machine_kexec*.c,
//! crypto/asymmetric_keys/verify_pefile.c, security/integrity/ima.

use rustix::io::Errno;

use super::{Call, Lockdown};
use crate::error::Exit;

/// `ENOTSUPP` of the kernel's linux/errno.h, which it means to keep to itself: a signature of another
/// kind than PKCS#7, in verify_pefile.c.
const NOTSUPP: Errno = Errno::from_raw_os_error(524);

/// An answer of the kernel, explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// `EPERM`, ...
    pub name: &'static str,
    pub text: &'static str,
    pub exit: Exit,
}

/// What `errno` means as the answer to `call`.
pub fn explain(call: Call, errno: Errno) -> Meaning {
    let (name, text, exit) = match (errno, call) {
        (Errno::PERM, _) => (
            "EPERM",
            "lockdown, kexec_load_disabled, kexec_load_limit_reboot or a missing CAP_SYS_BOOT forbids it",
            Exit::KexecRefused,
        ),
        (Errno::ACCESS, _) => ("EACCES", "a security module (IMA, SELinux) forbids it", Exit::KexecRefused),
        (Errno::KEYREJECTED, _) => {
            ("EKEYREJECTED", "the kernel's signature does not verify with a trusted key", Exit::KexecRefused)
        }
        (Errno::NOKEY, _) => ("ENOKEY", "no trusted key matches the kernel's signature", Exit::KexecRefused),
        (Errno::KEYEXPIRED, _) => ("EKEYEXPIRED", "the signing key has expired", Exit::KexecRefused),
        (Errno::KEYREVOKED, _) => ("EKEYREVOKED", "the signing key is revoked", Exit::KexecRefused),
        (Errno::NODATA, _) => {
            ("ENODATA", "the kernel is not signed, and a signature is demanded", Exit::KexecRefused)
        }
        (Errno::BADMSG, _) => ("EBADMSG", "the kernel's signature is malformed", Exit::KexecRefused),
        (Errno::LIBBAD, _) => (
            "ELIBBAD",
            "the kernel is no well-formed PE file, and a signature is demanded",
            Exit::KexecRefused,
        ),
        (Errno::MSGSIZE, _) => ("EMSGSIZE", "the kernel's signature is too large", Exit::KexecRefused),
        (NOTSUPP, _) => ("ENOTSUPP", "the kernel's signature is of another kind", Exit::KexecRefused),
        (Errno::NOPKG, _) => {
            ("ENOPKG", "the running kernel lacks the algorithm of the signature", Exit::KexecRefused)
        }
        (Errno::NOSYS, _) => ("ENOSYS", "this kernel was built without it", Exit::KexecUnavailable),
        (Errno::NOMEM, _) => {
            ("ENOMEM", "there is not enough free memory for the images", Exit::NotEnoughMemory)
        }
        (Errno::BUSY, _) => (
            "EBUSY",
            "CPUs are stuck in the kernel (arm64 with several CPUs needs CONFIG_HOTPLUG_CPU and PSCI), or another kexec call is running",
            Exit::LoadFailed,
        ),
        (Errno::ADDRNOTAVAIL, Call::FileLoad) => {
            ("EADDRNOTAVAIL", "the kernel found no memory hole for the images", Exit::NotEnoughMemory)
        }
        (Errno::ADDRNOTAVAIL, Call::Load) => (
            "EADDRNOTAVAIL",
            "a segment lies outside memory or not on whole pages, or only a crash kernel may be loaded",
            Exit::LoadFailed,
        ),
        (Errno::INVAL, Call::FileLoad) => (
            "EINVAL",
            "the kernel image is not accepted (header, page size, command line length), or the images take over half of the memory",
            Exit::LoadFailed,
        ),
        (Errno::INVAL, Call::Load) => {
            ("EINVAL", "segments overlap or take over half of the memory", Exit::LoadFailed)
        }
        (Errno::NOEXEC, _) => {
            ("ENOEXEC", "the running kernel does not know this image format", Exit::LoadFailed)
        }
        (Errno::OPNOTSUPP, _) => {
            ("EOPNOTSUPP", "the running kernel cannot load this image", Exit::LoadFailed)
        }
        (Errno::FBIG, _) => {
            ("EFBIG", "an image is larger than the running kernel reads (2 or 4 GiB)", Exit::LoadFailed)
        }
        (Errno::TXTBSY, _) => ("ETXTBSY", "an image is still open for writing", Exit::LoadFailed),
        (Errno::BADF, _) => ("EBADF", "an image's descriptor is not readable", Exit::LoadFailed),
        (Errno::FAULT, _) => ("EFAULT", "a segment's bytes cannot be read", Exit::LoadFailed),
        (Errno::OVERFLOW, _) => ("EOVERFLOW", "a size does not fit this machine's words", Exit::LoadFailed),
        (Errno::IO, _) => ("EIO", "an image cannot be read", Exit::LoadFailed),
        (Errno::INTR, _) => ("EINTR", "a signal interrupted it", Exit::LoadFailed),
        _ => ("", "see the kernel log", Exit::LoadFailed),
    };
    Meaning { name, text, exit }
}

/// What an answer of kexec_file_load says about this kernel and this image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// This call cannot do it; the other one may.
    Cannot,
    /// The running kernel's keyring does not know the image. kexec_file_load answers so only where
    /// `sig_enforce` is set (CONFIG_KEXEC_SIG_FORCE, or IMA's policy under Secure Boot); lockdown alone
    /// makes it EPERM. What phaseboot loads was vouched for by its own keys.
    Unknown,
    /// It must not be loaded.
    MustNot,
    /// Nor could anybody.
    Nobody,
}

fn verdict(errno: Errno) -> Verdict {
    match errno {
        // Not built in; a format it does not know; a header, length or size it refuses; not on this
        // machine; larger than it reads.
        Errno::NOSYS | Errno::NOEXEC | Errno::INVAL | Errno::OPNOTSUPP | Errno::FBIG => Verdict::Cannot,
        // No hole where it looks: kexec_load takes the place that we found.
        Errno::ADDRNOTAVAIL => Verdict::Cannot,
        // kexec_load does without the buffers.
        Errno::NOMEM => Verdict::Cannot,
        // Another key, no signature at all, an algorithm that is not built in, a form it cannot read:
        // none of them says that somebody does not want this image.
        Errno::KEYREJECTED
        | Errno::NOKEY
        | Errno::NODATA
        | Errno::NOPKG
        | Errno::BADMSG
        | Errno::LIBBAD
        | Errno::MSGSIZE
        | NOTSUPP => Verdict::Unknown,
        // Lockdown, a sysctl, a security module; a key that was withdrawn.
        Errno::PERM | Errno::ACCESS | Errno::KEYREVOKED | Errno::KEYEXPIRED => Verdict::MustNot,
        // EBUSY holds for both calls: the lock and arm64's CPUs are theirs together. The rest says
        // nothing that the other call would be spared.
        _ => Verdict::Nobody,
    }
}

/// Whether the other call is worth a try after `call` answered `errno`. Under lockdown there is no
/// kexec_load: kexec_load_check() of kernel/kexec.c.
pub(super) fn other_call_may_do(call: Call, errno: Errno, lockdown: Lockdown) -> bool {
    match call {
        Call::FileLoad => {
            lockdown == Lockdown::None && matches!(verdict(errno), Verdict::Cannot | Verdict::Unknown)
        }
        // kexec_file_load is judged by stricter rules than kexec_load everywhere, and permitted where
        // that is not; but it needs more memory.
        Call::Load => !matches!(errno, Errno::BUSY | Errno::NOMEM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKDOWNS: [Lockdown; 3] = [Lockdown::None, Lockdown::Integrity, Lockdown::Confidentiality];

    /// After which answers of kexec_file_load kexec_load is tried where there is no lockdown.
    const TABLE: &[(Errno, bool)] = &[
        (Errno::NOSYS, true),
        (Errno::NOEXEC, true),
        (Errno::INVAL, true),
        (Errno::OPNOTSUPP, true),
        (Errno::ADDRNOTAVAIL, true),
        (Errno::NOMEM, true),
        (Errno::FBIG, true),
        (Errno::KEYREJECTED, true),
        (Errno::BADMSG, true),
        (Errno::NOKEY, true),
        (Errno::NODATA, true),
        (Errno::NOPKG, true),
        (Errno::LIBBAD, true),
        (Errno::MSGSIZE, true),
        (NOTSUPP, true),
        (Errno::KEYEXPIRED, false),
        (Errno::KEYREVOKED, false),
        (Errno::PERM, false),
        (Errno::ACCESS, false),
        (Errno::BUSY, false),
        (Errno::TXTBSY, false),
        (Errno::BADF, false),
        (Errno::FAULT, false),
        (Errno::IO, false),
        (Errno::INTR, false),
        (Errno::OVERFLOW, false),
        (Errno::NOENT, false),
    ];

    #[test]
    fn each_answer_of_kexec_file_load() {
        for &(errno, expected) in TABLE {
            for lockdown in LOCKDOWNS {
                let goes_on = other_call_may_do(Call::FileLoad, errno, lockdown);
                assert_eq!(goes_on, expected && lockdown == Lockdown::None, "{errno:?} {lockdown:?}");
            }
        }
    }

    #[test]
    fn whoever_is_refused_has_exit_code_21() {
        for &(errno, _) in TABLE {
            let refused = matches!(verdict(errno), Verdict::Unknown | Verdict::MustNot);
            let meaning = explain(Call::FileLoad, errno);
            assert_eq!(meaning.exit == Exit::KexecRefused, refused, "{errno:?}");
            assert_eq!(meaning.name.is_empty(), errno == Errno::NOENT, "{errno:?}");
        }
        assert_eq!(explain(Call::Load, Errno::NOMEM).exit, Exit::NotEnoughMemory);
        assert_eq!(explain(Call::FileLoad, Errno::NOSYS).exit, Exit::KexecUnavailable);
        assert_eq!(explain(Call::Load, Errno::BUSY).exit, Exit::LoadFailed);
    }

    #[test]
    fn kexec_file_load_may_do_what_kexec_load_must_not() {
        for lockdown in LOCKDOWNS {
            for errno in [Errno::PERM, Errno::ACCESS, Errno::NOSYS, Errno::INVAL, Errno::ADDRNOTAVAIL] {
                assert!(other_call_may_do(Call::Load, errno, lockdown));
            }
            for errno in [Errno::BUSY, Errno::NOMEM] {
                assert!(!other_call_may_do(Call::Load, errno, lockdown));
            }
        }
    }
}
