//! What the kernel's answer to a kexec call means: kernel/kexec*.c, arch/*/kernel/machine_kexec*.c.

use rustix::io::Errno;

use super::Call;
use crate::error::Exit;

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
        (Errno::FBIG, _) => ("EFBIG", "an image is over 4 GiB", Exit::LoadFailed),
        (Errno::TXTBSY, _) => ("ETXTBSY", "an image is still open for writing", Exit::LoadFailed),
        (Errno::BADF, _) => ("EBADF", "an image's descriptor is not readable", Exit::LoadFailed),
        (Errno::FAULT, _) => ("EFAULT", "a segment's bytes cannot be read", Exit::LoadFailed),
        (Errno::OVERFLOW, _) => ("EOVERFLOW", "a size does not fit this machine's words", Exit::LoadFailed),
        (Errno::IO, _) => ("EIO", "an image cannot be read", Exit::LoadFailed),
        (Errno::INTR, _) => ("EINTR", "a signal interrupted it", Exit::LoadFailed),
        _ => ("an unexpected error", "see the kernel log", Exit::LoadFailed),
    };
    Meaning { name, text, exit }
}

/// Whether `errno` from kexec_file_load says that it cannot do it, rather than that it must not or
/// that nobody could: then kexec_load is worth a try.
pub(super) fn other_call_may_do(errno: Errno) -> bool {
    matches!(errno, Errno::NOSYS | Errno::NOEXEC | Errno::INVAL | Errno::OPNOTSUPP | Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_exit_code_and_no_fallback() {
        for errno in [Errno::PERM, Errno::ACCESS, Errno::KEYREJECTED, Errno::NOKEY, Errno::BADMSG] {
            assert_eq!(explain(Call::FileLoad, errno).exit, Exit::KexecRefused);
            assert!(!other_call_may_do(errno));
        }
        assert_eq!(explain(Call::Load, Errno::NOMEM).exit, Exit::NotEnoughMemory);
        assert!(!other_call_may_do(Errno::NOMEM));
        assert_eq!(explain(Call::FileLoad, Errno::NOSYS).exit, Exit::KexecUnavailable);
        assert!(other_call_may_do(Errno::NOSYS));
        assert_eq!(explain(Call::Load, Errno::BUSY).exit, Exit::LoadFailed);
    }
}
