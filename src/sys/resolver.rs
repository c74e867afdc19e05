//! Questions to libc's resolver, which asks the servers in resolv.conf: resolver(3). musl has it in
//! libc.a, glibc in libc since 2.34.

use std::ffi::{CStr, c_char, c_int, c_uchar};

/// Larger answers come over TCP, and are cut here. In bytes.
const MOST_ANSWER: usize = 16 << 10;
/// Class IN: RFC 1035, section 3.2.4.
const IN: c_int = 1;
/// `HOST_NOT_FOUND` and `NO_DATA` of netdb.h.
const NOTHING: [c_int; 2] = [1, 4];

unsafe extern "C" {
    fn res_query(
        name: *const c_char,
        class: c_int,
        kind: c_int,
        answer: *mut c_uchar,
        length: c_int,
    ) -> c_int;
    fn __h_errno_location() -> *mut c_int;
}

/// No server has answered, or none with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

/// The answer to a question for records of type `kind` of `name`, as it came: RFC 1035, section 4.
/// None if a server says that there are none. It waits as long as resolv.conf says.
pub fn query(name: &CStr, kind: u16) -> Result<Option<Vec<u8>>, NoAnswer> {
    let mut answer = vec![0u8; MOST_ANSWER];
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "16384")]
    let most = MOST_ANSWER as c_int;
    // SAFETY: `name` ends in a zero byte, and `answer` can be written for the length that is given.
    let length = unsafe { res_query(name.as_ptr(), IN, c_int::from(kind), answer.as_mut_ptr(), most) };
    if let Ok(length) = usize::try_from(length) {
        // The length of what would not fit is told, too.
        answer.truncate(length);
        return Ok(Some(answer));
    }
    // SAFETY: it is the address of this thread's own variable.
    let reason = unsafe { *__h_errno_location() };
    if NOTHING.contains(&reason) { Ok(None) } else { Err(NoAnswer) }
}
